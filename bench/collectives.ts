// Collectives between two processes of one thread beside PyTorch's gloo, with the columns of nccl-tests: time, algbw (bytes by time) and busbw,
// what the memory or the wire has to carry. Times include the call from JavaScript or Python and the wait for its result.
import { compiled, Job, type JobOptions, source } from './child.js';
import { type Group, inTurn, type Row, row } from './rows.js';

export interface CollectiveQuestion {
  readonly op: 'allReduce' | 'broadcast' | 'allGather' | 'reduceScatter';
  /** Bytes of each call, of all ranks together where an operation gathers or scatters; all are started, then all awaited. */
  readonly sizes: readonly number[];
  /** In memory that all ranks see, as the gradient buckets of DistributedDataParallel are; ours only. */
  readonly shared: boolean;
  readonly repeats: number;
}

const RANKS = 2;
const KiB = 1 << 10;
const MiB = 1 << 20;
const SIZES = [4 * KiB, 64 * KiB, MiB, 16 * MiB, 64 * MiB];
const BARS: Record<number, number> = { [4 * KiB]: 50, [64 * MiB]: 7 };
const name = (bytes: number): string => (bytes < MiB ? `${bytes / KiB} KiB` : `${bytes / MiB} MiB`);

/** Of GPT-2 with 124M parameters in float32, 498 MB: a bucket of 1 MiB, then 25 MiB. */
function gradientBuckets(): number[] {
  const [dim, layers, vocabulary, context] = [768, 12, 50257, 1024];
  const block = 12 * dim * dim + 13 * dim;
  const sizes = [MiB];
  for (let left = 4 * ((vocabulary + context) * dim + layers * block + 2 * dim) - MiB; left > 0; left -= sizes.at(-1)!) sizes.push(Math.min(left, 25 * MiB));
  return sizes;
}

/** Bytes a second on the bus for one of payload, as nccl-tests count. */
const BUS: Record<CollectiveQuestion['op'], number> = {
  allReduce: (2 * (RANKS - 1)) / RANKS,
  broadcast: 1,
  allGather: (RANKS - 1) / RANKS,
  reduceScatter: (RANKS - 1) / RANKS,
};

interface Case {
  readonly name: string;
  readonly over: 'shm' | 'tcp';
  readonly question: CollectiveQuestion;
  readonly bar?: number;
}

function cases(quick: boolean): Case[] {
  const sizes = quick ? SIZES.slice(0, 2) : SIZES;
  const repeats = (bytes: number): number => (quick ? 5 : Math.max(5, Math.min(2000, Math.floor((64 * MiB) / bytes))));
  const one = (op: CollectiveQuestion['op'], bytes: number, over: 'shm' | 'tcp', shared: boolean): Case => ({
    name: `${op} ${name(bytes)}, ${over === 'tcp' ? 'TCP' : shared ? 'shared tensor' : 'private tensor'}`,
    over,
    question: { op, sizes: [bytes], shared, repeats: repeats(bytes) },
    ...(shared && op === 'allReduce' && BARS[bytes] !== undefined ? { bar: BARS[bytes] } : {}),
  });
  const ops = ['broadcast', 'allGather', 'reduceScatter'] as const;
  return [
    ...sizes.flatMap((bytes) => [one('allReduce', bytes, 'shm', true), one('allReduce', bytes, 'shm', false), one('allReduce', bytes, 'tcp', false)]),
    ...ops.flatMap((op) => sizes.map((bytes) => one(op, bytes, 'shm', false))),
    ...(quick
      ? []
      : [
          {
            name: 'allReduce of all gradients of GPT-2 (498 MB in buckets)',
            over: 'shm' as const,
            question: { op: 'allReduce' as const, sizes: gradientBuckets(), shared: true, repeats: 5 },
          },
        ]),
  ];
}

export const collectives: Group = async function* (run) {
  const ours = (over: string): JobOptions => ({ ranks: RANKS, threads: 1, env: over === 'tcp' ? { SHARDGRAD_TRANSPORT: 'tcp' } : {} });
  const command = [process.execPath, compiled('./collective_worker.js')];
  const jobs = { shm: await Job.start('shardgrad', command, ours('shm')), tcp: await Job.start('shardgrad', command, ours('tcp')) };
  const gloo = run.python === null ? null : await Job.start('gloo', [run.python, '-u', source('pytorch/collectives.py')], { ranks: RANKS, threads: 1 });
  const slowest = (job: Job, question: CollectiveQuestion) => async (): Promise<number> =>
    Math.max(...(await job.ask<{ us: number }>(question)).map(({ us }) => us));
  try {
    for (const { name: title, over, question, bar } of cases(run.quick)) {
      const [mine, theirs] = await inTurn(
        [jobs[over], ...(gloo ? [gloo] : [])].map((job) => slowest(job, question)),
        run.rounds,
      );
      const made: Row = row('collectives', title, 'µs', { ours: mine!, theirs: theirs ?? null }, bar === undefined ? {} : { bar });
      const algbw = question.sizes.reduce((a, b) => a + b) / made.ours!.median / 1000;
      yield { ...made, note: `algbw ${algbw.toFixed(2)} GB/s, busbw ${(algbw * BUS[question.op]).toFixed(2)} GB/s` };
    }
  } finally {
    for (const job of [jobs.shm, jobs.tcp, gloo]) job?.end();
  }
};
