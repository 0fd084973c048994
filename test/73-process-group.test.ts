// Every collective of simulated ranks against plain arithmetic: dtypes, reductions, sizes across slots, uneven rows; equal bits on
// every rank; and what ranks that disagree, leave or fail are told.
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { type SimulatedRank, simulate } from '../lib/distributed/simulate.js';
import type { DType } from '../lib/index.js';
import * as sg from '../lib/index.js';
import { stream } from './helpers/random.js';

const SIZES = [1, 2, 3, 4, 8];
// one element, a few, more than a slot of 256 KiB holds
const COUNTS = [0, 1, 7, 70_001];

/** What rank r contributes: small whole numbers, so that sums are exact in every dtype. */
function values(rank: number, count: number): number[] {
  const next = stream(100 * rank + count + 1);
  return Array.from({ length: count }, () => Math.floor(next() * 4));
}

function tensorOf(of: SimulatedRank, data: readonly number[], dtype: DType = 'float32'): sg.Tensor {
  return sg.tensor(data, { dtype: 'float32', device: of.device }).to(dtype);
}

async function numbers(t: sg.Tensor): Promise<number[]> {
  return Array.from((await t.to('float64').toTypedArray()) as Float64Array);
}

describe.each(SIZES)('%i ranks', (size) => {
  const ranks = Array.from({ length: size }, (_, r) => r);

  test.each(COUNTS)('allReduce of %i elements', async (count) => {
    const all = ranks.map((r) => values(r, count));
    const expected = Array.from({ length: count }, (_, i) => all.reduce((sum, v) => sum + v[i]!, 0));
    const results = await simulate(size, async (of) => numbers(await of.world.allReduce(tensorOf(of, values(of.rank, count)))));
    for (const result of results) expect(result).toEqual(expected);
  });

  const dtypes: DType[] = ['float32', 'float64', 'float16', 'bfloat16', 'int64', 'int32', 'uint8', 'int8', 'int16', 'uint16', 'uint32'];
  test.each(dtypes)('reductions in %s', async (dtype) => {
    const all = ranks.map((r) => values(r, 37));
    const fold = (f: (a: number, b: number) => number): number[] => all[0]!.map((_, i) => all.map((v) => v[i]!).reduce(f));
    const results = await simulate(size, async (of) => {
      const run = async (op: 'sum' | 'min' | 'max'): Promise<number[]> => numbers(await of.world.allReduce(tensorOf(of, values(of.rank, 37), dtype), { op }));
      return [await run('sum'), await run('min'), await run('max')];
    });
    for (const result of results) expect(result).toEqual([fold((a, b) => a + b), fold((a, b) => Math.min(a, b)), fold((a, b) => Math.max(a, b))]);
  });

  test('averages, products and factors', async () => {
    const results = await simulate(size, async (of) => {
      const x = (): sg.Tensor => tensorOf(of, [of.rank + 1, 2]);
      return [
        await numbers(await of.world.allReduce(x(), { op: 'avg' })),
        await numbers(await of.world.allReduce(x(), { op: 'product' })),
        await numbers(await of.world.allReduce(x(), { op: { premulSum: of.rank } })),
      ];
    });
    const total = (f: (r: number) => number): number => ranks.reduce((sum, r) => sum + f(r), 0);
    for (const [avg, product, premul] of results) {
      expect(avg![0]).toBeCloseTo(total((r) => r + 1) / size, 6);
      expect(avg![1]).toBeCloseTo(2, 6);
      expect(product).toEqual([ranks.reduce((p, r) => p * (r + 1), 1), 2 ** size]);
      expect(premul).toEqual([total((r) => r * (r + 1)), total((r) => 2 * r)]);
    }
  });

  test('reduce, broadcast and barrier', async () => {
    const root = size - 1;
    const results = await simulate(size, async (of) => {
      const reduced = tensorOf(of, [of.rank, 1]);
      await of.world.reduce(reduced, { dst: root });
      await of.world.barrier();
      const sent = tensorOf(of, values(of.rank, 70_001), 'bfloat16');
      await of.world.broadcast(sent, { src: root });
      return [await numbers(reduced), await numbers(sent)];
    });
    for (const r of ranks) {
      expect(results[r]![0]).toEqual(r === root ? [(size * (size - 1)) / 2, size] : [r, 1]);
      expect(results[r]![1]).toEqual(values(root, 70_001));
    }
  });

  test.each(['even', 'uneven', 'large'])('gather and scatter of %s rows', async (kind) => {
    const rows = ranks.map((r) => (kind === 'even' ? 2 : kind === 'uneven' ? (r * 3) % 4 : 20_000 + r));
    const part = (r: number): number[] => values(r, 3 * rows[r]!);
    const whole = ranks.flatMap(part);
    const results = await simulate(size, async (of) => {
      const mine = tensorOf(of, part(of.rank)).reshape([rows[of.rank]!, 3]);
      const gathered = await of.world.allGather(mine, { rows });
      const onRoot = await of.world.gather(mine, { rows, dst: size - 1 });
      const all = of.rank === 0 ? tensorOf(of, whole).reshape([whole.length / 3, 3]) : null;
      const handed = await of.world.scatter(all, { rows, like: { shape: [0, 3], dtype: 'float32' } });
      expect(gathered.shape).toEqual([whole.length / 3, 3]);
      expect(handed.shape).toEqual([rows[of.rank], 3]);
      return [await numbers(gathered), onRoot && (await numbers(onRoot)), await numbers(handed)];
    });
    for (const r of ranks) {
      expect(results[r]![0]).toEqual(whole);
      expect(results[r]![1]).toEqual(r === size - 1 ? whole : null);
      expect(results[r]![2]).toEqual(part(r));
    }
  });

  test.each(['even', 'uneven', 'large'])('reduceScatter and allToAll of %s rows', async (kind) => {
    const rows = ranks.map((r) => (kind === 'even' ? 2 : kind === 'uneven' ? (r * 3) % 4 : 20_000 + r));
    const total = rows.reduce((a, b) => a + b, 0);
    const results = await simulate(size, async (of) => {
      const kept = await of.world.reduceScatter(tensorOf(of, values(of.rank, 2 * total)).reshape([total, 2]), { rows });
      // block r of rank i has rows[(i + r) % size] rows of the number 100 i + r
      const block = (i: number, r: number): number => rows[(i + r) % size]! % 50;
      const send = ranks.map((r) => block(of.rank, r));
      const receive = ranks.map((i) => block(i, of.rank));
      const data = ranks.flatMap((r) => new Array<number>(send[r]!).fill(100 * of.rank + r));
      const moved = await of.world.allToAll(tensorOf(of, data), { send, receive });
      const expected = ranks.flatMap((i) => new Array<number>(receive[i]!).fill(100 * i + of.rank));
      return [await numbers(kept), await numbers(moved), expected];
    });
    const all = ranks.map((r) => values(r, 2 * total));
    let at = 0;
    for (const r of ranks) {
      const sums = Array.from({ length: 2 * rows[r]! }, (_, i) => all.reduce((s, v) => s + v[2 * at + i]!, 0));
      at += rows[r]!;
      expect(results[r]![0]).toEqual(sums);
      expect(results[r]![1]).toEqual(results[r]![2]);
    }
  });

  test('a ring of messages larger than the way between two ranks', async () => {
    if (size === 1) return;
    const results = await simulate(size, (of) => {
      const send = (): unknown => of.world.send(tensorOf(of, values(of.rank, 50_000)), (of.rank + 1) % size);
      const into = sg.zeros([50_000], { device: of.device });
      // somebody must receive first
      if (of.rank % 2 === 0) send();
      const received = of.world.recv(into, (of.rank + size - 1) % size);
      if (of.rank % 2 === 1) send();
      return numbers(received.wait());
    });
    for (const r of ranks) expect(results[r]).toEqual(values((r + size - 1) % size, 50_000));
  });
});

