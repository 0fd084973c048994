// Interleaved 1F1B (Narayanan et al. 2021): rank r has the stages r, p + r, 2p + r… A group of micro-batches goes through a rank's first
// stage, then through its second, and so on, which divides the bubble by the number of stages a rank and sends as many times more.
import { ValueError } from '../../errors.js';
import { Schedule } from './schedule.js';
import { alternate, checkSizes, compute, count, type ScheduleSizes } from './sizes.js';

export function interleaved(sizes: ScheduleSizes): Schedule {
  checkSizes('interleaved', sizes);
  const { ranks, microBatches: m, stagesPerRank: v = 2 } = sizes;
  const group = groupSize(sizes);
  const groups = count(Math.ceil(m / group), (g) => count(Math.min(group, m - g * group), (i) => g * group + i));
  const of = (kind: 'F' | 'B', stages: readonly number[]) =>
    groups.flatMap((microBatches) => stages.flatMap((stage) => microBatches.map((i) => compute(stage, kind, i))));
  return new Schedule(
    'interleaved',
    count(ranks, (rank) => {
      const stages = count(v, (chunk) => chunk * ranks + rank);
      // the last rank is through with its first group when it has taken it through all stages but one; each rank before it, two later
      const warmUp = Math.min(m * v, (v - 1) * group + 2 * (ranks - 1 - rank));
      return alternate(of('F', stages), of('B', stages.toReversed()), warmUp);
    }),
  );
}

/** Unless given, the smallest size from p that divides the micro-batches into equal groups of as near to p as that goes. */
function groupSize({ ranks, microBatches: m, microBatchesPerGroup: group }: ScheduleSizes): number {
  if (group === undefined) {
    const rounds = Math.floor(m / ranks);
    if (m % rounds !== 0) {
      throw new ValueError(
        `schedule interleaved: ${m} micro-batches on ${ranks} ranks go in ${rounds} rounds, and ${m} is no multiple of that; take ${m - (m % ranks)} or ${m - (m % ranks) + ranks} micro-batches, or give microBatchesPerGroup`,
      );
    }
    return m / rounds;
  }
  if (group < ranks || group > m)
    throw new ValueError(`schedule interleaved: microBatchesPerGroup must be from ${ranks}, the ranks, to ${m}, the micro-batches, not ${group}`);
  const rest = m % group;
  if (rest !== 0 && rest < ranks) {
    throw new ValueError(
      `schedule interleaved: groups of ${group} of ${m} micro-batches leave a last one of ${rest}, fewer than the ${ranks} ranks; it would have to be 0 or at least ${ranks}`,
    );
  }
  return group;
}
