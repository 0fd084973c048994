// One trace of all ranks. Ranks of a host have one clock. Clocks of hosts have nothing in common but the wall clock's approximation, so hosts are put
// where the collectives that their ranks have both taken part in ended at the same time: all ranks leave one within a message's travel.
import { ShardgradError } from '../errors.js';
import { type TraceEvent, type TraceFile, type TraceHeader, textOf } from './chrome_trace.js';

export interface MergedTrace {
  /** The trace as JSON. */
  readonly text: string;
  readonly ranks: readonly number[];
  /** How each host's clock was found, in the order of the ranks. */
  readonly hosts: readonly HostClock[];
}

export interface HostClock {
  readonly host: string;
  readonly ranks: readonly number[];
  /** Collectives in common with hosts before it; 0: by the wall clock alone. The first host's clock counts. */
  readonly collectives: number;
  /** Half of the ends of those lie within so many microseconds of each other, once aligned. */
  readonly spread: number;
}

/** Of collectives in which nobody leaves before all have come. */
const MEETINGS: ReadonlySet<string> = new Set(['allReduce', 'allGather', 'reduceScatter', 'allToAll', 'barrier']);

/** The trace in a text that `saveChromeTrace` or `shardgrad run --profile` wrote. @throws ShardgradError for anything else */
export function parseTrace(text: string, where: string): TraceFile {
  let trace: Partial<TraceFile> | null = null;
  try {
    trace = JSON.parse(text) as Partial<TraceFile>;
  } catch (error) {
    throw new ShardgradError(`${where}: ${(error as Error).message}`);
  }
  const header = trace?.shardgrad as Partial<TraceHeader> | undefined;
  const whole = Array.isArray(trace?.traceEvents) && typeof header?.host === 'string' && [header.rank, header.origin, header.wallOrigin].every(Number.isFinite);
  if (!whole) throw new ShardgradError(`${where}: it is not a trace of one rank that shardgrad has written`);
  return trace as TraceFile;
}

/** Ends of collectives on the host's clock, by what all ranks call them. */
function meetingsOf({ shardgrad, traceEvents }: TraceFile): Map<string, number> {
  const ends = new Map<string, number>();
  for (const e of traceEvents) {
    if (e.ph !== 'X' || e.cat !== 'communication' || !MEETINGS.has(e.name) || !e.args?.['sequence']) continue;
    ends.set(`${e.args['group']} ${e.args['sequence']}`, shardgrad.origin + e.ts! + e.dur!);
  }
  return ends;
}

const median = (sorted: readonly number[]): number => sorted[Math.floor(sorted.length / 2)]!;

/** Puts the traces of ranks into one, a process a rank. */
export function mergeTraces(traces: readonly TraceFile[]): MergedTrace {
  const ordered = [...traces].sort((a, b) => a.shardgrad.rank - b.shardgrad.rank);
  const ranks = ordered.map((t) => t.shardgrad.rank);
  const twice = ranks.find((rank, i) => ranks.indexOf(rank) !== i);
  if (ordered.length === 0) throw new ShardgradError('trace merge: there are no traces');
  if (twice !== undefined) throw new ShardgradError(`trace merge: there are two traces of rank ${twice}`);

  const first = ordered[0]!.shardgrad;
  /** Ends of collectives so far, on the first host's clock. */
  const known = new Map<string, number>();
  const offsets = new Map<string, number>();
  const hosts: HostClock[] = [];
  for (const host of new Set(ordered.map((t) => t.shardgrad.host))) {
    const own = ordered.filter((t) => t.shardgrad.host === host);
    const ends = own.flatMap((t) => [...meetingsOf(t)]);
    const differences = ends.flatMap(([call, end]) => (known.has(call) ? [known.get(call)! - end] : [])).sort((a, b) => a - b);
    const { origin, wallOrigin } = own[0]!.shardgrad;
    const byWall = wallOrigin - origin - (first.wallOrigin - first.origin);
    const offset = host === first.host ? 0 : differences.length > 0 ? median(differences) : byWall;
    const errors = differences.map((d) => Math.abs(d - offset)).sort((a, b) => a - b);
    hosts.push({ host, ranks: own.map((t) => t.shardgrad.rank), collectives: differences.length, spread: errors.length > 0 ? median(errors) : 0 });
    offsets.set(host, offset);
    for (const [call, end] of ends) if (!known.has(call)) known.set(call, end + offset);
  }

  const originOf = ({ host, origin }: TraceHeader): number => origin + offsets.get(host)!;
  const start = Math.min(...ordered.map((t) => originOf(t.shardgrad)));
  const events = ordered.flatMap(({ shardgrad, traceEvents }) => {
    const shift = originOf(shardgrad) - start;
    return traceEvents.map((e): TraceEvent => (e.ts === undefined ? e : { ...e, ts: Math.round((e.ts + shift) * 1000) / 1000 }));
  });
  return { text: textOf({ displayTimeUnit: 'ms', traceEvents: events }), ranks, hosts };
}
