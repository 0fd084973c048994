// Puts what a runtime needs into a plan that has computing alone: SENDs and RECVs, and what fully sharded stages add. The plan is run on
// paper; when an output is made, its SEND and, on the other rank, its RECV are appended, before the action which that rank is then
// busy with, so the message travels meanwhile. All ranks take messages out of one order of all of them, so none can wait in a ring.
import { ValueError } from '../../errors.js';
import { type Action, type CommunicationAction, type ComputeAction, isCompute, partnerOf, peerStage } from './action.js';
import { Schedule } from './schedule.js';
import { type ShardingOptions, type Surrounded, surroundings } from './sharding_actions.js';
import { type ScheduleCosts, simulateSchedule } from './simulate_schedule.js';

/** Options of `lowerSchedule`. */
export interface LowerOptions extends ShardingOptions {
  /** What decides which messages come first; F 1, B 2, I 1, W 1 unless given. The same on all ranks. */
  readonly costs?: ScheduleCosts;
}

/**
 * A plan with SENDs and RECVs between stages of different ranks, UNSHARD and RESHARD of sharded stages, and REDUCE_GRAD. Messages that
 * are ready at the same time, as the output and the gradient that neighbours exchange in the steady state of 1F1B, make one step.
 * A plan may have its own UNSHARD, RESHARD and REDUCE_GRAD; they stay where they are.
 * @throws ValueError for a plan that is not valid, that has SENDs and RECVs, or that has what the options ask to add
 */
export function lowerSchedule(schedule: Schedule, options: LowerOptions = {}): Schedule {
  if (schedule.communicates) throw new ValueError(`lowerSchedule: schedule ${schedule.name} has SENDs and RECVs already, and runs as it is`);
  const { ranks } = simulateSchedule(schedule, { costs: options.costs });
  const around = surroundings(schedule, options);
  const plan: (Action | null)[][] = schedule.actions.map(() => []);
  const post = (send: CommunicationAction): void => {
    const receive = partnerOf(send);
    plan[schedule.rankOf(send.stage)]!.push(send);
    plan[schedule.rankOf(receive.stage)]!.push(receive);
  };
  const events = ranks
    .flatMap(({ actions }, rank) => actions.filter(({ action }) => isCompute(action)).map(({ end }, index) => ({ end, rank, index })))
    .sort((a, b) => a.end - b.end || a.rank - b.rank);
  for (let first = 0; first < events.length; ) {
    let last = first;
    while (last < events.length && events[last]!.end === events[first]!.end) last++;
    const made = new Map(events.slice(first, last).map(({ rank, index }) => [rank, around[rank]![index]!]));
    // what is ready later is another step
    for (const actions of plan) actions.push(null);
    const { order, early } = orderOf(schedule, made);
    for (const rank of order) {
      const { before, action, after } = made.get(rank)!;
      plan[rank]!.push(...before, action, ...after);
      if (early.has(rank)) post(sendOf(schedule, action)!);
    }
    for (const actions of plan) actions.push(null);
    for (const [rank, { action }] of made) {
      const send = sendOf(schedule, action);
      if (send && !early.has(rank)) post(send);
    }
    first = last;
  }
  return new Schedule(schedule.name, plan, { trains: schedule.trains });
}

/**
 * In which order to append the actions of several ranks that end together. A message whose receiver's action ends at the same time too is
 * received before that action (`early` are the ranks that send so), unless both ranks send to each other, which is one step for each,
 * or the ranks would make a ring.
 */
function orderOf(schedule: Schedule, made: ReadonlyMap<number, Surrounded>): { order: number[]; early: Set<number> } {
  const receiver = new Map<number, number>();
  for (const [rank, { action }] of made) {
    const send = sendOf(schedule, action);
    if (send) receiver.set(rank, schedule.rankOf(peerStage(send)));
  }
  const early = new Set<number>();
  // each rank sends to one other at most, so what follows from it is a chain
  const leadsBack = (rank: number): boolean => {
    for (let at = receiver.get(rank)!; ; at = receiver.get(at)!) {
      if (at === rank) return true;
      if (!early.has(at)) return false;
    }
  };
  for (const [rank, to] of receiver) if (receiver.get(to) !== rank && !leadsBack(rank)) early.add(rank);
  const order: number[] = [];
  const append = (rank: number): void => {
    if (order.includes(rank)) return;
    for (const [from, to] of receiver) if (to === rank && early.has(from)) append(from);
    order.push(rank);
  };
  for (const rank of made.keys()) append(rank);
  return { order, early };
}

/** The message that an action's result goes to another rank by; null where it stays. */
function sendOf(schedule: Schedule, { stage, kind, microBatch }: ComputeAction): CommunicationAction | null {
  if (kind === 'F') return stage < schedule.stages - 1 && schedule.crosses(stage) ? { stage, kind: 'SEND_F', microBatch } : null;
  return kind !== 'W' && stage > 0 && schedule.crosses(stage - 1) ? { stage, kind: 'SEND_B', microBatch } : null;
}