test('sums of floats are equal on every rank and equal the sum in rank order', async () => {
  const size = 5;
  const next = stream(7);
  const data = Array.from({ length: size }, () => Array.from({ length: 30_000 }, () => (next() - 0.5) * 10 ** Math.floor(next() * 6)));
  const results = await simulate(size, async (of) => (await of.world.allReduce(tensorOf(of, data[of.rank]!))).toTypedArray());
  const expected = Float32Array.from(data[0]!);
  for (let r = 1; r < size; r++) for (let i = 0; i < expected.length; i++) expected[i]! += Math.fround(data[r]![i]!);
  for (const result of results) expect(Buffer.from(result.buffer).equals(Buffer.from(expected.buffer))).toBe(true);
});

test.each(['float32', 'bfloat16', 'float16', 'int32'] as const)('shared tensors of %s give the bits of private ones, whole and in part', async (dtype) => {
  for (const size of [1, 2, 3, 5]) {
    const next = stream(11);
    const data = Array.from({ length: size }, () => Array.from({ length: 60_001 }, () => Math.floor((next() - 0.5) * 2000)));
    const results = await simulate(size, async (of) => {
      const mine = tensorOf(of, data[of.rank]!, dtype);
      const shared = of.world.sharedZeros([60_001], { dtype });
      shared.copy_(mine);
      const part = of.world.sharedZeros([60_001], { dtype });
      part.copy_(mine);
      await of.world.allReduce(shared);
      await of.world.allReduce(part.slice(0, 17, 50_000));
      await of.world.allReduce(mine);
      const [a, b, c] = await Promise.all([shared, part, mine].map((t) => t.toTypedArray({ raw: true })));
      expect(a).toEqual(c);
      expect(b!.slice(17, 50_000)).toEqual(c!.slice(17, 50_000));
      return Array.from(b as ArrayLike<number>).slice(0, 17);
    });
    const first = sg.tensor(data[0]!.slice(0, 17)).to(dtype).toTypedArraySync({ raw: true });
    expect(results[0]).toEqual(Array.from(first as ArrayLike<number>));
  }
});

