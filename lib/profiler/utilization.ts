// Model FLOPs utilization (Chowdhery et al., "PaLM", 2022): operations of the model's products a second, as a share of what the device can do.
// What is computed again is none of the model's: checkpointed segments, and the scores that attention makes once more in backward.
import type { OpEvent } from './events.js';
import type { DevicePeak } from './peaks.js';

/** The share of attentionBackward's operations that would do if forward had kept its scores: four products of five. */
const WITHOUT_SCORES = 0.8;

/** How much of what a device can do went into the model's products (Chowdhery et al., PaLM, 2022). */
export interface Utilization {
  /** The device: `cpu:0`. */
  readonly device: string;
  /** What the peak is of. */
  readonly peak: string;
  /** Operations of the model's products a second. */
  readonly modelFlops: number;
  /** With what was computed again. */
  readonly hardwareFlops: number;
  /** Model FLOPs as a share of the peak; null where that is not known. */
  readonly mfu: number | null;
  /** Hardware FLOPs, with what was computed again, as a share of the peak; null where that is not known. */
  readonly hfu: number | null;
}

/** Over so many seconds; each dtype's operations count by its own peak. */
export function utilizationOf(device: string, ops: readonly OpEvent[], seconds: number, peak: DevicePeak): Utilization {
  const sums = { modelFlops: 0, hardwareFlops: 0, model: 0, hardware: 0 };
  let known = true;
  for (const op of ops) {
    if (op.device !== device || op.flops === 0) continue;
    const share = op.phase === 'recompute' ? 0 : op.name === 'attentionBackward' ? WITHOUT_SCORES : 1;
    const most = peak.flops(op.dtype);
    known &&= most !== null;
    sums.hardwareFlops += op.flops;
    sums.modelFlops += share * op.flops;
    sums.hardware += op.flops / (most ?? 1);
    sums.model += (share * op.flops) / (most ?? 1);
  }
  return {
    device,
    peak: peak.name,
    modelFlops: sums.modelFlops / seconds,
    hardwareFlops: sums.hardwareFlops / seconds,
    mfu: known ? sums.model / seconds : null,
    hfu: known ? sums.hardware / seconds : null,
  };
}
