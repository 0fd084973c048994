// Ranks whose data end at different steps: the model is that of one process which sees what there is, with either divisor, on every
// rank, whatever the step's collectives; a later epoch goes on exactly; and who ended when is said to those who want to know.
import { expect, test } from 'vitest';
import { type DataParallelOptions, DistributedDataParallel } from '../lib/distributed/ddp.js';
import type { JoinOptions } from '../lib/distributed/join.js';
import { type SimulatedRank, simulate } from '../lib/distributed/simulate.js';
import * as sg from '../lib/index.js';
import { expectEqual, flatten, rows, WIDTH } from './helpers/ranks.js';

const { nn, optim } = sg;

/** A layer, a buffer that training changes, and a layer that a batch uses or not. */
class Model extends nn.Module {
  first: sg.nn.Linear;
  extra: sg.nn.Linear;
  last: sg.nn.Linear;
  declare seen: sg.Tensor;
  constructor(device: string, seed = 5) {
    super();
    sg.manualSeed(seed);
    const on = { device, dtype: 'float64' as const };
    this.first = new nn.Linear(WIDTH, WIDTH, on);
    this.extra = new nn.Linear(WIDTH, WIDTH, on);
    this.last = new nn.Linear(WIDTH, WIDTH, on);
    this.registerBuffer('seen', sg.zeros([], on));
  }
  override forward(x: sg.Tensor, extra = false): sg.Tensor {
    if (this.training) sg.noGrad(() => this.seen.add_(1));
    const h = this.first.forward(x).tanh();
    return this.last.forward(extra ? this.extra.forward(h).tanh() : h);
  }
}

/** Batch `step` of a rank: 1 to 3 rows. */
const batchOf = (rank: number, step: number, device: string | sg.Device): sg.Tensor => {
  const begin = (5 * rank + 3 * step) % 20;
  return rows(device, begin, begin + 1 + ((rank + step) % 3));
};
const makeOptimizer = (p: sg.nn.Parameter[]): sg.optim.Optimizer => new optim.AdamW(p, { lr: 0.02, weightDecay: 0.1 });
const usesExtra = (rank: number, step: number): boolean => (rank + step) % 2 === 0;

interface Plan {
  /** Batches of each rank, epoch by epoch. */
  epochs: readonly (readonly number[])[];
  divideBy?: 'initial' | 'active';
  options?: Omit<DataParallelOptions, 'group'>;
  /** Reduce at every so manieth batch. */
  every?: number;
  extra?: (rank: number, step: number) => boolean;
}

function lossOf(model: { forward(x: sg.Tensor, extra?: boolean): sg.Tensor }, rank: number, step: number, x: sg.Tensor, plan: Plan): sg.Tensor {
  const { every = 1, extra = () => true } = plan;
  return sg.mseLoss(model.forward(x, extra(rank, step)), x).div(every);
}

async function train(of: SimulatedRank, plan: Plan, steps: number[] = []): Promise<number[]> {
  const { epochs, divideBy, options = {}, every = 1 } = plan;
  const ddp = new DistributedDataParallel(new Model(of.device.toString()), { group: of.world, bucketBytes: 400, firstBucketBytes: 100, ...options });
  const opt = makeOptimizer(ddp.parameters());
  const states: JoinOptions['states'] = [opt];
  for (const counts of epochs) {
    const batches = Array.from({ length: counts[of.rank]! }, (_, s) => batchOf(of.rank, s, of.device));
    let step = 0;
    for await (const x of ddp.join(batches, { divideBy, states })) {
      const run = (): void => lossOf(ddp as never, of.rank, step, x, plan).backward();
      if (step % every === every - 1) {
        run();
        opt.step();
        opt.zeroGrad();
      } else ddp.noSync(run);
      step++;
    }
    steps.push(step);
  }
  return flatten([...ddp.parameters(), ...ddp.buffers()]);
}

/** One process that takes the batches of all ranks that have one in each step. */
async function alone(size: number, plan: Plan): Promise<number[]> {
  const { epochs, divideBy = 'initial', every = 1 } = plan;
  const model = new Model('cpu');
  const opt = makeOptimizer(model.parameters());
  for (const counts of epochs) {
    const longest = Math.max(...counts);
    for (let step = 0; step < longest; step++) {
      const active = counts.flatMap((n, rank) => (n > step ? [rank] : []));
      for (const rank of active) {
        const x = batchOf(rank, step, 'cpu');
        lossOf(model, rank, step, x, plan)
          .div(divideBy === 'active' ? active.length : size)
          .backward();
      }
      if (step % every === every - 1) {
        opt.step();
        opt.zeroGrad();
      }
    }
  }
  // every rank's count is that of the first rank that had a batch
  sg.noGrad(() => model.seen.fill_(epochs.reduce((n, counts) => n + Math.max(...counts), 0)));
  return flatten([...model.parameters(), ...model.buffers()]);
}

