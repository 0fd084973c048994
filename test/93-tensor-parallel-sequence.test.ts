// Sequences that do not divide over the ranks, down to pieces of nothing: regions, nn.GPT with dropout and recomputation, generation, and how a rank
// that has a piece finds the length of the whole.
import { describe, expect, test } from 'vitest';
import { type DeviceMesh, initDeviceMesh } from '../lib/distributed/device_mesh.js';
import { simulate } from '../lib/distributed/simulate.js';
import { ColumnParallelLinear } from '../lib/distributed/tensor_parallel/column_linear.js';
import { gptPlan } from '../lib/distributed/tensor_parallel/gpt_plan.js';
import { parallelize } from '../lib/distributed/tensor_parallel/parallelize.js';
import { gatherFromSequence, reduceScatterToSequence, scatterToSequence } from '../lib/distributed/tensor_parallel/regions.js';
import { withSequenceLength } from '../lib/distributed/tensor_parallel/sequence_length.js';
import * as sg from '../lib/index.js';
import { expectAllClose } from './helpers/metric.js';
import { type Values, whole } from './helpers/whole.js';

const { nn, optim } = sg;
const VOCAB = 13;
const numbers = (shape: readonly number[], device: string, seed = 1): sg.Tensor =>
  sg.fromTypedArray(
    Float64Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => Math.round(8 * Math.sin((i + 1) * seed * 1.3))),
    [...shape],
    { device },
  );

test.each([2, 3, 4])('regions on %i ranks, for every length and any leading dimensions', async (ranks) => {
  await simulate(ranks, async ({ world, device, rank }) => {
    const on = String(device);
    for (const lead of [[], [1], [3], [2, 3]]) {
      for (let time = 0; time <= 2 * ranks + 1; time++) {
        const each = Math.ceil(time / ranks);
        const [from, to] = [Math.min(time, rank * each), Math.min(time, (rank + 1) * each)];
        const piece = (t: sg.Tensor): sg.Tensor => t.slice(-2, from, to);
        const x = numbers([...lead, time, 2], on);
        x.requiresGrad = true;
        const weights = numbers([...lead, time, 2], on, 3);
        const check = async (y: sg.Tensor, expected: sg.Tensor, gradient: sg.Tensor, weight: sg.Tensor): Promise<void> => {
          expect(y.shape).toEqual(expected.shape);
          expect(await y.toArray()).toEqual(await expected.toArray());
          y.mul(weight).sum().backward();
          expect(await x.grad!.toArray()).toEqual(await gradient.toArray());
          x.grad = null;
        };
        const whole = x.detach();
        await check(scatterToSequence(x, world), piece(whole), weights, piece(weights));
        await check(reduceScatterToSequence(x, world), piece(whole.mul(ranks)), weights, piece(weights));
        const around = gatherFromSequence(scatterToSequence(x, world), world, { gradient: 'slice' });
        await check(around, whole, weights, weights);
        // each rank weighs it by its number
        const total = (ranks * (ranks + 1)) / 2;
        await check(gatherFromSequence(scatterToSequence(x, world), world), whole, weights.mul(total), weights.mul(rank + 1));
      }
    }
  });
});

interface Setting {
  readonly time: number;
  readonly batch?: number;
  readonly dropout?: number;
}

const tokens = (device: string, { batch = 2, time }: Setting, seed: number): sg.Tensor =>
  sg
    .tensor(
      Array.from({ length: batch * time }, (_, i) => Math.floor(Math.abs(Math.sin((i + 1) * seed) * 1000)) % VOCAB),
      { dtype: 'int64', device },
    )
    .reshape([batch, time]);

const model = (device: string, dropout = 0): sg.nn.GPT =>
  new nn.GPT({ vocabSize: VOCAB, layers: 2, heads: 12, dim: 24, context: 16, dropout, dtype: 'float64', device });

/** Loss and gradients of the first step, loss and parameters of the fifth, from batches of several lengths. */
async function train(device: string, mesh: DeviceMesh | null, { dropout, ...setting }: Setting): Promise<Values[]> {
  return sg.withGenerator(new sg.Generator(11), async () => {
    const gpt = model(device, dropout);
    if (mesh) parallelize(gpt, mesh, gptPlan(gpt, { sequenceParallel: true }));
    const opt = new optim.SGD(gpt.parameters(), { lr: 0.5 });
    const found: Values[] = [];
    for (let step = 0; step < 5; step++) {
      const now = { ...setting, time: setting.time + (step % 3) };
      const loss = gpt.forward(tokens(device, now, step + 2), tokens(device, now, step + 3));
      loss.backward();
      if (step === 0) found.push({ loss: [await loss.item()] }, await whole(gpt, (p) => p.grad!));
      opt.step();
      opt.zeroGrad();
      if (step === 4) found.push({ loss: [await loss.item()] }, await whole(gpt, (p) => p));
    }
    return found;
  });
}

