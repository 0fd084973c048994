// How many activations a rank keeps. It follows from the order of its actions alone, not from what they cost.
import { describe, ValueError } from '../../errors.js';
import { isCompute } from './action.js';
import type { Schedule } from './schedule.js';

/** Bytes that one micro-batch of a stage keeps; an array has one for each stage. */
export interface StageBytes {
  /** From its F until its B, or its I. */
  readonly activations: number | readonly number[];
  /** From its I until its W: inputs of layers and gradients of their outputs; as much as `activations` unless given. */
  readonly deferred?: number | readonly number[];
}

/** The most that a rank keeps at a time. What is left for a W counts as a whole activation, since layers' inputs are needed until then. */
export function peakMemory(schedule: Schedule, rank: number, bytes: StageBytes | null): { peakActivations: number; peakBytes: number | null } {
  const activations = bytes && listed(schedule, bytes.activations, 'activations');
  const deferred = bytes && listed(schedule, bytes.deferred ?? bytes.activations, 'deferred');
  let [kept, keptBytes, peakActivations, peakBytes] = [0, 0, 0, 0];
  for (const action of schedule.actions[rank]!) {
    if (!isCompute(action)) continue;
    const [full, left] = [activations?.[action.stage] ?? 0, deferred?.[action.stage] ?? 0];
    kept += { F: 1, B: -1, I: 0, W: -1 }[action.kind];
    keptBytes += { F: full, B: -full, I: left - full, W: -left }[action.kind];
    peakActivations = Math.max(peakActivations, kept);
    peakBytes = Math.max(peakBytes, keptBytes);
  }
  return { peakActivations, peakBytes: bytes ? peakBytes : null };
}

function listed({ name, stages }: Schedule, given: number | readonly number[], what: string): readonly number[] {
  const list = typeof given === 'number' ? Array.from({ length: stages }, () => given) : given;
  if (list.length !== stages) throw new ValueError(`bytes.${what} has ${list.length} numbers for the ${stages} stages of schedule ${name}`);
  const wrong = list.find((each) => !(each >= 0 && Number.isFinite(each)));
  if (wrong !== undefined) throw new ValueError(`bytes.${what} must be numbers from 0, not ${describe(wrong)}`);
  return list;
}
