// What the sides of bench/gpu/train.ts are told and answer: train_worker.ts and pytorch/train.py.
import type { nn } from '../../lib/index.js';

export type Mode = 'eager' | 'graph' | 'compile';

/** The first line. */
export interface Setup {
  readonly model: nn.GPTOptions;
  /** float32 weights in safetensors, tokens as int32. */
  readonly weights: string;
  readonly tokens: string;
  readonly mode: Mode;
  readonly device: string;
}

/** Every other line: so many steps of this batch, those that are not timed first. */
export interface Round {
  readonly batch: number;
  readonly warmup: number;
  readonly steps: number;
  /** Steps after those, each given to an idle device, to see how long the host is busy with one. */
  readonly hostSteps: number;
}

export interface RoundAnswer {
  /** Of one step, from the first to the last of the timed ones. */
  readonly ms: number;
  readonly hostMs: number;
  readonly peakMiB: number;
  /** Of the last step. */
  readonly loss: number;
}