test('ranks may pass an old shared tensor where others pass a new one', async () => {
  const results = await simulate(3, async (of) => {
    const old = of.world.sharedZeros([20_000]);
    const seen: number[] = [];
    for (let i = 0; i < 6; i++) {
      const x = i % 3 === of.rank ? of.world.sharedZeros([20_000]) : old;
      x.fill_(of.rank + i);
      seen.push(await (await of.world.allReduce(x)).sum().item());
    }
    return seen;
  });
  const expected = Array.from({ length: 6 }, (_, i) => 20_000 * (3 + 3 * i));
  expect(results).toEqual([expected, expected, expected]);
});

test('shared memory that was given back leaves every rank', async () => {
  const resident = (): number => Number(/RssShmem:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))![1]) / 1024;
  const seen: number[] = [];
  await simulate(2, async (of) => {
    for (let i = 0; i < 20; i++) {
      const x = of.world.sharedZeros([2 << 20]);
      await of.world.allReduce(x);
      x.dispose();
      await sg.synchronize(of.device);
      if (of.rank === 0) seen.push(resident());
    }
  });
  // each of the 40 tensors has 8 MiB; a few are on their way out at any time
  expect(Math.max(...seen) - seen[0]!).toBeLessThan(100);
});

test('one rank with private memory: all copy, and agree', async () => {
  const results = await simulate(3, async (of) => {
    const x = of.rank === 1 ? sg.zeros([20_000], { device: of.device }) : of.world.sharedZeros([20_000]);
    x.add_(of.rank);
    return (await of.world.allReduce(x)).max().item();
  });
  expect(results).toEqual([3, 3, 3]);
});

