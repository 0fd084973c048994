// All gradients of a 124M-parameter GPT-2 in float32 (498 MB), reduced in the buckets of DistributedDataParallel, beside PyTorch's gloo:
// all buckets are started, then all awaited; the median time of a whole reduction.
//
//   node dist/bench/gradients.js [--ranks 2] [--rounds 9] [--python /path/to/python/with/torch]
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import * as dist from '../lib/distributed/index.js';
import * as sg from '../lib/index.js';
import { median } from './sides.js';

const { values: args } = parseArgs({
  options: { ranks: { type: 'string', default: '2' }, rounds: { type: 'string', default: '9' }, python: { type: 'string' } },
});

/** Elements of each bucket: 1 MiB, then 25 MiB, in all the parameters of GPT-2 with tied embeddings. */
function bucketSizes(): number[] {
  const [dim, layers, vocabulary, context] = [768, 12, 50257, 1024];
  const block = 12 * dim * dim + 13 * dim;
  const sizes = [(1 << 20) / 4];
  let left = (vocabulary + context) * dim + layers * block + 2 * dim - sizes[0]!;
  for (; left > 0; left -= sizes.at(-1)!) sizes.push(Math.min(left, (25 << 20) / 4));
  return sizes;
}

/** One rank of ours: a line on standard input asks for a time in milliseconds. */
async function runRank(): Promise<void> {
  const { world, close } = await dist.init();
  const buckets = bucketSizes().map((n) => world.sharedZeros([n]));
  for await (const _ of createInterface({ input: process.stdin })) {
    world.barrier().wait();
    sg.synchronizeSync();
    const start = performance.now();
    for (const work of buckets.map((bucket) => world.allReduce(bucket, { op: 'avg' }))) work.wait();
    sg.synchronizeSync();
    console.log(performance.now() - start);
  }
  await close();
}

/** All ranks of one side; a round's time is that of the slowest. */
function start(command: readonly string[]): { round: () => Promise<number>; end: () => void } {
  const port = String(20000 + Math.floor(Math.random() * 20000));
  const token = randomBytes(16).toString('hex');
  const ranks = Array.from({ length: Number(args.ranks) }, (_, rank) => {
    const job = { RANK: String(rank), WORLD_SIZE: args.ranks, LOCAL_RANK: String(rank), LOCAL_WORLD_SIZE: args.ranks, GLOO_SOCKET_IFNAME: 'lo' };
    const env = {
      ...process.env,
      ...job,
      MASTER_ADDR: '127.0.0.1',
      MASTER_PORT: port,
      SHARDGRAD_TOKEN: token,
      OMP_NUM_THREADS: '1',
      SHARDGRAD_NUM_THREADS: '1',
    };
    const child: ChildProcess = spawn(command[0]!, command.slice(1), { stdio: ['pipe', 'pipe', 'inherit'], env });
    return { child, lines: createInterface({ input: child.stdout! })[Symbol.asyncIterator]() };
  });
  return {
    round: async () => {
      for (const { child } of ranks) child.stdin!.write('\n');
      const times: number[] = [];
      for (const { lines } of ranks) times.push(Number((await lines.next()).value));
      return Math.max(...times);
    },
    end: () => {
      for (const { child } of ranks) child.stdin!.end();
    },
  };
}

if (process.env['RANK'] !== undefined) await runRank();
else {
  const sides = [start([process.execPath, fileURLToPath(import.meta.url)])];
  const script = fileURLToPath(new URL('../../bench/pytorch/gradients.py', import.meta.url));
  if (args.python) sides.push(start([args.python, script, bucketSizes().join()]));
  const rounds: number[][] = [];
  for (let r = 0; r < Number(args.rounds) + 2; r++) {
    const times: number[] = [];
    for (const side of sides) times.push(await side.round());
    if (r < 2) continue; // memory is touched for the first time
    rounds.push(times);
    console.log(
      `round ${r - 1}: shardgrad ${times[0]!.toFixed(1)} ms${times[1] ? `, gloo ${times[1].toFixed(1)} ms, ratio ${(times[1] / times[0]!).toFixed(1)}` : ''}`,
    );
  }
  const bytes = bucketSizes().reduce((a, b) => a + b, 0) * 4;
  const [ours, gloo] = sides.map((_, i) => median(rounds.map((times) => times[i]!)));
  const ratios = rounds.map(([a, b]) => b! / a!);
  console.log(
    `median: ${(bytes / 1e6).toFixed(0)} MB in ${bucketSizes().length} buckets, ${args.ranks} processes: shardgrad ${ours!.toFixed(1)} ms (${(bytes / ours! / 1e6).toFixed(1)} GB/s)` +
      (gloo ? `, gloo ${gloo.toFixed(1)} ms, ratio ${median(ratios).toFixed(1)} (${Math.min(...ratios).toFixed(1)} to ${Math.max(...ratios).toFixed(1)})` : ''),
  );
  for (const side of sides) side.end();
}
