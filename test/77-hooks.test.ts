// Communication hooks: each with a lossless setting equals the plain reduction; what is left out is pending and never lost; all ranks stay
// equal to the bit; the layout of buckets does not matter; and a saved state goes on exactly.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { type DataParallelOptions, DistributedDataParallel } from '../lib/distributed/ddp.js';
import { AdaptiveTopK, affordableRatio } from '../lib/distributed/hooks/adaptive_top_k.js';
import { bfloat16Compression, float16Compression } from '../lib/distributed/hooks/compress.js';
import type { FeedbackHook } from '../lib/distributed/hooks/feedback.js';
import type { CommunicationHook } from '../lib/distributed/hooks/hook.js';
import { oneRoundingReduction } from '../lib/distributed/hooks/one_rounding.js';
import { PowerSGD } from '../lib/distributed/hooks/power_sgd.js';
import { TopK } from '../lib/distributed/hooks/top_k.js';
import { type SimulatedRank, simulate } from '../lib/distributed/simulate.js';
import * as sg from '../lib/index.js';
import { expectClose, relativeError } from './helpers/metric.js';
import { expectEqual, flatten } from './helpers/ranks.js';

const { nn, optim, io } = sg;
const IN = 12;

class Model extends nn.Module {
  first: sg.nn.Linear;
  second: sg.nn.Linear;
  third: sg.nn.Linear;
  constructor(device: string, dtype: sg.DType) {
    super();
    sg.manualSeed(4);
    const on = { device, dtype };
    this.first = new nn.Linear(IN, 16, on);
    this.second = new nn.Linear(16, 10, on);
    this.third = new nn.Linear(10, 3, on);
  }
  override forward(x: sg.Tensor): sg.Tensor {
    return this.third.forward(this.second.forward(this.first.forward(x).tanh()).tanh());
  }
}

/** A rank's batch in a step: inputs, and what a fixed function makes of them. */
function batch(rank: number, step: number, dtype: sg.DType, device: sg.Device): [sg.Tensor, sg.Tensor] {
  const rows = 8;
  const x = Float64Array.from({ length: rows * IN }, (_, i) => Math.sin((i + 1) * (1.1 + rank) + 3 * step));
  const y = Float64Array.from({ length: rows * 3 }, (_, i) => Math.tanh(x[Math.floor(i / 3) * IN + (i % 3)]! - x[Math.floor(i / 3) * IN + 5]!));
  const on = { device: device.toString(), dtype };
  return [sg.fromTypedArray(x, [rows, IN], on), sg.fromTypedArray(y, [rows, 3], on)];
}

interface Run {
  hook?: () => CommunicationHook;
  options?: Omit<DataParallelOptions, 'group' | 'hook'>;
  dtype?: sg.DType;
  steps?: number;
  lr?: number;
}

const small = { bucketBytes: 700, firstBucketBytes: 100 };

async function train(of: SimulatedRank, { hook, options = {}, dtype = 'float64', steps = 6, lr = 0.1 }: Run, losses: number[] = []): Promise<number[]> {
  const ddp = new DistributedDataParallel(new Model(of.device.toString(), dtype), { group: of.world, ...small, ...options, hook: hook?.() });
  const opt = new optim.SGD(ddp.parameters(), { lr, momentum: 0.5 });
  for (let s = 0; s < steps; s++) {
    const [x, y] = batch(of.rank, s, dtype, of.device);
    const loss = sg.mseLoss(ddp.forward(x), y);
    loss.backward();
    opt.step();
    opt.zeroGrad();
    losses.push(await loss.item());
  }
  return flatten(ddp.parameters());
}
const all = (size: number, run: Run, transport: 'shm' | 'tcp' = 'shm'): Promise<number[][]> => simulate(size, (of) => train(of, run), { transport });

