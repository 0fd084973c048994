// Groups over TCP: results equal to those over shared memory bit for bit, disagreement, strangers on the data port, links that are cut,
// and two hosts made of network namespaces.
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, test } from 'vitest';
import { Handshake } from '../lib/distributed/handshake.js';
import { type Address, Mesh } from '../lib/distributed/mesh.js';
import type { ProcessGroup } from '../lib/distributed/process_group.js';
import { type SimulatedRank, simulate } from '../lib/distributed/simulate.js';
import { tcpWorld } from '../lib/distributed/tcp_transport.js';
import type { DType } from '../lib/index.js';
import * as sg from '../lib/index.js';
import { native } from '../lib/native.js';
import { namespacesMissing, TwoHosts } from './helpers/namespaces.js';
import { stream } from './helpers/random.js';

const closing: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

const overTcp = <T>(size: number, fn: (of: SimulatedRank) => T | Promise<T>): Promise<T[]> => simulate(size, fn, { transport: 'tcp', timeoutMs: 60_000 });

/** Numbers whose sums round, so that another order of summation shows. */
function values(of: SimulatedRank, count: number, dtype: DType): sg.Tensor {
  const next = stream(1000 * of.rank + count + 1);
  const whole = !['float32', 'float64', 'float16', 'bfloat16', 'float8_e4m3', 'float8_e5m2'].includes(dtype);
  const data = Float32Array.from({ length: count }, () => (whole ? Math.floor(next() * 100) : (next() - 0.5) * 4));
  return sg.fromTypedArray(data, [count], { device: of.device }).to(dtype);
}

const bits = async (t: sg.Tensor): Promise<Uint8Array> => {
  const raw = await t.toTypedArray({ raw: true });
  return new Uint8Array(raw.buffer, raw.byteOffset, raw.byteLength);
};

const DTYPES = native.dtypes as DType[];
const FLOATING = DTYPES.filter((dtype) => /float/.test(dtype));

describe.each([2, 3, 4])('%i ranks: the bits of shared memory', (size) => {
  const ranks = Array.from({ length: size }, (_, r) => r);
  const uneven = ranks.map((r) => [0, 3, 70_001, 17][r]!);
  const total = uneven.reduce((a, b) => a + b, 0);
  const root = size - 1;

  async function same(fn: (of: SimulatedRank) => Promise<sg.Tensor | null>[]): Promise<void> {
    const run = async (of: SimulatedRank): Promise<(Uint8Array | null)[]> => {
      const made: (Uint8Array | null)[] = [];
      for (const result of fn(of)) {
        const t = await result;
        made.push(t && (await bits(t)));
      }
      return made;
    };
    const [tcp, shm] = [await overTcp(size, run), await simulate(size, run)];
    for (const r of ranks) {
      expect(tcp[r]!.length).toBe(shm[r]!.length);
      tcp[r]!.forEach((one, i) => {
        const other = shm[r]![i]!;
        expect(one === null ? other === null : Buffer.compare(one, other) === 0, `rank ${r}, result ${i}`).toBe(true);
      });
    }
  }

  // nothing, one, less and more than what ranks reduce alone, several pieces
  test.each(size === 3 ? DTYPES : (['float32', 'bfloat16', 'bool'] as const))('reductions in %s', async (dtype) => {
    const ops = ['sum', 'min', 'max', 'product', ...(FLOATING.includes(dtype) ? (['avg', { premulSum: 0.3 }] as const) : [])] as const;
    await same(({ world, ...of }) =>
      [0, 1, 7, 9001, 300_001].flatMap((count) =>
        ops.map(async (op) => {
          const x = values({ world, ...of }, count, dtype);
          return world.allReduce(x, { op: typeof op === 'object' ? { premulSum: op.premulSum * (of.rank + 1) } : op });
        }),
      ),
    );
  });

  test.each(['bfloat16', 'int64'] as const)('everything else in %s', async (dtype) => {
    await same((of) => {
      const { world, rank } = of;
      const large = (count: number): sg.Tensor => values(of, count, dtype);
      const block = (i: number, r: number): number => uneven[(i + r) % size]!;
      const send = ranks.map((r) => block(rank, r));
      const receive = ranks.map((i) => block(i, rank));
      return [5, 700_001].flatMap((count) => [
        Promise.resolve(world.reduce(large(count), { dst: root })),
        Promise.resolve(world.broadcast(large(count), { src: root })),
        Promise.resolve(world.allGather(large(uneven[rank]!), { rows: uneven })),
        Promise.resolve(world.gather(large(uneven[rank]!), { rows: uneven, dst: root })),
        Promise.resolve(world.scatter(rank === root ? large(total) : null, { src: root, rows: uneven, like: { shape: [0], dtype } })),
        Promise.resolve(world.reduceScatter(large(total), { rows: uneven })),
        Promise.resolve(world.reduceScatter(large(size * 100_000))),
        Promise.resolve(world.allToAll(large(send.reduce((a, b) => a + b, 0)), { send, receive })),
      ]);
    });
  });

  test('messages around a ring, between collectives', async () => {
    const results = await overTcp(size, async (of) => {
      const { world, rank, device } = of;
      const into = sg.zeros([200_000], { device });
      const send = (): unknown => world.send(sg.full([200_000], rank, { device }), (rank + 1) % size);
      world.barrier();
      if (rank === 0) send();
      world.recv(into, (rank + size - 1) % size);
      if (rank > 0) send();
      return (await world.allReduce(into)).max().item();
    });
    expect(results).toEqual(new Array(size).fill((size * (size - 1)) / 2));
  });
});

