// Stochastic rounding where ranks have pieces of the parameters: given the same gradients, every layout over any number of ranks gives
// the bits of one process.
import { afterEach, describe, expect, test } from 'vitest';
import { type DeviceMesh, initDeviceMesh, type MeshSizes } from '../lib/distributed/device_mesh.js';
import { setLayout } from '../lib/distributed/distribute.js';
import { Layout, type Placements } from '../lib/distributed/layout.js';
import { placeOnStage } from '../lib/distributed/layout_of.js';
import { Shard } from '../lib/distributed/placement.js';
import { simulate } from '../lib/distributed/simulate.js';
import { ZeroRedundancyOptimizer } from '../lib/distributed/zero_redundancy_optimizer.js';
import * as sg from '../lib/index.js';
import type { Tensor } from '../lib/tensor.js';
import { devices } from './helpers/devices.js';
import { stream, uniform } from './helpers/random.js';
import { make, read } from './helpers/tensors.js';

const { optim } = sg;
type Optimizers = sg.optim.Optimizer<any>;
const STEPS = 3;
const types = devices.map((d) => d.split(':')[0] as 'cpu' | 'cuda');

interface Whole {
  readonly shape: readonly number[];
  readonly values: Float64Array;
  /** Of each step. */
  readonly gradients: readonly Float64Array[];
}
/** With rows of all lengths: several blocks of random numbers, parts of one, and longer than what is rounded at once. */
const shapes: readonly (readonly number[])[] = [[37, 10], [5, 3, 8], [7], [3, 2501], [24, 16], [1], [12, 40], [2, 3, 4, 12], [4200], [16, 200]];
const wholes: readonly Whole[] = shapes.map((shape, i) => {
  const next = stream(i + 1);
  const gradients = Array.from({ length: STEPS }, () => uniform(shape, -0.01, 0.01, next).data as Float64Array);
  return { shape, values: uniform(shape, -1, 1, next).data as Float64Array, gradients };
});

/** Where the elements of a piece are in the whole, one after another. */
function placesOf(layout: Layout): number[] {
  return layout.ranges().reduce<number[]>(
    (outer, ranges, d) => {
      const inner = ranges.flatMap(({ start, length }) => Array.from({ length }, (_, i) => start + i));
      return outer.flatMap((o) => inner.map((i) => o * layout.shape[d]! + i));
    },
    [0],
  );
}

function leaf(shape: readonly number[], values: Iterable<number>, dtype: 'bfloat16' | 'float32', device: string): Tensor {
  const x = make({ shape, data: Float64Array.from(values) }, dtype, device);
  x.requiresGrad = dtype === 'bfloat16';
  return x;
}

const makers: Record<string, (params: Tensor[]) => Optimizers> = {
  SGD: (params) => new optim.SGD(params, { lr: 1, stochasticRounding: true }),
  AdamW: (params) => new optim.AdamW(params, { lr: 0.003, stochasticRounding: true }),
  // a part of the parameters alone is rounded, in groups of another order
  'two groups': (params) =>
    new optim.SGD(
      [
        { params: params.filter((_, i) => i % 2 === 1), stochasticRounding: true },
        { params: params.filter((_, i) => i % 2 === 0), stochasticRounding: false },
      ],
      { lr: 1 },
    ),
};

function alone(maker: string, device: string): number[][] {
  sg.manualSeed(31);
  const params = wholes.map((w) => leaf(w.shape, w.values, 'bfloat16', device));
  const optimizer = makers[maker]!(params);
  for (let s = 0; s < STEPS; s++) {
    params.forEach((p, i) => {
      p.grad = leaf(p.shape, wholes[i]!.gradients[s]!, 'float32', device);
    });
    optimizer.step();
  }
  return params.map((p) => Array.from(read(p).data));
}

type Cut = (shape: readonly number[], i: number) => Placements;
const dims = (shape: readonly number[], d: number): number => Math.min(d, shape.length - 1);
const last = (shape: readonly number[]): number => shape.length - 1;
const packed = { blocks: [{ size: 12, unit: 2 }, { size: 6 }, { size: 6, unit: 3 }] };
/** Three blocks of a dimension of 24, or 12 neighbours of which pairs of ranks have the same. */
const blocks: Cut = (shape) => (shape[0] === 24 ? { tp: Shard(0, packed) } : shape[0] === 12 ? { tp: Shard(1, { blocks: [{ size: 30 }, { size: 10 }] }) } : {});
const shared: Cut = (shape) => (shape[0] === 24 ? { tp: Shard(0, { blocks: [{ size: 12 }, { size: 12, repeat: 2 }] }) } : { tp: Shard(0) });

const ways: readonly (readonly [string, MeshSizes, Cut])[] = [
  ['one rank', { dpShard: 1 }, () => ({ dpShard: Shard(0) })],
  ['copies', { dpReplicate: 3 }, () => ({})],
  ...[2, 3, 4].flatMap((n): [string, MeshSizes, Cut][] => [
    [`rows over ${n}`, { dpShard: n }, () => ({ dpShard: Shard(0) })],
    [`columns over ${n}`, { tp: n }, (shape) => ({ tp: Shard(last(shape)) })],
    [`each in another dimension over ${n}`, { dpShard: n }, (shape, i) => ({ dpShard: Shard(i % shape.length) })],
    [`blocks over ${n}`, { tp: n }, blocks],
  ]),
  ['shared blocks', { tp: 4 }, shared],
  ['rows twice', { dpShard: 2, tp: 2 }, () => ({ tp: Shard(0), dpShard: Shard(0) })],
  ['rows twice, the other way round', { dpShard: 2, tp: 2 }, () => ({ dpShard: Shard(0), tp: Shard(0) })],
  ['blocks, then rows', { dpShard: 2, tp: 2 }, (shape) => ({ ...(shape[0] === 24 ? { tp: Shard(0, packed) } : {}), dpShard: Shard(0) })],
  ['rows and columns', { dpShard: 2, tp: 2 }, (shape) => ({ dpShard: Shard(0), tp: Shard(last(shape)) })],
  ['columns and the middle', { dpShard: 2, tp: 2 }, (shape) => ({ dpShard: Shard(last(shape)), tp: Shard(dims(shape, 1)) })],
  ['rows, with copies', { dpReplicate: 2, dpShard: 2 }, () => ({ dpShard: Shard(0) })],
];

