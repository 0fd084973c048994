// Rows of the convolutions and pools, against their definitions.
import * as sg from '../../lib/index.js';
import { float, type Input, type Row } from '../helpers/op_table.js';
import { at, build, map, type Nd, reshape } from '../helpers/reference.js';

interface Geometry {
  readonly stride?: [number, number];
  readonly padding?: [number, number];
  readonly dilation?: [number, number];
  readonly groups?: number;
}

const reach = (size: number, kernel: number, stride: number, padding: number, dilation: number): number =>
  Math.floor((size + 2 * padding - dilation * (kernel - 1) - 1) / stride) + 1;

/** x [N, C, H, W], w [O, C/groups, KH, KW]. */
function conv2d(x: Nd, w: Nd, { stride = [1, 1], padding = [0, 0], dilation = [1, 1], groups = 1 }: Geometry): Nd {
  const [n, , height, width] = x.shape as [number, number, number, number];
  const [out, channels, kh, kw] = w.shape as [number, number, number, number];
  const rows = reach(height, kh, stride[0], padding[0], dilation[0]);
  const columns = reach(width, kw, stride[1], padding[1], dilation[1]);
  return build([n, out, rows, columns], ([b, o, i, j]) => {
    const first = Math.floor(o! / (out / groups)) * channels;
    let total = 0;
    for (let c = 0; c < channels; c++) {
      for (let u = 0; u < kh; u++) {
        for (let v = 0; v < kw; v++) {
          const [y, z] = [i! * stride[0] - padding[0] + u * dilation[0], j! * stride[1] - padding[1] + v * dilation[1]];
          if (y >= 0 && y < height && z >= 0 && z < width) total += at(x, [b!, first + c, y, z]) * at(w, [o!, c, u, v]);
        }
      }
    }
    return total;
  });
}

const bias = (y: Nd, b: Nd): Nd => map((v, c) => v + c, y, reshape(b, [b.data.length, 1, 1]));

const cases: [string, number[], number[], Geometry][] = [
  ['plain', [2, 3, 5, 4], [2, 3, 3, 2], {}],
  ['padded and strided', [1, 2, 5, 6], [3, 2, 3, 3], { stride: [2, 1], padding: [1, 2] }],
  ['dilated', [1, 2, 7, 6], [2, 2, 3, 2], { dilation: [2, 3], padding: [2, 1] }],
  ['in groups', [2, 4, 4, 4], [6, 2, 2, 2], { groups: 2 }],
  ['depthwise', [1, 3, 5, 5], [3, 1, 3, 3], { groups: 3, padding: [1, 1] }],
  ['depthwise with two outputs a channel', [1, 2, 4, 5], [4, 1, 2, 3], { groups: 2, stride: [1, 2] }],
  ['1×1', [2, 3, 3, 3], [4, 3, 1, 1], {}],
];

const large = (shape: number[]): Input => ({ shape, low: -1, high: 1, constant: true });

const convolutions: Row[] = [
  ...cases.map(
    ([name, x, w, geometry]): Row => ({
      name: `conv2d ${name}`,
      inputs: [float(x), float(w), float([w[0]!])],
      fn: (a, b, c) => sg.conv2d(a!, b!, c!, geometry),
      ref: (a, b, c) => bias(conv2d(a!, b!, geometry), c!),
      tolerance: 3,
    }),
  ),
  {
    name: 'conv2d without bias',
    inputs: [float([1, 2, 4, 4]), float([2, 2, 3, 3])],
    fn: (a, b) => sg.conv2d(a!, b!),
    ref: (a, b) => conv2d(a!, b!, {}),
    tolerance: 3,
  },
  {
    name: 'conv2d of many channels',
    inputs: [large([2, 17, 9, 11]), large([35, 17, 3, 3])],
    fn: (a, b) => sg.conv2d(a!, b!, null, { padding: [1, 1] }),
    ref: (a, b) => conv2d(a!, b!, { padding: [1, 1] }),
    tolerance: 3,
  },
  ...[{}, { stride: 2, padding: 1 }, { dilation: 2, padding: 2 }].map(
    (o): Row => ({
      name: `conv1d ${JSON.stringify(o)}`,
      inputs: [float([2, 3, 7]), float([4, 3, 3]), float([4])],
      fn: (a, b, c) => sg.conv1d(a!, b!, c!, o),
      ref: (a, b, c) => {
        const { stride = 1, padding = 0, dilation = 1 } = o as { stride?: number; padding?: number; dilation?: number };
        const y = bias(
          conv2d(reshape(a!, [2, 3, 1, 7]), reshape(b!, [4, 3, 1, 3]), { stride: [1, stride], padding: [0, padding], dilation: [1, dilation] }),
          c!,
        );
        return reshape(y, [2, 4, y.shape[3]!]);
      },
      tolerance: 3,
    }),
  ),
];

