// Where the time of a device went, in the words of Holistic Trace Analysis (Meta, 2022): at every moment it computes, or it communicates without
// computing (exposed communication), or it does neither, because the host has not yet given it more to do or for another reason.
import { type CommandEvent, isWork } from './events.js';
import { difference, type Interval, length, union } from './intervals.js';

/** Microseconds. compute + exposedCommunication + host + idle = total. */
export interface Breakdown {
  /** The device: `cpu:0`. */
  readonly device: string;
  /** All of the profile's time. */
  readonly total: number;
  /** Time in which the compute stream ran something. */
  readonly compute: number;
  /** All of it, also what ran beside computing. It includes waiting for ranks that come late. */
  readonly communication: number;
  /** Communication while nothing was computed. */
  readonly exposedCommunication: number;
  /** The device had nothing to do: the host had not enqueued what it did next. */
  readonly host: number;
  /** The rest: it had something to do and did not yet, as when streams wait for each other. */
  readonly idle: number;
}

const within = ({ begin, end }: CommandEvent, [from, to]: Interval): Interval => [Math.max(begin, from), Math.min(end, to)];

/** The breakdown of one device's commands over a time. */
export function breakdownOf(device: string, commands: readonly CommandEvent[], time: Interval): Breakdown {
  const work = commands.filter((c) => c.device === device && isWork(c)).sort((a, b) => a.begin - b.begin);
  const of = (stream: string): Interval[] => union(work.filter((c) => c.stream === stream).map((c) => within(c, time)));
  const [compute, communication] = [of('compute'), of('communication')];
  const exposed = difference(communication, compute);
  const gaps = difference([time], union([...compute, ...communication]));
  // what is no operation is a copy that the host asked for: it was enqueued when the gap ended
  let [host, next] = [0, 0];
  for (const [begin, end] of gaps) {
    while (next < work.length && work[next]!.begin < end) next++;
    const enqueued = work[next]?.op?.end ?? end;
    host += Math.min(end, Math.max(begin, enqueued)) - begin;
  }
  const [total, busy] = [time[1] - time[0], length(compute) + length(exposed)];
  return {
    device,
    total,
    compute: length(compute),
    communication: length(communication),
    exposedCommunication: length(exposed),
    host,
    idle: total - busy - host,
  };
}