const lossless: [string, () => CommunicationHook, number][] = [
  ['PowerSGD of full rank', () => new PowerSGD({ rank: 100, minCompressionRate: 1e-9, startStep: 2 }), 1e-10],
  [
    'PowerSGD of full rank without warm start',
    () => new PowerSGD({ rank: 100, minCompressionRate: 1e-9, startStep: 0, warmStart: false, errorFeedback: false }),
    1e-10,
  ],
  ['PowerSGD that compresses nothing', () => new PowerSGD({ minCompressionRate: 1e9, startStep: 0 }), 1e-14],
  ['TopK of everything', () => new TopK({ ratio: 1, minElements: 0 }), 0],
  ['TopK of large tensors alone', () => new TopK({ minElements: 1e9 }), 0],
  ['AdaptiveTopK with all the time there is', () => new AdaptiveTopK({ budget: 1e9, interval: 2, minElements: 0 }), 0],
];

test.each(lossless)('%s is the plain reduction', async (_, hook, bound) => {
  for (const size of [1, 2, 3]) {
    for (const options of [{}, { gradientReduction: 'sum' as const }, { staticGraph: true }]) {
      const lr = options.gradientReduction ? 0.1 / size : 0.1;
      const [expected] = await all(size, { options, lr });
      const results = await all(size, { hook, options, lr });
      expectEqual(results, expected!, bound);
    }
  }
});

test('compression by rounding: exact for what 16 bits hold, close otherwise', async () => {
  for (const hook of [float16Compression, bfloat16Compression, oneRoundingReduction]) {
    const results = await simulate(4, async ({ rank, device, world }) => {
      const ddp = new DistributedDataParallel(new nn.Linear(5, 2, { device: device.toString() }), { group: world, hook });
      const x = sg.fromTypedArray(
        Float32Array.from({ length: 15 }, (_, i) => 4 * ((i * (rank + 1)) % 7)),
        [3, 5],
        { device },
      );
      ddp.forward(x).sum().backward();
      return flatten(ddp.parameters().map((p) => p.grad!));
    });
    const sums = Array.from({ length: 5 }, (_, c) => [0, 1, 2, 3].reduce((s, r) => s + [0, 1, 2].reduce((t, i) => t + (((i * 5 + c) * (r + 1)) % 7), 0), 0));
    expectEqual(results, [...sums, ...sums, 3, 3], 0);
    for (const dtype of ['float32', 'float64', 'bfloat16'] as const) {
      const [plain] = await all(2, { dtype });
      const rounded = await all(2, { dtype, hook: () => hook });
      for (const r of rounded) expect(r).toEqual(rounded[0]);
      expect(relativeError(rounded[0]!, plain!)).toBeLessThan(hook === float16Compression ? 1e-3 : 1e-2);
    }
  }
});

test('a region of autocast around backward does not reach into a hook', async () => {
  const run = (region: sg.amp.AutocastDType | null): Promise<number[][]> =>
    simulate(2, (of) => {
      const hook = new PowerSGD({ rank: 2, minCompressionRate: 1, startStep: 0 });
      const ddp = new DistributedDataParallel(new Model(of.device.toString(), 'float32'), { group: of.world, hook, ...small });
      const [x, y] = batch(of.rank, 0, 'float32', of.device);
      const loss = sg.mseLoss(ddp.forward(x), y);
      sg.amp.autocast(region, () => loss.backward());
      return flatten(ddp.parameters().map((p) => p.grad!));
    });
  expect(await run('bfloat16')).toEqual(await run(null));
});

const lossy: [string, () => FeedbackHook][] = [
  ['PowerSGD', () => new PowerSGD({ rank: 1, minCompressionRate: 1, startStep: 1 })],
  ['PowerSGD of rank 2', () => new PowerSGD({ rank: 2, minCompressionRate: 1, startStep: 0, seed: 7 })],
  ['TopK', () => new TopK({ ratio: 0.05, minElements: 20 })],
];

