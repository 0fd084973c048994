// Profiles of steps, in the spirit of torch.profiler: a Profiler is told when a step ends, and records those that its schedule names. A profile begins
// and ends with idle devices, so every command of its steps is in it and none of others; no step in between waits for anything.
import { hostname } from 'node:os';
import { openDevices, synchronize, synchronizeSync } from '../device.js';
import { detectLaunch } from '../distributed/environment.js';
import { hostIdentity } from '../distributed/host_identity.js';
import { describe, ValueError } from '../errors.js';
import { checkInteger } from '../numbers.js';
import { Profile, type Recorder } from './profile.js';
import { type Recorded, Recording } from './recording.js';
import { type Phase, type Schedule, schedule } from './schedule.js';

/** Options of Profiler. */
export interface ProfilerOptions {
  /** Default: everything between start and stop is one profile. */
  schedule?: Schedule;
  /** Called with each profile of a schedule; what it returns is waited for. */
  onTraceReady?: (profile: Profile) => unknown;
}

function recorder(now: number): Recorder {
  const launch = detectLaunch(process.env);
  const [rank, worldSize] = launch.level === 'rank' ? [launch.rank, launch.worldSize] : [0, 1];
  return { rank, worldSize, host: `${hostname()} ${hostIdentity()}`, wallOffset: 1000 * Date.now() - now };
}

/** One profile in the making, with its steps; devices are to be idle when it begins and ends. */
export class Capture {
  private readonly recording: Recording;
  private stepBegan: number;

  /** `step` is the number of the first one. */
  constructor(
    private step: number,
    afterOp: (() => void) | null = null,
  ) {
    this.recording = new Recording(afterOp);
    this.stepBegan = this.recording.now();
  }
  endStep(): void {
    this.recording.span('step', `step ${this.step++}`, this.stepBegan);
    this.stepBegan = this.recording.now();
  }
  /** Ends it without a profile. */
  abandon(): void {
    this.recording.stop();
  }
  finish(): Profile {
    const now = this.recording.now();
    const recorded: Recorded = this.recording.stop();
    return new Profile(recorded, recorder(now));
  }
}

/** Waits on the host; for places that cannot await. */
export function idleSync(): void {
  for (const d of openDevices()) synchronizeSync(d);
}
async function idle(): Promise<void> {
  for (const d of openDevices()) await synchronize(d);
}

/**
 * Records what a training does: every operation with its module, shapes, bytes and FLOPs, what ran on each stream when, and memory.
 *
 *     const p = new profiler.Profiler({ schedule: profiler.schedule({ wait: 1, warmup: 1, active: 3, repeat: 1 }), onTraceReady });
 *     await p.start();
 *     for (const batch of batches) { train(batch); await p.step(); }
 *     await p.stop();
 *
 * One is recorded at a time in a process.
 */
export class Profiler {
  /** The profile made last. */
  profile: Profile | null = null;
  private readonly phaseOf: Schedule | null;
  private readonly onTraceReady: (profile: Profile) => unknown;
  private capture: Capture | null = null;
  private phase: Phase = 'none';
  private stepNumber = 0;
  private started = false;

  constructor(options: ProfilerOptions = {}) {
    const { schedule: phaseOf, onTraceReady } = options ?? {};
    if (phaseOf !== undefined && typeof phaseOf !== 'function')
      throw new ValueError(`Profiler: schedule must be a function, as profiler.schedule makes, got ${describe(phaseOf)}`);
    if (onTraceReady !== undefined && typeof onTraceReady !== 'function')
      throw new ValueError(`Profiler: onTraceReady must be a function, got ${describe(onTraceReady)}`);
    this.phaseOf = phaseOf ?? null;
    this.onTraceReady = onTraceReady ?? (() => {});
  }

  /** Begins with step 0. Waits for what was enqueued before, where it is to be recorded. */
  async start(): Promise<void> {
    if (this.started) throw new ValueError('Profiler.start: it was started before; stop() comes first');
    this.started = true;
    this.stepNumber = 0;
    await this.enter(this.phaseOf ? this.phaseOf(0) : 'record');
  }

  /** A step has ended and the next one begins. Waits for the devices only where recording begins or ends. */
  async step(): Promise<void> {
    if (!this.started) throw new ValueError('Profiler.step: start() comes first');
    this.capture?.endStep();
    this.stepNumber++;
    if (this.phase === 'recordAndSave') await this.save();
    if (this.phaseOf) await this.enter(this.phaseOf(this.stepNumber));
  }

  /** Ends; without a schedule, makes the profile. One of a schedule whose steps have not all come is thrown away. */
  async stop(): Promise<void> {
    if (!this.started) throw new ValueError('Profiler.stop: start() comes first');
    this.started = false;
    if (!this.phaseOf && this.capture) await this.save();
    this.abandon();
  }

  /** Throws away what is being recorded. */
  abandon(): void {
    this.capture?.abandon();
    this.capture = null;
    this.phase = 'none';
    this.started = false;
  }

  private async enter(phase: Phase): Promise<void> {
    const [before, records] = [this.phase, phase === 'record' || phase === 'recordAndSave'];
    this.phase = phase;
    if (phase === before || (records && before === 'record')) return;
    // what was recorded to warm up is thrown away
    this.capture?.abandon();
    this.capture = null;
    if (phase === 'none') return;
    await idle();
    this.capture = new Capture(this.stepNumber);
  }

  private async save(): Promise<void> {
    try {
      await idle();
    } catch (error) {
      this.abandon();
      throw error;
    }
    const capture = this.capture!;
    this.capture = null;
    this.phase = 'none';
    this.profile = capture.finish();
    await this.onTraceReady(this.profile);
  }
}

/** Options of `profile`. */
export interface ProfileOptions {
  /** Calls of `fn` before those that are recorded. Default 0. */
  warmup?: number;
  /** Calls that are recorded, each a step. Default 1. */
  active?: number;
}

/**
 * Calls `fn`, a step, `warmup` + `active` times and records the last `active` ones. `fn` may be asynchronous.
 * @returns the profile; its `summary()` is text, `saveChromeTrace(path)` writes a trace for Perfetto
 * @throws what `fn` throws; ValueError where another profile is being recorded
 */
export async function profile(fn: () => unknown, { warmup = 0, active = 1 }: ProfileOptions = {}): Promise<Profile> {
  if (typeof fn !== 'function') throw new ValueError(`profiler.profile: expected a function, got ${describe(fn)}`);
  checkInteger(warmup, 'warmup', 'profiler.profile', 0);
  checkInteger(active, 'active', 'profiler.profile', 1);
  const profiler = new Profiler({ schedule: schedule({ warmup, active, repeat: 1 }) });
  await profiler.start();
  try {
    for (let step = 0; step < warmup + active; step++) {
      await fn();
      await profiler.step();
    }
  } finally {
    profiler.abandon();
  }
  return profiler.profile!;
}
