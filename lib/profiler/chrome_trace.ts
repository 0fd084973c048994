// The Trace Event Format (Google, 2016): one process a rank; its threads are JavaScript's, further ones for what overlaps there, and each device's
// streams. Arrows lead from a call to the command that carries it out.
import type { CommandEvent, OpEvent, SpanEvent } from './events.js';
import type { Profile } from './profile.js';

/** What `shardgrad trace merge` reads of each trace besides its events. */
export interface TraceHeader {
  readonly rank: number;
  readonly worldSize: number;
  readonly host: string;
  /** Microseconds: where 0 of the trace is on the host's clock, and on the wall clock. */
  readonly origin: number;
  readonly wallOrigin: number;
}

export interface TraceFile {
  readonly displayTimeUnit: 'ms';
  readonly shardgrad: TraceHeader;
  readonly traceEvents: readonly TraceEvent[];
}

export interface TraceEvent {
  readonly ph: 'X' | 's' | 'f' | 'C' | 'M';
  readonly name: string;
  readonly pid: number;
  readonly tid?: number;
  readonly ts?: number;
  readonly dur?: number;
  readonly cat?: string;
  readonly id?: string;
  readonly bp?: 'e';
  readonly args?: Readonly<Record<string, unknown>>;
}

const HOST = 1;
/** Of streams; below it are lanes of the host. */
const FIRST_STREAM = 1000;
/** Of two events that begin together the longer one contains the other. */
const SLACK = 1e-3;

const rounded = (us: number): number => Math.round(us * 1000) / 1000;

type HostEvent = OpEvent | SpanEvent;

/** Lanes in which events lie in each other or beside each other: a viewer shows no others on one thread. Waits have lanes of their own. */
function lanesOf(events: readonly HostEvent[]): HostEvent[][] {
  const lanes: { events: HostEvent[]; open: HostEvent[]; waits: boolean }[] = [{ events: [], open: [], waits: false }];
  for (const event of [...events].sort((a, b) => a.begin - b.begin || b.end - a.end)) {
    const waits = event.kind === 'wait';
    let lane = lanes.find((l) => {
      if (l.waits !== waits) return false;
      while (l.open.length > 0 && l.open.at(-1)!.end <= event.begin + SLACK) l.open.pop();
      return l.open.length === 0 || event.end <= l.open.at(-1)!.end + SLACK;
    });
    if (!lane) {
      lane = { events: [], open: [], waits };
      lanes.push(lane);
    }
    lane.open.push(event);
    lane.events.push(event);
  }
  return lanes.map((l) => l.events);
}

function opArgs(op: OpEvent): Record<string, unknown> {
  return {
    ...(op.module ? { module: op.module } : {}),
    phase: op.phase,
    tensors: op.tensors,
    bytes: op.bytes,
    ...(op.flops > 0 ? { flops: op.flops } : {}),
    ...(op.collective ?? {}),
  };
}

function commandArgs(command: CommandEvent): Record<string, unknown> {
  const { op, number, begin, end } = command;
  const seconds = (end - begin) * 1e-6;
  const rate = op && op.flops > 0 && seconds > 0 ? { gflops: rounded(op.flops / seconds / 1e9) } : {};
  return { number, ...(op ? opArgs(op) : {}), ...rate, timed: command.timedByDevice ? 'on the device' : 'by the thread that ran it' };
}

/** The whole trace as JSON. */
export function chromeTrace(profile: Profile): string {
  const { rank: pid, begin: origin, recorder } = profile;
  const out: TraceEvent[] = [{ ph: 'M', name: 'process_name', pid, args: { name: `rank ${pid}` } }];
  out.push({ ph: 'M', name: 'process_sort_index', pid, args: { sort_index: pid } });
  const thread = (tid: number, name: string): void => {
    out.push({ ph: 'M', name: 'thread_name', pid, tid, args: { name } });
    out.push({ ph: 'M', name: 'thread_sort_index', pid, tid, args: { sort_index: tid } });
  };
  const place = (tid: number, e: { begin: number; end: number }) => ({ pid, tid, ts: rounded(e.begin - origin), dur: rounded(Math.max(0, e.end - e.begin)) });

  const tidOf = new Map<HostEvent, number>();
  lanesOf([...profile.spans, ...profile.ops]).forEach((lane, i) => {
    thread(HOST + i, i === 0 ? 'host' : lane[0]?.kind === 'wait' ? `host: waits${i > 1 ? ` ${i}` : ''}` : `host: interleaved ${i}`);
    for (const event of lane) {
      tidOf.set(event, HOST + i);
      out.push({ ph: 'X', name: event.name, cat: event.kind, ...place(HOST + i, event), ...(event.kind === 'op' ? { args: opArgs(event) } : {}) });
    }
  });

  const streams = new Map<string, number>();
  const names = [...new Set(profile.commands.map((c) => `${c.device} ${c.stream}`))].sort((a, b) => a.localeCompare(b, 'en', { numeric: true }));
  for (const [i, name] of names.entries()) {
    // computing above communicating
    streams.set(name, FIRST_STREAM + i);
    thread(FIRST_STREAM + i, name);
  }
  for (const command of profile.commands) {
    const tid = streams.get(`${command.device} ${command.stream}`)!;
    out.push({ ph: 'X', name: command.op?.name ?? command.name, cat: command.stream, ...place(tid, command), args: commandArgs(command) });
    if (!command.op) continue;
    const flow = { name: 'runs', cat: 'flow', id: `${pid} ${command.device} ${command.stream} ${command.number}`, pid };
    out.push({ ph: 's', ...flow, tid: tidOf.get(command.op)!, ts: rounded(command.op.begin - origin) });
    out.push({ ph: 'f', bp: 'e', ...flow, tid, ts: rounded(command.begin - origin) });
  }

  const last = new Map<string, string>();
  for (const op of profile.ops) {
    const args = { live: op.liveBytes, reserved: op.reservedBytes };
    const now = `${args.live} ${args.reserved}`;
    if (last.get(op.device) === now) continue;
    last.set(op.device, now);
    out.push({ ph: 'C', name: `memory of ${op.device} (bytes)`, pid, ts: rounded(op.end - origin), args });
  }

  const wallOrigin = origin + profile.recorder.wallOffset;
  const header: TraceHeader = { rank: pid, worldSize: recorder.worldSize, host: recorder.host, origin: rounded(origin), wallOrigin: rounded(wallOrigin) };
  return textOf({ displayTimeUnit: 'ms', shardgrad: header, traceEvents: out });
}

/** A line an event. */
export function textOf({ traceEvents, ...rest }: Omit<TraceFile, 'shardgrad'> & { shardgrad?: unknown }): string {
  const head = JSON.stringify(rest).slice(0, -1);
  return `${head},"traceEvents":[\n${traceEvents.map((e) => JSON.stringify(e)).join(',\n')}\n]}\n`;
}
