// ZB-H1 (Qi et al. 2023, Zero Bubble Pipeline Parallelism): 1F1B whose backward is in two. Ranks pass on the gradient of the input at
// once and put off those of the weights, rank r by r micro-batches, to fill the end: a third of 1F1B's bubble where F, I and W take
// equally long, with the activations of 1F1B's first rank on every rank.
import { Schedule } from './schedule.js';
import { checkSizes, checkStagesPerRank, compute, count, mergeBackwards, type ScheduleSizes } from './sizes.js';

export function zeroBubbleH1(sizes: ScheduleSizes): Schedule {
  checkSizes('zb-h1', sizes);
  checkStagesPerRank('zb-h1', sizes);
  const { ranks, microBatches: m } = sizes;
  return new Schedule(
    'zb-h1',
    count(ranks, (rank) => {
      const warmUp = ranks - 1 - rank;
      const actions = count(warmUp, (i) => compute(rank, 'F', i));
      for (let i = 0; i < m; i++) {
        if (warmUp + i < m) actions.push(compute(rank, 'F', warmUp + i));
        actions.push(compute(rank, 'I', i));
        if (i >= rank) actions.push(compute(rank, 'W', i - rank));
      }
      actions.push(...count(rank, (i) => compute(rank, 'W', m - rank + i)));
      return mergeBackwards(actions, (stage) => stage > 0);
    }),
  );
}
