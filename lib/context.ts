// What surrounds an op: scope, gradient mode, generator, module. All of it lives in ONE AsyncLocalStorage record, so that
// interleaved async functions and simulated ranks cannot disturb each other, and the door pays for one lookup.
import { AsyncLocalStorage } from 'node:async_hooks';
import type { AutocastDType } from './amp/policy.js';
import type { KeptResults } from './autograd/selective.js';
import type { Capture } from './capture.js';
import { describe, ValueError } from './errors.js';
import type { Generator, KeyTape } from './random.js';
import type { Scope } from './storage.js';

export interface Context {
  /** Ops on tensors that require a gradient are recorded. */
  readonly gradEnabled: boolean;
  /** As gradEnabled = false; tensors made here may never enter a graph. */
  readonly inference: boolean;
  /** Backward checks every gradient for NaN and names the forward call. */
  readonly anomaly: boolean;
  /** Owner of the storages made here; null: the safety net watches them. */
  readonly scope: Scope | null;
  /** Source of randomness; null: the process-wide default. */
  readonly generator: Generator | null;
  /** Keys a checkpointed segment draws, or repeats; null outside one. */
  readonly keyTape: KeyTape | null;
  /** What a checkpointed segment keeps of its ops, or finds kept; null where all of it is recomputed, and outside one. */
  readonly kept: KeptResults | null;
  /** The dtype of the autocast region; null outside of one. */
  readonly autocast: AutocastDType | null;
  /** The graph that is being captured; null outside of one. */
  readonly capture: Capture | null;
  /** Of the sequences that ranks have pieces of, where that was said; null: as they were cut. */
  readonly sequenceLength: number | null;
  /** Path of the module whose forward runs, for error texts and random keys. */
  readonly module: string;
}

const root: Context = {
  gradEnabled: true,
  inference: false,
  anomaly: false,
  scope: null,
  generator: null,
  keyTape: null,
  kept: null,
  autocast: null,
  capture: null,
  sequenceLength: null,
  module: '',
};
const current = new AsyncLocalStorage<Context>();

export function context(): Context {
  return current.getStore() ?? root;
}

/** Runs `fn`, and all it awaits, with parts of the context replaced. */
export function withContext<T>(patch: Partial<Context>, fn: () => T): T {
  if (typeof fn !== 'function') throw new ValueError(`expected a function to run, got ${describe(fn)}`);
  return current.run({ ...context(), ...patch }, fn);
}
