// Image transforms with arguments bound and randomness drawn from the sample's own stream, to be chained with `compose`. A transform
// is a function (image, random) => image; whether an image is flipped depends on (seed, epoch, index) alone.
import { describe, ValueError } from '../errors.js';
import { checkInteger, checkNumber } from '../shape.js';
import type { ImageArray, Interpolation } from './image.js';
import * as image from './image.js';
import type { SampleRandom } from './sample_random.js';

/** Makes another image of an image; random numbers are drawn from the sample's stream. */
export type Transform = (image: ImageArray, random: SampleRandom) => ImageArray;
/** One number for a square, or [height, width]. */
export type ImageSize = number | readonly [height: number, width: number];

function pair(size: ImageSize, where: string): [number, number] {
  const [height, width] = typeof size === 'number' ? [size, size] : size;
  return [checkInteger(height, 'the height', where, 1), checkInteger(width, 'the width', where, 1)];
}

function range(value: readonly [number, number], name: string, where: string, min: number): readonly [number, number] {
  if (!Array.isArray(value) || value.length !== 2) throw new ValueError(`${where}: ${name} must be [low, high], got ${describe(value)}`);
  const low = checkNumber(value[0], `${name}[0]`, where, min, 1e6);
  return [low, checkNumber(value[1], `${name}[1]`, where, low, 1e6)];
}

/** One after another. */
export function compose(transforms: readonly Transform[]): Transform {
  transforms.forEach((t, i) => {
    if (typeof t !== 'function') throw new ValueError(`compose: transform ${i} is ${describe(t)}, expected a function`);
  });
  return (x, random) => transforms.reduce((y, transform) => transform(y, random), x);
}

/** The middle of the image. */
export function centerCrop(size: ImageSize): Transform {
  const [height, width] = pair(size, 'centerCrop');
  return (x) => image.centerCrop(x, height, width);
}

/**
 * A window of this size anywhere in the image, which is padded first by `padding` pixels (0 by default) of `fill` (0). An image that
 * is still smaller is centred on `fill`.
 */
export function randomCrop(size: ImageSize, options: { padding?: number; fill?: number } = {}): Transform {
  const [height, width] = pair(size, 'randomCrop');
  const padding = checkInteger(options.padding ?? 0, 'padding', 'randomCrop', 0);
  const offset = (slack: number, random: SampleRandom): number => (slack >= 0 ? random.int(slack + 1) : Math.round(slack / 2)) - padding;
  return (x, random) => {
    const top = offset(x.shape[1]! + 2 * padding - height, random);
    const left = offset(x.shape[2]! + 2 * padding - width, random);
    return image.crop(x, top, left, height, width, options.fill);
  };
}

/**
 * A window of random area (`scale`, as a share of the image) and aspect ratio, resized to `size`: the usual augmentation of
 * ImageNet training (Szegedy et al., 2015).
 * @param options.scale [0.08, 1] by default
 * @param options.ratio width by height, [3/4, 4/3] by default
 * @param options.interpolation `bilinear` by default
 */
export function randomResizedCrop(
  size: ImageSize,
  options: { scale?: readonly [number, number]; ratio?: readonly [number, number]; interpolation?: Interpolation } = {},
): Transform {
  const [height, width] = pair(size, 'randomResizedCrop');
  const scale = range(options.scale ?? [0.08, 1], 'scale', 'randomResizedCrop', 0);
  const ratio = range(options.ratio ?? [3 / 4, 4 / 3], 'ratio', 'randomResizedCrop', 1e-6);
  return (x, random) => {
    const [, h, w] = x.shape as readonly [number, number, number];
    for (let attempt = 0; attempt < 10; attempt++) {
      const area = h * w * random.uniform(...scale);
      const aspect = Math.exp(random.uniform(Math.log(ratio[0]), Math.log(ratio[1])));
      const [ch, cw] = [Math.round(Math.sqrt(area / aspect)), Math.round(Math.sqrt(area * aspect))];
      if (ch < 1 || cw < 1 || ch > h || cw > w) continue;
      return image.resize(image.crop(x, random.int(h - ch + 1), random.int(w - cw + 1), ch, cw), height, width, options);
    }
    return image.resize(image.centerCrop(x, Math.min(h, w)), height, width, options);
  };
}

/** Mirrors left and right with probability p. */
export function randomHorizontalFlip(p = 0.5): Transform {
  checkNumber(p, 'p', 'randomHorizontalFlip', 0, 1);
  return (x, random) => (random.chance(p) ? image.flipHorizontal(x) : x);
}

/** Mirrors top and bottom with probability p. */
export function randomVerticalFlip(p = 0.5): Transform {
  checkNumber(p, 'p', 'randomVerticalFlip', 0, 1);
  return (x, random) => (random.chance(p) ? image.flipVertical(x) : x);
}

/** Turns by an angle from [−degrees, degrees]; `bilinear` and a `fill` of 0 by default. */
export function randomRotation(degrees: number, options: { interpolation?: Interpolation; fill?: number } = {}): Transform {
  checkNumber(degrees, 'degrees', 'randomRotation', 0, 1e6);
  return (x, random) => image.rotate(x, random.uniform(-degrees, degrees), options);
}

/** Zooms by a factor from `scale` around the centre, keeping the size: above 1 the middle is enlarged, below 1 a border of zeros appears. */
export function randomScale(scale: readonly [number, number], options: { interpolation?: Interpolation } = {}): Transform {
  const [low, high] = range(scale, 'scale', 'randomScale', 1e-3);
  return (x, random) => {
    const factor = random.uniform(low, high);
    const [, h, w] = x.shape as readonly [number, number, number];
    const scaled = image.resize(x, Math.max(1, Math.round(h * factor)), Math.max(1, Math.round(w * factor)), options);
    return image.centerCrop(scaled, h, w);
  };
}

/** To this size, whatever the aspect ratio; `bilinear` by default. */
export function resize(size: ImageSize, options: { interpolation?: Interpolation } = {}): Transform {
  const [height, width] = pair(size, 'resize');
  return (x) => image.resize(x, height, width, options);
}

/** Bytes 0..255 as floats 0..1. */
export function toFloat(): Transform {
  return (x) => image.toFloat(x);
}

/** (pixel − mean) / std with one number for each channel; bytes are taken as 0..1 first. */
export function normalize(mean: readonly number[], std: readonly number[]): Transform {
  return (x) => image.normalize(x, mean, std);
}