/** Trains this rank's pieces and says which elements of the wholes they are. */
async function together(device: string, mesh: DeviceMesh, cut: Cut, optimizerOf: (pieces: Tensor[]) => { step(): unknown }): Promise<[number[], number[]][]> {
  const layouts = wholes.map((w, i) => new Layout(mesh, w.shape, cut(w.shape, i)));
  const pieceOf = (i: number, whole: Float64Array, dtype: 'bfloat16' | 'float32'): Tensor => {
    const layout = layouts[i]!;
    return leaf(
      layout.localShape,
      placesOf(layout).map((k) => whole[k]!),
      dtype,
      device,
    );
  };
  const params = wholes.map((w, i) => setLayout(pieceOf(i, w.values, 'bfloat16'), layouts[i]!));
  const optimizer = optimizerOf(params);
  for (let s = 0; s < STEPS; s++) {
    params.forEach((p, i) => {
      p.grad = pieceOf(i, wholes[i]!.gradients[s]!, 'float32');
    });
    optimizer.step();
  }
  return Promise.all(params.map(async (p, i): Promise<[number[], number[]]> => [placesOf(layouts[i]!), Array.from((await p.toTypedArray()) as Float32Array)]));
}

async function compare(
  maker: string,
  type: 'cpu' | 'cuda',
  sizes: MeshSizes,
  cut: Cut,
  optimizerOf: (pieces: Tensor[], mesh: DeviceMesh) => { step(): unknown } = (pieces) => makers[maker]!(pieces),
): Promise<void> {
  const expected = alone(maker, 'cpu');
  const count = Object.values(sizes).reduce((n, k) => n * k!, 1);
  const covered = expected.map(() => new Set<number>());
  const run = async ({ world, device }: { world: Parameters<typeof initDeviceMesh>[1]['group']; device: sg.Device }): Promise<[number[], number[]][]> => {
    const mesh = await initDeviceMesh(sizes, { group: world });
    sg.manualSeed(31);
    return together(String(device), mesh, cut, (pieces) => optimizerOf(pieces, mesh));
  };
  for (const pieces of await simulate(count, run, { device: type })) {
    pieces.forEach(([places, got], i) => {
      expect(got, `parameter ${i}`).toEqual(places.map((k) => expected[i]![k]));
      for (const k of places) covered[i]!.add(k);
    });
  }
  expect(covered.map((c) => c.size)).toEqual(expected.map((e) => e.length));
}

describe.each(types)('pieces on %s', (type) => {
  process.env['SHARDGRAD_SHARE_GPUS'] ??= '1';
  afterEach(() => void sg.manualSeed(0));

  test.each(ways)('%s', async (_, sizes, cut) => {
    await compare('SGD', type, sizes, cut);
    await compare('two groups', type, sizes, cut);
  });
  test.each(ways.slice(-4))('AdamW: %s', async (_, sizes, cut) => compare('AdamW', type, sizes, cut));

  test.each([2, 3])('ZeroRedundancyOptimizer over %i', async (n) => {
    await compare(
      'SGD',
      type,
      { dpReplicate: n },
      () => ({}),
      (params, mesh) => new ZeroRedundancyOptimizer(params, makers['SGD']!, { mesh }),
    );
  });
  test('ZeroRedundancyOptimizer over the copies of columns', async () => {
    const cut: Cut = (shape) => ({ tp: Shard(last(shape)) });
    await compare('SGD', type, { dpReplicate: 2, tp: 2 }, cut, (params, mesh) => new ZeroRedundancyOptimizer(params, makers['SGD']!, { mesh }));
  });
  test('CPUOffloadOptimizer of pieces', async () => {
    const cut: Cut = (shape) => ({ dpShard: Shard(0), tp: Shard(last(shape)) });
    await compare('SGD', type, { dpShard: 2, tp: 2 }, cut, (pieces) => new optim.CPUOffloadOptimizer(pieces, makers['SGD']!));
  });

  test('stages of a pipeline have the numbers of the whole model', async () => {
    const expected = alone('SGD', 'cpu');
    await simulate(
      2,
      async ({ world, device }) => {
        const mesh = await initDeviceMesh({ pp: 2 }, { group: world });
        const mine = wholes.flatMap((_, i) => (i % 2 === world.rank ? [i] : []));
        for (const over of [false, true]) {
          sg.manualSeed(31);
          const params = mine.map((i) => {
            const p = leaf(wholes[i]!.shape, wholes[i]!.values, 'bfloat16', String(device));
            placeOnStage(p, { mesh, counted: true, number: i });
            return p;
          });
          const optimizer = over ? new optim.CPUOffloadOptimizer(params, makers['SGD']!) : makers['SGD']!(params);
          for (let s = 0; s < STEPS; s++) {
            params.forEach((p, k) => {
              p.grad = leaf(p.shape, wholes[mine[k]!]!.gradients[s]!, 'float32', String(device));
            });
            optimizer.step();
          }
          expect(params.map((p) => Array.from(read(p).data))).toEqual(mine.map((i) => expected[i]));
        }
      },
      { device: type },
    );
  });
});
