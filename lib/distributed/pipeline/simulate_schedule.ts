// When each action of a plan would start and end, given what actions cost. Computing and communication of a rank go beside each other:
// a rank posts a step of SENDs and RECVs when it comes to it and goes on; its steps are carried out in their order, each message as soon
// as both ranks have got to it; what computes waits for the message that brings its own input.
import { describe, ValueError } from '../../errors.js';
import { type Action, type CommunicationAction, type ComputeAction, type ComputeKind, formatAction, isCommunication, isCompute, partnerOf } from './action.js';
import { peakMemory, type StageBytes } from './activation_memory.js';
import { inputOf, receiveOf } from './dependencies.js';
import type { Schedule } from './schedule.js';
import { validateSchedule } from './validate.js';

/** Times in any unit; an array has one for each stage. */
export interface ScheduleCosts {
  /** A forward; 1. */
  readonly F?: number | readonly number[];
  /** A whole backward; I and W together, or 2. */
  readonly B?: number | readonly number[];
  /** The gradient of the input; half of B. */
  readonly I?: number | readonly number[];
  /** The gradients of the weights; half of B. */
  readonly W?: number | readonly number[];
  /** A message between two ranks; 0. */
  readonly send?: number;
}

/** An action, and when it is done. */
export interface TimedAction {
  /** What is done. */
  readonly action: Action;
  /** When it begins; of a SEND or RECV, when it is posted. */
  readonly start: number;
  /** When it has ended. */
  readonly end: number;
}

/** What one rank does when. */
export interface RankTimes {
  /** In the order of the plan. UNSHARD, RESHARD and REDUCE_GRAD take no time here. */
  readonly actions: readonly TimedAction[];
  /** Time spent computing. */
  readonly busy: number;
  /** The share of the makespan in which the rank does not compute. */
  readonly bubble: number;
  /** The most activations of one stage and micro-batch that are kept at a time: each from its F until its B, or its W. */
  readonly peakActivations: number;
  /** Given bytes of stages: the most bytes of activations at a time. */
  readonly peakBytes: number | null;
}

/** What `simulateSchedule` finds out. */
export interface Simulation {
  /** From the start of the first action to the end of the last. */
  readonly makespan: number;
  /** The share of all ranks' time in which they do not compute. */
  readonly bubble: number;
  /**
   * The same of the rank that takes longest from its own first action to its own last. This is the rate of the zero-bubble papers: it
   * counts where steps follow one another without a barrier, so that a rank starts the next one when it is through with this one.
   */
  readonly spanBubble: number;
  /** By rank. */
  readonly ranks: readonly RankTimes[];
}

/**
 * Runs a valid plan on paper.
 * @param options.costs of forwards, backwards and messages
 * @param options.bytes of activations, for `peakBytes`
 * @throws ValueError for a plan that `validateSchedule` refuses, or costs that are no positive numbers
 */
export function simulateSchedule(schedule: Schedule, options: { costs?: ScheduleCosts; bytes?: StageBytes } = {}): Simulation {
  validateSchedule(schedule);
  const timed = new Run(schedule, costsOf(schedule, options.costs ?? {}), options.costs?.send ?? 0).times();
  const computing = timed.map((actions) => actions.filter(({ action }) => isCompute(action)));
  const makespan = Math.max(...computing.map((actions) => actions.at(-1)!.end));
  const span = Math.max(...computing.map((actions) => actions.at(-1)!.end - actions[0]!.start));
  const busy = computing.map((actions) => actions.reduce((sum, { start, end }) => sum + end - start, 0));
  const ranks = timed.map((actions, rank) => ({
    actions,
    busy: busy[rank]!,
    bubble: 1 - busy[rank]! / makespan,
    ...peakMemory(schedule, rank, options.bytes ?? null),
  }));
  const mean = busy.reduce((a, b) => a + b) / schedule.ranks;
  return { makespan, bubble: 1 - mean / makespan, spanBubble: 1 - mean / span, ranks };
}

type CostOf = (action: ComputeAction) => number;

