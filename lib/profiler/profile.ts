// Profile: what was recorded, and what follows from it.
import { writeFile } from 'node:fs/promises';
import { device } from '../device.js';
import { type Breakdown, breakdownOf } from './breakdown.js';
import { chromeTrace } from './chrome_trace.js';
import type { CommandEvent, OpEvent, ProfilerEvent, SpanEvent } from './events.js';
import { peakOf } from './peaks.js';
import type { Recorded } from './recording.js';
import { type SummaryOptions, summarize } from './summary.js';
import { type Utilization, utilizationOf } from './utilization.js';

/** Bytes at most, as seen after each operation. */
export interface MemoryPeak {
  /** The device: `cpu:0`. */
  readonly device: string;
  /** In live tensors. */
  readonly peakLive: number;
  /** Held from the system. */
  readonly peakReserved: number;
}

/** Who recorded, for traces of several ranks. */
export interface Recorder {
  readonly rank: number;
  readonly worldSize: number;
  /** Equal for processes that share a clock. */
  readonly host: string;
  /** Microseconds of the wall clock minus those of the events' clock. */
  readonly wallOffset: number;
}

/** What was recorded of some steps, and what follows from it. */
export class Profile {
  /** Calls of operations, in their order. */
  readonly ops: readonly OpEvent[];
  /** What ran on the streams, in the order of its end. */
  readonly commands: readonly CommandEvent[];
  /** Modules, ranges, steps and waits of the host. */
  readonly spans: readonly SpanEvent[];
  /** When it began: microseconds, on the clock of all events. */
  readonly begin: number;
  /** When the last command had ended. */
  readonly end: number;
  /** Commands that are missing, since there was no room for them. */
  readonly lost: number;
  /** The rank that recorded; 0 outside of jobs. */
  readonly rank: number;
  /** Who recorded, for traces of several ranks. @internal */
  readonly recorder: Recorder;
  /** Where the time of each device that did something went. */
  readonly breakdowns: readonly Breakdown[];
  /** What of each device's peak the products have used. */
  readonly utilization: readonly Utilization[];
  /** Peaks of each device. */
  readonly memory: readonly MemoryPeak[];

  constructor(recorded: Recorded, recorder: Recorder) {
    const { ops, commands, spans, begin, lost } = recorded;
    this.ops = ops;
    this.commands = commands;
    this.spans = spans;
    this.begin = begin;
    this.lost = lost;
    this.recorder = recorder;
    this.rank = recorder.rank;
    this.end = commands.reduce((last, c) => Math.max(last, c.end), recorded.end);
    const devices = [...new Set([...ops, ...commands].map((e) => e.device))].sort();
    const seconds = (this.end - begin) * 1e-6;
    this.breakdowns = devices.map((name) => breakdownOf(name, commands, [begin, this.end]));
    this.utilization = devices.map((name) => utilizationOf(name, ops, seconds, peakOf(device(name))));
    this.memory = devices.map((name) => {
      const own = ops.filter((op) => op.device === name);
      const most = (of: (op: OpEvent) => number): number => own.reduce((m, op) => Math.max(m, of(op)), 0);
      return { device: name, peakLive: most((op) => op.liveBytes), peakReserved: most((op) => op.reservedBytes) };
    });
  }

  /** Steps that were recorded, at least 1. */
  get steps(): number {
    return Math.max(1, this.spans.filter((s) => s.kind === 'step').length);
  }

  /** All of it, by the time it began. */
  get events(): ProfilerEvent[] {
    return [...this.ops, ...this.commands, ...this.spans].sort((a, b) => a.begin - b.begin);
  }

  /** The longest operations, the shares of computing, communicating, exposed communication, host and idle, MFU and memory, as text. */
  summary(options: SummaryOptions = {}): string {
    return summarize(this, options);
  }

  /** The trace in the Trace Event Format, which Perfetto (ui.perfetto.dev) and chrome://tracing show. */
  chromeTrace(): string {
    return chromeTrace(this);
  }

  /** Writes `chromeTrace()` to a file. */
  async saveChromeTrace(path: string): Promise<void> {
    await writeFile(path, this.chromeTrace());
  }
}
