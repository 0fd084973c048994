// Who is to blame when a rank ends ill: a rank that fails in a collective mostly fails for another's sake, and may well be gone first.
import { setTimeout as sleep } from 'node:timers/promises';
import { flightFile } from '../flight.js';
import type { RankProcess } from './rank_process.js';

/** How long a rank that others blame may take to end. */
const GRACE_MS = 1000;

export interface Cause {
  readonly process: RankProcess;
  /** What is to be said of one that others blame and that has not failed itself; begins with a comma. */
  readonly note: string;
}

/**
 * Follows the blame from the rank that ended first to the one it failed for.
 * @param flights the folder of the ranks' flight recorders, in which each says whom it blames; null: there are none
 */
export async function causeOf(first: RankProcess, ranks: readonly RankProcess[], flights: string | null, attempt: number): Promise<Cause> {
  const seen = new Set<number>();
  let process = first;
  for (;;) {
    seen.add(process.rank);
    const blamed = flights === null ? -1 : await blamedBy(flightFile(flights, attempt, process.rank));
    if (blamed < 0 || seen.has(blamed)) return { process, note: '' };
    const next = ranks.find(({ rank }) => rank === blamed);
    if (!next) {
      // the launcher over there knows more; give it time to say so
      await sleep(GRACE_MS);
      return { process, note: `, because of rank ${blamed} on another host` };
    }
    const code = await Promise.race([next.exited, sleep(GRACE_MS, null)]);
    if (code === null) return { process, note: `, because of rank ${blamed}, whose process is still there` };
    if (code === 0) return { process, note: `, because of rank ${blamed}, which had ended with exit code 0` };
    process = next;
  }
}

async function blamedBy(recording: string): Promise<number> {
  try {
    // the launcher itself runs without the addon
    const { native } = await import('../../native.js');
    return native.readRecorder(recording).blames;
  } catch {
    return -1;
  }
}
