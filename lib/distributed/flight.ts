// Where the flight recorders of a job lie: a folder of the user's own for each run, with a file for each rank of each start. The
// launcher makes it and takes it away when all went well; after a failure it stays for `shardgrad debug dump`, until newer ones
// take its place.
import { lstatSync, mkdirSync, readdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import type { Environment, RankLaunch } from './environment.js';

/** Of the recordings of failed runs the newest are kept: so many runs, so many bytes in all, and so long. */
const KEPT_RUNS = 50;
const KEPT_BYTES = 256 * 2 ** 20;
const KEPT_MS = 7 * 24 * 3600 * 1000;
/** Set by our launcher for its ranks; empty where no folder could be made. */
export const FLIGHT_FOLDER = 'SHARDGRAD_FLIGHT_DIR';
const JOB_FILE = 'job.json';

/** How to reach a job that is running. */
export interface JobAddress {
  readonly runId: string;
  readonly worldSize: number;
  readonly nnodes: number;
  readonly storeHost: string;
  readonly storePort: number;
  readonly token: string;
}

function root(): string {
  return join(tmpdir(), `shardgrad-${userInfo().uid}`);
}

/** The folder of a run on this host. */
export function flightFolder(runId: string): string {
  return join(root(), runId.replaceAll(/[^\w.-]/g, '_').replace(/^\.+$/, '_') || '_');
}

/** The recording of a rank within a run's folder. */
export function flightFile(folder: string, attempt: number, rank: number): string {
  return join(folder, `attempt_${attempt}`, `rank_${rank}.flight`);
}

/** Makes the folder; null where that is not possible, or where it might be somebody else's: recorders then stay in memory. */
export function makeFlightFolder(folder: string, attempt: number): string | null {
  try {
    for (const path of [root(), folder, join(folder, `attempt_${attempt}`)]) {
      mkdirSync(path, { recursive: true, mode: 0o700 });
      const info = lstatSync(path);
      if (!info.isDirectory() || info.uid !== userInfo().uid || (info.mode & 0o077) !== 0) return null;
    }
    return folder;
  } catch {
    return null;
  }
}

export function writeJobAddress(folder: string, address: JobAddress): void {
  try {
    writeFileSync(join(folder, JOB_FILE), JSON.stringify(address), { mode: 0o600 });
  } catch {
    // a full disk: the recordings of this host can be shown all the same
  }
}

/** Null when no launcher of ours wrote one. */
export function readJobAddress(folder: string): JobAddress | null {
  try {
    return JSON.parse(readFileSync(join(folder, JOB_FILE), 'utf8')) as JobAddress;
  } catch {
    return null;
  }
}

/**
 * The file of a rank's recorder; empty: memory. Our launcher says the folder; under others a rank makes it, and removes its file
 * when it ends well.
 */
export function recorderOf(launch: RankLaunch, env: Environment): string {
  if (launch.worldSize === 1) return '';
  const given = env[FLIGHT_FOLDER];
  // other launchers call all jobs "none" that were given no name
  const run = launch.runId === 'none' ? `port_${launch.storePorts[0]}` : launch.runId;
  const folder = given === undefined ? makeFlightFolder(flightFolder(run), launch.restartCount) : given;
  return folder ? flightFile(folder, launch.restartCount, launch.rank) : '';
}

/** The starts of a job that left recordings, in order. */
export function attemptsIn(folder: string): number[] {
  return names(folder)
    .map((name) => /^attempt_(\d+)$/.exec(name)?.[1])
    .filter((n) => n !== undefined)
    .map(Number)
    .sort((a, b) => a - b);
}

/** The recordings of one start. */
export function recordingsIn(folder: string, attempt: number): string[] {
  const within = join(folder, `attempt_${attempt}`);
  return names(within)
    .filter((name) => name.endsWith('.flight'))
    .map((name) => join(within, name));
}

/** Runs of this user that left recordings on this host. */
export function runsHere(): string[] {
  return names(root());
}

/** At the end of a rank that ended well: under another launcher its recording and what became empty go. Ours cleans up itself. */
export function forgetRecording(launch: RankLaunch, env: Environment): void {
  const file = recorderOf(launch, env);
  if (file === '' || env[FLIGHT_FOLDER] !== undefined) return;
  rmSync(file, { force: true });
  removeIfEmpty(join(file, '..'));
  removeIfEmpty(join(file, '..', '..'));
}

/** At the end of a job: the recordings of these ranks go, and the folders when they are empty; another launcher of this host may have some there. */
export function removeFlights(folder: string, ranks: readonly number[]): void {
  for (const attempt of attemptsIn(folder)) {
    for (const rank of ranks) rmSync(flightFile(folder, attempt, rank), { force: true });
    removeIfEmpty(join(folder, `attempt_${attempt}`));
  }
  if (attemptsIn(folder).length > 0) return;
  rmSync(join(folder, JOB_FILE), { force: true });
  removeIfEmpty(folder);
}

function removeIfEmpty(folder: string): void {
  try {
    rmdirSync(folder);
  } catch {
    // others are still in it
  }
}

interface Remains {
  readonly folder: string;
  /** Milliseconds of the wall clock. */
  readonly newest: number;
  readonly bytes: number;
}

function remainsOf(run: string): Remains | null {
  const folder = join(root(), run);
  const attempts = attemptsIn(folder);
  try {
    if (!lstatSync(folder).isDirectory()) return null;
    const newest = Math.max(...[folder, ...attempts.map((n) => join(folder, `attempt_${n}`))].map((path) => lstatSync(path).mtimeMs));
    const bytes = attempts.flatMap((n) => recordingsIn(folder, n)).reduce((sum, file) => sum + lstatSync(file).size, 0);
    return { folder, newest, bytes };
  } catch {
    return null; // somebody else was faster
  }
}

/** Takes away what runs have left, but for the newest ones and those that go on. */
export async function pruneFlights(): Promise<void> {
  const runs = runsHere()
    .map(remainsOf)
    .filter((run) => run !== null)
    .sort((a, b) => b.newest - a.newest);
  let bytes = 0;
  for (const [i, run] of runs.entries()) {
    bytes += run.bytes;
    const kept = i === 0 || (i < KEPT_RUNS && bytes <= KEPT_BYTES);
    if (kept && Date.now() - run.newest <= KEPT_MS) continue;
    try {
      if (!(await goesOn(run.folder))) rmSync(run.folder, { recursive: true, force: true });
    } catch {
      // somebody else removes it too
    }
  }
}

/** Whether the process of a rank is there. */
async function goesOn(folder: string): Promise<boolean> {
  // the launcher mostly runs without the addon
  const { native } = await import('../native.js');
  return recordingsIn(folder, attemptsIn(folder).at(-1) ?? 0).some((file) => {
    try {
      return isAlive(native.readRecorder(file).process);
    } catch {
      return false; // of another version
    }
  });
}

export function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

function names(folder: string): string[] {
  try {
    return readdirSync(folder).sort();
  } catch {
    return [];
  }
}
