// A loss divided by the global count of valid targets, with gradients summed over ranks: uneven batches, accumulation and masked tokens
// give one process's loss and gradients on the whole batch, for any number of ranks.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { countValid } from '../lib/distributed/count_valid.js';
import { DistributedDataParallel } from '../lib/distributed/ddp.js';
import { type SimulatedRank, simulate } from '../lib/distributed/simulate.js';
import * as sg from '../lib/index.js';

const { nn } = sg;
const [VOCABULARY, TIME, IGNORE] = [7, 4, -100];
const config = { vocabSize: VOCABULARY, layers: 1, heads: 2, dim: 8, context: TIME, dtype: 'float64' } as const;

interface Rows {
  readonly inputs: number[][];
  readonly targets: number[][];
}

function model(device: string): sg.nn.GPT {
  sg.manualSeed(5);
  return new nn.GPT({ ...config, device });
}

/** Rows of tokens; `valid[i]` says which of the targets of row i count. */
function rows(valid: readonly (readonly boolean[])[]): Rows {
  const token = (i: number): number => Math.floor(Math.abs(Math.sin(i * 12.9898) * 43758.5453) % VOCABULARY);
  return {
    inputs: valid.map((_, r) => Array.from({ length: TIME }, (_, t) => token(r * 31 + t))),
    targets: valid.map((row, r) => row.map((counts, t) => (counts ? token(r * 17 + t + 5) : IGNORE))),
  };
}

const tensor = (values: number[][], device: string): sg.Tensor => sg.tensor(values.flat(), { dtype: 'int32', device }).reshape([values.length, TIME]);

async function gradients(m: sg.nn.Module): Promise<number[]> {
  return Array.from((await sg.cat(m.parameters().map((p) => p.grad!.reshape([-1]))).toTypedArray()) as Float64Array);
}

async function alone({ inputs, targets }: Rows, options: object): Promise<{ loss: number; grads: number[] }> {
  const m = model('cpu');
  const loss = m.forward(tensor(inputs, 'cpu'), tensor(targets, 'cpu'), options);
  loss.backward();
  return { loss: await loss.item(), grads: await gradients(m) };
}

/** Micro-batches of each rank by the numbers of their rows. */
async function together(all: Rows, cuts: readonly (readonly number[])[], options: object): Promise<{ loss: number; grads: number[] }[]> {
  let next = 0;
  const parts = cuts.map((sizes) =>
    sizes.map((n) => {
      const part = { inputs: all.inputs.slice(next, next + n), targets: all.targets.slice(next, next + n) };
      next += n;
      return part;
    }),
  );
  return simulate(cuts.length, async ({ rank, device, world }: SimulatedRank) => {
    const on = device.toString();
    const m = model(on);
    const ddp = new DistributedDataParallel(m, { group: world, gradientReduction: 'sum' });
    const batches = parts[rank]!.map((p) => ({ inputs: tensor(p.inputs, on), targets: tensor(p.targets, on) }));
    const normalizer = countValid(
      batches.map((b) => b.targets),
      world,
    ).wait();
    let loss = sg.zeros([], { dtype: 'float64', device: on });
    const step = (b: (typeof batches)[number]): void => {
      const part = ddp.forward(b.inputs, b.targets, { normalizer, ...options });
      part.backward();
      loss = loss.add(part.detach());
    };
    for (const b of batches.slice(0, -1)) ddp.noSync(() => step(b));
    step(batches.at(-1)!);
    return { loss: await world.allReduce(loss).wait().item(), grads: await gradients(m) };
  });
}

function close(actual: readonly number[], expected: readonly number[]): void {
  const norm = Math.hypot(...expected);
  expect(Math.hypot(...actual.map((a, i) => a - expected[i]!))).toBeLessThanOrEqual(1e-12 * Math.max(norm, 1e-3));
}

const masked = [false, false, false, false];
const full = [true, true, true, true];

describe.each([1, 2, 3, 4, 8])('%i ranks', (size) => {
  test.each([
    ['plain', {}],
    ['label smoothing', { labelSmoothing: 0.1 }],
  ])('uneven micro-batches with masked tokens, one fully masked: %s', async (_, options) => {
    // rank r has micro-batches of 1 and 1 + r % 3 rows
    const cuts = Array.from({ length: size }, (_, r) => [1, 1 + (r % 3)]);
    const count = cuts.flat().reduce((a, b) => a + b);
    const valid = Array.from({ length: count }, (_, i) => full.map((_, t) => (i * 7 + t * 3) % 4 !== 0));
    valid[0] = masked;
    const all = rows(valid);
    const expected = await alone(all, options);
    for (const { loss, grads } of await together(all, cuts, options)) {
      expect(Math.abs(loss / expected.loss - 1)).toBeLessThan(1e-12);
      close(grads, expected.grads);
    }
  });
});

test('any cut into ranks and micro-batches', async () => {
  const cut = fc.array(fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 1, maxLength: 3 }), { minLength: 1, maxLength: 3 });
  await fc.assert(
    fc.asyncProperty(cut, fc.nat(1000), async (cuts, seed) => {
      const count = cuts.flat().reduce((a, b) => a + b);
      const all = rows(Array.from({ length: count }, (_, i) => full.map((_, t) => Math.sin(seed + 13 * i + 7 * t) > 0)));
      const valid = all.targets.flat().filter((t) => t !== IGNORE).length;
      const results = await together(all, cuts, {});
      const expected = await alone(all, { normalizer: valid });
      for (const { loss, grads } of results) {
        expect(Math.abs(loss - expected.loss)).toBeLessThanOrEqual(1e-12 * (1 + expected.loss));
        close(grads, expected.grads);
      }
    }),
    { numRuns: 20 },
  );
});

