// All-reduce between processes of one host beside PyTorch's gloo, with the columns of nccl-tests: out of place time and bandwidths.
// busbw = algbw · 2 (n − 1) / n is what the memory or the wire has to carry.
//
//   node dist/bench/collectives.js [--ranks 2] [--dtype float32] [--transport shm,tcp] [--rounds 5] [--python /path/to/python/with/torch]
//     [--limit build/bench_zero_copy]   two bare loops over shared memory: cmake --build build --target bench_zero_copy
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { init } from '../lib/distributed/init.js';
import { sharedWorld } from '../lib/distributed/transport.js';
import * as sg from '../lib/index.js';

const { values: args } = parseArgs({
  options: {
    ranks: { type: 'string', default: '2' },
    dtype: { type: 'string', default: 'float32' },
    python: { type: 'string' },
    limit: { type: 'string' },
    rounds: { type: 'string', default: '1' },
    rank: { type: 'string' },
    segment: { type: 'string' },
    memory: { type: 'string', default: 'shared' },
    transport: { type: 'string', default: 'shm,tcp' },
  },
});
const ranks = Number(args.ranks);
const dtype = args.dtype as sg.DType;
const SIZES = [4 << 10, 64 << 10, 1 << 20, 16 << 20, 25 << 20, 64 << 20];
const repeats = (bytes: number): number => Math.max(5, Math.min(500, Math.floor((64 << 20) / bytes)));

/** One rank: medians in microseconds by size, on rank 0. */
async function runRank(rank: number): Promise<void> {
  const world = args.memory === 'tcp' ? (await init()).world : sharedWorld(args.segment!, { rank, size: ranks, device: sg.device('cpu'), timeoutMs: 600_000 });
  if (rank === 0 && args.memory !== 'tcp') console.log('ready');
  const width = dtype === 'float32' ? 4 : 2;
  const medians: number[] = [];
  for (const bytes of SIZES) {
    const x = args.memory === 'shared' ? world.sharedZeros([bytes / width], { dtype }) : sg.zeros([bytes / width], { dtype });
    const times: number[] = [];
    for (let i = 0; i < repeats(bytes) + 3; i++) {
      world.barrier().wait();
      sg.synchronizeSync();
      const start = process.hrtime.bigint();
      world.allReduce(x).wait();
      sg.synchronizeSync();
      if (i >= 3) times.push(Number(process.hrtime.bigint() - start) / 1000);
    }
    medians.push(median(times));
    x.dispose();
  }
  if (rank === 0) console.log(JSON.stringify(medians));
  await world.close();
}

function start(command: string, argv: readonly string[], env: Record<string, string>): { child: ChildProcess; lines: AsyncIterator<string> } {
  const child = spawn(command, argv, { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, ...env } });
  return { child, lines: createInterface({ input: child.stdout! })[Symbol.asyncIterator]() };
}

async function ours(memory: string): Promise<number[]> {
  const segment = `/shardgrad-${randomUUID()}`;
  const here = fileURLToPath(import.meta.url);
  const argv = (rank: number): string[] => [here, '--rank', String(rank), '--ranks', args.ranks, '--segment', segment, '--dtype', dtype, '--memory', memory];
  const port = String(20000 + Math.floor(Math.random() * 20000));
  const env = {
    WORLD_SIZE: args.ranks,
    MASTER_ADDR: '127.0.0.1',
    MASTER_PORT: port,
    SHARDGRAD_TOKEN: segment,
    SHARDGRAD_TRANSPORT: 'tcp',
    SHARDGRAD_NUM_THREADS: '1',
  };
  const rank = (r: number): ReturnType<typeof start> => start(process.execPath, argv(r), { ...env, RANK: String(r) });
  const first = rank(0);
  if (memory !== 'tcp') await first.lines.next(); // the others can find the segment from now on
  for (let r = 1; r < ranks; r++) rank(r);
  return JSON.parse((await first.lines.next()).value as string) as number[];
}

async function gloo(python: string): Promise<number[]> {
  const script = fileURLToPath(new URL('../../bench/pytorch/collectives.py', import.meta.url));
  const port = String(20000 + Math.floor(Math.random() * 20000));
  const sides = Array.from({ length: ranks }, (_, r) =>
    start(python, [script, dtype, SIZES.join(), SIZES.map(repeats).join()], {
      RANK: String(r),
      WORLD_SIZE: args.ranks,
      MASTER_ADDR: '127.0.0.1',
      MASTER_PORT: port,
      OMP_NUM_THREADS: '1',
      GLOO_SOCKET_IFNAME: 'lo',
    }),
  );
  return JSON.parse((await sides[0]!.lines.next()).value as string) as number[];
}

/** The program of bench/zero_copy.cc. */
function limit(program: string): number[] {
  return String(execFileSync(program, SIZES.map(String)))
    .trim()
    .split(' ')
    .map(Number);
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1]!;
}

if (args.rank !== undefined) await runRank(Number(args.rank));
else {
  const sides: [string, () => Promise<number[]>][] = [];
  if (args.transport.includes('shm')) {
    sides.push(['shardgrad, shared', () => ours('shared')]);
    sides.push(['shardgrad, private', () => ours('private')]);
  }
  if (args.transport.includes('tcp')) sides.push(['shardgrad, tcp', () => ours('tcp')]);
  if (args.python) sides.push(['gloo', () => gloo(args.python!)]);
  if (args.limit) sides.push(['limit of shared', async () => limit(args.limit!)]);
  // in turns, as the machine has good and bad minutes
  const rounds: number[][][] = sides.map(() => []);
  for (let round = 0; round < Number(args.rounds); round++) for (const [i, [, side]] of sides.entries()) rounds[i]!.push(await side());
  const rows = sides.map(([name], i): [string, number[]] => [name, SIZES.map((_, s) => median(rounds[i]!.map((medians) => medians[s]!)))]);
  console.log(
    `allReduce ${dtype}, ${ranks} processes\n${'size B'.padStart(10)}  ${'memory'.padEnd(20)}${'time us'.padStart(12)}${'algbw GB/s'.padStart(12)}${'busbw GB/s'.padStart(12)}`,
  );
  for (let i = 0; i < SIZES.length; i++) {
    for (const [name, medians] of rows) {
      const algbw = SIZES[i]! / medians[i]! / 1000;
      const busbw = (algbw * 2 * (ranks - 1)) / ranks;
      console.log(
        `${String(SIZES[i]).padStart(10)}  ${name.padEnd(20)}${medians[i]!.toFixed(1).padStart(12)}${algbw.toFixed(2).padStart(12)}${busbw.toFixed(2).padStart(12)}`,
      );
    }
  }
}
