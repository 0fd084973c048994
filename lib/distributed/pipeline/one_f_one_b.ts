// 1F1B (Narayanan et al. 2019, PipeDream-Flush): as many forwards as there are ranks behind this one, then a forward and a backward in
// turn. Its bubble is GPipe's, but rank r keeps the activations of at most p − r micro-batches.
import { Schedule } from './schedule.js';
import { alternate, checkSizes, checkStagesPerRank, compute, count, type ScheduleSizes } from './sizes.js';

export function oneForwardOneBackward(sizes: ScheduleSizes): Schedule {
  checkSizes('1f1b', sizes);
  checkStagesPerRank('1f1b', sizes);
  const { ranks, microBatches: m } = sizes;
  const of = (rank: number, kind: 'F' | 'B') => count(m, (i) => compute(rank, kind, i));
  return new Schedule(
    '1f1b',
    count(ranks, (rank) => alternate(of(rank, 'F'), of(rank, 'B'), ranks - 1 - rank)),
  );
}
