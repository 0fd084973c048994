// Process groups of GPUs: what moves their tensors (the CPU by way of the host's memory, or NCCL) gives the bits that groups of the CPU
// give, for every operation and dtype; ranks that disagree, wait or fail are told so in the same words; what NCCL cannot do is refused.
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test, vi } from 'vitest';

// read when the device is first asked for
vi.hoisted(() => {
  process.env['SHARDGRAD_EMULATED_GPUS'] ??= '4';
  process.env['SHARDGRAD_SHARE_GPUS'] ??= '1';
});

import { type DataParallelOptions, DistributedDataParallel } from '../lib/distributed/ddp.js';
import { oneRoundingReduction } from '../lib/distributed/hooks/one_rounding.js';
import { startNccl } from '../lib/distributed/nccl.js';
import { segmentName } from '../lib/distributed/segment_name.js';
import { type SimulatedRank, type SimulateOptions, simulate } from '../lib/distributed/simulate.js';
import { sharedWorld } from '../lib/distributed/transport.js';
import type { DType } from '../lib/index.js';
import * as sg from '../lib/index.js';
import { native } from '../lib/native.js';
import { scratchFolder } from './helpers/files.js';
import { ncclRanks, sharesGpus } from './helpers/nccl.js';
import { stream } from './helpers/random.js';
import { BATCH, expectEqual, flatten, part, rows, WIDTH } from './helpers/ranks.js';

const folder = scratchFolder();
const { gpus, problem } = sg.cuda.report();

/** Why this cannot run here; empty: it can. */
function missing(backend: 'staged' | 'nccl', size: number): string {
  if (gpus.length === 0) return problem;
  if (backend === 'staged') return '';
  if (ncclRanks === 0) return 'NCCL was not found';
  return size > ncclRanks ? `NCCL can have ${ncclRanks} of ${size} ranks here` : '';
}
const because = (why: string): string => (why ? `, skipped: ${why}` : '');

type Run = <T>(fn: (of: SimulatedRank) => T | Promise<T>, options?: SimulateOptions) => Promise<T[]>;
const on =
  (backend: 'staged' | 'nccl', size: number): Run =>
  (fn, options) =>
    simulate(size, fn, { device: 'cuda', backend, timeoutMs: 30_000, ...options });

const DTYPES = native.dtypes as DType[];

/** Small whole numbers, whose sums and products are exact in every dtype and order. */
function values({ rank, device }: SimulatedRank, dtype: DType, count: number, seed = 0): sg.Tensor {
  const next = stream(1000 * rank + count + seed + 1);
  return sg
    .fromTypedArray(
      Float32Array.from({ length: count }, () => Math.floor(next() * 3)),
      [count],
      { device },
    )
    .to(dtype);
}

/** Bytes as text, of many a digest. */
async function bits(t: sg.Tensor | null): Promise<string | null> {
  if (!t) return null;
  const raw = await t.toTypedArray({ raw: true });
  const bytes = Buffer.from(raw.buffer, raw.byteOffset, raw.byteLength);
  return bytes.length > 128 ? createHash('sha256').update(bytes).digest('hex') : bytes.toString('hex');
}

