// What the training benches share: GPT models by name, one set of weights and tokens for all sides, and sides that are one or more
// processes (train_worker.ts, pytorch/train.py) which speak one JSON line a round.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ScheduleName } from '../lib/distributed/index.js';
import * as sg from '../lib/index.js';
import { io, nn } from '../lib/index.js';
import { compiled, Job, type JobOptions, source } from './child.js';
import { median } from './rows.js';

const configs = {
  tiny: { layers: 4, dim: 128, heads: 4, context: 128, batch: 16, vocabSize: 256 },
  small: { layers: 6, dim: 384, heads: 6, context: 256, batch: 12, vocabSize: 256 },
  deep: { layers: 12, dim: 256, heads: 4, context: 128, batch: 16, vocabSize: 256 },
  gpt2: { layers: 12, dim: 768, heads: 12, context: 1024, batch: 1, vocabSize: 50304 },
} as const;
export type ConfigName = keyof typeof configs;

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
  /** How the ranks share the model; data parallelism unless given. */
  readonly spread?: Spreading;
}
export type Spreading = 'ddp' | 'zero1' | 'zero3' | 'tp' | 'tp+sp' | Stages;
/** A stage on each rank; one process goes through the same micro-batches. */
export interface Stages {
  readonly schedule: ScheduleName;
  readonly microBatches: number;
}

/** Runs `fn` with a model's weights and tokens on disk. `dtype` is that of the parameters, or `autocast`. */
export async function* withSetup<T>(name: ConfigName, dtype: string, fn: (setup: Setup) => AsyncIterable<T>): AsyncIterable<T> {
  const folder = mkdtempSync(join(tmpdir(), 'shardgrad-bench-'));
  try {
    const { batch, ...model } = configs[name];
    const [weights, tokens] = [join(folder, 'weights.safetensors'), join(folder, 'tokens.bin')];
    sg.manualSeed(1);
    const whole = new nn.GPT(model);
    await io.saveSafetensors(weights, whole.stateDict());
    for (const p of whole.parameters()) p.dispose();
    const ids = new Int32Array(64 * batch * (model.context + 1));
    // a text-like skew, so that the loss falls
    for (let i = 0; i < ids.length; i++) ids[i] = Math.min(model.vocabSize - 1, Math.floor(((Math.sin(i * 12.9898) * 43758.5453) % 1) ** 2 * model.vocabSize));
    writeFileSync(tokens, ids);
    const autocast = dtype === 'autocast';
    yield* fn({ model, batch, weights, tokens, dtype: autocast ? 'float32' : (dtype as sg.DType), autocast });
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
  private constructor(
    readonly name: string,
    private readonly job: Job,
    private readonly perStep: number,
  ) {}

  /** `command`: ours, or PyTorch's of the Python given. */
  static async start(name: string, python: string | null, setup: Setup, options: JobOptions): Promise<Side> {
    const command = python === null ? [process.execPath, compiled('./train_worker.js')] : [python, source('pytorch/train.py')];
    const job = await Job.start(name, command, options);
    await job.ask(setup);
    return new Side(name, job, setup.batch * setup.model.context);
  }

  /** The mean loss and the slowest rank's times. */
  async round(steps: number): Promise<Answer> {
    const answers = await this.job.ask<Answer>({ steps });
    const mean = (of: (a: Answer) => number): number => answers.reduce((sum, a) => sum + of(a), 0) / answers.length;
    return {
      ms: answers[0]!.ms.map((_, i) => Math.max(...answers.map((a) => a.ms[i]!))),
      losses: answers[0]!.losses.map((_, i) => mean((a) => a.losses[i]!)),
      peakMiB: answers.reduce((sum, a) => sum + a.peakMiB, 0),
      waited: mean((a) => a.waited ?? 0),
    };
  }

  /** Tokens a second in a round. */
  async speed(steps: number): Promise<number> {
    return (1000 * this.perStep) / median((await this.round(steps)).ms);
  }

  end(): void {
    this.job.end();
  }
}

/** The largest relative difference of two rounds' losses; throws when the sides do not train the same model. */
export function compareLosses(a: Answer, b: Answer, setup: Setup): number {
  const difference = Math.max(...a.losses.map((loss, i) => Math.abs(loss / b.losses[i]! - 1)));
  const bound = setup.dtype === 'float32' && !setup.autocast ? 1e-4 : 2e-2;
  if (!(difference < bound)) {
    throw new sg.ShardgradError(`bench: the losses differ by ${difference}, more than ${bound}: the two sides do not train the same model`);
  }
  return difference;
}
