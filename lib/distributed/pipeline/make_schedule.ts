// Schedules by name.
import { describe, ValueError } from '../../errors.js';
import { gpipe } from './gpipe.js';
import { interleaved } from './interleaved.js';
import { oneForwardOneBackward } from './one_f_one_b.js';
import type { Schedule } from './schedule.js';
import type { ScheduleSizes } from './sizes.js';
import { zbv } from './zbv.js';
import { zeroBubbleH1 } from './zero_bubble_h1.js';

const GENERATORS = { gpipe, '1f1b': oneForwardOneBackward, interleaved, 'zb-h1': zeroBubbleH1, zbv };

/** A schedule that `makeSchedule` knows. */
export type ScheduleName = keyof typeof GENERATORS;

/** All schedules that `makeSchedule` knows. */
export const SCHEDULE_NAMES = Object.keys(GENERATORS) as readonly ScheduleName[];

/**
 * Makes the plan of a pipeline: what each rank computes, in its order, without communication (`lowerSchedule` puts that in).
 * @param name 'gpipe' (Huang et al. 2019), '1f1b' (Narayanan et al. 2019), 'interleaved' (Narayanan et al. 2021), 'zb-h1' (Qi et al.
 * 2023) or 'zbv' (Qi et al. 2024)
 * @throws ValueError for sizes that the schedule does not take, as fewer micro-batches than ranks
 */
export function makeSchedule(name: ScheduleName, sizes: ScheduleSizes): Schedule {
  if (typeof name !== 'string' || !Object.hasOwn(GENERATORS, name))
    throw new ValueError(`makeSchedule: there is no schedule ${describe(name)}; there are: ${SCHEDULE_NAMES.join(', ')}`);
  return GENERATORS[name](sizes);
}