test('a tensor that is not contiguous becomes the result in place', async () => {
  const results = await simulate(2, async (of) => {
    const base = tensorOf(of, [1, 2, 3, 4, 5, 6]).reshape([2, 3]);
    await of.world.allReduce(base.transpose(0, 1));
    return numbers(base);
  });
  for (const r of results) expect(r).toEqual([2, 4, 6, 8, 10, 12]);
});

test('wait() orders the ops that follow without waiting for them', async () => {
  const results = await simulate(4, (of) => {
    let x = tensorOf(of, [of.rank]);
    for (let i = 0; i < 50; i++) x = of.world.allReduce(x.mul(0.5)).wait().add(0);
    return numbers(x);
  });
  // the sum 0 + 1 + 2 + 3 is halved and then summed over four ranks, again and again
  expect(results).toEqual(new Array(4).fill([3 * 2 ** 49]));
});

describe('coalesce', () => {
  test('messages called in an order that would wait for ever one by one', async () => {
    // far more than the way between two ranks holds
    const n = 100_000;
    const results = await simulate(4, async ({ rank, world, device }) => {
      const [next, previous] = [(rank + 1) % 4, (rank + 3) % 4];
      const got = [sg.zeros([n], { device }), sg.zeros([n], { device })];
      const works = world.coalesce(() => [
        world.send(sg.full([n], rank, { device }), next),
        world.send(sg.full([n], 10 + rank, { device }), previous),
        world.recv(got[0]!, previous),
        world.recv(got[1]!, next),
      ]);
      for (const work of works) await work;
      return [await got[0]!.mean().item(), await got[1]!.mean().item()];
    });
    expect(results).toEqual([0, 1, 2, 3].map((rank) => [(rank + 3) % 4, 10 + ((rank + 1) % 4)]));
  });

  test('small all-reduces and broadcasts become one, and keep their tensors', async () => {
    const results = await simulate(3, async ({ rank, world, device }) => {
      const small = Array.from({ length: 20 }, (_, i) => sg.full([i + 1], rank + i, { device }));
      const ints = [sg.full([3], rank, { device, dtype: 'int32' }), sg.full([2], rank, { device, dtype: 'int32' })];
      const large = sg.full([40_000], rank, { device });
      const max = sg.full([2], rank, { device });
      const sent = [sg.full([4], rank, { device }), sg.full([5], 10 * rank, { device })];
      const works = world.coalesce(() =>
        [...small, ...ints, large]
          .map((x) => world.allReduce(x))
          .concat(world.allReduce(max, { op: 'max' }), ...sent.map((x) => world.broadcast(x, { src: 2 }))),
      );
      for (const work of works) work.wait();
      return Promise.all([...small, ...ints, large, max, ...sent].map((x) => x.to('float32').mean().item()));
    });
    const expected = [...Array.from({ length: 20 }, (_, i) => 3 + 3 * i), 3, 3, 3, 2, 2, 20];
    expect(results).toEqual([expected, expected, expected]);
  });

  test('waiting inside is refused', async () => {
    await simulate(1, ({ world, device }) => {
      expect(() => world.coalesce(() => world.allReduce(sg.ones([1], { device })).wait())).toThrow('the collective starts when coalesce ends');
    });
  });
});