test.each(lossy)('%s: ranks stay equal, buckets and transports do not matter, two runs are equal', async (_, hook) => {
  for (const dtype of ['float32', 'bfloat16'] as const) {
    const [expected] = await all(3, { hook, dtype });
    expect((await all(3, { dtype }))[0]).not.toEqual(expected);
    for (const options of [{}, { bucketBytes: 1, firstBucketBytes: 1 }, { bucketBytes: 1e9, firstBucketBytes: 1e9 }, { rebuildBuckets: false }]) {
      for (const result of await all(3, { hook, dtype, options })) expect(result).toEqual(expected);
    }
    for (const result of await all(3, { hook, dtype }, 'tcp')) expect(result).toEqual(expected);
  }
});

test.each(lossy)('%s: what is sent and what is pending are all there was', async (_, make) => {
  for (const size of [2, 3]) {
    for (const gradientReduction of ['mean', 'sum'] as const) {
      const results = await simulate(size, async (of) => {
        const hook = make();
        const ddp = new DistributedDataParallel(new Model(of.device.toString(), 'float64'), { group: of.world, hook, gradientReduction, ...small });
        const names = [...ddp.module.namedParameters()].map(([name]) => name);
        const local = new Map(names.map((name) => [name, [] as number[]]));
        const add = (to: number[], values: number[]): number[] => values.map((v, i) => v + (to[i] ?? 0));
        let sent: number[] = [];
        for (let s = 0; s < 5; s++) {
          const [x, y] = batch(of.rank, s, 'float64', of.device);
          sg.mseLoss(ddp.forward(x), y).backward();
          sent = add(sent, await flatten(ddp.parameters().map((p) => p.grad!)));
          ddp.zeroGrad();
          const gradients = sg.grad(sg.mseLoss(ddp.module.forward(x), y), ddp.module.parameters());
          for (const [i, name] of names.entries()) local.set(name, add(local.get(name)!, await flatten([gradients[i]!])));
        }
        const { errors } = await hook.stateDict();
        const pending: number[] = [];
        for (const name of names) pending.push(...(errors[name] ? await flatten([errors[name]]) : local.get(name)!.map(() => 0)));
        return { sent, local: names.flatMap((name) => local.get(name)!), pending };
      });
      const divisor = gradientReduction === 'mean' ? size : 1;
      const expected = results[0]!.local.map((_, i) => results.reduce((s, r) => s + r.local[i]! - r.pending[i]!, 0) / divisor);
      expectClose(results[0]!.sent, expected, 1e-12, 'sent');
      expect(Math.max(...results[0]!.pending.map(Math.abs))).toBeGreaterThan(1e-6);
    }
  }
});

test('error feedback converges where compression alone does not', async () => {
  const lossOf = async (hook?: () => CommunicationHook): Promise<number> => {
    const losses: number[] = [];
    await simulate(2, (of) => train(of, { hook, steps: 150, lr: 0.2, dtype: 'float32' }, of.rank === 0 ? losses : []));
    return losses.slice(-8).reduce((a, b) => a + b) / 8;
  };
  const plain = await lossOf();
  const topK = await lossOf(() => new TopK({ ratio: 0.05, minElements: 0 }));
  const power = await lossOf(() => new PowerSGD({ minCompressionRate: 1 }));
  const forgetful = await lossOf(() => new PowerSGD({ minCompressionRate: 1, errorFeedback: false, warmStart: false }));
  expect(topK).toBeLessThan(1.6 * plain + 0.01);
  expect(power).toBeLessThan(1.3 * plain + 0.01);
  expect(forgetful).toBeGreaterThan(power);
});