/** x [N, C, H, W], w [C, O/groups, KH, KW]: every element of x adds a kernel to the result. */
function convTranspose2d(x: Nd, w: Nd, g: Geometry & { outputPadding?: [number, number] }): Nd {
  const { stride = [1, 1], padding = [0, 0], dilation = [1, 1], groups = 1, outputPadding = [0, 0] } = g;
  const [n, channels, height, width] = x.shape as [number, number, number, number];
  const [, out, kh, kw] = w.shape as [number, number, number, number];
  const size = (s: number, k: number, i: number): number => (s - 1) * stride[i]! - 2 * padding[i]! + dilation[i]! * (k - 1) + outputPadding[i]! + 1;
  return build([n, out * groups, size(height, kh, 0), size(width, kw, 1)], ([b, o, i, j]) => {
    const group = Math.floor(o! / out);
    let total = 0;
    for (let c = (group * channels) / groups; c < ((group + 1) * channels) / groups; c++) {
      for (let u = 0; u < kh; u++) {
        for (let v = 0; v < kw; v++) {
          const [y, z] = [(i! + padding[0] - u * dilation[0]) / stride[0], (j! + padding[1] - v * dilation[1]) / stride[1]];
          const inside = Number.isInteger(y) && Number.isInteger(z) && y >= 0 && y < height && z >= 0 && z < width;
          if (inside) total += at(x, [b!, c, y, z]) * at(w, [c, o! % out, u, v]);
        }
      }
    }
    return total;
  });
}

const transposedCases: [string, number[], number[], Geometry & { outputPadding?: [number, number] }][] = [
  ['plain', [2, 3, 3, 4], [3, 2, 3, 2], {}],
  ['strided and padded', [1, 2, 3, 4], [2, 3, 3, 3], { stride: [2, 1], padding: [1, 2] }],
  ['with output padding', [2, 2, 3, 3], [2, 2, 3, 3], { stride: [2, 3], padding: [1, 0], outputPadding: [1, 2] }],
  ['dilated, output padding above the stride', [1, 2, 3, 3], [2, 2, 3, 2], { stride: [1, 2], dilation: [2, 3], padding: [1, 1], outputPadding: [1, 2] }],
  ['in groups', [2, 4, 3, 3], [4, 3, 2, 2], { groups: 2, stride: [2, 2] }],
  ['depthwise', [1, 3, 4, 4], [3, 1, 3, 3], { groups: 3, stride: [2, 2], padding: [1, 1] }],
];
const transposed: Row[] = [
  ...transposedCases.map(
    ([name, x, w, geometry]): Row => ({
      name: `convTranspose2d ${name}`,
      inputs: [float(x), float(w), float([w[1]! * (geometry.groups ?? 1)])],
      fn: (a, b, c) => sg.convTranspose2d(a!, b!, c!, geometry),
      ref: (a, b, c) => bias(convTranspose2d(a!, b!, geometry), c!),
      tolerance: 3,
    }),
  ),
  {
    name: 'convTranspose2d without bias and batch',
    inputs: [float([2, 3, 3]), float([2, 3, 2, 2])],
    fn: (a, b) => sg.convTranspose2d(a!, b!),
    ref: (a, b) => reshape(convTranspose2d(reshape(a!, [1, 2, 3, 3]), b!, {}), [3, 4, 4]),
    tolerance: 3,
  },
  {
    name: 'convTranspose1d',
    inputs: [float([2, 3, 5]), float([3, 2, 4]), float([2])],
    fn: (a, b, c) => sg.convTranspose1d(a!, b!, c!, { stride: 3, padding: 1, outputPadding: 1 }),
    ref: (a, b, c) => {
      const y = bias(convTranspose2d(reshape(a!, [2, 3, 1, 5]), reshape(b!, [3, 2, 1, 4]), { stride: [1, 3], padding: [0, 1], outputPadding: [0, 1] }), c!);
      return reshape(y, [2, 2, y.shape[3]!]);
    },
    tolerance: 3,
  },
];

