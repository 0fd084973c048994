// The layers of tensor parallelism are those of one process: outputs, gradients of inputs and parameters, for sizes that divide and that do not,
// with and without sequence parallelism, packed projections and key heads that ranks share.
import { describe, expect, test, vi } from 'vitest';
import { type DeviceMesh, initDeviceMesh } from '../lib/distributed/device_mesh.js';
import { fullTensor, layoutOf, setLayout } from '../lib/distributed/distribute.js';
import { Layout } from '../lib/distributed/layout.js';
import { simulate } from '../lib/distributed/simulate.js';
import { ColumnParallelLinear, gateUpBlocks, qkvBlocks } from '../lib/distributed/tensor_parallel/column_linear.js';
import {
  copyToTensorParallel,
  gatherFromSequence,
  reduceFromTensorParallel,
  reduceScatterToSequence,
  scatterToSequence,
} from '../lib/distributed/tensor_parallel/regions.js';
import { RowParallelLinear } from '../lib/distributed/tensor_parallel/row_linear.js';
import { COMMUNICATION } from '../lib/distributed/work.js';
import * as sg from '../lib/index.js';
import { block, native } from '../lib/native.js';
import { expectClose } from './helpers/metric.js';

const { nn } = sg;
type Values = Record<string, Float64Array>;

const numbers = (shape: readonly number[], device: string, seed = 1): sg.Tensor =>
  sg.fromTypedArray(
    Float64Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin((i + 1) * seed * 1.3)),
    [...shape],
    { device },
  );
const read = async (t: sg.Tensor): Promise<Float64Array> => (await t.detach().to('float64').toTypedArray()) as Float64Array;

/** Outputs and gradients by name. */
async function results(y: sg.Tensor, x: sg.Tensor, model: sg.nn.Module): Promise<Values> {
  const found: Values = { y: await read(y), dx: await read(x.grad!) };
  for (const [name, p] of model.namedParameters()) {
    const layout = layoutOf(p)!;
    found[name] = await read(fullTensor(setLayout(p.detach().clone(), layout)));
    found[`${name}.grad`] = await read(fullTensor(setLayout(p.grad!, layout)));
  }
  return found;
}

function expectSame(found: readonly Values[], expected: Values, bound = 1e-12): void {
  for (const values of found) {
    expect(Object.keys(values).sort()).toEqual(Object.keys(expected).sort());
    for (const [name, value] of Object.entries(expected)) expectClose(values[name]!, value, bound, name);
  }
}

/** What a gradient weighs each output with. */
const weigh = (y: sg.Tensor): sg.Tensor => y.mul(numbers(y.shape, String(y.device), 0.7)).sum();

test('regions: each with its gradient', async () => {
  await simulate(2, async ({ world, device, rank }) => {
    const on = String(device);
    const x = numbers([3, 4, 2], on);
    const grad = async (given: sg.Tensor, of: (x: sg.Tensor) => sg.Tensor): Promise<[number[], number[]]> => {
      const leaf = given.clone().detach();
      leaf.requiresGrad = true;
      const y = of(leaf);
      y.mul(rank + 1)
        .sum()
        .backward();
      return [Array.from(await read(y)), Array.from(await read(leaf.grad!))];
    };
    const all = Array.from(await read(x));
    const mine = Array.from(await read(x.slice(1, 2 * rank, 2 * rank + 2).contiguous()));
    const full = (n: number, v: number): number[] => new Array<number>(n).fill(v);
    expect(await grad(x, (t) => copyToTensorParallel(t, world))).toEqual([all, full(24, 3)]);
    expect(await grad(x, (t) => reduceFromTensorParallel(t, world))).toEqual([all.map((v) => 2 * v), full(24, rank + 1)]);
    const bySequence = Array.from({ length: 24 }, (_, i) => (Math.floor(i / 2) % 4 < 2 ? 1 : 2));
    expect(await grad(x, (t) => scatterToSequence(t, world))).toEqual([mine, bySequence]);
    expect(await grad(x, (t) => reduceScatterToSequence(t, world))).toEqual([mine.map((v) => 2 * v), bySequence]);
    const part = x.slice(1, 2 * rank, 2 * rank + 2);
    expect(await grad(part, (t) => gatherFromSequence(t, world))).toEqual([all, full(12, 3)]);
    expect(await grad(part, (t) => gatherFromSequence(t, world, { gradient: 'slice' }))).toEqual([all, full(12, rank + 1)]);
    expect(await grad(x.select(0, 0), (t) => gatherFromSequence(scatterToSequence(t, world), world, { gradient: 'slice' }))).toEqual([
      all.slice(0, 8),
      bySequence.slice(0, 8),
    ]);
  });
});

