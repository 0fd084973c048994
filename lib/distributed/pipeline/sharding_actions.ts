// Where fully sharded stages gather and free their parameters, and where gradients are summed over data-parallel ranks.
import { describe, ValueError } from '../../errors.js';
import { type Action, type ComputeAction, formatAction, isCompute, type ShardingKind } from './action.js';
import type { Schedule } from './schedule.js';

export interface ShardingOptions {
  /** Which stages are fully sharded, all or by stage: they get UNSHARD, RESHARD and REDUCE_GRAD; none. */
  readonly sharded?: boolean | readonly boolean[];
  /** Whether stages that are not sharded get a REDUCE_GRAD too, as replicas of data parallelism need; false. */
  readonly reduceGradients?: boolean;
  /** How many sharded stages of a rank may be gathered at a time, one of them for what is computed; 3, as in PyTorch. */
  readonly maxUnsharded?: number;
}

/** A compute action and what comes right before and after it on its rank. */
export interface Surrounded {
  readonly action: ComputeAction;
  readonly before: readonly Action[];
  readonly after: readonly Action[];
}

/** By rank: its compute actions with what surrounds them, as the plan has it or the options ask for it. */
export function surroundings(schedule: Schedule, options: ShardingOptions): Surrounded[][] {
  const own = schedule.actions.flat().find((action) => !isCompute(action));
  if (!own) return schedule.actions.map((actions) => addReductions(schedule, addSharding(schedule, actions.filter(isCompute), options), options));
  if (options.reduceGradients || options.sharded === true || (Array.isArray(options.sharded) && options.sharded.includes(true))) {
    throw new ValueError(
      `lowerSchedule: schedule ${schedule.name} has ${formatAction(own)} of its own; take such actions out of it, or leave out sharded and reduceGradients`,
    );
  }
  return schedule.actions.map((actions) => {
    const surrounded: { action: ComputeAction; before: Action[]; after: Action[] }[] = [];
    const before: Action[] = [];
    for (const action of actions) {
      if (isCompute(action)) surrounded.push({ action, before: before.splice(0), after: [] });
      else before.push(action);
    }
    surrounded.at(-1)!.after.push(...before);
    return surrounded;
  });
}

/** Gathers the stages that a rank computes next, as many as may be gathered at a time, and frees those that are not among them. */
function addSharding(schedule: Schedule, actions: readonly ComputeAction[], options: ShardingOptions): Surrounded[] {
  const { maxUnsharded = 3 } = options;
  if (!Number.isSafeInteger(maxUnsharded) || maxUnsharded < 1)
    throw new ValueError(`lowerSchedule: maxUnsharded must be a whole number from 1, not ${describe(maxUnsharded)}`);
  const isSharded = shardedStages(schedule, options);
  const atMost = Math.min(maxUnsharded, new Set(actions.map(({ stage }) => stage).filter(isSharded)).size);
  const whole = new Set<number>();
  const surrounded = actions.map((action, i) => {
    const next = nextStages(actions, i, isSharded, atMost);
    const before: Action[] = [];
    for (const stage of whole) if (!next.has(stage)) before.push(of(stage, 'RESHARD'));
    for (const { stage } of before) whole.delete(stage);
    for (const stage of next) {
      if (!whole.has(stage)) before.push(of(stage, 'UNSHARD'));
      whole.add(stage);
    }
    return { action, before, after: [] as Action[] };
  });
  surrounded.at(-1)!.after.push(...[...whole].map((stage) => of(stage, 'RESHARD')));
  return surrounded;
}

/** Sums a stage's gradients after its last B or W. The last I is not enough: the weights' gradients are not there yet. */
function addReductions(schedule: Schedule, surrounded: readonly Surrounded[], options: ShardingOptions): Surrounded[] {
  const isSharded = shardedStages(schedule, options);
  const last = new Map<number, ComputeAction>();
  for (const { action } of surrounded) if (action.kind === 'B' || action.kind === 'W') last.set(action.stage, action);
  const reduces = (stage: number): boolean => isSharded(stage) || (options.reduceGradients ?? false);
  return surrounded.map((each) => {
    const { action, after } = each;
    return reduces(action.stage) && last.get(action.stage) === action ? { ...each, after: [of(action.stage, 'REDUCE_GRAD'), ...after] } : each;
  });
}

function of(stage: number, kind: ShardingKind): Action {
  return { stage, kind, microBatch: null };
}

/** The first sharded stages that are computed from an action on. */
function nextStages(actions: readonly ComputeAction[], from: number, isSharded: (stage: number) => boolean, atMost: number): Set<number> {
  const next = new Set<number>();
  for (let i = from; i < actions.length && next.size < atMost; i++) {
    if (isSharded(actions[i]!.stage)) next.add(actions[i]!.stage);
  }
  return next;
}

function shardedStages({ name, stages }: Schedule, { sharded = false }: ShardingOptions): (stage: number) => boolean {
  if (typeof sharded === 'boolean') return () => sharded;
  if (sharded.length !== stages) throw new ValueError(`lowerSchedule: sharded has ${sharded.length} values for the ${stages} stages of schedule ${name}`);
  return (stage) => sharded[stage]!;
}
