// Rows of images in other sizes and shapes: interpolation, pixels from channels, windows as columns.
import * as sg from '../../lib/index.js';
import { float, type Row } from '../helpers/op_table.js';
import { along, at, build, type Nd, permute, reshape } from '../helpers/reference.js';

type Kernel = (v: number[], place: number) => number;
const limit = (i: number, n: number): number => Math.min(Math.max(i, 0), n - 1);
const linear: Kernel = (v, place) => {
  const p = Math.max(place, 0);
  const i = Math.floor(p);
  return v[limit(i, v.length)]! * (1 - (p - i)) + v[limit(i + 1, v.length)]! * (p - i);
};
/** Keys, 1981, equation 15 for any a. */
const keys = (d: number, a = -0.75): number => {
  const t = Math.abs(d);
  return t <= 1 ? (a + 2) * t ** 3 - (a + 3) * t ** 2 + 1 : t < 2 ? a * t ** 3 - 5 * a * t ** 2 + 8 * a * t - 4 * a : 0;
};
const cubic: Kernel = (v, place) => {
  const i = Math.floor(place);
  return [-1, 0, 1, 2].reduce((sum, k) => sum + v[limit(i + k, v.length)]! * keys(place - i - k), 0);
};
const nearest: Kernel = (v, place) => v[limit(Math.floor(place), v.length)]!;

/** Each dimension after the channels by itself. */
function resized(x: Nd, sizes: readonly number[], kernel: Kernel, place: (i: number, n: number, size: number) => number): Nd {
  return sizes.reduce((y, size, d) => along(y, 2 + d, (v) => Array.from({ length: size }, (_, i) => kernel(v, place(i, v.length, size)))), x);
}
const corners = (i: number, n: number, size: number): number => ((i + 0.5) * n) / size - 0.5;
const middles = (i: number, n: number, size: number): number => (size > 1 ? (i * (n - 1)) / (size - 1) : 0);

const cases: [string, number[], sg.InterpolateOptions, number[], Kernel, (i: number, n: number, size: number) => number][] = [
  ['nearest', [2, 2, 3, 4], { size: [5, 3] }, [5, 3], nearest, (i, n, s) => (i * n) / s],
  ['nearest by a factor', [1, 2, 5], { scaleFactor: 2 }, [10], nearest, (i) => i / 2],
  ['nearest by a factor that leaves a rest', [1, 2, 5], { scaleFactor: 1.5 }, [7], nearest, (i) => i / 1.5],
  ['nearest of volumes', [1, 2, 2, 3, 2], { size: [3, 2, 4] }, [3, 2, 4], nearest, (i, n, s) => (i * n) / s],
  ['nearest-exact', [1, 2, 4, 3], { size: [3, 5], mode: 'nearest-exact' }, [3, 5], nearest, (i, n, s) => ((i + 0.5) * n) / s],
  ['linear', [2, 2, 4], { size: 7, mode: 'linear' }, [7], linear, corners],
  ['bilinear', [2, 2, 3, 4], { size: [5, 7], mode: 'bilinear' }, [5, 7], linear, corners],
  [
    'bilinear by factors',
    [1, 2, 3, 4],
    { scaleFactor: [2, 0.6], mode: 'bilinear' },
    [6, 2],
    linear,
    (i, n) => (n === 3 ? (i + 0.5) / 2 : (i + 0.5) / 0.6) - 0.5,
  ],
  ['bilinear, corners aligned', [1, 2, 3, 4], { size: [5, 1], mode: 'bilinear', alignCorners: true }, [5, 1], linear, middles],
  ['bicubic', [1, 2, 4, 3], { size: [7, 5], mode: 'bicubic' }, [7, 5], cubic, corners],
  ['bicubic, corners aligned', [1, 1, 4, 5], { size: [6, 3], mode: 'bicubic', alignCorners: true }, [6, 3], cubic, middles],
  ['trilinear', [1, 2, 2, 3, 2], { size: [3, 4, 3], mode: 'trilinear' }, [3, 4, 3], linear, corners],
];