describe('split', () => {
  test('colours, keys and ranks that belong to none', async () => {
    const results = await simulate(5, async ({ rank, world, device }) => {
      const group = await world.split(rank === 4 ? null : rank % 2, { key: -rank });
      if (!group) return null;
      const total = await group.allReduce(sg.tensor([rank], { device }));
      const inside = await group.split(0, { name: 'inside' });
      const again = await inside!.allReduce(sg.tensor([1], { device }));
      return { rank: group.rank, worldRanks: group.worldRanks, total: await total.item(), again: await again.item(), name: group.name };
    });
    expect(results).toEqual([
      { rank: 1, worldRanks: [2, 0], total: 2, again: 2, name: 'world.0/0' },
      { rank: 1, worldRanks: [3, 1], total: 4, again: 2, name: 'world.0/1' },
      { rank: 0, worldRanks: [2, 0], total: 2, again: 2, name: 'world.0/0' },
      { rank: 0, worldRanks: [3, 1], total: 4, again: 2, name: 'world.0/1' },
      null,
    ]);
  });

  test('errors name ranks of the part and of the world', async () => {
    const error = await simulate(4, async ({ rank, world, device }) => {
      const group = (await world.split(rank < 2 ? 0 : 1, { name: rank < 2 ? 'low' : 'high' }))!;
      if (group.name === 'high') await group.allReduce(sg.ones([rank], { device }));
    }).catch((e: Error) => e);
    expect((error as Error).message).toMatch(/process group high disagree in call #1: rank \d \(world rank [23]\) calls .*, rank \d \(world rank [23]\) calls/);
  });

  test('the memory of a part has no name either', async () => {
    await simulate(3, async ({ world }) => {
      const group = await world.split(0);
      await world.barrier();
      const mapped = readFileSync('/proc/self/maps', 'utf8').match(/\/dev\/shm\/shardgrad-.*/g)!;
      expect(mapped.length).toBeGreaterThan(1);
      expect(mapped.filter((line) => !line.endsWith('(deleted)'))).toEqual([]);
      await group!.close();
    });
  });
});

describe('mistakes', () => {
  const failure = async (size: number, fn: (of: SimulatedRank) => unknown): Promise<Error> =>
    simulate(size, async (of) => fn(of)).then(
      () => new Error('nothing was thrown'),
      (error: Error) => error,
    );

  test('another operation', async () => {
    const error = await failure(2, (of) => (of.rank ? of.world.barrier() : of.world.allReduce(tensorOf(of, [1]))));
    expect(error).toBeInstanceOf(sg.DistributedError);
    expect(error.message).toMatch(/the ranks of process group world disagree in call #1: rank \d calls .*, rank \d calls /);
    // both sides' lines
    expect(error.message.match(/ at test\/73-process-group\.test\.ts:\d+:\d+/g)).toHaveLength(2);
    expect(error.message).toContain('allReduce(float32, 1 elements, sum)');
    expect(error.message).toContain('barrier');
  });

  test.each([
    ['count', (of: SimulatedRank) => of.world.allReduce(tensorOf(of, [1, 2].slice(of.rank)))],
    ['dtype', (of: SimulatedRank) => of.world.allReduce(tensorOf(of, [1], of.rank ? 'int64' : 'float32'))],
    ['reduction', (of: SimulatedRank) => of.world.allReduce(tensorOf(of, [1]), { op: of.rank ? 'max' : 'sum' })],
    ['root', (of: SimulatedRank) => of.world.broadcast(tensorOf(of, [1]), { src: of.rank })],
    ['rows', (of: SimulatedRank) => of.world.allGather(tensorOf(of, [1]), { rows: of.rank ? [1, 1] : [1, 2] })],
  ])('another %s', async (_, call) => {
    const { message } = await failure(2, call);
    expect(message).toMatch(/disagree in call #1/);
    // in the words of whoever called it
    expect(message).toMatch(/^(allReduce|broadcast|allGather): /);
  });

  test('blocks of allToAll that do not fit', async () => {
    const error = await failure(2, (of) => of.world.allToAll(tensorOf(of, [1, 2, 3]), { send: [1, 2], receive: [1, 1 + of.rank] }));
    expect(error.message).toMatch(/rank 1 sends 2 elements to rank 1, which expects|rank \d sends \d elements to rank \d, which expects \d/);
  });

  test('a message of another length', async () => {
    const error = await failure(2, (of) => (of.rank ? of.world.recv(tensorOf(of, [1]), 0) : of.world.send(tensorOf(of, [1, 2]), 1)));
    expect(error.message).toMatch(/rank 0 calls send\(float32, 2 elements.*rank 1 calls recv\(float32, 1 elements/);
  });

  test('a rank that leaves', async () => {
    expect((await failure(3, (of) => (of.rank === 1 ? null : of.world.barrier()))).message).toMatch(/rank 1 has left before barrier #1/);
  });

  test('a rank that throws: its own error is the one seen', async () => {
    const error = await failure(3, (of) => {
      if (of.rank === 2) throw new RangeError('my mistake');
      return of.world.allReduce(tensorOf(of, [1]));
    });
    expect(error).toBeInstanceOf(RangeError);
  });

  test('a rank that never comes, after the timeout', async () => {
    const start = Date.now();
    const error = await simulate(
      2,
      async (of) => {
        if (of.rank === 0) await of.world.barrier();
        else await new Promise((resolve) => setTimeout(resolve, 1500));
      },
      { timeoutMs: 300 },
    ).catch((e: Error) => e);
    expect((error as Error).message).toMatch(
      /barrier #1 of process group world at test\/73[^ ]*:\d+:\d+: rank 0 has waited 300 ms for rank 1; it has called nothing yet/,
    );
    expect(Date.now() - start).toBeLessThan(5000);
  });

  test('a timeout of one call', async () => {
    const error = await failure(2, async (of) => {
      await of.world.barrier();
      if (of.rank === 0) await of.world.barrier({ timeoutMs: 200, label: 'of the epoch' });
      else await new Promise((resolve) => setTimeout(resolve, 1500));
    });
    expect(error.message).toMatch(/barrier #2 of process group world of the epoch: rank 0 has waited 200 ms for rank 1; its last call is barrier #1/);
  });

  test('a synchronous wait for what another rank of the same thread has still to call', async () => {
    const error = await failure(2, (of) =>
      of.world
        .allReduce(tensorOf(of, [1]))
        .wait()
        .add(1)
        .itemSync(),
    );
    expect(error).toBeInstanceOf(sg.DistributedError);
    expect(error.message).toMatch(
      /a synchronous wait would never end: rank 0 is in call #1 of process group world, and rank 1 cannot call it while the thread they share waits/,
    );
  });

  test('wrong arguments are refused before anything is sent', async () => {
    await simulate(2, async ({ world, rank, device }) => {
      const x = sg.ones([3], { device });
      expect(() => world.broadcast(x, { src: 2 })).toThrow('broadcast: src must be a whole number from 0 to 1, got 2');
      expect(() => world.allReduce(sg.ones([1], { device: 'meta' }))).toThrow(sg.DeviceError);
      expect(() => world.allReduce(3 as never)).toThrow('allReduce: expected a tensor, got 3');
      expect(() => world.allReduce(x, { op: 'xor' as never })).toThrow(sg.ValueError);
      expect(() => world.reduceScatter(x)).toThrow('reduceScatter: 3 rows are not a multiple of 2 ranks; give the rows of each');
      expect(() => world.allGather(x, { rows: [3] })).toThrow('allGather: expected the rows of each of 2 ranks, got [3]');
      expect(() => world.allToAll(x, { send: [1, 2] })).toThrow('allToAll: give both send and receive, or neither');
      const whole = sg.ones([2], { device, dtype: 'int32' });
      for (const op of ['avg', { premulSum: 0.5 }] as const) {
        expect(() => world.allReduce(whole, { op })).toThrow(sg.DTypeError);
        expect(() => world.reduceScatter(whole, { op })).toThrow('reduceScatter: an average or a factor needs a floating-point tensor, got int32');
      }
      expect(() => world.send(x, rank)).toThrow(`send: rank ${rank} is this rank itself`);
      expect(() => world.recv(x, rank)).toThrow(`recv: rank ${rank} is this rank itself`);
      // nothing was sent, so nothing has failed
      expect(await numbers(await world.allReduce(x))).toEqual([2, 2, 2]);
    });
    await simulate(1, async ({ world, device }) => {
      await world.close();
      expect(() => world.allReduce(sg.ones([1], { device }))).toThrow('allReduce: process group world was closed');
      expect(() => world.abort('nobody is there')).not.toThrow();
    });
  });
});