interface Pool {
  readonly kernelSize: [number, number];
  readonly stride?: [number, number];
  readonly padding?: [number, number];
  readonly countIncludePad?: boolean;
}

function pool(x: Nd, { kernelSize: [kh, kw], stride = [kh, kw], padding = [0, 0] }: Pool, of: (seen: number[], area: number) => number): Nd {
  const [n, c, height, width] = x.shape as [number, number, number, number];
  return build([n, c, reach(height, kh, stride[0], padding[0], 1), reach(width, kw, stride[1], padding[1], 1)], ([b, k, i, j]) => {
    const seen: number[] = [];
    let area = 0;
    for (let u = 0; u < kh; u++) {
      for (let v = 0; v < kw; v++) {
        const [y, z] = [i! * stride[0] - padding[0] + u, j! * stride[1] - padding[1] + v];
        if (y < height + padding[0] && z < width + padding[1]) area++;
        if (y >= 0 && y < height && z >= 0 && z < width) seen.push(at(x, [b!, k!, y, z]));
      }
    }
    return of(seen, area);
  });
}

const sum = (v: number[]): number => v.reduce((a, b) => a + b, 0);
const pools: Pool[] = [
  { kernelSize: [2, 2] },
  { kernelSize: [3, 2], stride: [2, 1], padding: [1, 0] },
  { kernelSize: [3, 3], stride: [1, 1], padding: [1, 1] },
];

const pooling: Row[] = pools.flatMap(({ kernelSize, ...rest }): Row[] => {
  const o = { kernelSize, ...rest };
  const shown = JSON.stringify(o);
  return [
    {
      name: `maxPool2d ${shown}`,
      inputs: [float([2, 2, 5, 6])],
      fn: (x) => sg.maxPool2d(x!, kernelSize, rest),
      ref: (x) => pool(x!, o, (v) => Math.max(...v)),
    },
    {
      name: `avgPool2d ${shown}`,
      inputs: [float([2, 2, 5, 6])],
      fn: (x) => sg.avgPool2d(x!, kernelSize, rest),
      ref: (x) => pool(x!, o, (v, area) => sum(v) / area),
      tolerance: 2,
    },
    {
      name: `avgPool2d without padding ${shown}`,
      inputs: [float([2, 2, 5, 6])],
      fn: (x) => sg.avgPool2d(x!, kernelSize, { ...rest, countIncludePad: false }),
      ref: (x) => pool(x!, o, (v) => sum(v) / v.length),
      tolerance: 2,
    },
  ];
});

/** Parts from ⌊i·in/out⌋ to ⌈(i + 1)·in/out⌉. */
const part = (i: number, size: number, parts: number): number[] => {
  const from = Math.floor((i * size) / parts);
  return Array.from({ length: Math.ceil(((i + 1) * size) / parts) - from }, (_, k) => from + k);
};

const lines: Row[] = [
  {
    name: 'maxPool1d',
    inputs: [float([2, 3, 7])],
    fn: (x) => sg.maxPool1d(x!, 2),
    ref: (x) => build([2, 3, 3], ([a, b, c]) => Math.max(at(x!, [a!, b!, 2 * c!]), at(x!, [a!, b!, 2 * c! + 1]))),
  },
  {
    name: 'avgPool1d, last window cut',
    inputs: [float([2, 3, 7])],
    fn: (x) => sg.avgPool1d(x!, 2, { ceilMode: true }),
    ref: (x) => build([2, 3, 4], ([a, b, c]) => (c === 3 ? at(x!, [a!, b!, 6]) : (at(x!, [a!, b!, 2 * c!]) + at(x!, [a!, b!, 2 * c! + 1])) / 2)),
    tolerance: 2,
  },
  {
    name: 'adaptiveAvgPool2d',
    inputs: [float([2, 2, 5, 7])],
    fn: (x) => sg.adaptiveAvgPool2d(x!, [2, 3]),
    ref: (x) =>
      build([2, 2, 2, 3], ([a, b, i, j]) => {
        const values = part(i!, 5, 2).flatMap((y) => part(j!, 7, 3).map((z) => at(x!, [a!, b!, y, z])));
        return sum(values) / values.length;
      }),
    tolerance: 3,
  },
];

export const rows: readonly Row[] = [...convolutions, ...transposed, ...pooling, ...lines];
