// A plan as text: a line a rank, time to the right. An action is as wide as it is long; the shortest one has room for its name.
import { type Action, formatAction, isCompute } from './action.js';
import { labelsOf, trim } from './captions.js';
import type { Schedule } from './schedule.js';
import type { Simulation, TimedAction } from './simulate_schedule.js';

export interface DrawOptions {
  /** Characters a line may have; unlimited unless given. */
  readonly columns?: number;
  /** Whether kinds have colours, by ANSI escapes; false. */
  readonly colours?: boolean;
  /** An action that gets a cross. */
  readonly mark?: Action;
}

const COLOURS = { F: '\x1b[30;44m', B: '\x1b[30;42m', I: '\x1b[30;46m', W: '\x1b[30;43m' } as const;
const RESET = '\x1b[0m';
const IDLE = '·';

/** The grid of ranks and time, and a line about what was cut away, if anything was. */
export function drawSchedule(schedule: Schedule, { makespan, ranks }: Simulation, options: DrawOptions = {}): string {
  const computing = ranks.map(({ actions }) => actions.filter(({ action }) => isCompute(action)));
  const shortest = Math.min(...computing.flat().map(({ start, end }) => end - start));
  const name = labelsOf(schedule);
  const marked = options.mark && formatAction(options.mark);
  const label = (timed: TimedAction): string => (formatAction(timed.action) === marked ? `✗${name(timed)}` : name(timed));
  const width = Math.max(...computing.flat().map((timed) => label(timed).length)) + 1;
  const place = (time: number): number => Math.round((time / shortest) * width);
  const titles = ranks.map((_, rank) => `rank ${rank} `.padEnd(`rank ${ranks.length - 1} `.length));
  const room = Math.max((options.columns ?? Number.POSITIVE_INFINITY) - titles[0]!.length, 2 * width);
  const lines = computing.map((actions, rank) => titles[rank]! + row(actions, place, label, Math.min(place(makespan), room), width, options.colours ?? false));
  const cut = place(makespan) > room ? `(cut after time ${trim((room / width) * shortest)} of ${trim(makespan)}: the terminal has no room for more)\n` : '';
  return `${lines.join('\n')}\n${cut}`;
}

type Place = (time: number) => number;

function row(actions: readonly TimedAction[], place: Place, label: (timed: TimedAction) => string, columns: number, width: number, colours: boolean): string {
  let line = '';
  let at = 0;
  // dots that stand one below the other in all rows
  const idle = (to: number): void => {
    for (; at < to; at++) line += at % width === 0 ? IDLE : ' ';
  };
  for (const timed of actions) {
    if (place(timed.start) >= columns) break;
    idle(place(timed.start));
    const end = Math.min(place(timed.end), columns);
    const long = end - at >= 2 * width ? '─'.repeat(end - at - 1 - label(timed).length) : '';
    const cell = `${label(timed)}${long}`.slice(0, end - at - 1).padEnd(end - at - 1);
    line += colours ? `${COLOURS[timed.action.kind as keyof typeof COLOURS]}${cell}${RESET} ` : `${cell} `;
    at = end;
  }
  idle(columns);
  return line.trimEnd();
}