/** Trains 3 steps, saves as `save` does, and goes on: without a break, and anew from what was saved. */
async function resume(
  of: SimulatedRank,
  make: () => FeedbackHook,
  dtype: sg.DType,
  save: (hook: FeedbackHook, others: Record<string, unknown>) => Promise<string | null>,
  load: (hook: FeedbackHook, others: Record<string, sg.io.Stateful>) => Promise<void>,
): Promise<[number[], number[]]> {
  const begin = (): [DistributedDataParallel<Model>, sg.optim.Optimizer, FeedbackHook] => {
    const hook = make();
    const ddp = new DistributedDataParallel(new Model(of.device.toString(), dtype), { group: of.world, hook, ...small });
    return [ddp, new optim.SGD(ddp.parameters(), { lr: 0.1, momentum: 0.5 }), hook];
  };
  const run = async (ddp: DistributedDataParallel<Model>, opt: sg.optim.Optimizer, from: number, to: number): Promise<number[]> => {
    for (let s = from; s < to; s++) {
      const [x, y] = batch(of.rank, s, dtype, of.device);
      sg.mseLoss(ddp.forward(x), y).backward();
      opt.step();
      opt.zeroGrad();
    }
    return flatten(ddp.parameters());
  };
  const [ddp, opt, hook] = begin();
  await run(ddp, opt, 0, 3);
  await save(hook, { model: ddp.module, opt });
  const straight = await run(ddp, opt, 3, 6);
  const [ddp2, opt2, hook2] = begin();
  await load(hook2, { model: ddp2.module, opt: opt2 });
  return [straight, await run(ddp2, opt2, 3, 6)];
}

const saved: [string, () => FeedbackHook][] = [...lossy, ['PowerSGD without warm start', () => new PowerSGD({ minCompressionRate: 1, warmStart: false })]];

test.each(saved.flatMap(([name, make]) => (['float32', 'bfloat16'] as const).map((dtype) => [name, dtype, make] as const)))(
  '%s, %s: a saved state goes on exactly, each rank its own or all in one',
  async (_, dtype, make) => {
    const root = await mkdtemp(join(tmpdir(), 'shardgrad-hooks-'));
    try {
      const own = (of: SimulatedRank): string => join(root, `rank-${of.rank}`);
      const separate = await simulate(2, (of) =>
        resume(
          of,
          make,
          dtype,
          (hook, others) => io.saveCheckpoint(own(of), { ...others, hook, step: 3 }),
          async (hook, others) => void (await io.loadCheckpoint(own(of), { ...others, hook }, { device: of.device })),
        ),
      );
      const together = await simulate(2, (of) =>
        resume(
          of,
          make,
          dtype,
          async (hook, others) => {
            const state = await hook.gatherState();
            if (of.rank === 0) await io.saveCheckpoint(join(root, 'all'), { ...others, hook: state, step: 3 });
            await of.world.barrier();
            return null;
          },
          async (hook, others) => {
            const { hook: state } = await io.loadCheckpoint(join(root, 'all'), others, { device: of.device });
            await hook.loadStateDict(state as never);
          },
        ),
      );
      for (const [straight, again] of [...separate, ...together]) expect(again).toEqual(straight);
      expect(separate[0]![0]).toEqual(together[0]![0]);

      // three ranks take the mean of what two had pending
      const pendings = await simulate(3, async (of) => {
        const hook = make();
        new DistributedDataParallel(new Model(of.device.toString(), dtype), { group: of.world, hook });
        const { hook: state } = (await io.loadCheckpoint(join(root, 'all'), {}, { device: of.device })) as unknown as {
          hook: Parameters<FeedbackHook['loadStateDict']>[0];
        };
        await hook.loadStateDict(state);
        const mine = (await hook.stateDict()).errors;
        for (const [name, rows] of Object.entries(state.errors)) {
          expectClose(await flatten([mine[name]!]), await flatten([rows.mean([0])]), 1e-6, name);
        }
        const alone = { ...state, ranks: [1], errors: {} };
        await expect(hook.loadStateDict(alone)).rejects.toThrow(/holds errors of rank 1 of 2, this is rank \d of 3; save what gatherState\(\) gives/);
        return Object.keys(mine).length;
      });
      expect(pendings[0]).toBeGreaterThan(0);
    } finally {
      await rm(root, { recursive: true, force: true });
    }
  },
);