test('gradients of gradients pass regions', async () => {
  const expected = 6;
  await simulate(2, async ({ world, device }) => {
    const x = sg.tensor([1, 2], { dtype: 'float64', device });
    x.requiresGrad = true;
    // each rank adds half of x³, so their sum is x³
    const y = reduceFromTensorParallel(copyToTensorParallel(x, world).pow(3).mul(0.5), world).sum();
    const [g] = sg.grad(y, [x], { createGraph: true });
    const [h] = sg.grad(g!.sum(), [x]);
    expect(await h!.toArray()).toEqual([expected, 2 * expected]);
  });
});

class Block extends nn.Module {
  up: sg.nn.Linear;
  down: sg.nn.Linear;
  constructor(sizes: readonly [number, number, number], bias: boolean, dtype: sg.DType) {
    super();
    this.up = new nn.Linear(sizes[0], sizes[1], { bias, dtype });
    this.down = new nn.Linear(sizes[1], sizes[2], { bias, dtype });
  }
  override forward(x: sg.Tensor, residual?: sg.Tensor): sg.Tensor {
    return this.down.forward(this.up.forward(x).tanh(), residual);
  }
}
class ParallelBlock extends nn.Module {
  up: ColumnParallelLinear;
  down: RowParallelLinear;
  constructor(sizes: readonly [number, number, number], bias: boolean, dtype: sg.DType, mesh: DeviceMesh, sequenceParallel: boolean, whole: boolean) {
    super();
    const options = { mesh, bias, dtype, sequenceParallel };
    this.up = new ColumnParallelLinear(sizes[0], sizes[1], { ...options, gatherOutput: whole });
    this.down = new RowParallelLinear(sizes[1], sizes[2], { ...options, inputIsParallel: !whole });
  }
  override forward(x: sg.Tensor, residual?: sg.Tensor): sg.Tensor {
    return this.down.forward(this.up.forward(x).tanh(), residual);
  }
}

async function alone(sizes: readonly [number, number, number], bias: boolean, residual: boolean, dtype: sg.DType = 'float64'): Promise<Values> {
  return simulate(1, async ({ world }) => {
    const mesh = await initDeviceMesh({}, { group: world });
    sg.manualSeed(3);
    const block = new Block(sizes, bias, dtype);
    for (const p of block.parameters()) setLayout(p, new Layout(mesh, p.shape, {}));
    const x = numbers([2, 12, sizes[0]], 'cpu').to(dtype);
    x.requiresGrad = true;
    const y = block.forward(x, residual ? numbers([2, 12, sizes[2]], 'cpu', 2).to(dtype) : undefined);
    weigh(y).backward();
    return results(y, x, block);
  }).then((all) => all[0]!);
}

describe.each([1, 2, 3, 4])('%i ranks', (ranks) => {
  describe.each<[number, number, number]>([
    [6, 12, 5],
    [4, 10, 3],
    [4, 2, 4],
  ])('%i → %i → %i', (...sizes) => {
    test.each([
      { bias: true, residual: false, sequence: false, whole: false },
      { bias: true, residual: true, sequence: false, whole: false },
      { bias: false, residual: true, sequence: true, whole: false },
      { bias: true, residual: true, sequence: true, whole: false },
      { bias: true, residual: false, sequence: false, whole: true },
    ])('%o', async ({ bias, residual, sequence, whole }) => {
      const expected = await alone(sizes, bias, residual);
      const found = await simulate(ranks, async ({ world, device, rank }) => {
        const mesh = await initDeviceMesh({ tp: ranks }, { group: world });
        // another seed on other ranks: the numbers are those of rank 0
        sg.manualSeed(3 + rank);
        const block = new ParallelBlock(sizes, bias, 'float64', mesh, sequence, whole);
        const on = String(device);
        const x = numbers([2, 12, sizes[0]], on);
        x.requiresGrad = true;
        const part = (t: sg.Tensor): sg.Tensor => (sequence ? scatterToSequence(t, world) : t);
        const made = block.forward(part(x), residual ? part(numbers([2, 12, sizes[2]], on, 2)) : undefined);
        const y = sequence ? gatherFromSequence(made, world, { gradient: 'slice' }) : made;
        weigh(y).backward();
        return results(y, x, block);
      });
      expectSame(found, expected);
      for (const values of found) for (const [name, value] of Object.entries(values)) expect(value, name).toEqual(found[0]![name]);
    });
  });
});