/** The results of operations that only move, by name. */
async function moved(of: SimulatedRank, dtype: DType): Promise<Record<string, string | null>> {
  const { world, rank } = of;
  const { size } = world;
  const results: Record<string, string | null> = {};
  const root = size - 1;
  for (const [kind, each] of Object.entries({ even: () => 5, uneven: (r: number) => (3 * r) % 4, large: (r: number) => 20_001 + r })) {
    const counts = Array.from({ length: size }, (_, r) => each(r));
    const total = counts.reduce((a, b) => a + b, 0);
    const mine = values(of, dtype, counts[rank]!);
    results[`allGather ${kind}`] = await bits(await world.allGather(mine, { rows: counts }));
    results[`gather ${kind}`] = await bits(await world.gather(mine, { rows: counts, dst: root }));
    const whole = rank === root ? values(of, dtype, total) : null;
    results[`scatter ${kind}`] = await bits(await world.scatter(whole, { rows: counts, src: root, like: { shape: [total], dtype } }));
    const send = counts.map((_, r) => counts[(rank + r) % size]!);
    const receive = counts.map((_, r) => counts[(r + rank) % size]!);
    results[`allToAll ${kind}`] = await bits(await world.allToAll(values(of, dtype, total), { send, receive }));
    const sent = values(of, dtype, total);
    results[`broadcast ${kind}`] = await bits(await world.broadcast(sent, { src: root }));
    if (size === 1) continue;
    const [next, previous] = [(rank + 1) % size, (rank + size - 1) % size];
    const got = sg.zeros([total], { device: of.device, dtype });
    const works = world.coalesce(() => [world.send(values(of, dtype, total), next), world.recv(got, previous)]);
    for (const work of works) await work;
    results[`messages ${kind}`] = await bits(got);
  }
  await world.barrier();
  return results;
}

/** The results of reductions, by name. */
async function reduced(of: SimulatedRank, dtype: DType): Promise<Record<string, string | null>> {
  const { world } = of;
  const { size } = world;
  const ops = ['sum', 'min', 'max', 'product', ...(sg.isFloating(dtype) ? (['avg', { premulSum: 0.5 + of.rank }] as const) : [])] as const;
  const results: Record<string, string | null> = {};
  for (const op of ops) {
    const name = typeof op === 'string' ? op : 'premulSum';
    for (const count of [0, 7, ...(dtype === 'float32' ? [70_001] : [])]) {
      results[`allReduce ${name} ${count}`] = await bits(await world.allReduce(values(of, dtype, count), { op }));
    }
    results[`reduce ${name}`] = await bits(await world.reduce(values(of, dtype, 9), { op, dst: size - 1 }));
    results[`reduceScatter ${name}`] = await bits(await world.reduceScatter(values(of, dtype, 3 * size), { op }));
    const counts = Array.from({ length: size }, (_, r) => (3 * r) % 4);
    const total = counts.reduce((a, b) => a + b, 0);
    results[`reduceScatter ${name} uneven`] = await bits(await world.reduceScatter(values(of, dtype, total), { op, rows: counts }));
  }
  return results;
}

