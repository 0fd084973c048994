// init: from the environment a launcher gives to a group of all ranks.
import { type Device, type DeviceLike, device as deviceNamed } from '../device.js';
import { DistributedError } from '../errors.js';
import { detectLaunch, type ExplicitLaunch, type RankLaunch } from './environment.js';
import { forgetRecording, recorderOf } from './flight.js';
import type { ProcessGroup } from './process_group.js';
import { meet, type Rendezvous } from './rendezvous.js';
import type { Store } from './store.js';
import { segmentName, sharedWorld } from './transport.js';

export interface InitOptions extends ExplicitLaunch {
  /** How long a collective, and the wait for all ranks here, may last. Default 10 minutes, or SHARDGRAD_TIMEOUT_MS. */
  timeoutMs?: number;
  /** Default `cpu`. */
  device?: DeviceLike;
}

/** What one rank knows of its job. */
export interface Job {
  readonly rank: number;
  readonly worldSize: number;
  readonly localRank: number;
  /** How often the launcher has started the whole job again. */
  readonly restartCount: number;
  readonly device: Device;
  /** The group of all ranks. */
  readonly world: ProcessGroup;
  /** The job's key-value store; null for a rank that was started alone. */
  readonly store: Store | null;
  /** Waits for this rank's collectives and leaves the job. */
  close(): Promise<void>;
}

/**
 * Joins the job that this process was started for: by `shardgrad run`, torchrun, Slurm, Open MPI or Kubernetes. Alone, a job of one.
 * @throws DistributedError when the environment is ambiguous, a rank does not come in time, or ranks are on several hosts
 */
export async function init(options: InitOptions = {}): Promise<Job> {
  const launch = detectLaunch(process.env, options);
  if (launch.level === 'node') {
    throw new DistributedError(
      `dist.init: ${launch.launcher} has started one process for this node; let it start "shardgrad run" there, which starts the ranks`,
    );
  }
  const timeoutMs = options.timeoutMs ?? timeoutFromEnvironment();
  const device = deviceNamed(options.device ?? 'cpu');
  if (launch.worldSize === 1) {
    const world = sharedWorld(segmentName(), { rank: 0, size: 1, device, timeoutMs });
    world.seal();
    return job(launch, device, world, null);
  }
  if (launch.localWorldSize !== launch.worldSize) {
    throw new DistributedError(
      `dist.init: ${launch.worldSize} ranks, ${launch.localWorldSize} of them on this host: groups work over shared memory, within one host`,
    );
  }
  const met = await meet(launch, process.env, { timeoutMs });
  return job(launch, device, await joinWorld(launch, device, met.store, timeoutMs), met);
}

/** Rank 0 makes the memory and tells its name; when all have it, the name goes. */
async function joinWorld(launch: RankLaunch, device: Device, store: Store, timeoutMs: number): Promise<ProcessGroup> {
  const { rank, worldSize: size } = launch;
  const segment = rank === 0 ? segmentName() : String(await store.get('world/segment', { timeoutMs }));
  const world = sharedWorld(segment, { rank, size, device, timeoutMs, recorder: recorderOf(launch, process.env) });
  if (rank === 0) await store.set('world/segment', segment);
  if ((await store.add('world/joined')) === size) await store.set('world/complete', '1');
  await store.wait('world/complete', { timeoutMs });
  world.seal();
  return world;
}

function job(launch: RankLaunch, device: Device, world: ProcessGroup, met: Rendezvous | null): Job {
  return {
    rank: launch.rank,
    worldSize: launch.worldSize,
    localRank: launch.localRank,
    restartCount: launch.restartCount,
    device,
    world,
    store: met?.store ?? null,
    async close() {
      await world.close();
      forgetRecording(launch, process.env);
      if (met?.server) {
        // the others still say good-bye to the store that lives here
        await met.store.wait(Array.from({ length: launch.worldSize - 1 }, (_, r) => `world/left/${r + 1}`));
        met.store.close();
        await met.server.close();
      } else if (met) {
        await met.store.set(`world/left/${launch.rank}`, '1');
        met.store.close();
      }
    },
  };
}

function timeoutFromEnvironment(): number {
  const text = process.env['SHARDGRAD_TIMEOUT_MS'];
  if (text === undefined || text === '') return 600_000;
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1) throw new DistributedError(`SHARDGRAD_TIMEOUT_MS must be a whole number of milliseconds, got "${text}"`);
  return value;
}