test('64 MiB', async () => {
  const run = (transport: 'shm' | 'tcp'): Promise<Uint8Array[]> =>
    simulate(2, async (of) => bits(await of.world.allReduce(values(of, 16 << 20, 'float32'), { op: 'avg' })), { transport });
  const [tcp, shm] = [await run('tcp'), await run('shm')];
  for (const r of [0, 1]) expect(Buffer.compare(tcp[r]!, shm[r]!)).toBe(0);
});

test('parts of a group have connections of their own', async () => {
  const results = await overTcp(4, async ({ world, rank, device }) => {
    const pair = (await world.split(rank % 2))!;
    const again = (await world.split(rank % 2, { key: -rank }))!;
    const x = sg.full([3], rank, { device });
    await pair.allReduce(x);
    const y = sg.full([50_000], again.rank, { device });
    await again.broadcast(y, { src: 0 });
    const got = [await x.max().item(), await y.max().item(), again.rank];
    await pair.close();
    await again.close();
    return got;
  });
  expect(results).toEqual([
    [2, 0, 1],
    [4, 0, 1],
    [2, 0, 0],
    [4, 0, 0],
  ]);
});

describe('mistakes', () => {
  const failures = async (size: number, fn: (of: SimulatedRank) => unknown): Promise<string[]> => {
    const seen: string[] = [];
    await overTcp(size, async (of) => {
      try {
        await fn(of);
      } catch (error) {
        seen[of.rank] = (error as Error).message;
        throw error;
      }
    }).catch(() => {});
    return seen;
  };
  const of = ({ device }: SimulatedRank, count: number, dtype: DType = 'float32'): sg.Tensor => sg.zeros([count], { device, dtype });

  test.each<[string, (r: SimulatedRank) => PromiseLike<unknown>, RegExp]>([
    [
      'another operation',
      (r) => (r.rank ? r.world.barrier() : r.world.allReduce(of(r, 1))),
      /allReduce\(float32, 1 elements, sum\).*barrier|barrier.*allReduce/,
    ],
    ['another count', (r) => r.world.allReduce(of(r, r.rank ? 10_001 : 10_000)), /10000 elements.*10001 elements|10001 elements.*10000 elements/],
    ['another dtype', (r) => r.world.allReduce(of(r, 4, r.rank ? 'int32' : 'float32')), /float32.*int32|int32.*float32/],
    ['another root', (r) => r.world.broadcast(of(r, 4), { src: Math.min(r.rank, 1) }), /root 0.*root 1|root 1.*root 0/],
    ['other rows', (r) => r.world.allGather(of(r, 1), { rows: r.rank ? [2, 1, 1] : [1, 2, 1] }), /with other counts per rank/],
  ])('%s is told to every rank', async (_, call, text) => {
    const seen = await failures(3, call);
    expect(seen.filter(Boolean).length).toBeGreaterThanOrEqual(2);
    for (const message of seen.filter(Boolean)) {
      expect(message).toMatch(/disagree in call #\d/);
      expect(message).toMatch(/rank \d calls .* at test\/79.*rank \d calls .* at test\/79/);
      expect(message).toMatch(text);
    }
  });

  test('blocks of allToAll that do not fit', async () => {
    const seen = await failures(2, (r) => r.world.allToAll(of(r, 3), { send: [1, 2], receive: r.rank ? [1, 2] : [1, 2] }));
    for (const message of seen) expect(message).toMatch(/rank \d sends \d elements to rank \d, which expects \d/);
    expect(seen.length).toBe(2);
  });

  test('a message of another length, and a collective in place of one', async () => {
    expect((await failures(2, (r) => (r.rank ? r.world.recv(of(r, 1), 0) : r.world.send(of(r, 2), 1)))).join()).toMatch(
      /rank 0 calls send\(float32, 2 elements.*rank 1 calls recv\(float32, 1 elements/,
    );
    expect((await failures(2, (r) => (r.rank ? r.world.recv(of(r, 1), 0) : r.world.allReduce(of(r, 1))))).join()).toMatch(
      /rank 0 calls allReduce\(float32, 1 elements.*rank 1 calls recv|disagree/,
    );
  });

  test('a message that nobody receives stands before the next collective', async () => {
    const [message] = await failures(2, (r) => {
      if (r.rank === 1) r.world.send(of(r, 2), 0);
      return r.world.barrier();
    });
    expect(message).toMatch(/rank 0 calls barrier at .*, rank 1 calls send\(float32, 2 elements, to rank 0\) at/);
  });

  test('a rank that leaves, and one that gives up', async () => {
    expect((await failures(3, (r) => (r.rank === 1 ? null : r.world.barrier()))).join()).toMatch(/rank 1 has left before barrier #1/);
    const seen = await failures(3, (r) => (r.rank === 1 ? r.world.abort('my reason') : r.world.barrier()));
    for (const r of [0, 2]) expect(seen[r]).toMatch(/failed on rank 1: my reason/);
  });
});

/** Two ranks in this process; what rank 1 sends to rank 0 and hears from it passes `between`. */
async function twoRanks(between: (to: Address) => Promise<Address>): Promise<ProcessGroup[]> {
  const token = 'a token of this test';
  const meshes = await Promise.all([0, 1].map((rank) => Mesh.listen({ rank, token, host: '127.0.0.1' })));
  const addresses = meshes.map(({ address }) => address);
  meshes[0]!.introduce(addresses);
  meshes[1]!.introduce([await between(addresses[0]!), addresses[1]!]);
  const worlds = await Promise.all(meshes.map((mesh, rank) => tcpWorld(mesh, { rank, size: 2, device: sg.device(`cpu:${rank}`), timeoutMs: 60_000 })));
  closing.push(async () => {
    for (const world of worlds) await world.close().catch(() => {});
    for (const { device } of worlds) await sg.synchronize(device).catch(() => {});
    for (const mesh of meshes) await mesh.close();
  });
  return worlds;
}

interface Link {
  readonly kind: 'data' | 'control';
  readonly ends: readonly [Socket, Socket];
}

/** Forwards connections and remembers them. */
async function proxy(to: Address): Promise<{ address: Address; links: Link[] }> {
  const links: Link[] = [];
  const server = createServer((near) => {
    const far = connect(to);
    near.once('data', (hello: Buffer) => links.push({ kind: hello.includes('"data"') ? 'data' : 'control', ends: [near, far] }));
    for (const [a, b] of [
      [near, far],
      [far, near],
    ] as const) {
      a.on('data', (chunk) => b.write(chunk));
      a.on('close', () => b.destroy());
      a.on('error', () => {});
    }
    closing.push(() => near.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  closing.push(() => server.close());
  return { address: { host: '127.0.0.1', port: (server.address() as AddressInfo).port }, links };
}

describe('links', () => {
  const afterCut = async (cut: (links: readonly Link[]) => void): Promise<{ texts: string[]; seconds: number }> => {
    let links: Link[] = [];
    const worlds = await twoRanks(async (to) => {
      const made = await proxy(to);
      links = made.links;
      return made.address;
    });
    const reduce = (world: ProcessGroup): PromiseLike<unknown> => world.allReduce(sg.ones([300_000], { device: world.device }));
    await Promise.all(worlds.map(reduce));
    cut(links);
    const start = Date.now();
    const texts = await Promise.all(
      worlds.map((world) =>
        reduce(world).then(
          () => 'nothing',
          (error: Error) => error.message,
        ),
      ),
    );
    return { texts, seconds: (Date.now() - start) / 1000 };
  };

  test('one that carries nothing any more', async () => {
    const { texts, seconds } = await afterCut((links) => {
      for (const { ends } of links) for (const end of ends) end.pause();
    });
    texts.forEach((text, r) =>
      expect(text).toMatch(new RegExp(`rank ${1 - r} has stopped, or the link to it is cut \\(no heartbeat for 3 s\\); rank ${r} waits`)),
    );
    expect(seconds).toBeLessThan(5);
  });

  test('a data connection that is reset', async () => {
    const { texts, seconds } = await afterCut((links) => {
      for (const { kind, ends } of links) if (kind === 'data') for (const end of ends) end.resetAndDestroy();
    });
    expect(texts.join()).toMatch(/the connection to rank \d was lost \(/);
    expect(seconds).toBeLessThan(5);
  });

  test('connections that end at once', async () => {
    const { texts, seconds } = await afterCut((links) => {
      for (const { ends } of links) for (const end of ends) end.destroy();
    });
    for (const text of texts) expect(text).toMatch(/the process of rank \d has ended/);
    expect(seconds).toBeLessThan(5);
  });
});

describe('strangers', () => {
  const token = 'a token of this test';
  const context = (from: number, to: number, kind = 'data'): Buffer => Buffer.from(JSON.stringify(['0'.repeat(64), 1, kind, from, to]));
  async function mesh(): Promise<{ address: Address; log: string[] }> {
    const log: string[] = [];
    const made = await Mesh.listen({ rank: 0, token, host: '127.0.0.1', log: (line) => log.push(line) });
    closing.push(() => made.close());
    return { address: made.address, log };
  }
  const closed = (socket: Socket): Promise<void> => new Promise((resolve) => (socket.destroyed ? resolve() : socket.once('close', () => resolve())));
  const open = (address: Address): Socket => {
    const socket = connect(address);
    socket.on('error', () => {});
    closing.push(() => socket.destroy());
    return socket;
  };
  const next = (socket: Socket): Promise<Buffer> => new Promise((resolve) => socket.once('data', resolve));
  /** Does a client's handshake by hand; what the server says last is its proof, or nothing. */
  async function shake(address: Address, handshake: Handshake): Promise<Buffer | null> {
    const socket = open(address);
    socket.write(handshake.hello());
    socket.write(handshake.respond(await next(socket)));
    return Promise.race([next(socket), closed(socket).then(() => null)]);
  }

  test('noise, wrong tokens, wrong ranks and another purpose are dropped and logged', async () => {
    for (const [make, reason] of [
      [(a: Address) => shake(a, new Handshake('another token, not ours', 'data', context(1, 0))), /its token differs/],
      [
        (a: Address) => shake(a, new Handshake(token, 'data', context(1, 2))).then((proof) => expect(proof).not.toBe(null)),
        /looks for rank 2, and this is rank 0/,
      ],
      [(a: Address) => shake(a, new Handshake(token, 'data', Buffer.from('["x"]'))), /does not say who it is/],
      [
        (a: Address) =>
          closed(
            open(a).on('connect', function (this: Socket) {
              this.write(new Handshake(token).hello());
            }),
          ),
        /something else than a handshake/,
      ],
      [
        (a: Address) =>
          closed(
            open(a).on('connect', function (this: Socket) {
              this.write(randomBytes(700));
            }),
          ),
        /something else than a handshake/,
      ],
    ] as const) {
      const { address, log } = await mesh();
      await make(address);
      await expect.poll(() => log.join()).toMatch(reason);
    }
  });

  test('a proof is good for one connection and for what was said on it', async () => {
    const { address, log } = await mesh();
    const first = new Handshake(token, 'data', context(1, 0));
    const socket = open(address);
    socket.write(first.hello());
    const proof = first.respond(await next(socket));
    const again = open(address);
    again.write(first.hello());
    await next(again);
    again.write(proof);
    await closed(again);
    expect(log.join()).toMatch(/its token differs/);
    // said as rank 1, proved as rank 2
    const { address: other, log: otherLog } = await mesh();
    const mixed = open(other);
    const honest = new Handshake(token, 'data', context(2, 0));
    const hello = honest.hello();
    hello.set(context(1, 0), hello.length - context(1, 0).length);
    mixed.write(hello);
    mixed.write(honest.respond(await next(mixed)));
    await closed(mixed);
    expect(otherLog.join()).toMatch(/its token differs/);
  });

  test('a rank that does not come is named', async () => {
    const one = await Mesh.listen({ rank: 1, token, host: '127.0.0.1' });
    closing.push(() => one.close());
    const { address } = await mesh();
    one.introduce([address, one.address, { host: '127.0.0.1', port: 1 }]);
    const group = (members: number[]): Promise<unknown> => one.connect('world', members, 300, () => null);
    await expect(group([0, 1, 2])).rejects.toThrow(/process group world: rank 1 waited in vain for rank 2 to connect/);
    await expect(group([2, 1])).rejects.toThrow(/process group world: rank 1 cannot connect to rank 2 at 127.0.0.1:1: it refuses connections/);
  });

  test('noise in place of frames ends in an error', async () => {
    let data: Socket | null = null;
    const worlds = await twoRanks(async (to) => {
      const { address, links } = await proxy(to);
      setTimeout(() => (data = links.find(({ kind }) => kind === 'data')!.ends[1]), 100);
      return address;
    });
    await expect.poll(() => data).not.toBe(null);
    data!.write(randomBytes(4096));
    const texts = await Promise.all(
      worlds.map((world) =>
        world.barrier().then(
          () => 'nothing',
          (error: unknown) => (error as Error).message,
        ),
      ),
    );
    expect(texts[0]).toMatch(/what rank 1 sends is no call; rank 0 expects barrier #1/);
    expect(texts[1]).toMatch(/failed on rank 0: .*what rank 1 sends is no call/);
  });
});

const cli = fileURLToPath(new URL('../dist/bundle/cli.js', import.meta.url));
const script = (name: string): string => fileURLToPath(new URL(`children/${name}.mjs`, import.meta.url));

interface Running {
  readonly child: ChildProcess;
  readonly ended: Promise<{ code: number | null; out: string }>;
  out(): string;
}

function run(command: string, args: readonly string[], env: Record<string, string> = {}): Running {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env } });
  let out = '';
  for (const output of [child.stdout, child.stderr]) output.on('data', (chunk) => (out += chunk));
  closing.push(() => child.kill('SIGKILL'));
  return { child, out: () => out, ended: new Promise((resolve) => child.once('close', (code) => resolve({ code, out }))) };
}

const job = (ranks: number, child: string, what: string): Running =>
  run(process.execPath, [cli, 'run', '--nproc-per-node', String(ranks), script(child), what], { SHARDGRAD_TRANSPORT: 'tcp' });
const sums = (out: string): number[] => [...out.matchAll(/sum (-?[\d.e-]+)/g)].map((m) => Number(m[1]));
const knowing = (out: string): { rank: string; seconds: number; text: string }[] =>
  [...out.matchAll(/rank (\d) knows after ([\d.]+) s: (.*)/g)].map((m) => ({ rank: m[1]!, seconds: Number(m[2]), text: m[3]! }));

describe('processes', () => {
  test('train to where one does', async () => {
    const [alone, together] = await Promise.all([run(process.execPath, [script('job_rank'), 'train']).ended, job(3, 'job_rank', 'train').ended]);
    expect(together.code).toBe(0);
    expect(sums(together.out)).toHaveLength(3);
    expect(new Set(sums(together.out)).size).toBe(1);
    expect(Math.abs(sums(together.out)[0]! - sums(alone.out)[0]!)).toBeLessThan(1e-5);
  });

  test('one that is killed is missed by all', async () => {
    // without a launcher, which would end the others
    const survivors = await withoutLauncher(3, 'kill');
    for (const { out } of survivors.filter((_, r) => r !== 1)) {
      const [{ seconds, text }] = knowing(out) as [ReturnType<typeof knowing>[number]];
      expect(text).toMatch(/the process of rank 1 has ended; rank [02] waits for it in allReduce\(float32, 100000 elements, avg\) #\d+ of process group world/);
      expect(seconds).toBeLessThan(5);
    }
  });

  test('one that is stopped is missed within 5 s', async () => {
    const { code, out } = await job(3, 'tcp_rank', 'stop').ended;
    expect(code).not.toBe(0);
    expect(
      knowing(out)
        .map(({ rank }) => rank)
        .sort(),
    ).toEqual(['0', '2']);
    for (const { seconds, text } of knowing(out)) {
      expect(text).toMatch(/rank 1 has stopped, or the link to it is cut \(no heartbeat for 3 s\)/);
      expect(seconds).toBeLessThan(5);
    }
  });

  test('one that is busy is waited for', async () => {
    const { code, out } = await job(2, 'tcp_rank', 'busy').ended;
    expect(code).toBe(0);
    expect(out.match(/done/g)).toHaveLength(2);
  });
});

/** Ranks started as an unknown launcher would start them; rank 0 runs the store. */
async function withoutLauncher(ranks: number, what: string): Promise<{ out: string }[]> {
  const port = String(20_000 + (process.pid % 20_000));
  const env = { WORLD_SIZE: String(ranks), MASTER_ADDR: '127.0.0.1', MASTER_PORT: port, SHARDGRAD_TOKEN: 'a token of this test', SHARDGRAD_TRANSPORT: 'tcp' };
  const all = Array.from({ length: ranks }, (_, r) => run(process.execPath, [script('tcp_rank'), what], { ...env, RANK: String(r) }));
  return Promise.all(all.map(({ ended }) => ended));
}

describe.skipIf(namespacesMissing !== null)(`two hosts in network namespaces${namespacesMissing === null ? '' : ` (skipped: ${namespacesMissing})`}`, () => {
  /** A launcher on each host. */
  function launchers(hosts: TwoHosts, perNode: number, child: string, what: string): Running[] {
    return hosts.addresses.map((_, i) => {
      const nodes = ['--nnodes', '2', '--node-rank', String(i), '--nproc-per-node', String(perNode), '--master-addr', hosts.addresses[0]];
      const [file, ...args] = hosts.on(i, [process.execPath, cli, 'run', ...nodes, script(child), what]);
      return run(file, args, { SHARDGRAD_TOKEN: 'a token of this test' });
    });
  }
  const make = (): TwoHosts => {
    const hosts = new TwoHosts();
    closing.push(() => hosts.remove());
    return hosts;
  };

  test('a job trains to where one process does', async () => {
    const hosts = make();
    const alone = await run(process.execPath, [script('job_rank'), 'train']).ended;
    const ended = await Promise.all(launchers(hosts, 2, 'job_rank', 'train').map(({ ended }) => ended));
    for (const { code, out } of ended) expect(code, out).toBe(0);
    const all = ended.flatMap(({ out }) => sums(out));
    expect(all).toHaveLength(4);
    expect(new Set(all).size).toBe(1);
    expect(Math.abs(all[0]! - sums(alone.out)[0]!)).toBeLessThan(1e-5);
  });

  test('a cut link is noticed on both sides within 5 s', async () => {
    const hosts = make();
    const jobs = launchers(hosts, 1, 'tcp_rank', 'cut');
    await expect.poll(() => jobs.every(({ out }) => out().includes('going')), { timeout: 20_000 }).toBe(true);
    hosts.cut();
    await expect.poll(() => jobs.every(({ out }) => knowing(out()).length === 1), { timeout: 20_000 }).toBe(true);
    for (const [i, { out }] of jobs.entries()) {
      const [{ seconds, text }] = knowing(out()) as [ReturnType<typeof knowing>[number]];
      expect(text).toMatch(new RegExp(`rank ${1 - i} has stopped, or the link to it is cut`));
      expect(seconds).toBeLessThan(5);
    }
  });
});
