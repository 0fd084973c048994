// The words and numbers that drawings of plans have in common.
import type { Schedule } from './schedule.js';
import type { Simulation, TimedAction } from './simulate_schedule.js';

/** One line: sizes, bubble, peak. */
export function titleOf({ name, ranks, stages, microBatches }: Schedule, { bubble, spanBubble, ranks: times }: Simulation): string {
  const own = Math.abs(bubble - spanBubble) > 1e-9 ? ` (${percent(spanBubble)} where steps follow without a barrier)` : '';
  const most = Math.max(...times.map(({ peakActivations }) => peakActivations));
  const placed = stages === ranks ? `${ranks} stages` : `${stages} stages on ${ranks} ranks`;
  return `${name}: ${placed}, ${microBatches} micro-batches, bubble ${percent(bubble)}${own}, at most ${most} activations kept`;
}

export function percent(share: number): string {
  return `${(Math.max(share, 0) * 100).toFixed(1)} %`;
}

/** With several stages a rank, names begin with the stage. */
export function labelsOf(schedule: Schedule): (timed: TimedAction) => string {
  const several = schedule.stages > schedule.ranks;
  return ({ action }) => `${several ? action.stage : ''}${action.kind}${action.microBatch}`;
}

/** At most three digits after the point. */
export function trim(value: number): string {
  return String(Number(value.toFixed(3)));
}