test('gate and up of a packed projection stay together', async () => {
  const run = async (ranks: number): Promise<Values[]> =>
    simulate(ranks, async ({ world, device }) => {
      const mesh = await initDeviceMesh({ tp: ranks }, { group: world });
      sg.manualSeed(5);
      class Gated extends nn.Module {
        gateUp = new ColumnParallelLinear(4, 20, { mesh, dtype: 'float64', blocks: gateUpBlocks(10) });
        down = new RowParallelLinear(10, 4, { mesh, dtype: 'float64' });
        override forward(x: sg.Tensor): sg.Tensor {
          const [gate, up] = sg.chunk(this.gateUp.forward(x), 2, -1);
          return this.down.forward(sg.silu(gate!).mul(up!));
        }
      }
      const model = new Gated();
      const x = numbers([3, 4], String(device));
      x.requiresGrad = true;
      const y = model.forward(x);
      weigh(y).backward();
      return results(y, x, model);
    });
  const [expected] = await run(1);
  for (const ranks of [2, 3, 4]) expectSame(await run(ranks), expected!);
});

describe.each([
  { heads: 4, keyValueHeads: 4 },
  { heads: 4, keyValueHeads: 2 },
  { heads: 4, keyValueHeads: 1 },
])('%o', ({ heads, keyValueHeads }) => {
  const run = (ranks: number): Promise<Values[]> =>
    simulate(ranks, async ({ world, device }) => {
      const mesh = await initDeviceMesh({ tp: ranks }, { group: world });
      sg.manualSeed(7);
      const headDim = 3;
      class Attention extends nn.Module {
        qkv = new ColumnParallelLinear(8, (heads + 2 * keyValueHeads) * headDim, {
          mesh,
          dtype: 'float64',
          blocks: qkvBlocks(mesh, { heads, keyValueHeads, headDim }),
        });
        proj = new RowParallelLinear(heads * headDim, 8, { mesh, dtype: 'float64' });
        override forward(x: sg.Tensor): sg.Tensor {
          const [b, t] = x.shape as [number, number];
          const queries = heads / ranks;
          const keys = Math.max(1, keyValueHeads / ranks);
          const [q, k, v] = sg
            .split(this.qkv.forward(x), [queries * headDim, keys * headDim, keys * headDim], -1)
            .map((part) => part.reshape([b, t, -1, headDim]).permute([0, 2, 1, 3]));
          const y = sg.scaledDotProductAttention(q!, k!, v!, { causal: true });
          return this.proj.forward(y.permute([0, 2, 1, 3]).reshape([b, t, -1]));
        }
      }
      const model = new Attention();
      const x = numbers([2, 5, 8], String(device));
      x.requiresGrad = true;
      const y = model.forward(x);
      weigh(y).backward();
      return results(y, x, model);
    });
  test('is equal on 1, 2 and 4 ranks', async () => {
    const [expected] = await run(1);
    for (const ranks of [2, 4]) expectSame(await run(ranks), expected!);
  });
});

