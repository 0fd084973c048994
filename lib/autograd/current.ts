// The backward under way, for what takes part in it: data parallelism, sharded modules, losses with a normalizer. Backwards nest: the
// innermost counts.
import type { Tensor } from '../tensor.js';

interface EndCall {
  readonly ended: () => void;
  readonly failed: (() => void) | undefined;
}

export interface CurrentBackward {
  readonly endCalls: EndCall[];
  normalized: boolean;
  /** Whose forward call is being differentiated. */
  module: string;
  readonly targets: ReadonlyMap<Tensor, unknown> | null;
}

let current: CurrentBackward | null = null;

/** Runs a part of a backward. What it says of itself stays in `backward`, for the parts that follow. */
export function duringBackward<T>(backward: CurrentBackward, part: () => T): T {
  const outer = current;
  current = backward;
  try {
    return part();
  } finally {
    current = outer;
  }
}

/** Runs `ended` when the backward that is under way has ended: what data parallelism does with the last gradients. `failed`: when it throws. */
export function afterBackward(ended: () => void, failed?: () => void): void {
  current?.endCalls.push({ ended, failed });
}

/** Says that the loss of the backward under way was divided by a normalizer. */
export function noteNormalizer(): void {
  if (current) current.normalized = true;
}

/** Whether the loss of the backward under way was divided by a normalizer, which counts over all ranks. */
export function lossIsNormalized(): boolean {
  return current?.normalized ?? false;
}

/** Of the backward under way: the leaves whose gradients `grad` gives back, while `.grad` of all stays as it is; null when they go there. */
export function gradTargets(): ReadonlyMap<Tensor, unknown> | null {
  return current?.targets ?? null;
}

/** The module whose forward call the backward under way is at; null outside of one. */
export function moduleInBackward(): string | null {
  return current?.module ?? null;
}

/** Whether a backward is under way. */
export function backwardRuns(): boolean {
  return current !== null;
}

let ahead = false;

/** Runs what makes gradients in a forward pass: for profiles it is a part of backward. */
export function aheadOfBackward(make: () => void): void {
  const outer = ahead;
  ahead = true;
  try {
    make();
  } finally {
    ahead = outer;
  }
}

/** Whether gradients are being made in a forward pass. */
export function isAheadOfBackward(): boolean {
  return ahead;
}