test.each([[[2, 3]], [[3, 1, 2]], [[0, 3]], [[3, 0, 0]], [[0, 1, 4, 2]], [[2, 2]]])('batches %j', async (counts) => {
  for (const divideBy of ['initial', 'active'] as const) {
    for (const transport of ['shm', 'tcp'] as const) {
      const plan: Plan = { epochs: [counts], divideBy };
      const steps: number[] = [];
      const results = await simulate(counts.length, (of) => train(of, plan, of.rank === 0 ? steps : []), { transport });
      expect(steps).toEqual([counts[0]]);
      expectEqual(results, await alone(counts.length, plan));
    }
  }
});

test('the next epochs go on exactly, also on a rank that had no batch in the first', async () => {
  for (const options of [{}, { findUnusedParameters: true }, { staticGraph: true }, { rebuildBuckets: false }]) {
    const plan: Plan = {
      epochs: [
        [2, 0, 4],
        [1, 3, 2],
        [0, 0, 0],
        [2, 2, 2],
      ],
      options,
    };
    expectEqual(await simulate(3, (of) => train(of, plan)), await alone(3, plan));
  }
});

test('parameters that only some batches use', async () => {
  for (const divideBy of ['initial', 'active'] as const) {
    const plan: Plan = {
      epochs: [
        [3, 1, 4],
        [0, 2, 1],
      ],
      divideBy,
      options: { findUnusedParameters: true },
      extra: usesExtra,
    };
    expectEqual(await simulate(3, (of) => train(of, plan)), await alone(3, plan));
    // the extra layer is used by nobody in the last steps
    const rare: Plan = { ...plan, extra: (_, step) => step === 0 };
    expectEqual(await simulate(3, (of) => train(of, rare)), await alone(3, rare));
  }
});

test('micro-batches without reduction', async () => {
  const plan: Plan = { epochs: [[2, 4, 6]], every: 2 };
  expectEqual(await simulate(3, (of) => train(of, plan)), await alone(3, plan));
});

test('no rank has a batch', async () => {
  const plan: Plan = { epochs: [[0, 0]] };
  expectEqual(await simulate(2, (of) => train(of, plan)), await alone(2, plan));
});

/** Each rank's forward counts in a digit of its own. */
class Digits extends nn.Module {
  last: sg.nn.Linear;
  declare seen: sg.Tensor;
  constructor(
    private readonly rank: number,
    device: string,
  ) {
    super();
    this.last = new nn.Linear(WIDTH, WIDTH, { device, dtype: 'float64' });
    this.registerBuffer('seen', sg.zeros([], { device }));
  }
  override forward(x: sg.Tensor): sg.Tensor {
    sg.noGrad(() => this.seen.add_(10 ** this.rank));
    return this.last.forward(x);
  }
}

/** After each forward of an epoch, and after the epoch. */
type Seen = [number[], number];

// as PyTorch 2.13 counts: the buffers are those of the highest rank that has a batch, and at the end of the highest that was there last
test.each<{ epochs: number[][]; broadcastBuffers?: boolean; seen: Seen[][] }>([
  { epochs: [[3, 1, 2]], seen: [[[[1, 101, 102], 102]], [[[10], 102]], [[[100, 200], 102]]] },
  { epochs: [[2, 2, 2]], seen: [[[[1, 101], 200]], [[[10, 110], 200]], [[[100, 200], 200]]] },
  { epochs: [[0, 1, 0]], seen: [[[[], 10]], [[[10], 10]], [[[], 10]]] },
  {
    epochs: [
      [1, 3, 3],
      [2, 2, 1],
    ],
    seen: [
      [
        [[1], 300],
        [[301, 311], 320],
      ],
      [
        [[10, 110, 210], 300],
        [[310, 320], 320],
      ],
      [
        [[100, 200, 300], 300],
        [[400], 320],
      ],
    ],
  },
  { epochs: [[3, 1, 2]], broadcastBuffers: false, seen: [[[[1, 2, 3], 3]], [[[10], 10]], [[[100, 200], 200]]] },
  { epochs: [[2, 2, 2]], broadcastBuffers: false, seen: [[[[1, 2], 2]], [[[10, 20], 20]], [[[100, 200], 200]]] },
])('buffers that differ between ranks: $epochs, broadcast: $broadcastBuffers', async ({ epochs, broadcastBuffers, seen }) => {
  const results = await simulate(3, async (of) => {
    const ddp = new DistributedDataParallel(new Digits(of.rank, of.device.toString()), { group: of.world, broadcastBuffers });
    const count = (): Promise<number> => ddp.module.seen.item();
    const all: Seen[] = [];
    for (const counts of epochs) {
      const during: number[] = [];
      const batches = Array.from({ length: counts[of.rank]! }, (_, step) => batchOf(of.rank, step, of.device));
      for await (const x of ddp.join(batches)) {
        sg.mseLoss(ddp.forward(x), x).backward();
        ddp.zeroGrad();
        during.push(await count());
      }
      all.push([during, await count()]);
    }
    // outside of a join they are those of rank 0
    const x = batchOf(of.rank, 0, of.device);
    sg.noGrad(() => ddp.module.seen.fill_(of.rank));
    sg.mseLoss(ddp.forward(x), x).backward();
    expect(await count()).toBe((broadcastBuffers === false ? of.rank : 0) + 10 ** of.rank);
    return all;
  });
  expect(results).toEqual(seen);
});

