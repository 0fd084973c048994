// Ranks that call their groups in different orders wait for each other for ever: within 5 seconds every one of them is told who waits
// where for whom. Ranks that are merely late, in whatever group, are waited for.
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import type { ProcessGroup } from '../lib/distributed/process_group.js';
import { type SimulatedRank, simulate } from '../lib/distributed/simulate.js';
import * as sg from '../lib/index.js';

const LIMIT_MS = 5000;
const ADVICE = 'the ranks wait for each other: call the groups in the same order on all ranks: ';
const here = String.raw`at test/80-order\.test\.ts:\d+:\d+`;

describe.each(['shm', 'tcp'] as const)('over %s', (transport) => {
  /** What each rank is told, and how long the slowest took from the first call on. */
  async function told(size: number, fn: (of: SimulatedRank, begin: () => void) => Promise<unknown>): Promise<string[]> {
    const seen: string[] = [];
    let start = 0;
    await simulate(
      size,
      async (of) => {
        try {
          await fn(of, () => {
            start ||= Date.now();
          });
        } catch (error) {
          expect(error).toBeInstanceOf(sg.DistributedError);
          seen[of.rank] = (error as Error).message;
          expect(Date.now() - start).toBeLessThan(LIMIT_MS);
          throw error;
        }
      },
      { transport, timeoutMs: 20_000 },
    ).catch(() => {});
    return seen;
  }
  const ones = ({ device }: SimulatedRank, n: number): sg.Tensor => sg.ones([n], { device });
  const part = async (group: ProcessGroup, member: boolean, name: string): Promise<ProcessGroup> => (await group.split(member ? 0 : null, { name }))!;

  test('two groups of the same ranks: both calls, with both lines', async () => {
    const seen = await told(2, async (of, begin) => {
      const first = await part(of.world, true, 'first');
      const second = await part(of.world, true, 'second');
      await first.barrier();
      begin();
      if (of.rank === 0) {
        first.allReduce(ones(of, 3));
        await second.broadcast(ones(of, 4));
      } else {
        second.broadcast(ones(of, 4));
        await first.allReduce(ones(of, 3));
      }
    });
    const sides = [
      `world rank 0 waits in allReduce\\(float32, 3 elements, sum\\) #2 of process group first ${here} for world rank 1`,
      `world rank 1 waits in broadcast\\(float32, 4 elements, root 0\\) #1 of process group second ${here} for world rank 0`,
    ];
    expect(seen[0]).toMatch(new RegExp(`${ADVICE}${sides.join(', ')}$`));
    expect(seen[1]).toMatch(new RegExp(`${ADVICE}${sides.reverse().join(', ')}$`));
  });

  test('the world and a part of it: all ranks of both are told', async () => {
    const seen = await told(4, async (of, begin) => {
      const some = await part(of.world, of.rank < 3, 'some');
      begin();
      if (of.rank === 1) await of.world.allReduce(ones(of, 1));
      await some?.barrier();
      await of.world.allReduce(ones(of, 1));
    });
    expect(seen).toHaveLength(4);
    for (const message of seen) {
      expect(message).toContain(ADVICE);
      expect(message).toMatch(/world rank 1 waits in allReduce\(.*\) #\d+ of process group world at .* for world rank [02]/);
      expect(message).toMatch(/world rank [02] waits in barrier #\d of process group some at .* for world rank 1/);
    }
  });

  test('around four ranks, each in a group with the next', async () => {
    const seen = await told(4, async (of, begin) => {
      const { rank, world } = of;
      const pairs: ProcessGroup[] = [];
      for (let low = 0; low < 4; low++) pairs.push(await part(world, rank === low || rank === (low + 1) % 4, `pair${low}`));
      begin();
      pairs[rank]!.barrier();
      await pairs[(rank + 3) % 4]!.barrier();
    });
    for (let r = 0; r < 4; r++) {
      const ring = [0, 1, 2, 3].map(
        (i) => `world rank ${(r + i) % 4} waits in barrier #1 of process group pair${(r + i) % 4} ${here} for world rank ${(r + i + 1) % 4}`,
      );
      expect(seen[r]).toMatch(new RegExp(`${ADVICE}${ring.join(', ')}$`));
    }
  });

  test('a message in one group, a collective of another', async () => {
    const seen = await told(3, async (of, begin) => {
      const pair = await part(await part(of.world, true, 'all'), of.rank > 0, 'pair');
      begin();
      if (of.rank === 1) await pair.recv(ones(of, 5), 1);
      await of.world.barrier();
      if (of.rank === 2) await pair.send(ones(of, 5), 0);
    });
    expect(seen[1]).toMatch(
      new RegExp(
        `${ADVICE}world rank 1 waits in recv\\(float32, 5 elements, from rank 1\\) of process group pair ${here} for world rank 2, world rank 2 waits in barrier`,
      ),
    );
    for (const r of [0, 2]) expect(seen[r]).toContain(r === 0 ? 'world rank 1' : ADVICE);
  });

  test('late ranks, and ranks that wait for them elsewhere, are waited for', async () => {
    const late = 1500;
    const through = simulate(
      3,
      async (of) => {
        const low = await part(of.world, of.rank < 2, 'low');
        const high = await part(of.world, of.rank > 0, 'high');
        const x = ones(of, 50_000);
        for (let i = 0; i < 2; i++) {
          // 0 waits for 1 in low, 1 for 2 in high, and 2 for nobody
          if (of.rank === 2) await sleep(late);
          if (high) await high.allReduce(x);
          if (low) await low.allReduce(x);
          // 2 waits for 0 in the world, and 0 for 1 in low
          if (of.rank === 1) await sleep(late);
          if (low) await low.coalesce(() => (low.rank === 0 ? low.send(x, 1) : low.recv(x, 0)));
          await of.world.barrier();
        }
      },
      { transport, timeoutMs: 20_000 },
    );
    expect(await through).toHaveLength(3);
  });
});

test('a message and a collective of one group that lies in shared memory', async () => {
  const error = await simulate(2, async ({ rank, world, device }) => {
    if (rank === 0) world.send(sg.ones([500_000], { device }), 1);
    await world.barrier();
    if (rank === 1) await world.recv(sg.zeros([500_000], { device }), 0);
  }).catch((e: Error) => e);
  expect((error as Error).message).toMatch(
    /the ranks wait for each other: call the operations in the same order on all ranks: world rank \d waits in .* of process group world/,
  );
});