test('where nothing counts anywhere, the loss and its gradients are 0', async () => {
  for (const { loss, grads } of await together(rows([masked, masked]), [[1], [1]], {})) {
    expect(loss).toBe(0);
    expect(grads.every((g) => g === 0)).toBe(true);
  }
});

test('the count is exact, awaited or not, and of any ignoreIndex', async () => {
  const counts = await simulate(3, async ({ rank, device, world }) => {
    const targets = sg.tensor([rank, 1, 2, 2], { dtype: 'int64', device });
    const count = await countValid([targets, targets.reshape([2, 2])], world, { ignoreIndex: 2 });
    return [await countValid(targets, world).wait().item(), await count.item(), count.shape, count.dtype];
  });
  for (const count of counts) expect(count).toEqual([12, 10, [], 'int64']);
});

test('a normalizer and the mean over ranks are not mixed', async () => {
  const run = (gradientReduction: 'mean' | 'sum' | undefined, normalizer: number | undefined): Promise<void[]> =>
    simulate(2, async ({ device, world }) => {
      const ddp = new DistributedDataParallel(model(device.toString()), { group: world, gradientReduction });
      const { inputs, targets } = rows([full]);
      ddp.forward(tensor(inputs, device.toString()), tensor(targets, device.toString()), { normalizer }).backward();
    });
  const reason = /the loss has a normalizer, which counts over all ranks, .* would divide again; pass gradientReduction: 'sum'/;
  await expect(run(undefined, 8)).rejects.toThrow(reason);
  await expect(run('mean', 8)).rejects.toThrow(reason);
  await run('sum', 8);
  await run('mean', undefined);
});

test('a normalizer is anybody’s without data parallelism, and one backward knows nothing of another', async () => {
  const { inputs, targets } = rows([full]);
  model('cpu').forward(tensor(inputs, 'cpu'), tensor(targets, 'cpu'), { normalizer: 4 }).backward();
  const step = (options: object): Promise<void[]> =>
    simulate(1, async ({ world }) => {
      const ddp = new DistributedDataParallel(model('cpu'), { group: world });
      ddp.forward(tensor(inputs, 'cpu'), tensor(targets, 'cpu'), options).backward();
    });
  await step({});
  await expect(step({ normalizer: 4 })).rejects.toThrow(/pass gradientReduction: 'sum'/);
  await step({});
});

describe('crossEntropy', () => {
  const logits = (): sg.Tensor => sg.tensor([[0.5, -1, 2]], { dtype: 'float64', requiresGrad: true });
  const target = (): sg.Tensor => sg.tensor([1], { dtype: 'int64' });

  test('takes any number and one-element tensor as normalizer', async () => {
    const values = [3, sg.tensor(3), sg.tensor([3], { dtype: 'int64' }), sg.tensor([[3]], { dtype: 'bfloat16' })].map((normalizer) =>
      sg.crossEntropy(logits(), target(), { normalizer }),
    );
    for (const v of values) expect([v.shape, v.dtype, await v.item()]).toEqual([[], 'float64', await values[0]!.item()]);
    const soft = sg.tensor([[0.2, 0.3, 0.5]], { dtype: 'float64' });
    const [sum, divided] = [sg.crossEntropy(logits(), soft, { reduction: 'sum' }), sg.crossEntropy(logits(), soft, { normalizer: 3 })];
    expect(await divided.item()).toBeCloseTo((await sum.item()) / 3, 14);
  });

  test('gives second derivatives', () => {
    const slope = (x: sg.Tensor): sg.Tensor => sg.grad(sg.crossEntropy(x, target(), { normalizer: sg.tensor(3) }), [x], { createGraph: true })[0]!;
    expect(sg.gradcheck((x) => slope(x).square().sum(), [logits()])).toBe(true);
  });

  test('refuses what is no normalizer', () => {
    const run = (normalizer: unknown) => () => sg.crossEntropy(logits(), target(), { normalizer } as never);
    expect(run(Number.POSITIVE_INFINITY)).toThrow('crossEntropy: the normalizer must be finite, got Infinity');
    expect(run(Number.NaN)).toThrow(sg.ValueError);
    expect(run('3')).toThrow(sg.ValueError);
    expect(run(sg.ones([2]))).toThrow('crossEntropy: the normalizer must have one element, got [2]');
    expect(run(sg.ones([], { requiresGrad: true }))).toThrow('crossEntropy: the normalizer has no gradient; detach() it');
    expect(run(sg.ones([], { device: 'cpu:1' }))).toThrow(sg.DeviceError);
    expect(() => sg.crossEntropy(logits(), target(), { normalizer: 3, reduction: 'none' })).toThrow(/a normalizer needs a reduction other than none/);
  });

  test('counting refuses what are no targets', async () => {
    await simulate(1, async ({ world }) => {
      expect(() => countValid([], world)).toThrow('countValid: expected targets, one tensor or a list of them, got an empty list');
      expect(() => countValid(3 as never, world)).toThrow(sg.ValueError);
      expect(() => countValid(target(), world, { ignoreIndex: 0.5 })).toThrow('countValid: ignoreIndex must be a whole number, got 0.5');
    });
  });
});