test('asynchronous loaders, and an error in the loop', async () => {
  const results = await simulate(2, async (of) => {
    const ddp = new DistributedDataParallel(new Model(of.device.toString()), { group: of.world });
    let closed = false;
    async function* loader(): AsyncGenerator<sg.Tensor> {
      try {
        for (let s = 0; s < 3 - of.rank; s++) {
          await new Promise((done) => setTimeout(done, 2));
          yield batchOf(of.rank, s, of.device);
        }
      } finally {
        closed = true;
      }
    }
    for await (const x of ddp.join(loader())) {
      sg.mseLoss(ddp.forward(x, true), x).backward();
      ddp.zeroGrad();
    }
    expect(closed).toBe(true);
    closed = false;
    await expect(
      (async () => {
        for await (const x of ddp.join(loader())) {
          sg.mseLoss(ddp.forward(x, true), x).backward();
          throw new Error('of the loop');
        }
      })(),
    ).rejects.toThrow('of the loop');
    expect(closed).toBe(true);
    // nothing is left of the join
    const x = batchOf(of.rank, 0, of.device);
    ddp.zeroGrad();
    sg.mseLoss(ddp.forward(x, true), x).backward();
    return flatten(ddp.parameters().map((p) => p.grad!));
  });
  expect(results[0]).toEqual(results[1]);
});

test('throwOnEarlyEnd: every rank learns which ended and when', async () => {
  const messages = await simulate(4, async (of) => {
    const ddp = new DistributedDataParallel(new Model(of.device.toString()), { group: of.world });
    const count = [3, 3, 2, 3][of.rank]!;
    const batches = Array.from({ length: count }, (_, s) => batchOf(of.rank, s, of.device));
    try {
      for await (const x of ddp.join(batches, { throwOnEarlyEnd: true })) sg.mseLoss(ddp.forward(x, true), x).backward();
    } catch (error) {
      return (error as Error).message;
    }
    return 'ended';
  });
  for (const message of messages) expect(message).toBe('join: rank 2 ended its data at step 2, ranks 0, 1, 3 went on');
});

test('without join, a rank that stops early is named at once', async () => {
  const begin = performance.now();
  const error = await simulate(3, async (of) => {
    const ddp = new DistributedDataParallel(new Model(of.device.toString()), { group: of.world });
    for (let s = 0; s < (of.rank === 1 ? 2 : 4); s++) {
      const x = batchOf(of.rank, s, of.device);
      const loss = sg.mseLoss(ddp.forward(x, true), x);
      loss.backward();
      ddp.zeroGrad();
      await sg.synchronize(of.device);
    }
  }).catch((e: Error) => e);
  expect((error as Error).message).toMatch(/rank 1 has left before .*(broadcast|allReduce)/);
  expect(performance.now() - begin).toBeLessThan(5000);
});

test('wrong arguments', async () => {
  await simulate(1, async (of) => {
    const ddp = new DistributedDataParallel(new Model(of.device.toString()), { group: of.world });
    await expect(ddp.join([], { divideBy: 'some' as never }).next()).rejects.toThrow('divideBy must be initial or active, got a string "some"');
    await expect(ddp.join(5 as never).next()).rejects.toThrow('join: expected a loader or another iterable, got 5');
  });
});
