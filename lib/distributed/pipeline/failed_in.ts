// Where a step has failed: the action, and the plan with its cell marked, behind the message of the error.
import { type Action, formatAction, isCommunication, isCompute } from './action.js';
import { inputOf } from './dependencies.js';
import { drawSchedule } from './draw.js';
import type { Schedule } from './schedule.js';
import { simulateSchedule } from './simulate_schedule.js';

/** Adds to an error what a rank was doing. */
export function failedIn(error: unknown, schedule: Schedule, rank: number, action: Action): unknown {
  if (!(error instanceof Error)) return error;
  // a message has no cell of its own: what makes it has
  const cell = isCommunication(action) ? inputOf(schedule, action) : isCompute(action) ? action : null;
  const grid = drawSchedule(schedule, simulateSchedule(schedule), { columns: 118, ...(cell && { mark: cell }) });
  error.message += `\nin ${formatAction(action)} of rank ${rank} along pp${cell ? ', marked ✗ below' : ''} (${schedule.name}, time to the right):\n${grid.trimEnd()}`;
  return error;
}
