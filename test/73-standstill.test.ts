// Synchronous waits of simulated ranks that can never end, through chains of groups and in messages: an error at once in whatever order the
// ranks come, and none where the wait goes on after all.
import { describe, expect, test } from 'vitest';
import { DistributedDataParallel } from '../lib/distributed/ddp.js';
import { initDeviceMesh } from '../lib/distributed/device_mesh.js';
import { type SimulatedRank, simulate } from '../lib/distributed/simulate.js';
import { parallelize } from '../lib/distributed/tensor_parallel/parallelize.js';
import * as sg from '../lib/index.js';
import { devices } from './helpers/devices.js';
import { stream } from './helpers/random.js';

const { nn } = sg;
const kinds = [
  { transport: 'shm' as const, device: 'cpu' as const },
  { transport: 'tcp' as const, device: 'cpu' as const },
  ...(devices.length > 1 ? [{ transport: 'shm' as const, device: 'cuda' as const }] : []),
];
if (devices.length > 1) process.env['SHARDGRAD_SHARE_GPUS'] ??= '1';

/** A few turns of the event loop, other ones for each rank. */
async function dawdle(next: () => number): Promise<void> {
  for (let turns = Math.floor(next() * 4); turns > 0; turns--) await new Promise((resolve) => setImmediate(resolve));
}

/** What comes of it, in so many random orders; each has to end soon. */
async function outcomes(
  size: number,
  options: (typeof kinds)[number],
  runs: number,
  fn: (of: SimulatedRank, next: () => number) => Promise<unknown>,
): Promise<string[]> {
  const texts: string[] = [];
  for (let run = 0; run < runs; run++) {
    const start = Date.now();
    const outcome = await simulate(size, (of) => fn(of, stream(run * size + of.rank)), options).then(
      () => '',
      (error: Error) => error.message,
    );
    expect(Date.now() - start).toBeLessThan(15_000); // a rank that still joins is told after 3 s
    if (outcome)
      expect(outcome).toMatch(
        /^a synchronous wait would never end: rank \d.* is in .*, and .*rank \d.* (while the thread they share waits: await instead|: the ranks wait for each other; coalesce messages that go both ways)$/,
      );
    texts.push(outcome);
  }
  return texts;
}

describe.each(kinds)('on $device over $transport', (options) => {
  test('a chain of groups', { timeout: 200_000 }, async () => {
    const texts = await outcomes(3, options, 12, async ({ world, rank, device }, next) => {
      const [low, high] = [(await world.split(rank < 2 ? 0 : 1, { name: 'low' }))!, (await world.split(rank > 0 ? 0 : 1, { name: 'high' }))!];
      await world.barrier();
      await dawdle(next);
      const x = sg.ones([4], { device });
      if (rank === 1) high.allReduce(x);
      const group = rank === 2 ? high : low;
      const y = group.allReduce(x).wait().sum();
      if (rank === 1) await y.item();
      else y.itemSync();
    });
    expect(texts.filter((t) => t === '').length).toBeLessThan(texts.length);
  });

  test('a chain, of which the last link is missing', async () => {
    const [text] = await outcomes(3, options, 1, async ({ world, rank, device }) => {
      const [low, high] = [(await world.split(rank < 2 ? 0 : 1, { name: 'low' }))!, (await world.split(rank > 0 ? 0 : 1, { name: 'high' }))!];
      await world.barrier();
      const x = sg.ones([4], { device });
      if (rank === 1) {
        high.allReduce(x);
        low.allReduce(x);
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
      if (rank === 0) low.allReduce(x).wait().sum().itemSync();
      await new Promise((resolve) => setTimeout(resolve, 50));
      if (rank === 2) high.allReduce(x);
    });
    expect(text).toBe(
      'a synchronous wait would never end: rank 0 (world rank 0) is in call #1 of process group low and waits for rank 1 (world rank 1), which is in ' +
        'call #1 of process group high, and rank 1 (world rank 2) cannot call it while the thread they share waits: await instead',
    );
  });

  test.each([4, 700_001])('messages of %i elements around', { timeout: 200_000 }, async (n) => {
    const texts = await outcomes(3, options, 6, async ({ world, rank, device }, next) => {
      await dawdle(next);
      const [x, y] = [sg.ones([n], { device }), sg.zeros([n], { device })];
      const sent = world.send(x, (rank + 1) % 3);
      world.recv(y, (rank + 2) % 3).wait();
      sent.wait();
      y.sum().itemSync();
    });
    expect(texts.some((t) => t !== '')).toBe(true);
  });

  test.each([4, 700_001])('messages of %i elements along a line', { timeout: 200_000 }, async (n) => {
    const texts = await outcomes(4, options, 6, async ({ world, rank, device }, next) => {
      await dawdle(next);
      const x = sg.ones([n], { device });
      if (rank > 0) world.recv(x, rank - 1).wait();
      if (rank < 3) world.send(x, rank + 1).wait();
      x.sum().itemSync();
    });
    expect(texts.some((t) => t.includes('(float32'))).toBe(true);
  });

  test('a message that nobody takes', async () => {
    const [text] = await outcomes(2, options, 1, async ({ world, rank, device }) => {
      if (rank === 0)
        world
          .recv(sg.zeros([5], { device }), 1)
          .wait()
          .sum()
          .itemSync();
      await world.barrier();
    });
    expect(text).toContain('rank 0 is in recv(float32, 5 elements, from rank 1) of process group world, and rank 1 cannot do its part while');
  });

  test('copies of a model that is cut over tensors', { timeout: 200_000 }, async () => {
    await outcomes(4, options, 10, async ({ world, device }, next) => {
      await dawdle(next);
      const mesh = await initDeviceMesh({ dpReplicate: 2, tp: 2 }, { group: world });
      const model = new nn.Sequential(new nn.Linear(8, 8, { device }), new nn.GELU(), new nn.Linear(8, 8, { device }));
      parallelize(model, mesh, { '0': { style: 'column' }, '2': { style: 'row' } });
      const ddp = new DistributedDataParallel(model, { group: mesh.group('dpReplicate') });
      await dawdle(next);
      const loss = (ddp.forward(sg.ones([4, 8], { device })) as sg.Tensor).square().mean();
      loss.backward();
      loss.itemSync();
    });
  });

  test('what everybody has called comes, however long it takes', { timeout: 200_000 }, async () => {
    const size = 4;
    for (let run = 0; run < 4; run++) {
      let called = 0;
      await simulate(
        size,
        async ({ world, rank, device }) => {
          const group = (await world.split(rank % 2))!;
          const next = stream(run * size + rank);
          await dawdle(next);
          const n = 1 << 20;
          let x = sg.ones([n], { device });
          const other = sg.zeros([n], { device });
          for (let k = 0; k < 6; k++) {
            x = group.allReduce(x, { op: 'avg' }).wait();
            world
              .coalesce(() => [world.send(x, (rank + 1) % size), world.recv(other, (rank + size - 1) % size)])
              .forEach((work) => {
                work.wait();
              });
            for (let j = 0; j < 3; j++) x = x.add(other).mul(0.5).exp().log();
            x = world.allReduce(x, { op: 'avg' }).wait();
          }
          const y = x.sum();
          if (++called < size) return;
          expect(y.itemSync() / n).toBeCloseTo(1, 3);
        },
        options,
      );
    }
  });
});
