// What goes in and out of an optimizer's step, its state, and the schedule that it follows.
import type { GradScaler } from '../amp/grad_scaler.js';
import type { Tensor } from '../tensor.js';
import type { StepBuffer } from './step_buffer.js';

/** What a checkpoint keeps of an optimizer, laid out as torch.optim's state dicts. */
export interface OptimizerState {
  /** State tensors and step count of each parameter, by its position. */
  state: Record<string, Record<string, Tensor | number>>;
  /** Options of each group, with the positions of its parameters. */
  paramGroups: Record<string, unknown>[];
  /** Of stochastic rounding, where a group uses it. */
  seed?: string;
}

/** What `Optimizer.step` may do beside the step. */
export interface StepOptions {
  /** Scale all gradients for this step so that their common norm is at most this (Pascanu et al., 2013). Default: no limit. */
  maxNorm?: number;
  /** The gradients are those of a loss that it scaled: the same as `scaler.step(optimizer, { maxNorm })`. */
  scaler?: GradScaler;
}

/** What a step is prepared by, between writing the rates and the step itself. */
export type Preparation<T> = (buffer: StepBuffer, gradients: readonly Tensor[]) => T;

/** A schedule, as its optimizer sees it. */
export interface RateSource {
  rateAfterSkips(group: number, skips: number): number;
  noticeSkips(): void;
}
