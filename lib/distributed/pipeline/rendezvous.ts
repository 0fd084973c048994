// Whether a plan comes to its end where nothing is buffered: each rank does one step after another, and a step of SENDs and RECVs is
// over when each partner has come to the step with the other end. Transports that buffer, and ranks that go on while messages travel,
// only wait less.
import { InternalError, ValueError } from '../../errors.js';
import { type Action, formatAction, isCommunication, isCompute, partnerOf } from './action.js';
import { inputOf, type Places } from './dependencies.js';
import type { Schedule } from './schedule.js';

/** @throws ValueError that tells which ranks wait for each other, and in which actions */
export function checkProgress(schedule: Schedule, places: Places): void {
  // the step that each rank is at: no other state is needed
  const at = schedule.steps.map(() => 0);
  const waits = (action: Action): number | null => waitsFor(schedule, places, at, action);
  for (let moved = true; moved; ) {
    moved = false;
    for (const [rank, steps] of schedule.steps.entries()) {
      while (at[rank]! < steps.length && steps[at[rank]!]!.every((action) => waits(action) === null)) {
        at[rank]!++;
        moved = true;
      }
    }
  }
  const stuck = schedule.steps.findIndex((steps, rank) => at[rank]! < steps.length);
  if (stuck === -1) return;
  const chain: { rank: number; wait: string }[] = [];
  for (let rank = stuck; ; ) {
    const start = chain.findIndex((link) => link.rank === rank);
    if (start !== -1) {
      const ring = chain.slice(start);
      throw new ValueError(`schedule ${schedule.name} would never end: rank ${rank} ${ring.map(({ wait }) => wait).join(', which ')}`);
    }
    const action = schedule.steps[rank]![at[rank]!]!.find((each) => waits(each) !== null);
    if (!action) throw new InternalError(`schedule ${schedule.name}: rank ${rank} waits for nothing`);
    const next = waits(action)!;
    chain.push({ rank, wait: `waits in ${formatAction(action)} for rank ${next}` });
    rank = next;
  }
}

/** The rank that an action of the step at hand waits for; null: none. */
function waitsFor(schedule: Schedule, places: Places, at: readonly number[], action: Action): number | null {
  if (isCommunication(action)) {
    const { rank, step } = places.get(partnerOf(action))!;
    return at[rank]! < step ? rank : null;
  }
  // with messages, what comes from other ranks is waited for there
  const input = isCompute(action) && !schedule.communicates ? inputOf(schedule, action) : null;
  if (!input) return null;
  const { rank, step } = places.get(input)!;
  return at[rank]! <= step && rank !== schedule.rankOf(action.stage) ? rank : null;
}
