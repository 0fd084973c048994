// `shardgrad debug dump`: reads the flight recorders of a run, here and through the store on the other hosts.
import { parseArgs } from 'node:util';
import { DistributedError, ShardgradError } from '../../errors.js';
import type { Recording } from '../../native.js';
import { type RankRecording, showRecordings } from '../dump.js';
import { attemptsIn, flightFolder, isAlive, type JobAddress, readJobAddress, recordingsIn, runsHere } from '../flight.js';
import { Store } from '../store.js';
import { UsageError } from './options.js';

export const DEBUG_HELP = `shardgrad debug dump <run> [options]

Prints what the ranks of a run do, or did before they failed: their last collectives side by side. <run> is the job's name, which
shardgrad run prints when it starts.

  --last N       rows of each process group (20)
  --attempt N    an earlier start of a job that was started again
  --json         all that was recorded, as JSON
`;

/** How long the launchers of the other hosts have to send their recordings. */
const ANSWER_TIMEOUT_MS = 5000;

export async function debug(args: readonly string[]): Promise<number> {
  const [command, ...rest] = args;
  if (command === undefined || command === '--help' || command === '-h') {
    process.stdout.write(DEBUG_HELP);
    return command === undefined ? 2 : 0;
  }
  if (command !== 'dump') throw new UsageError(`unknown command ${command}; there is: dump`);
  const { values, positionals } = parse(rest);
  if (values.help) {
    process.stdout.write(DEBUG_HELP);
    return 0;
  }
  const known = runsHere();
  const there = known.length === 0 ? 'this host has no recordings' : `there are recordings of: ${known.join(', ')}`;
  if (positionals.length !== 1) throw new UsageError(`give one run; ${there}`);
  const last = wholeNumber(values.last ?? '20', '--last');
  const folder = flightFolder(positionals[0]!);
  const attempts = attemptsIn(folder);
  const attempt = values.attempt === undefined ? attempts.at(-1) : wholeNumber(values.attempt, '--attempt');
  if (attempt === undefined) throw new UsageError(`run ${positionals[0]} has left no recordings on this host; ${there}`);
  if (!attempts.includes(attempt)) throw new UsageError(`there is no start ${attempt} of run ${positionals[0]}; there are ${attempts.join(', ')}`);
  const { recordings, complaints } = await gather(folder, attempt);
  for (const complaint of complaints) process.stderr.write(`shardgrad debug: ${complaint}\n`);
  process.stdout.write(values.json ? `${JSON.stringify(recordings, null, 1)}\n` : showRecordings(recordings, { last }));
  return 0;
}

function parse(args: readonly string[]) {
  try {
    const options = { last: { type: 'string' }, attempt: { type: 'string' }, json: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } } as const;
    return parseArgs({ args: [...args], allowPositionals: true, options });
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

function wholeNumber(text: string, option: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new UsageError(`${option} must be a whole number, got "${text}"`);
  return Number(text);
}

async function gather(folder: string, attempt: number): Promise<{ recordings: RankRecording[]; complaints: string[] }> {
  const complaints: string[] = [];
  const recordings: RankRecording[] = (await readAll(folder, attempt, complaints)).map((r) => ({ ...r, alive: isAlive(r.process) }));
  const job = readJobAddress(folder);
  const absent = (): number[] => Array.from({ length: job?.worldSize ?? 0 }, (_, r) => r).filter((r) => recordings.every((found) => found.rank !== r));
  if (job && job.nnodes > 1) recordings.push(...(await askOthers(job, absent(), attempt, complaints)));
  const missing = absent();
  if (missing.length > 0) complaints.push(`no recording of rank ${missing.join(', ')}`);
  return { recordings, complaints };
}

/** The recordings on this host. */
export async function readAll(folder: string, attempt: number, complaints: string[]): Promise<Recording[]> {
  // the launcher and its command line start without the addon
  const { native } = await import('../../native.js');
  return recordingsIn(folder, attempt).flatMap((file) => {
    try {
      return [native.readRecorder(file)];
    } catch (error) {
      complaints.push((error as Error).message);
      return [];
    }
  });
}

async function askOthers(job: JobAddress, ranks: readonly number[], attempt: number, complaints: string[]): Promise<RankRecording[]> {
  let store: Store | null = null;
  try {
    store = await Store.connect({ host: job.storeHost, port: job.storePort, token: job.token, timeoutMs: ANSWER_TIMEOUT_MS });
    const asked = dumpKeys(store, job.runId);
    const number = await asked.add('asked');
    await asked.set(`question/${number}`, String(attempt));
    const answers = await Promise.allSettled(ranks.map((r) => asked.get(`answer/${number}/${r}`, { timeoutMs: ANSWER_TIMEOUT_MS })));
    return answers.flatMap((a) => (a.status === 'fulfilled' ? [{ ...(JSON.parse(String(a.value)) as Recording), alive: null }] : []));
  } catch (error) {
    if (!(error instanceof ShardgradError)) throw error;
    complaints.push(`the other hosts cannot be asked: ${error.message}`);
    return [];
  } finally {
    store?.close();
  }
}

function dumpKeys(store: Store, runId: string): Store {
  return store.prefix('dumps').prefix(runId);
}

/** For a launcher: answers those who ask for the recordings of this host, until the store goes. */
export async function answer(store: Store, runId: string, folder: string): Promise<void> {
  const asked = dumpKeys(store, runId);
  try {
    for (let number = 1; ; number++) {
      const attempt = Number(String(await asked.get(`question/${number}`, { timeoutMs: Infinity })));
      for (const recording of await readAll(folder, attempt, [])) await asked.set(`answer/${number}/${recording.rank}`, JSON.stringify(recording));
    }
  } catch (error) {
    if (!(error instanceof DistributedError)) throw error;
  }
}
