// What a schedule is made for, and the checks that all generators share.
import { describe, ValueError } from '../../errors.js';
import { type Action, type ComputeKind, isCompute } from './action.js';

/** What `makeSchedule` makes a plan for. */
export interface ScheduleSizes {
  /** Ranks of the pipeline. */
  readonly ranks: number;
  /** Into how many a batch is cut; at least as many as there are ranks. */
  readonly microBatches: number;
  /** Stages on each rank: 1 for 'gpipe', '1f1b' and 'zb-h1', 2 for 'zbv', 2 unless given for 'interleaved'. */
  readonly stagesPerRank?: number;
  /** 'interleaved' alone: how many micro-batches a rank takes through one stage before it goes to its next one. */
  readonly microBatchesPerGroup?: number;
}

/** @throws ValueError unless the sizes are whole numbers from 1, and there are enough micro-batches to fill the pipeline */
export function checkSizes(name: string, sizes: ScheduleSizes): void {
  for (const key of ['ranks', 'microBatches', 'stagesPerRank', 'microBatchesPerGroup'] as const) {
    const value = sizes[key];
    if (value === undefined && (key === 'stagesPerRank' || key === 'microBatchesPerGroup')) continue;
    if (!Number.isSafeInteger(value) || value! < 1) throw new ValueError(`schedule ${name}: ${key} must be a whole number from 1, not ${describe(value)}`);
  }
  const { ranks, microBatches } = sizes;
  if (microBatches < ranks) {
    const what = sizes.stagesPerRank === undefined || sizes.stagesPerRank === 1 ? 'stages' : 'ranks';
    throw new ValueError(
      `schedule ${name}: ${microBatches} micro-batches are fewer than the ${ranks} ${what}, which would never all have work at a time; cut the batch into ${ranks} or more micro-batches, or make fewer ${what}`,
    );
  }
}

/** @throws ValueError where sizes ask for another number of stages a rank than the schedule has, or for groups that it does not know */
export function checkStagesPerRank(name: string, sizes: ScheduleSizes, has = 1): void {
  const { stagesPerRank = has, microBatchesPerGroup } = sizes;
  if (stagesPerRank !== has) {
    const other = has === 1 ? 'interleaved and zbv have several' : 'interleaved takes any number';
    throw new ValueError(`schedule ${name} has ${has} ${has === 1 ? 'stage' : 'stages'} a rank, not ${stagesPerRank}; ${other}`);
  }
  if (microBatchesPerGroup !== undefined) throw new ValueError(`schedule ${name}: microBatchesPerGroup is an option of interleaved alone`);
}

export function compute(stage: number, kind: ComputeKind, microBatch: number): Action {
  return { stage, kind, microBatch };
}

/** Makes an action for each index from 0. */
export function count<T>(n: number, make: (i: number) => T): T[] {
  return Array.from({ length: n }, (_, i) => make(i));
}

/** `warmUp` forwards, then a forward and a backward in turn, then the backwards that are left. */
export function alternate(forwards: readonly Action[], backwards: readonly Action[], warmUp: number): Action[] {
  const pairs = forwards.slice(warmUp).flatMap((forward, i) => [forward, backwards[i]!]);
  return [...forwards.slice(0, warmUp), ...pairs, ...backwards.slice(forwards.length - warmUp)];
}

/**
 * Makes one B of an I whose W follows at once. It is done where the gradient of the input goes to no other rank, which would have to
 * wait for the weights' gradients too.
 * @param leaves whether a stage's gradient goes to another rank
 */
export function mergeBackwards(actions: readonly Action[], leaves: (stage: number) => boolean): Action[] {
  const merged: Action[] = [];
  for (const action of actions) {
    const last = merged.at(-1);
    if (
      action.kind === 'W' &&
      last?.kind === 'I' &&
      isCompute(last) &&
      last.stage === action.stage &&
      last.microBatch === action.microBatch &&
      !leaves(action.stage)
    ) {
      merged[merged.length - 1] = compute(last.stage, 'B', last.microBatch);
    } else merged.push(action);
  }
  return merged;
}
