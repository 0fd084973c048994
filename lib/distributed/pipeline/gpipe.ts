// GPipe (Huang et al. 2019): all forwards, then all backwards. It keeps the activations of every micro-batch, and is the schedule to
// compare others with.
import { Schedule } from './schedule.js';
import { checkSizes, checkStagesPerRank, compute, count, type ScheduleSizes } from './sizes.js';

export function gpipe(sizes: ScheduleSizes): Schedule {
  checkSizes('gpipe', sizes);
  checkStagesPerRank('gpipe', sizes);
  const { ranks, microBatches: m } = sizes;
  return new Schedule(
    'gpipe',
    count(ranks, (rank) => [...count(m, (i) => compute(rank, 'F', i)), ...count(m, (i) => compute(rank, 'B', i))]),
  );
}