test('data that end early: the model is the same on all ranks, and goes on', async () => {
  const run = (hook?: () => CommunicationHook): Promise<number[][]> =>
    simulate(3, async (of) => {
      const ddp = new DistributedDataParallel(new Model(of.device.toString(), 'float64'), { group: of.world, hook: hook?.(), ...small });
      const opt = new optim.SGD(ddp.parameters(), { lr: 0.1, momentum: 0.5 });
      for (const counts of [
        [2, 0, 4],
        [3, 3, 1],
        [2, 2, 2],
      ]) {
        const steps = Array.from({ length: counts[of.rank]! }, (_, s) => s);
        for await (const s of ddp.join(steps, { divideBy: 'active', states: [opt] })) {
          const [x, y] = batch(of.rank, s, 'float64', of.device);
          sg.mseLoss(ddp.forward(x), y).backward();
          opt.step();
          opt.zeroGrad();
        }
      }
      return flatten(ddp.parameters());
    });
  const [expected] = await run();
  for (const [, hook, bound] of lossless) expectEqual(await run(hook), expected!, Math.max(bound, 1e-12));
  for (const hook of [...lossy.map(([, h]) => h), () => new AdaptiveTopK({ interval: 1, budget: 0, minElements: 0 })]) {
    const results = await run(hook);
    for (const r of results) expect(r).toEqual(results[0]);
  }
  for (const hook of [bfloat16Compression, oneRoundingReduction]) {
    const rounded = await run(() => hook);
    for (const r of rounded) expect(r).toEqual(rounded[0]);
    expect(relativeError(rounded[2]!, expected!)).toBeLessThan(1e-2);
  }
});

test('the affordable share', () => {
  // 10 MB in 1 s beside a backward of 0.5 s
  const m = { seconds: 1, backwardSeconds: 0.5, traffic: 1e7, dense: 1e7, sparse: 4e7 };
  expect(affordableRatio(m, 1, 0.001)).toBe(1 / 8);
  expect(affordableRatio(m, 2, 0.001)).toBe(1);
  expect(affordableRatio(m, 0, 0.001)).toBe(0.001);
  expect(affordableRatio({ ...m, seconds: 100 }, 1, 0.0001)).toBe(1 / 1024);
  expect(affordableRatio({ ...m, traffic: Number.POSITIVE_INFINITY, seconds: Number.POSITIVE_INFINITY }, 1, 0.001)).toBe(1);
});

test('AdaptiveTopK: the share follows what was measured, one interval late and the same on all ranks', async () => {
  const ratios = (budget: number, change?: (hook: AdaptiveTopK, step: number) => void): Promise<number[][]> =>
    simulate(2, async (of) => {
      const hook = new AdaptiveTopK({ interval: 3, budget, minElements: 0, minRatio: 0.01 });
      const ddp = new DistributedDataParallel(new Model(of.device.toString(), 'float32'), { group: of.world, hook, ...small });
      const seen: number[] = [];
      for (let s = 0; s < 12; s++) {
        const [x, y] = batch(of.rank, s, 'float32', of.device);
        const loss = sg.mseLoss(ddp.forward(x), y);
        loss.backward();
        ddp.zeroGrad();
        await loss.item();
        change?.(hook, s);
        seen.push(hook.ratio);
      }
      return seen;
    });
  const never = await ratios(1e9);
  expect(never).toEqual([new Array(12).fill(1), new Array(12).fill(1)]);
  const least = await ratios(0);
  expect(least[0]).toEqual([1, 1, 1, 1, 1, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01]);
  expect(least[1]).toEqual(least[0]);
  // whatever the machine does meanwhile, ranks agree
  const measured = await ratios(0.2);
  expect(measured[0]).toEqual(measured[1]);
});