const interpolations: Row[] = cases.map(([name, shape, options, sizes, kernel, place]) => ({
  name: `interpolate ${name}`,
  inputs: [float(shape)],
  fn: (x) => sg.interpolate(x!, options),
  ref: (x) => resized(x!, sizes, kernel, place),
  tolerance: 4,
}));

interface Patches {
  readonly stride?: [number, number];
  readonly padding?: [number, number];
  readonly dilation?: [number, number];
}
/** Calls `visit` with each element of each window and where it stands among the columns. */
function windows(shape: readonly number[], kernel: readonly [number, number], o: Patches, visit: (from: number[], to: number[]) => void): number {
  const { stride = [1, 1], padding = [0, 0], dilation = [1, 1] } = o;
  const [n, c, height, width] = shape as [number, number, number, number];
  const count = (s: number, i: 0 | 1): number => Math.floor((s + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) / stride[i]) + 1;
  const [down, across] = [count(height, 0), count(width, 1)];
  for (let b = 0; b < n; b++)
    for (let k = 0; k < c; k++)
      for (let u = 0; u < kernel[0]; u++)
        for (let v = 0; v < kernel[1]; v++)
          for (let i = 0; i < down; i++)
            for (let j = 0; j < across; j++) {
              const [y, z] = [i * stride[0] - padding[0] + u * dilation[0], j * stride[1] - padding[1] + v * dilation[1]];
              if (y >= 0 && y < height && z >= 0 && z < width) visit([b, k, y, z], [b, (k * kernel[0] + u) * kernel[1] + v, i * across + j]);
            }
  return down * across;
}
const put = (x: Nd, index: readonly number[], value: number): void => {
  x.data[index.reduce((position, k, d) => position * x.shape[d]! + k, 0)]! += value;
};

const patchCases: [string, [number, number], Patches][] = [
  ['plain', [2, 3], {}],
  ['strided, padded, dilated', [2, 2], { stride: [2, 1], padding: [1, 2], dilation: [1, 2] }],
];
const IMAGE = [2, 2, 4, 5];
const patches: Row[] = patchCases.flatMap(([name, kernel, o]): Row[] => {
  const columns = windows(IMAGE, kernel, o, () => undefined);
  const shape = [2, 2 * kernel[0] * kernel[1], columns];
  return [
    {
      name: `im2col ${name}`,
      inputs: [float(IMAGE)],
      fn: (x) => sg.im2col(x!, kernel, o),
      ref: (x) => {
        const y = build(shape, () => 0);
        windows(IMAGE, kernel, o, (from, to) => put(y, to, at(x!, from)));
        return y;
      },
    },
    {
      name: `col2im ${name}`,
      inputs: [float(shape)],
      fn: (x) => sg.col2im(x!, [4, 5], kernel, o),
      ref: (x) => {
        const y = build(IMAGE, () => 0);
        windows(IMAGE, kernel, o, (from, to) => put(y, from, at(x!, to)));
        return y;
      },
      tolerance: 3,
    },
  ];
});

export const rows: readonly Row[] = [
  ...interpolations,
  ...patches,
  {
    name: 'pixelShuffle',
    inputs: [float([2, 8, 2, 3])],
    fn: (x) => sg.pixelShuffle(x!, 2),
    ref: (x) => build([2, 2, 4, 6], ([b, c, i, j]) => at(x!, [b!, c! * 4 + (i! % 2) * 2 + (j! % 2), i! >> 1, j! >> 1])),
  },
  {
    name: 'pixelUnshuffle',
    inputs: [float([2, 4, 6])],
    fn: (x) => sg.pixelUnshuffle(x!, 2),
    ref: (x) => build([8, 2, 3], ([c, i, j]) => at(x!, [c! >> 2, 2 * i! + ((c! >> 1) & 1), 2 * j! + (c! & 1)])),
  },
  {
    name: 'channelShuffle',
    inputs: [float([2, 6, 2, 2])],
    fn: (x) => sg.channelShuffle(x!, 3),
    ref: (x) => reshape(permute(reshape(x!, [2, 3, 2, 4]), [0, 2, 1, 3]), [2, 6, 2, 2]),
  },
];