function costsOf({ name, stages }: Schedule, costs: ScheduleCosts): CostOf {
  const listed = (kind: ComputeKind): readonly number[] | null => {
    const given = costs[kind];
    if (given === undefined) return null;
    if (Array.isArray(given) && given.length !== stages)
      throw new ValueError(`costs.${kind} has ${given.length} numbers for the ${stages} stages of schedule ${name}`);
    const list = Array.isArray(given) ? given : Array.from({ length: stages }, () => given as number);
    const wrong = list.find((cost) => !(typeof cost === 'number' && cost > 0 && Number.isFinite(cost)));
    if (wrong !== undefined || list.includes(undefined)) throw new ValueError(`costs.${kind} must be positive numbers, not ${describe(wrong)}`);
    return list;
  };
  const send = costs.send ?? 0;
  if (!(send >= 0 && Number.isFinite(send))) throw new ValueError(`costs.send must be a number from 0, not ${describe(send)}`);
  const [F, B, I, W] = [listed('F'), listed('B'), listed('I'), listed('W')];
  const half = (stage: number): number => (B?.[stage] ?? 2) / 2;
  return ({ kind, stage }) => {
    const [i, w] = [I?.[stage] ?? half(stage), W?.[stage] ?? half(stage)];
    return { F: F?.[stage] ?? 1, B: B?.[stage] ?? i + w, I: i, W: w }[kind];
  };
}

/** What a rank has posted and is not through with. */
interface Posted {
  readonly step: readonly CommunicationAction[];
  readonly at: number;
}

class Run {
  private readonly next: number[];
  /** When each rank is through with what it has computed. */
  private readonly free: number[];
  private readonly lanes: Posted[][];
  /** When each rank is through with the steps of messages that have left its lane. */
  private readonly laneFree: number[];
  private readonly ends = new Map<string, number>();
  private readonly starts = new Map<Action, number>();

  constructor(
    private readonly schedule: Schedule,
    private readonly cost: CostOf,
    private readonly send: number,
  ) {
    this.next = schedule.steps.map(() => 0);
    this.free = schedule.steps.map(() => 0);
    this.lanes = schedule.steps.map(() => []);
    this.laneFree = schedule.steps.map(() => 0);
  }

  times(): TimedAction[][] {
    for (let moved = true; moved; ) {
      moved = false;
      for (let rank = 0; rank < this.schedule.ranks; rank++) {
        while (this.advance(rank)) moved = true;
        while (this.exchange(rank)) moved = true;
      }
    }
    return this.schedule.actions.map((actions) =>
      actions.map((action) => ({ action, start: this.starts.get(action)!, end: this.ends.get(formatAction(action))! })),
    );
  }

  /** Does the next step of a rank; false: it cannot yet, or there is none. */
  private advance(rank: number): boolean {
    const step = this.schedule.steps[rank]![this.next[rank]!];
    if (!step) return false;
    const now = this.free[rank]!;
    const [action] = step;
    if (isCompute(action!)) {
      const arrival = this.arrival(action);
      if (arrival === undefined) return false;
      const start = Math.max(now, arrival);
      this.free[rank] = start + this.cost(action);
      this.note(action, start, this.free[rank]!);
    } else if (isCommunication(action!)) {
      this.lanes[rank]!.push({ step: step as readonly CommunicationAction[], at: now });
    } else this.note(action!, now, now);
    this.next[rank]!++;
    return true;
  }

  /** When the input of an action is on its rank; undefined: not known yet. */
  private arrival(action: ComputeAction): number | undefined {
    const input = action.kind === 'W' ? null : inputOf(this.schedule, action);
    const receive = receiveOf(this.schedule, action);
    // what is on the same rank was made before: order has been checked
    if (!input || !receive) return 0;
    if (this.schedule.communicates) return this.ends.get(formatAction(receive));
    const made = this.ends.get(formatAction(input)) ?? this.ends.get(formatAction({ ...input, kind: 'I' }));
    return made === undefined ? undefined : made + this.send;
  }

  /** Carries out what it can of the first step in a rank's lane; false: nothing. */
  private exchange(rank: number): boolean {
    const posted = this.lanes[rank]![0];
    if (!posted) return false;
    const ready = Math.max(posted.at, this.laneFree[rank]!);
    let moved = false;
    for (const action of posted.step) {
      if (this.ends.has(formatAction(action))) continue;
      const partner = partnerOf(action);
      const peer = this.schedule.rankOf(partner.stage);
      const other = this.lanes[peer]![0];
      const there = other?.step.find((each) => formatAction(each) === formatAction(partner));
      if (!other || !there) continue;
      const end = Math.max(ready, other.at, this.laneFree[peer]!) + this.send;
      this.note(action, posted.at, end);
      this.note(there, other.at, end);
      moved = true;
    }
    const ends = posted.step.map((action) => this.ends.get(formatAction(action)));
    if (ends.includes(undefined)) return moved;
    this.laneFree[rank] = Math.max(...(ends as number[]));
    this.lanes[rank]!.shift();
    return true;
  }

  private note(action: Action, start: number, end: number): void {
    this.starts.set(action, start);
    this.ends.set(formatAction(action), end);
  }
}