describe.each([2, 3, 4])('nn.GPT on %i ranks', (tp) => {
  test.each<Setting>([{ time: 11 }, { time: 5, dropout: 0.2 }, { time: 1, dropout: 0.2 }, { time: 7, batch: 1, dropout: 0.2 }])('%o', async (setting) => {
    const expected = await train('cpu', null, setting);
    const found = await simulate(tp, async ({ world, device }) => train(String(device), await initDeviceMesh({ tp }, { group: world }), setting));
    const names = ['loss', 'gradient of', 'last loss', 'parameter'];
    for (const rank of found) {
      rank.forEach((values, i) => expectAllClose(values, expected[i]!, i < 2 ? 1e-12 : 1e-10, names[i]!));
      expect(rank.slice(1), 'the same bits on all ranks').toEqual(found[0]!.slice(1));
    }
  });
});

test('a rank with a piece of nothing has gradients of every parameter', async () => {
  await simulate(4, async ({ world, device, rank }) => {
    const mesh = await initDeviceMesh({ tp: 4 }, { group: world });
    const on = String(device);
    const gpt = model(on);
    parallelize(gpt, mesh, gptPlan(gpt, { sequenceParallel: true }));
    let last: readonly number[] = [];
    gpt.transformer.ln_f.registerForwardHook((_m, _a, y) => {
      last = (y as sg.Tensor).shape;
    });
    gpt.forward(tokens(on, { time: 5 }, 2), tokens(on, { time: 5 }, 3)).backward();
    expect(last).toEqual([2, [2, 2, 1, 0][rank], 24]);
    for (const [name, p] of gpt.namedParameters()) expect(p.grad?.shape, name).toEqual(p.shape);
  });
});

test('generation, one token at a time', async () => {
  const options = { maxNewTokens: 9, seed: 5 };
  sg.manualSeed(3);
  const expected = await model('cpu')
    .generate(tokens('cpu', { time: 3 }, 2), options)
    .toArray();
  await simulate(3, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ tp: 3 }, { group: world });
    sg.manualSeed(3);
    const gpt = model(String(device));
    parallelize(gpt, mesh, gptPlan(gpt, { sequenceParallel: true }));
    expect(await gpt.generate(tokens(String(device), { time: 3 }, 2), options).toArray()).toEqual(expected);
  });
});

test('segments are recomputed with the length of their first run, although others came after it', async () => {
  const run = async (device: string, gpt: sg.nn.GPT): Promise<Values> => {
    const blocks = gpt.transformer.h;
    for (const block of blocks) {
      const inner = block.forward.bind(block);
      Object.assign(block, { forward: (x: sg.Tensor) => sg.checkpoint((y: sg.Tensor) => inner(y), x) });
    }
    // on 2 ranks, a piece of 3 is one of 5 and one of 6
    const losses = [5, 6].map((time) => gpt.forward(tokens(device, { time }, 2), tokens(device, { time }, 3)));
    for (const loss of losses) loss.backward();
    return whole(gpt, (p) => p.grad!);
  };
  const start = (device: string): sg.nn.GPT => {
    sg.manualSeed(4);
    return model(device, 0.2);
  };
  const expected = await run('cpu', start('cpu'));
  await simulate(2, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ tp: 2 }, { group: world });
    const gpt = start(String(device));
    parallelize(gpt, mesh, gptPlan(gpt, { sequenceParallel: true }));
    expectAllClose(await run(String(device), gpt), expected, 1e-12, 'gradient of');
  });
});

test('the length of the whole: as it was cut last, or as it was said', async () => {
  await simulate(2, async ({ world, device, rank }) => {
    const on = String(device);
    const mesh = await initDeviceMesh({ tp: 2 }, { group: world });
    const layer = new ColumnParallelLinear(2, 4, { mesh, sequenceParallel: true, dtype: 'float64' });
    const made = (x: sg.Tensor): number => layer.forward(x).shape[0]!;
    // nothing was cut yet: every rank has as many
    expect(made(sg.zeros([3, 2], { dtype: 'float64', device }))).toBe(6);
    const elsewhere = numbers([3 - rank, 2], on);
    expect(withSequenceLength(5, () => made(elsewhere))).toBe(5);
    expect(() => withSequenceLength(8, () => made(elsewhere))).toThrow(/of a sequence of 8, rank \d of 2 has no piece of \d/);
    const [five, nine] = [5, 9].map((time) => scatterToSequence(numbers([time, 2], on), world));
    expect([made(five!), made(nine!)]).toEqual([5, 9]);
    expect(() => withSequenceLength(-1, () => 0)).toThrow(/the length/);
  });
});

test('ranks that take a piece for one of another length find out before anything is sent', async () => {
  const run = simulate(2, async ({ world, device }) => {
    const five = scatterToSequence(numbers([5, 2], String(device)), world);
    scatterToSequence(numbers([6, 2], String(device)), world);
    // rank 0 has 3 of each, and takes the later for it
    await gatherFromSequence(five, world).toArray();
  });
  await expect(run).rejects.toThrow(/allGather.*elements.*of gatherFromSequence/s);
});