test('float32 and autocast', async () => {
  const sizes = [6, 12, 5] as const;
  const expected = await alone(sizes, true, true, 'float32');
  for (const low of [false, true]) {
    const found = await simulate(3, async ({ world, device }) => {
      const mesh = await initDeviceMesh({ tp: 3 }, { group: world });
      sg.manualSeed(3);
      const block = new ParallelBlock(sizes, true, 'float32', mesh, true, false);
      const x = numbers([2, 12, 6], String(device)).to('float32');
      x.requiresGrad = true;
      const run = (): sg.Tensor =>
        gatherFromSequence(block.forward(scatterToSequence(x, world), scatterToSequence(numbers([2, 12, 5], String(device), 2).to('float32'), world)), world, {
          gradient: 'slice',
        });
      const y = low ? sg.amp.autocast('bfloat16', run) : run();
      weigh(y).backward();
      for (const p of block.parameters()) expect(p.grad!.dtype).toBe('float32');
      return results(y, x, block);
    });
    expectSame(found, expected, low ? 2e-2 : 1e-5);
  }
});

test('in backward the sum over the ranks is under way while the gradient of the weight is computed', async () => {
  const names = native.ops.map((op) => op.name);
  const { run, waitEvent } = native;
  await simulate(2, async ({ world, device, rank }) => {
    const mesh = await initDeviceMesh({ tp: 2 }, { group: world });
    for (const sequenceParallel of [false, true]) {
      const layer = new ColumnParallelLinear(6, 12, { mesh, sequenceParallel });
      const x = sg.ones([2, sequenceParallel ? 2 : 4, 6], { device });
      x.requiresGrad = true;
      const y = layer.forward(x).sum();
      const calls: string[] = [];
      if (rank === 0) {
        vi.spyOn(native, 'run').mockImplementation(() => {
          calls.push(names[block[0]!]!);
          run.call(native);
        });
        vi.spyOn(native, 'waitEvent').mockImplementation((...args) => {
          if (args[3] === COMMUNICATION) calls.push('wait');
          waitEvent.apply(native, args);
        });
      }
      y.backward();
      vi.restoreAllMocks();
      if (rank > 0) continue;
      expect(calls.filter((c) => ['matmul', 'allReduce', 'allGather', 'reduceScatter', 'wait'].includes(c))).toEqual(
        sequenceParallel ? ['allGather', 'matmul', 'reduceScatter', 'wait', 'matmul', 'wait'] : ['matmul', 'allReduce', 'matmul', 'wait'],
      );
    }
  });
});

test('misuse is named', async () => {
  await simulate(2, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ tp: 2 }, { group: world });
    expect(() => new ColumnParallelLinear(2, 2, {} as never)).toThrow(/ColumnParallelLinear: expected a mesh, of initDeviceMesh, got undefined/);
    expect(() => new RowParallelLinear(2, 2, { mesh: mesh.submesh('pp') })).toThrow(/the mesh has no axis tp; it has pp/);
    expect(() => ColumnParallelLinear.from(3 as never, { mesh })).toThrow(/ColumnParallelLinear.from: expected a Linear, got /);
    expect(() => qkvBlocks(mesh, { heads: 3, headDim: 2 })).toThrow(/3 query heads do not divide over 2 ranks/);
    const column = new ColumnParallelLinear(4, 4, { mesh, sequenceParallel: true });
    expect(() => column.forward(sg.zeros([2, 3], { device }))).toThrow(/expected \[\.\., 4\], got \[2,3\]/);
    const row = new RowParallelLinear(4, 4, { mesh, sequenceParallel: true });
    expect(() => row.forward(sg.zeros([3, 4], { device }))).toThrow(/expected \[\.\., 2\]: this rank's part of 4, got \[3,4\]/);
    expect(() => gatherFromSequence(sg.zeros([3], { device }), world)).toThrow(/the dimension before the features, which \[3\] does not have/);
    expect(() => gatherFromSequence(sg.zeros([3, 1], { device }), world, { gradient: 'mean' as never })).toThrow(/gradient must be sum or slice/);
    expect(() => copyToTensorParallel(3 as never, world)).toThrow(/copyToTensorParallel: expected a tensor/);
    const used = new nn.Linear(2, 2, { device });
    used
      .forward(sg.ones([1, 2], { device }))
      .sum()
      .backward();
    expect(() => RowParallelLinear.from(used, { mesh })).toThrow(/has a gradient, which is that of the whole; call zeroGrad\(\) before/);
    expect(() => new ColumnParallelLinear(4, 3, { mesh, blocks: [{ size: 3, unit: 3 }] })).toThrow(
      /1 units of 3 leave one of 2 ranks without any; let ranks share them with \{ repeat \}/,
    );
  });
});