describe.each(['staged', 'nccl'] as const)('%s', (backend) => {
  describe.each([1, 2, 4])(`%i ranks${because(missing(backend, 1))}`, (size) => {
    const run = on(backend, size);
    const lacks = missing(backend, size);

    test.skipIf(lacks).each(DTYPES)('%s moved', async (dtype) => {
      expect(await run((of) => moved(of, dtype))).toEqual(await simulate(size, (of) => moved(of, dtype)));
    });

    const reducible = DTYPES.filter((dtype) => backend === 'staged' || !/^u?int16$/.test(dtype));
    test.skipIf(lacks).each(reducible)('%s reduced', async (dtype) => {
      expect(await run((of) => reduced(of, dtype))).toEqual(await simulate(size, (of) => reduced(of, dtype)));
    });
  });

  const two = missing(backend, 2);
  const run = on(backend, 2);

  test.skipIf(two)('over TCP', async () => {
    const expected = await simulate(2, (of) => moved(of, 'bfloat16'));
    expect(await run((of) => moved(of, 'bfloat16'), { transport: 'tcp' })).toEqual(expected);
  });

  test.skipIf(missing(backend, 4))('parts of a group, and a rank that is in none', async () => {
    const sums = await on(
      backend,
      4,
    )(async ({ rank, world, device }) => {
      const group = await world.split(rank === 3 ? null : rank % 2, { key: -rank });
      const seen: unknown[] = [group?.backend, group?.rank, group?.worldRanks];
      if (group) seen.push(await (await group.allReduce(sg.full([1], rank + 1, { device }))).item());
      const again = await group?.split(0);
      if (again) seen.push(again.size, await (await again.allReduce(sg.full([1], 1, { device }))).item());
      await again?.close();
      await world.barrier();
      await group?.close();
      return seen;
    });
    expect(sums).toEqual([
      [backend, 1, [2, 0], 4, 2, 2],
      [backend, 0, [1], 2, 1, 1],
      [backend, 0, [2, 0], 4, 2, 2],
      [undefined, undefined, undefined],
    ]);
  });

  test.skipIf(two)('small ones become one, wait() orders what follows, and what is not contiguous is written back', async () => {
    const results = await run(async ({ rank, world, device }) => {
      const small = Array.from({ length: 5 }, (_, i) => sg.full([i + 1], rank + i, { device }));
      for (const work of world.coalesce(() => small.map((x) => world.allReduce(x)))) work.wait();
      let x = sg.full([3], rank, { device });
      for (let i = 0; i < 20; i++) x = world.allReduce(x.mul(0.5)).wait().add(0);
      const base = sg.fromTypedArray(Float32Array.of(1, 2, 3, 4, 5, 6), [2, 3], { device });
      await world.allReduce(base.transpose(0, 1));
      return flatten([...small, x, base]);
    });
    const sums = [0, 1, 2, 3, 4].flatMap((i) => new Array<number>(i + 1).fill(2 * i + 1));
    expect(results).toEqual(new Array(2).fill([...sums, 0.5, 0.5, 0.5, 2, 4, 6, 8, 10, 12]));
  });

  describe.skipIf(two)(`mistakes${because(two)}`, () => {
    const failure = async (fn: (of: SimulatedRank) => unknown, options: SimulateOptions = {}): Promise<Error> =>
      run(async (of) => fn(of), options).then(
        () => new Error('nothing was thrown'),
        (error: Error) => error,
      );
    const ones = ({ device }: SimulatedRank, n: number, dtype: DType = 'float32'): sg.Tensor => sg.ones([n], { device, dtype });

    test.each<[string, (of: SimulatedRank) => unknown]>([
      ['operation', (of) => (of.rank ? of.world.barrier() : of.world.allReduce(ones(of, 1)))],
      ['count', (of) => of.world.allReduce(ones(of, 1 + of.rank))],
      ['dtype', (of) => of.world.allReduce(ones(of, 1, of.rank ? 'int64' : 'float32'))],
      ['reduction', (of) => of.world.allReduce(ones(of, 1), { op: of.rank ? 'max' : 'sum' })],
      ['root', (of) => of.world.broadcast(ones(of, 1), { src: of.rank })],
      ['rows', (of) => of.world.allGather(ones(of, 1), { rows: of.rank ? [1, 1] : [1, 2] })],
    ])('another %s: both sides and both lines', async (_, call) => {
      const error = await failure(call);
      expect(error).toBeInstanceOf(sg.DistributedError);
      expect(error.message).toMatch(/the ranks of process group world disagree in call #\d: rank \d calls .* at test\/90.*, rank \d calls .* at test\/90/);
    });

    test.each(['shm', 'tcp'] as const)('messages and blocks that do not fit, over %s', async (transport) => {
      const message = await failure((of) => (of.rank ? of.world.recv(ones(of, 1), 0) : of.world.send(ones(of, 2), 1)), { transport });
      expect(message.message).toMatch(/rank 0 calls send\(float32, 2 elements/);
      expect(message.message).toMatch(/rank 1 calls recv\(float32, 1 elements/);
      const blocks = await failure((of) => of.world.allToAll(ones(of, 3), { send: [1, 2], receive: [1, 1 + of.rank] }), { transport });
      expect(blocks.message).toMatch(/rank \d sends \d elements to rank \d, which expects \d/);
    });

    test('a rank that leaves, and one that throws', async () => {
      expect((await failure((of) => (of.rank === 1 ? null : of.world.barrier()))).message).toMatch(/rank 1 has left before barrier #\d/);
      const thrown = await failure((of) => {
        if (of.rank === 1) throw new RangeError('my mistake');
        return of.world.allReduce(ones(of, 1));
      });
      expect(thrown).toBeInstanceOf(RangeError);
    });

    test('a rank that does not come in time', async () => {
      const error = await failure(async (of) => {
        if (of.rank === 0) await of.world.allReduce(ones(of, 2), { timeoutMs: 300 });
        else await sleep(1500);
      });
      expect(error.message).toMatch(/allReduce\(float32, 2 elements, sum\) #\d of process group world at test\/90.*: rank 0 has waited 300 ms for rank 1/);
    });

    test('groups in another order: who waits where for whom', async () => {
      const start = Date.now();
      const error = await failure(async (of) => {
        const first = (await of.world.split(0, { name: 'first' }))!;
        const second = (await of.world.split(0, { name: 'second' }))!;
        const [a, b] = of.rank ? [second, first] : [first, second];
        a.allReduce(ones(of, 3));
        await b.allReduce(ones(of, 4));
      });
      expect(error.message).toContain('the ranks wait for each other: call the groups in the same order on all ranks');
      expect(Date.now() - start).toBeLessThan(6000);
    });

    test('a synchronous wait for what another rank of the same thread has still to call', async () => {
      const error = await failure((of) => of.world.allReduce(ones(of, 1)).wait().add(1).itemSync());
      expect(error.message).toMatch(/a synchronous wait would never end: rank 0 is in call #\d of process group world, and rank 1 cannot call it/);
    });

    test('a group that was aborted', async () => {
      const error = await failure(async (of) => {
        await of.world.barrier();
        if (of.rank === 1) of.world.abort('enough');
        await sleep(50);
        await of.world.allReduce(ones(of, 1));
      });
      expect(error.message).toMatch(/(has failed on rank 1: )?enough$/);
    });

    test('a collective in a graph', async () => {
      const error = await failure((of) => sg.graph.capture((x: sg.Tensor) => of.world.allReduce(x).wait(), [ones(of, 4)]));
      expect(error).toBeInstanceOf(sg.DeviceError);
      expect(error.message).toContain('cannot be part of a captured graph');
    });
  });

  describe.skipIf(two)(`data parallelism${because(two)}`, () => {
    const { nn, optim } = sg;
    const make = (device: string | sg.Device, dtype: DType): sg.nn.Sequential => {
      sg.manualSeed(1);
      const options = { device: device.toString(), dtype };
      return new nn.Sequential(new nn.Linear(WIDTH, 16, options), new nn.Tanh(), new nn.Linear(16, WIDTH, options));
    };
    async function train(model: { forward(x: sg.Tensor): sg.Tensor }, parameters: sg.nn.Parameter[], x: sg.Tensor): Promise<number[]> {
      const opt = new optim.SGD(parameters, { lr: 0.1, momentum: 0.9 });
      for (let s = 0; s < 4; s++) {
        sg.mseLoss(model.forward(x), x).backward();
        opt.step();
        opt.zeroGrad();
      }
      return flatten(parameters);
    }

    test.each([{}, { bucketBytes: 64, firstBucketBytes: 64 }])('is one process on the whole batch, buckets %o', async (options) => {
      const whole = make('cpu', 'float64');
      const expected = await train(whole, whole.parameters(), rows('cpu', 0, BATCH, 'float64'));
      const results = await run(async (of) => {
        const ddp = new DistributedDataParallel(make(of.device, 'float64'), { group: of.world, ...options });
        return train(ddp, ddp.parameters(), part(of));
      });
      expectEqual(results, expected, 1e-10);
    });

    test('gradients of bfloat16 parameters are summed in float32, unless it is asked otherwise', async () => {
      const gradients = (options: Omit<DataParallelOptions, 'group'>): Promise<number[][]> =>
        run(async (of) => {
          const model = new nn.Sequential(new nn.Linear(1, 1, { bias: false, device: of.device.toString(), dtype: 'bfloat16' }));
          const ddp = new DistributedDataParallel(model, { group: of.world, gradientReduction: 'sum', ...options });
          // the gradient is the input: 1 and 1/256, whose sum bfloat16 does not have
          ddp.forward(sg.full([1, 1], of.rank ? 2 ** -8 : 1, { device: of.device, dtype: 'bfloat16' })).backward();
          return flatten(ddp.parameters().map((p) => p.grad!));
        });
      const same = (x: number): number[][] => [[x], [x]];
      expect(await gradients({})).toEqual(same(1 + 2 ** -8));
      expect(await gradients({ gradientDType: 'bfloat16' })).toEqual(same(1));
      expect(await gradients({ hook: oneRoundingReduction })).toEqual(same(1));
    });

    test('a rank without data takes part in a reduction with one rounding', async () => {
      const results = await run(async (of) => {
        const model = new nn.Linear(7, 1, { bias: false, device: of.device.toString(), dtype: 'bfloat16' });
        const ddp = new DistributedDataParallel(model, { group: of.world, gradientReduction: 'sum', hook: oneRoundingReduction });
        const sums: number[][] = [];
        for await (const x of ddp.join(of.rank ? [3, 5] : [4])) {
          ddp.forward(sg.full([1, 7], x, { device: of.device, dtype: 'bfloat16' })).backward();
          sums.push(await flatten([model.weight.grad!]));
          ddp.zeroGrad();
        }
        return sums;
      });
      const each = (x: number): number[] => new Array(7).fill(x);
      expect(results).toEqual([[each(7)], [each(7), each(5)]]);
    });
  });
});

describe.skipIf(missing('nccl', 2))(`what is NCCL's own${because(missing('nccl', 2))}`, () => {
  const run = on('nccl', 2);

  test.each(['int16', 'uint16'] as const)('reductions of %s, which it does not have', async (dtype) => {
    const error = await run((of) => of.world.allReduce(sg.ones([2], { device: of.device, dtype }))).catch((e: Error) => e);
    expect(error).toBeInstanceOf(sg.DTypeError);
    expect((error as Error).message).toBe(`allReduce: NCCL has no reductions of ${dtype}; convert to int32`);
  });

  test('the flight recorder: a collective is done when the GPU is through with it', async () => {
    const recorder = join(folder, 'flight');
    const world = sharedWorld(segmentName(), { rank: 0, size: 1, device: sg.device('cuda:0'), backend: 'nccl', timeoutMs: 1000, recorder });
    world.seal();
    await startNccl(world);
    await world.allReduce(sg.ones([3], { device: 'cuda:0' }), { label: 'of the test' });
    const entries = native.readRecorder(recorder).entries.slice(-2);
    await world.close();
    expect(entries.map(({ call, where, failed }) => [call, where, failed])).toEqual([
      ['startNccl', 'of the start of NCCL', false],
      ['allReduce(float32, 3 elements, sum)', 'of the test', false],
    ]);
    for (const { started, done } of entries) expect(done).toBeGreaterThanOrEqual(started);
  });

  test.skipIf(sharesGpus)('more ranks than GPUs', async () => {
    const size = gpus.length + 1;
    const error = await simulate(size, () => {}, { device: 'cuda', backend: 'nccl' }).catch((e: Error) => e);
    expect((error as Error).message).toMatch(
      new RegExp(`ranks 0 and ${size - 1} use the same GPU \\(.*\\), which NCCL 2\\.\\d+\\.\\d+ refuses: .*NCCL_MULTI_RANK_GPU_ENABLE=1, or backend: 'staged'`),
    );
  });
});

test('backends that do not go with the device', async () => {
  await expect(simulate(1, () => {}, { backend: 'nccl' })).rejects.toThrow('simulate: backend nccl is for GPUs, and the device is cpu');
  await expect(simulate(1, () => {}, { device: 'cuda', backend: 'cpu' })).rejects.toThrow('simulate: backend cpu is for the CPU, and the device is cuda');
  await expect(simulate(1, () => {}, { backend: 'mpi' as never })).rejects.toThrow('simulate: the backend must be nccl, staged or cpu, got a string "mpi"');
});
