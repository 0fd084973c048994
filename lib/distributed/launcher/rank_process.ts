// One rank: a process with a session of its own, so that a signal reaches all it has started and a terminal's Ctrl-C reaches it only
// through the launcher. When it ends, what it has left behind in its group is killed.
import { type ChildProcess, spawn } from 'node:child_process';
import { constants } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Keeper } from './keeper.js';
import { LogFile, RankOutput, type Terminal } from './output.js';
import type { Program } from './script.js';

/** How long output may still come after the process has ended, from one that left its group and kept the pipe. */
const OUTPUT_GRACE_MS = 1000;

/** How a rank ended. */
export interface RankEnd {
  readonly rank: number;
  /** 0: as it should. Killed by a signal: 128 + its number, as shells have it. */
  readonly exitCode: number;
  /** `exit code 3`, `killed by SIGKILL`, `could not be started: …`. */
  readonly how: string;
  /** Its last lines on standard error. */
  readonly tail: readonly string[];
}

export interface RankStart {
  readonly rank: number;
  readonly program: Program;
  readonly env: NodeJS.ProcessEnv;
  /** Where stdout.log and stderr.log go; null: nowhere. */
  readonly logFolder: string | null;
  readonly out: Terminal;
  readonly err: Terminal;
  readonly keeper: Keeper;
}

export class RankProcess {
  readonly rank: number;
  /** Resolves with the exit code as soon as the process is gone, before its last output has arrived. */
  readonly exited: Promise<number>;
  /** Resolves when the process is gone and its output complete. */
  readonly ended: Promise<RankEnd>;
  private readonly child: ChildProcess;
  private alive = true;

  constructor(start: RankStart) {
    const { rank, program, env, logFolder, keeper } = start;
    this.rank = rank;
    const child = spawn(program.file, program.args, { env, detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
    this.child = child;
    const { pid } = child;
    if (pid !== undefined) keeper.add(pid);
    const log = (name: string): LogFile | null => {
      const incomplete = (why: string): unknown => start.err.write(`shardgrad run: ${name} of rank ${rank} is incomplete: ${why}\n`);
      return logFolder === null ? null : new LogFile(join(logFolder, name), incomplete);
    };
    const out = new RankOutput(child.stdout, start.out, rank, log('stdout.log'));
    const err = new RankOutput(child.stderr, start.err, rank, log('stderr.log'));
    let failure: string | null = null;
    this.exited = new Promise((resolve) => {
      const gone = (): void => {
        if (!this.alive) return;
        this.alive = false;
        if (pid !== undefined) {
          killGroup(pid, 'SIGKILL');
          keeper.remove(pid);
        }
        resolve(describeEnd(failure, child.exitCode, child.signalCode).exitCode);
      };
      child.once('exit', gone);
      child.once('error', (error: NodeJS.ErrnoException) => {
        failure = error.code === 'ENOENT' ? `there is no command ${program.file}` : error.message;
        gone();
      });
    });
    const closed = new Promise<void>((resolve) => child.once('close', () => resolve()));
    this.ended = this.exited.then(async () => {
      do {
        await Promise.race([closed, sleep(OUTPUT_GRACE_MS, null, { ref: false })]);
      } while (out.held || err.held);
      child.stdout.destroy();
      child.stderr.destroy();
      out.finish();
      err.finish();
      return { rank, ...describeEnd(failure, child.exitCode, child.signalCode), tail: err.tail };
    });
  }

  /** Sends a signal to the process and all in its group. */
  signal(name: NodeJS.Signals): void {
    if (this.alive && this.child.pid !== undefined) killGroup(this.child.pid, name);
  }
}

/** Sends a signal to a whole process group; one that is gone needs none. */
function killGroup(group: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-group, signal);
  } catch (error) {
    // EPERM: macOS says so of a group whose processes have all ended
    if (!['ESRCH', 'EPERM'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
  }
}

/** The exit code that stands for the end by a signal. */
export function codeOfSignal(signal: NodeJS.Signals): number {
  return 128 + constants.signals[signal];
}

function describeEnd(failure: string | null, code: number | null, signal: NodeJS.Signals | null): { exitCode: number; how: string } {
  if (failure !== null) return { exitCode: 127, how: `could not be started: ${failure}` };
  if (signal !== null) return { exitCode: codeOfSignal(signal), how: `killed by ${signal}` };
  return { exitCode: code ?? 1, how: `exit code ${code ?? 1}` };
}
