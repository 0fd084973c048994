// ZBV (Qi et al. 2024, Pipeline Parallelism with Controllable Memory): rank r has the stages r and 2p − 1 − r, so a micro-batch goes down
// the ranks and comes back up, and its backward starts where its forward did. No rank waits between its first action and its last where
// F, I and W take equally long, with the activations of 1F1B's first rank.
import type { Action, ComputeKind } from './action.js';
import { Schedule } from './schedule.js';
import { checkSizes, checkStagesPerRank, compute, count, mergeBackwards, type ScheduleSizes } from './sizes.js';

export function zbv(sizes: ScheduleSizes): Schedule {
  checkSizes('zbv', sizes);
  checkStagesPerRank('zbv', sizes, 2);
  const { ranks, microBatches } = sizes;
  return new Schedule(
    'zbv',
    count(ranks, (rank) => mergeBackwards(orderOf(rank, ranks, microBatches), (stage) => stage > 0 && stage !== ranks)),
  );
}

function orderOf(rank: number, ranks: number, microBatches: number): Action[] {
  // the pattern needs 2p − 1 micro-batches to close; of fewer, those that do not exist are left out of it
  const m = Math.max(2 * ranks - 1, microBatches);
  const down = rank;
  const up = 2 * ranks - 1 - rank;
  const done = new Map<string, number>();
  const actions: Action[] = [];
  const progress = (stage: number, kind: ComputeKind): number => done.get(kind + stage) ?? 0;
  /** The next micro-batch of each of these, unless it was the last. */
  const next = (stage: number, ...kinds: ComputeKind[]): void => {
    for (const kind of kinds) {
      const i = progress(stage, kind);
      if (i === m) continue;
      done.set(kind + stage, i + 1);
      if (i < microBatches) actions.push(compute(stage, kind, i));
    }
  };
  const repeat = (times: number, fn: () => void): void => {
    for (let i = 0; i < times; i++) fn();
  };

  // forwards until the first micro-batch is back
  repeat(2 * (ranks - rank) - 1, () => next(down, 'F'));
  repeat(rank, () => {
    next(up, 'F');
    next(down, 'F');
  });
  repeat(ranks - rank, () => next(up, 'F', 'I', 'W'));
  // a forward and a whole backward of each stage in turn
  while (progress(up, 'F') < m) {
    next(down, 'F', 'I', 'W');
    next(up, 'F', 'I', 'W');
  }
  // gradients of inputs first, for the ranks that wait for them
  repeat(rank, () => {
    next(down, 'I');
    next(up, 'I');
  });
  repeat(ranks - rank, () => next(down, 'I', 'W'));
  repeat(m, () => next(up, 'W'));
  repeat(m, () => next(down, 'W'));
  return actions;
}
