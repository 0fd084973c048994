// Geometry of images as typed arrays in channel, row, column order ([C,H,W]), the layout of convolutions. Plain functions without
// randomness; transforms.ts draws the arguments. They run in loader workers, so nothing here touches a tensor. Sampling positions
// are pixel centres, as in PyTorch's interpolate and grid_sample with alignCorners = false.
import { describe, ShapeError, ValueError } from '../errors.js';
import { checkInteger, checkNumber, showShape } from '../shape.js';
import { checkHostArray, type HostArray, isHostArray, sameKind } from './host_array.js';

/** An image [C,H,W]: bytes 0..255, or floats. */
export type ImageArray = HostArray<Float32Array | Uint8Array>;
/** Between four pixels, or the nearest pixel alone. */
export type Interpolation = 'bilinear' | 'nearest';

interface Size {
  channels: number;
  height: number;
  width: number;
}

function sizeOf(image: ImageArray, op: string): Size {
  if (!isHostArray(image) || !(image.data instanceof Float32Array || image.data instanceof Uint8Array)) {
    throw new ValueError(`${op}: expected an image { data: Float32Array or Uint8Array, shape: [C,H,W] }, got ${describe(image)}`);
  }
  if (image.shape.length !== 3) throw new ShapeError(`${op}: an image has the shape [C,H,W], got ${showShape(image.shape)}`);
  checkHostArray(image, op);
  const [channels, height, width] = image.shape as readonly [number, number, number];
  return { channels, height, width };
}

function blank(like: ImageArray, channels: number, height: number, width: number): ImageArray {
  return { data: sameKind(like.data, channels * height * width), shape: [channels, height, width] };
}

/** Writes a computed value: rounded for bytes (Uint8Array would truncate and wrap). */
function store(data: Float32Array | Uint8Array, at: number, value: number): void {
  data[at] = data instanceof Uint8Array ? Math.min(255, Math.max(0, Math.round(value))) : value;
}

/**
 * The window of `height` × `width` whose corner is (top, left). It may reach over the edges; what lies outside is `fill`.
 */
export function crop(image: ImageArray, top: number, left: number, height: number, width: number, fill = 0): ImageArray {
  const size = sizeOf(image, 'crop');
  checkInteger(top, 'top', 'crop');
  checkInteger(left, 'left', 'crop');
  checkInteger(height, 'height', 'crop', 1);
  checkInteger(width, 'width', 'crop', 1);
  const out = blank(image, size.channels, height, width);
  if (fill !== 0) out.data.fill(fill);
  const firstColumn = Math.max(left, 0);
  const lastColumn = Math.min(left + width, size.width);
  if (firstColumn >= lastColumn) return out;
  for (let c = 0; c < size.channels; c++) {
    for (let y = Math.max(top, 0); y < Math.min(top + height, size.height); y++) {
      const row = (c * size.height + y) * size.width;
      out.data.set(image.data.subarray(row + firstColumn, row + lastColumn), (c * height + y - top) * width + firstColumn - left);
    }
  }
  return out;
}

/** The middle `height` × `width` of the image, padded with zeros where the image is smaller. */
export function centerCrop(image: ImageArray, height: number, width: number = height): ImageArray {
  const size = sizeOf(image, 'centerCrop');
  return crop(image, Math.round((size.height - height) / 2), Math.round((size.width - width) / 2), height, width);
}

/** `padding` pixels of `fill` on every side. */
export function pad(image: ImageArray, padding: number, fill = 0): ImageArray {
  const size = sizeOf(image, 'pad');
  checkInteger(padding, 'padding', 'pad', 0);
  return crop(image, -padding, -padding, size.height + 2 * padding, size.width + 2 * padding, fill);
}

/** Mirrors left and right. */
export function flipHorizontal(image: ImageArray): ImageArray {
  const { channels, height, width } = sizeOf(image, 'flipHorizontal');
  const out = blank(image, channels, height, width);
  for (let row = 0; row < channels * height * width; row += width) {
    out.data.set(image.data.subarray(row, row + width), row);
    out.data.subarray(row, row + width).reverse();
  }
  return out;
}

/** Mirrors top and bottom. */
export function flipVertical(image: ImageArray): ImageArray {
  const { channels, height, width } = sizeOf(image, 'flipVertical');
  const out = blank(image, channels, height, width);
  for (let c = 0; c < channels; c++) {
    for (let y = 0; y < height; y++) {
      const from = (c * height + y) * width;
      out.data.set(image.data.subarray(from, from + width), (c * height + height - 1 - y) * width);
    }
  }
  return out;
}

/**
 * Turns the image counter-clockwise by `degrees` around its centre, keeping its size. Corners that come from outside are `fill`;
 * at the border, bilinear sampling mixes with `fill`.
 * @param options.interpolation `bilinear` by default
 * @param options.fill 0 by default
 */
