// Puts what a runtime needs into a plan that has computing alone: SENDs and RECVs, and what fully sharded stages add. The plan is run on
// paper; when an output is made, its SEND and, on the other rank, its RECV are appended, before the action which that rank is then
// busy with, so the message travels meanwhile. All ranks take messages out of one order of all of them, so none can wait in a ring.
import { ValueError } from '../../errors.js';
import { type Action, type CommunicationAction, type ComputeAction, formatAction, isCompute, partnerOf } from './action.js';
import { Schedule } from './schedule.js';
import { addReductions, addSharding, type ShardingOptions } from './sharding_actions.js';
import { type ScheduleCosts, simulateSchedule } from './simulate_schedule.js';

export interface LowerOptions extends ShardingOptions {
  /** What decides which messages come first; F 1, B 2, I 1, W 1 unless given. The same on all ranks. */
  readonly costs?: ScheduleCosts;
}

/**
 * A plan with SENDs and RECVs between stages of different ranks, UNSHARD and RESHARD of sharded stages, and REDUCE_GRAD. Messages that
 * are ready at the same time, as the output and the gradient that neighbours exchange in the steady state of 1F1B, make one step.
 * @throws ValueError for a plan that is not valid, or has more than F, B, I and W
 */
export function lowerSchedule(schedule: Schedule, options: LowerOptions = {}): Schedule {
  const other = schedule.actions.flat().find((action) => !isCompute(action));
  if (other) throw new ValueError(`lowerSchedule: schedule ${schedule.name} has ${formatAction(other)}; communication is put into plans that have none`);
  const { ranks } = simulateSchedule(schedule, { costs: options.costs });
  const around = schedule.actions.map((actions) => addReductions(schedule, addSharding(schedule, actions as readonly ComputeAction[], options), options));
  const plan: (Action | null)[][] = schedule.actions.map(() => []);
  const events = ranks.flatMap(({ actions }, rank) => actions.map(({ end }, index) => ({ end, rank, index }))).sort((a, b) => a.end - b.end || a.rank - b.rank);
  for (let first = 0; first < events.length; ) {
    let last = first;
    while (last < events.length && events[last]!.end === events[first]!.end) last++;
    const made = events.slice(first, last);
    for (const { rank, index } of made) {
      const { before, action, after } = around[rank]![index]!;
      plan[rank]!.push(...before, action, ...after);
    }
    // what is ready later is another step
    for (const actions of plan) if (actions.length > 0) actions.push(null);
    for (const { rank, index } of made) {
      const send = sendOf(schedule, around[rank]![index]!.action);
      if (!send) continue;
      const receive = partnerOf(send);
      plan[rank]!.push(send);
      plan[schedule.rankOf(receive.stage)]!.push(receive);
    }
    first = last;
  }
  return new Schedule(schedule.name, plan, { trains: schedule.trains });
}

/** The message that an action's result goes to another rank by; null where it stays. */
function sendOf(schedule: Schedule, { stage, kind, microBatch }: ComputeAction): CommunicationAction | null {
  if (kind === 'F') return stage < schedule.stages - 1 && schedule.crosses(stage) ? { stage, kind: 'SEND_F', microBatch } : null;
  return kind !== 'W' && stage > 0 && schedule.crosses(stage - 1) ? { stage, kind: 'SEND_B', microBatch } : null;
}
