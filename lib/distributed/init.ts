// init: from the environment a launcher gives to a group of all ranks.
import { deviceCount } from '../cuda.js';
import { type Device, type DeviceLike, device as deviceNamed } from '../device.js';
import { DistributedError } from '../errors.js';
import { detectLaunch, type ExplicitLaunch, type RankLaunch } from './environment.js';
import { keepErrorFile } from './error_file.js';
import { forgetRecording, pruneFlights, recorderOf } from './flight.js';
import { chooseBackend, startNccl } from './nccl.js';
import type { ProcessGroup } from './process_group.js';
import { meet, type Rendezvous } from './rendezvous.js';
import { segmentName } from './segment_name.js';
import type { Store } from './store.js';
import { type Backend, sharedWorld } from './transport.js';
import { joinWorld, type ReachOptions, type World } from './world.js';

/** What `init` may be told in place of the environment. */
export interface InitOptions extends ExplicitLaunch, ReachOptions {
  /** How long a collective, and the wait for all ranks here, may last. Default 10 minutes, or SHARDGRAD_TIMEOUT_MS. */
  timeoutMs?: number;
  /** Default `cpu`. `cuda` without a number is the GPU of this rank: by its place on the host, or the only one it sees. */
  device?: DeviceLike;
  /**
   * What moves the tensors: `nccl` for GPUs and `cpu` for the CPU unless given. `staged` takes those of GPUs by way of the host's memory, so
   * that it needs no NCCL and ranks may share a GPU (SHARDGRAD_SHARE_GPUS=1).
   */
  backend?: Backend;
}

/** How long the rank that keeps the store waits for those that do not say good-bye. */
const FAREWELL_MS = 30_000;

/** What one rank knows of its job. */
export interface Job {
  /** This rank, from 0. */
  readonly rank: number;
  /** Ranks of the job. */
  readonly worldSize: number;
  /** This rank among those of its node. */
  readonly localRank: number;
  /** How often the launcher has started the whole job again. */
  readonly restartCount: number;
  /** Where this rank computes. */
  readonly device: Device;
  /** The group of all ranks. */
  readonly world: ProcessGroup;
  /** The job's key-value store; null for a rank that was started alone. */
  readonly store: Store | null;
  /** Waits for this rank's collectives and leaves the job. Called again, it waits for the same. */
  close(): Promise<void>;
}

/**
 * Joins the job that this process was started for: by `shardgrad run`, torchrun, Slurm, Open MPI or Kubernetes. Alone, a job of one.
 * @throws DistributedError when the environment is ambiguous, a rank does not come in time or cannot be reached, or there is no NCCL
 */
export async function init(options: InitOptions = {}): Promise<Job> {
  const launch = detectLaunch(process.env, options);
  if (launch.level === 'node') {
    throw new DistributedError(
      `dist.init: ${launch.launcher} has started one process for this node; let it start "shardgrad run" there, which starts the ranks`,
    );
  }
  keepErrorFile(process.env);
  const timeoutMs = options.timeoutMs ?? timeoutFromEnvironment();
  const device = deviceNamed(options.device === 'cuda' ? `cuda:${deviceCount() > 1 ? launch.localRank : 0}` : (options.device ?? 'cpu'));
  const backend = chooseBackend('dist.init', device.type, options.backend, launch.worldSize);
  if (launch.worldSize === 1) {
    const group = sharedWorld(segmentName(), { rank: 0, size: 1, device, backend, timeoutMs });
    group.seal();
    if (backend === 'nccl') await startNccl(group);
    return job(launch, device, { group, close: async () => {} }, null);
  }
  const { rank, worldSize: size } = launch;
  const met = await meet(launch, process.env, { timeoutMs });
  // should this rank be killed, rank 0 does not keep the store for it
  if (!met.server) await met.store.will(leftKey(rank), '');
  const { transport, localAddr } = options;
  const recorder = recorderOf(launch, process.env);
  if (!launch.storeRuns && launch.localRank === 0) await pruneFlights();
  const world = await joinWorld(launch, met.store, met.token, { rank, size, device, backend, timeoutMs, recorder, transport, localAddr });
  try {
    if (backend === 'nccl') await startNccl(world.group);
  } catch (error) {
    await world.group.close().catch(() => {});
    await world.close();
    throw error;
  }
  return job(launch, device, world, met);
}

function leftKey(rank: number): string {
  return `world/left/${rank}`;
}

function job(launch: RankLaunch, device: Device, world: World, met: Rendezvous | null): Job {
  let closed: Promise<void> | null = null;
  return {
    rank: launch.rank,
    worldSize: launch.worldSize,
    localRank: launch.localRank,
    restartCount: launch.restartCount,
    device,
    world: world.group,
    store: met?.store ?? null,
    close: () => (closed ??= leave(launch, world, met)),
  };
}

async function leave(launch: RankLaunch, world: World, met: Rendezvous | null): Promise<void> {
  await world.group.close();
  await world.close();
  forgetRecording(launch, process.env);
  if (met?.server) {
    // the others still need the store that lives here; one that is stopped will not tell when it does no more
    const others = Array.from({ length: launch.worldSize - 1 }, (_, r) => leftKey(r + 1));
    await met.store.wait(others, { timeoutMs: FAREWELL_MS }).catch(() => {});
    met.store.close();
    await met.server.close();
  } else if (met) {
    await met.store.set(leftKey(launch.rank), '');
    met.store.close();
  }
}

function timeoutFromEnvironment(): number {
  const text = process.env['SHARDGRAD_TIMEOUT_MS'];
  if (text === undefined || text === '') return 600_000;
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1) throw new DistributedError(`SHARDGRAD_TIMEOUT_MS must be a whole number of milliseconds, got "${text}"`);
  return value;
}