export function rotate(image: ImageArray, degrees: number, options: { interpolation?: Interpolation; fill?: number } = {}): ImageArray {
  const { channels, height, width } = sizeOf(image, 'rotate');
  const angle = (checkNumber(degrees, 'degrees', 'rotate', -1e6, 1e6) * Math.PI) / 180;
  const fill = options.fill ?? 0;
  const nearest = options.interpolation === 'nearest';
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
  const [cy, cx] = [(height - 1) / 2, (width - 1) / 2];
  const out = blank(image, channels, height, width);
  const pixel = (plane: number, y: number, x: number): number => (y >= 0 && y < height && x >= 0 && x < width ? image.data[plane + y * width + x]! : fill);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      // the source of this pixel is the pixel turned back; rows grow downwards
      const sx = cos * (x - cx) - sin * (y - cy) + cx;
      const sy = sin * (x - cx) + cos * (y - cy) + cy;
      const x0 = nearest ? Math.round(sx) : Math.floor(sx);
      const y0 = nearest ? Math.round(sy) : Math.floor(sy);
      const [fx, fy] = nearest ? [0, 0] : [sx - x0, sy - y0];
      for (let c = 0; c < channels; c++) {
        const plane = c * height * width;
        const top = pixel(plane, y0, x0) * (1 - fx) + (fx > 0 ? pixel(plane, y0, x0 + 1) * fx : 0);
        const bottom = fy > 0 ? pixel(plane, y0 + 1, x0) * (1 - fx) + (fx > 0 ? pixel(plane, y0 + 1, x0 + 1) * fx : 0) : 0;
        store(out.data, plane + y * width + x, top * (1 - fy) + bottom * fy);
      }
    }
  }
  return out;
}

/** For every output position along one side: the two source positions and the weight of the second. */
function taps(from: number, to: number, nearest: boolean): { first: Int32Array; second: Int32Array; weight: Float64Array } {
  const out = { first: new Int32Array(to), second: new Int32Array(to), weight: new Float64Array(to) };
  for (let i = 0; i < to; i++) {
    if (nearest) {
      out.first[i] = out.second[i] = Math.min(Math.floor((i * from) / to), from - 1);
      continue;
    }
    const at = Math.max(((i + 0.5) * from) / to - 0.5, 0);
    const first = Math.min(Math.floor(at), from - 1);
    out.first[i] = first;
    out.second[i] = Math.min(first + 1, from - 1);
    out.weight[i] = at - first;
  }
  return out;
}

/** The image at another size, `bilinear` unless told. Equal to PyTorch's interpolate without anti-aliasing. */
export function resize(image: ImageArray, height: number, width: number, options: { interpolation?: Interpolation } = {}): ImageArray {
  const size = sizeOf(image, 'resize');
  checkInteger(height, 'height', 'resize', 1);
  checkInteger(width, 'width', 'resize', 1);
  if (size.height === 0 || size.width === 0) throw new ShapeError(`resize: the image ${showShape(image.shape)} has no pixels`);
  const nearest = options.interpolation === 'nearest';
  const rows = taps(size.height, height, nearest);
  const columns = taps(size.width, width, nearest);
  const out = blank(image, size.channels, height, width);
  let at = 0;
  for (let c = 0; c < size.channels; c++) {
    const plane = c * size.height * size.width;
    for (let y = 0; y < height; y++) {
      const upper = plane + rows.first[y]! * size.width;
      const lower = plane + rows.second[y]! * size.width;
      const wy = rows.weight[y]!;
      for (let x = 0; x < width; x++) {
        const [x0, x1, wx] = [columns.first[x]!, columns.second[x]!, columns.weight[x]!];
        const top = image.data[upper + x0]! * (1 - wx) + image.data[upper + x1]! * wx;
        const bottom = image.data[lower + x0]! * (1 - wx) + image.data[lower + x1]! * wx;
        store(out.data, at++, top * (1 - wy) + bottom * wy);
      }
    }
  }
  return out;
}

/** Bytes 0..255 as floats 0..1; floats pass unchanged. */
export function toFloat(image: ImageArray): HostArray<Float32Array> {
  sizeOf(image, 'toFloat');
  if (image.data instanceof Float32Array) return image as HostArray<Float32Array>;
  const data = new Float32Array(image.data.length);
  for (let i = 0; i < data.length; i++) data[i] = image.data[i]! / 255;
  return { data, shape: image.shape };
}

/** (pixel − mean) / std with one mean and std for each channel. Bytes are taken as 0..1 first. */
export function normalize(image: ImageArray, mean: readonly number[], std: readonly number[]): HostArray<Float32Array> {
  const { channels, height, width } = sizeOf(image, 'normalize');
  if (mean.length !== channels || std.length !== channels) {
    throw new ShapeError(`normalize: the image has ${channels} channels, mean has ${mean.length} and std ${std.length}`);
  }
  const source = toFloat(image).data;
  const data = new Float32Array(source.length);
  const plane = height * width;
  for (let c = 0; c < channels; c++) {
    const m = checkNumber(mean[c], `mean[${c}]`, 'normalize');
    const s = checkNumber(std[c], `std[${c}]`, 'normalize');
    if (!Number.isFinite(m) || !Number.isFinite(s) || s === 0)
      throw new ValueError(`normalize: mean[${c}] = ${m} and std[${c}] = ${s} must be finite, std not 0`);
    for (let i = c * plane; i < (c + 1) * plane; i++) data[i] = (source[i]! - m) / s;
  }
  return { data, shape: image.shape };
}
