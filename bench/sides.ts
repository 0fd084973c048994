// What the training benches share: GPT models by name, one set of weights and tokens for all sides, and sides that are one or more
// processes (train_worker.ts, pytorch/train.py) which speak one JSON line a round.
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { ScheduleName } from '../lib/distributed/index.js';
import * as sg from '../lib/index.js';
import { io, nn } from '../lib/index.js';

const configs = {
  tiny: { layers: 4, dim: 128, heads: 4, context: 128, batch: 16, vocabSize: 256 },
  small: { layers: 6, dim: 384, heads: 6, context: 256, batch: 12, vocabSize: 256 },
  deep: { layers: 12, dim: 256, heads: 4, context: 128, batch: 16, vocabSize: 256 },
  gpt2: { layers: 12, dim: 768, heads: 12, context: 1024, batch: 1, vocabSize: 50304 },
} as const;

/** What a worker is told first. */
export interface Setup {
  readonly model: nn.GPTOptions;
  /** Of all ranks together. */
  readonly batch: number;
  readonly weights: string;
  readonly tokens: string;
  /** Of the parameters. */
  readonly dtype: sg.DType;
  /** Computes in bfloat16 by autocast; PyTorch does so for bfloat16 parameters too. */
  readonly autocast: boolean;
  /** How the ranks of ours share the model; data parallelism unless given. */
  readonly spread?: Spread | Stages;
}
export const SPREADS = ['ddp', 'zero1', 'zero3', 'tp', 'tp+sp'] as const;
export type Spread = (typeof SPREADS)[number];
/** A stage on each rank; one process goes through the same micro-batches. */
export interface Stages {
  readonly schedule: ScheduleName;
  readonly microBatches: number;
  /** Layers of each stage. */
  readonly split?: readonly number[];
}

/** Runs `fn` with a model's weights and tokens on disk. `dtype` is that of the parameters, or `autocast`. */
export async function withSetup(name: string, dtype: string, fn: (setup: Setup) => Promise<void>): Promise<void> {
  const config = configs[name as keyof typeof configs];
  if (!config) throw new sg.ValueError(`--config must be one of ${Object.keys(configs).join(', ')}, got "${name}"`);
  const folder = mkdtempSync(join(tmpdir(), 'shardgrad-bench-'));
  try {
    const { batch, ...model } = config;
    const [weights, tokens] = [join(folder, 'weights.safetensors'), join(folder, 'tokens.bin')];
    sg.manualSeed(1);
    await io.saveSafetensors(weights, new nn.GPT(model).stateDict());
    const ids = new Int32Array(64 * batch * (model.context + 1));
    // a text-like skew, so that the loss falls
    for (let i = 0; i < ids.length; i++) ids[i] = Math.min(model.vocabSize - 1, Math.floor(((Math.sin(i * 12.9898) * 43758.5453) % 1) ** 2 * model.vocabSize));
    writeFileSync(tokens, ids);
    const autocast = dtype === 'autocast';
    await fn({ model, batch, weights, tokens, dtype: autocast ? 'float32' : (dtype as sg.DType), autocast });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

export interface Answer {
  /** Of each step. */
  readonly ms: readonly number[];
  readonly losses: readonly number[];
  readonly peakMiB: number;
  /** Share of the time in which computation waited for other ranks; of our sides only. */
  readonly waited?: number;
}

/** The ranks of one training, or one process alone. */
export class Side {
  private readonly ranks: { child: ChildProcess; lines: AsyncIterator<string> }[];

  constructor(
    readonly name: string,
    command: readonly [string, string],
    setup: Setup,
    { ranks = 1, threads }: { ranks?: number; threads: number },
  ) {
    const port = String(20000 + Math.floor(Math.random() * 20000));
    const token = randomBytes(16).toString('hex');
    this.ranks = Array.from({ length: ranks }, (_, rank) => {
      const job = {
        RANK: String(rank),
        WORLD_SIZE: String(ranks),
        LOCAL_RANK: String(rank),
        LOCAL_WORLD_SIZE: String(ranks),
        MASTER_ADDR: '127.0.0.1',
        MASTER_PORT: port,
        SHARDGRAD_TOKEN: token,
        GLOO_SOCKET_IFNAME: 'lo',
      };
      const env = { ...process.env, SHARDGRAD_NUM_THREADS: String(threads), OMP_NUM_THREADS: String(threads), ...(ranks > 1 ? job : {}) };
      const child = spawn(command[0], [command[1]], { stdio: ['pipe', 'pipe', 'inherit'], env });
      child.stdin!.write(`${JSON.stringify(setup)}\n`);
      return { child, lines: createInterface({ input: child.stdout! })[Symbol.asyncIterator]() };
    });
  }

  /** The mean loss and the slowest rank's times. */
  async round(steps: number): Promise<Answer> {
    for (const { child } of this.ranks) child.stdin!.write(`${JSON.stringify({ steps })}\n`);
    const answers: Answer[] = [];
    for (const { lines } of this.ranks) {
      const { value, done } = await lines.next();
      if (done) throw new sg.ShardgradError(`bench: a process of ${this.name} ended without an answer`);
      answers.push(JSON.parse(value) as Answer);
    }
    const mean = (of: (a: Answer) => number): number => answers.reduce((sum, a) => sum + of(a), 0) / answers.length;
    return {
      ms: answers[0]!.ms.map((_, i) => Math.max(...answers.map((a) => a.ms[i]!))),
      losses: answers[0]!.losses.map((_, i) => mean((a) => a.losses[i]!)),
      peakMiB: answers.reduce((sum, a) => sum + a.peakMiB, 0),
      waited: mean((a) => a.waited ?? 0),
    };
  }

  end(): void {
    for (const { child } of this.ranks) child.stdin!.end();
  }
}

export const ourWorker: readonly [string, string] = [process.execPath, fileURLToPath(new URL('./train_worker.js', import.meta.url))];
export const torchWorker = (python: string): readonly [string, string] => [python, fileURLToPath(new URL('../../bench/pytorch/train.py', import.meta.url))];

export const median = (xs: readonly number[]): number => xs.toSorted((a, b) => a - b)[xs.length >> 1]!;

/** The largest relative difference of two rounds' losses; throws when the sides do not train the same model. */
export function compareLosses(a: Answer, b: Answer, dtype: string): number {
  const difference = Math.max(...a.losses.map((loss, i) => Math.abs(loss / b.losses[i]! - 1)));
  const bound = dtype === 'float32' ? 1e-4 : 2e-2;
  if (!(difference < bound)) {
    throw new sg.ShardgradError(`bench: the losses differ by ${difference}, more than ${bound}: the two sides do not train the same model`);
  }
  return difference;
}

/** Tokens a second of every side in every round, rounds in turn. */
export async function speedsInTurn(sides: readonly Side[], setup: Setup, rounds: number, steps: number): Promise<number[][]> {
  const speeds: number[][] = sides.map(() => []);
  for (let round = 0; round < rounds; round++) {
    for (const [i, side] of sides.entries()) {
      const { ms } = await side.round(steps);
      speeds[i]!.push((1000 * setup.batch * setup.model.context) / median(ms));
    }
    console.log(`round ${round + 1}: tokens/s ${sides.map((side, i) => `${side.name} ${speeds[i]!.at(-1)!.toFixed(0)}`).join(', ')}`);
  }
  return speeds;
}