test('AdaptiveTopK: what was pending goes out when everything is sent again', async () => {
  await simulate(2, async (of) => {
    const hook = new AdaptiveTopK({ interval: 1, budget: 0, minElements: 0 });
    const ddp = new DistributedDataParallel(new Model(of.device.toString(), 'float64'), { group: of.world, hook, ...small });
    const step = async (s: number): Promise<number[]> => {
      const [x, y] = batch(of.rank, s, 'float64', of.device);
      sg.mseLoss(ddp.forward(x), y).backward();
      const gradient = await flatten(ddp.parameters().map((p) => p.grad!));
      ddp.zeroGrad();
      return gradient;
    };
    for (let s = 0; s < 4; s++) await step(s);
    expect(hook.ratio).toBe(0.001);
    const { errors } = await hook.gatherState();
    const pending = await flatten([...ddp.module.namedParameters()].map(([name]) => errors[name]!.mean([0])));
    await hook.shared.loadStateDict({ ratio: 1, steps: 0, next: null });
    const all = await step(9);
    expect(Object.keys((await hook.stateDict()).errors)).toEqual([]);
    const plain = await step(9);
    expectClose(
      all.map((v, i) => v - plain[i]!),
      pending,
      1e-9,
      'pending',
    );
  });
});

test('a hook of one’s own, memory, and what does not go together', async () => {
  const calls: string[] = [];
  const own: CommunicationHook = {
    name: 'own',
    *reduce({ buffer, gradients, label }, { ensemble, divisor }) {
      calls.push(`${label}: ${gradients.map((g) => g.name).join()}`);
      const gathered = ensemble.allGather(buffer.reshape([1, buffer.numel]), { label });
      yield gathered;
      buffer.copy_(gathered.wait().sum([0]).div(divisor));
    },
  };
  const [expected] = await all(2, {});
  expectEqual(await all(2, { hook: () => own }), expected!, 1e-14);
  expect(calls[0]).toBe('of gradient bucket 0: third.weight');

  for (const make of [...lossy.map(([, h]) => h), () => new AdaptiveTopK({ interval: 2 }), () => float16Compression]) {
    await simulate(2, async (of) => {
      const ddp = new DistributedDataParallel(new Model(of.device.toString(), 'float32'), { group: of.world, hook: make(), ...small });
      const live: number[] = [];
      for (let s = 0; s < 8; s++) {
        sg.scope(() => {
          const [x, y] = batch(of.rank, s, 'float32', of.device);
          sg.mseLoss(ddp.forward(x), y).backward();
          ddp.zeroGrad();
        });
        await sg.synchronize(of.device);
        await new Promise((done) => setTimeout(done));
        live.push(sg.memory(of.device).live);
      }
      expect(Math.max(...live.slice(5))).toBeLessThanOrEqual(Math.max(live[3]!, live[4]!));
    });
  }

  await simulate(1, async ({ world, device }) => {
    const model = new Model(device.toString(), 'float32');
    expect(() => new DistributedDataParallel(model, { group: world, hook: new PowerSGD(), findUnusedParameters: true })).toThrow(
      'PowerSGD sends later what it keeps back now, which a parameter that is skipped would lose; use staticGraph',
    );
    const hook = new TopK();
    const of = { group: world, hook };
    expect(() => [new DistributedDataParallel(model, of), new DistributedDataParallel(model, of)]).toThrow('TopK: a hook with a state serves one');
    await expect(new TopK().stateDict()).rejects.toThrow('TopK: make DistributedDataParallel with this hook first');
  });
  expect(() => new PowerSGD({ rank: 0 })).toThrow('rank');
  expect(() => new TopK({ ratio: 0 })).toThrow('TopK: ratio must be above 0');
  expect(() => new TopK({ ratio: 2 })).toThrow('ratio');
  expect(() => new AdaptiveTopK({ interval: 0 })).toThrow('interval');
});
