// Who started this process, and as which rank: from the environment alone, so that one script runs under every launcher. A pure
// function: it reads the object it is given, and nothing else. Where two launchers disagree it refuses with a table of what it saw,
// since a wrong guess would be a hang.
import { DistributedError } from '../errors.js';
import { checkInteger } from '../numbers.js';
import {
  type Environment,
  kubeflow,
  kubernetes,
  type LauncherName,
  mpich,
  openMpi,
  plain,
  type RankCount,
  type Sighting,
  shardgrad,
  slurm,
  torchrun,
} from './environment_sources.js';

export type { Environment, LauncherName, RankCount } from './environment_sources.js';

/** torchrun's and PyTorch's default. */
export const DEFAULT_MASTER_PORT = 29500;

/** A process that is one rank of a job. */
export interface RankLaunch {
  /** That the process is a rank. */
  readonly level: 'rank';
  /** Who started it. */
  readonly launcher: LauncherName;
  /** Its number in the job, from 0. */
  readonly rank: number;
  /** Ranks of the job. */
  readonly worldSize: number;
  /** Its number among the ranks of this node. */
  readonly localRank: number;
  /** Ranks of this node. */
  readonly localWorldSize: number;
  /** Number of this node, from 0. */
  readonly nodeRank: number;
  /** Nodes of the job. */
  readonly nnodes: number;
  /** Address of rank 0's node. */
  readonly masterAddr: string;
  /** The port that other tools use there. */
  readonly masterPort: number;
  /** Where the job's store is on that node: one of these ports, in this order. Never the port of another launcher's own store. */
  readonly storePorts: readonly number[];
  /** Whether the launcher runs the store; else rank 0 does. */
  readonly storeRuns: boolean;
  /** What all ranks of a job have in common and no other job has, as far as the launcher says. */
  readonly runId: string;
  /** How often the whole job was started again. */
  readonly restartCount: number;
}

/** A process that stands for a node: a launcher must start its ranks. */
export interface NodeLaunch {
  /** That the process stands for a node. */
  readonly level: 'node';
  /** Who started it. */
  readonly launcher: LauncherName;
  /** Number of this node, from 0. */
  readonly nodeRank: number;
  /** Nodes of the job; null: not said. */
  readonly nnodes: number | null;
  /** Ranks to start on each node; null: not said. */
  readonly nprocPerNode: RankCount | null;
  /** Address of the first node; null: not said. */
  readonly masterAddr: string | null;
  /** The port there; null: not said. */
  readonly masterPort: number | null;
  /** What all nodes of the job have in common; null: not said. */
  readonly runId: string | null;
}

/** What a caller says itself; it wins over the environment. */
export interface ExplicitLaunch {
  /** This rank; goes with worldSize. */
  readonly rank?: number;
  /** Ranks of the job; goes with rank. */
  readonly worldSize?: number;
  /** This rank among those of its node. */
  readonly localRank?: number;
  /** Ranks of this node. */
  readonly localWorldSize?: number;
  /** Address of rank 0's node. */
  readonly masterAddr?: string;
  /** The port there. */
  readonly masterPort?: number;
  /** What all ranks of the job have in common and no other job has. */
  readonly runId?: string;
}

/** Launchers that mark what they start: the mark is the innermost one's, whatever surrounds it. */
const MARKED = [shardgrad, torchrun];
const UNMARKED = [openMpi, mpich, slurm, plain, kubernetes, kubeflow];

/**
 * Finds out how this process was started: by `shardgrad run`, torchrun, Open MPI, MPICH, Slurm's srun, Kubernetes (PET_* of Kubeflow,
 * indexed jobs), whoever sets RANK and WORLD_SIZE (PyTorchJob, a script), or alone.
 * @param env `process.env`, or an object like it
 * @param explicit wins over the environment; rank and worldSize go together
 * @returns the rank, or a node whose ranks `shardgrad run` must start
 * @throws DistributedError with a table when launchers disagree, and for variables that are missing or malformed
 */
export function detectLaunch(env: Environment, explicit: ExplicitLaunch = {}): RankLaunch | NodeLaunch {
  if ((explicit.rank === undefined) !== (explicit.worldSize === undefined)) {
    throw new DistributedError('rank and worldSize go together: give both or none');
  }
  if (explicit.rank !== undefined) return finish(asGiven(explicit), env, explicit);
  const marked = sightings(MARKED, env);
  if (marked.length > 1) throw refusal(marked);
  if (marked[0]) return finish(marked[0], env, explicit);

  const found = withoutOuter(sightings(UNMARKED, env)).filter(({ worldSize }) => {
    if (worldSize !== null) return true;
    // pods that are not told where to meet work alone
    if (!env['MASTER_ADDR']) return false;
    throw new DistributedError('WORLD_SIZE is missing in the environment: an indexed job of Kubernetes does not tell its pods how many they are');
  });
  if (found.some((one) => one.rank !== found[0]!.rank || one.worldSize !== found[0]!.worldSize)) throw refusal(found);
  const node = found.find(({ nprocPerNode }) => nprocPerNode !== null && nprocPerNode !== 1);
  if (!node) return finish(merge(found), env, explicit);
  if (!found.every(({ ofPod }) => ofPod)) throw refusal(found);
  return asNode(node, env);
}

/**
 * What the environment says of this node to a launcher that is to start its ranks.
 * @throws DistributedError when launchers disagree, or one has started several processes on this node
 */
export function detectNode(env: Environment): NodeLaunch {
  const alone: NodeLaunch = { level: 'node', launcher: 'none', nodeRank: 0, nnodes: 1, nprocPerNode: null, masterAddr: null, masterPort: null, runId: null };
  // inside a rank: what it starts is a job of its own
  if (sightings(MARKED, env).length > 0) return alone;
  const found = withoutOuter(sightings(UNMARKED, env)).filter(({ launcher, ofPod }) => ofPod || launcher !== 'RANK and WORLD_SIZE');
  const crowded = found.find(({ localWorldSize }) => localWorldSize > 1);
  if (crowded) {
    throw new DistributedError(
      `${crowded.launcher} started ${crowded.localWorldSize} processes on this node, and shardgrad run starts the ranks of a node itself: start one process a node, or the script without shardgrad run`,
    );
  }
  if (found.some((one) => one.nodeRank !== found[0]!.nodeRank || one.nnodes !== found[0]!.nnodes)) throw refusal(found);
  const first = found[0];
  if (!first) return alone;
  return asNode(found.find(({ nprocPerNode }) => nprocPerNode !== null) ?? first, env);
}

function sightings(sources: readonly ((env: Environment) => Sighting | null)[], env: Environment): Sighting[] {
  return sources.map((source) => source(env)).filter((one) => one !== null);
}

/**
 * Without sightings that another explains: mpirun in a Slurm allocation starts its daemons by srun, one a node, and that step is not
 * ours; a pod's index says less than whatever else is known of the pod.
 */
function withoutOuter(found: readonly Sighting[]): Sighting[] {
  const mpi = found.find(({ launcher }) => launcher === 'Open MPI' || launcher === 'MPICH');
  return found.filter(({ launcher, worldSize, nnodes }) => {
    if (launcher === 'Slurm' && mpi) return worldSize !== nnodes || mpi.worldSize === worldSize;
    return launcher !== 'Kubernetes' || worldSize !== null || found.length === 1;
  });
}

/** Several launchers that agree: each fact from the first that has it. */
function merge(found: readonly Sighting[]): Sighting {
  const first = found[0] ?? asGiven({ rank: 0, worldSize: 1 });
  const pick = <T>(get: (one: Sighting) => T | null): T | null => found.map(get).find((value) => value !== null) ?? null;
  return { ...first, masterAddr: pick((one) => one.masterAddr), masterPort: pick((one) => one.masterPort), runId: pick((one) => one.runId) };
}

function asGiven({ rank = 0, worldSize = 1, localRank = 0, localWorldSize = 1 }: ExplicitLaunch): Sighting {
  const nnodes = Math.ceil(worldSize / Math.max(1, localWorldSize));
  const nodeRank = Math.floor(rank / Math.max(1, localWorldSize));
  const unknown = { masterAddr: null, masterPort: null, runId: null, restartCount: 0, ofPod: false, nprocPerNode: null, seen: [] };
  return { launcher: 'none', rank, worldSize, localRank, localWorldSize, nodeRank, nnodes, ...unknown };
}

function asNode(one: Sighting, env: Environment): NodeLaunch {
  const { launcher, nodeRank, nnodes, nprocPerNode, runId } = one;
  return {
    level: 'node',
    launcher,
    nodeRank,
    nnodes,
    nprocPerNode,
    masterAddr: one.masterAddr ?? (env['MASTER_ADDR'] || null),
    masterPort: one.masterPort ?? portIn(env),
    runId,
  };
}

function portIn(env: Environment): number | null {
  const text = env['MASTER_PORT'];
  if (!text) return null;
  if (/^\d{1,5}$/.test(text) && Number(text) >= 1 && Number(text) <= 65535) return Number(text);
  throw new DistributedError(`MASTER_PORT in the environment must be a port from 1 to 65535, got ${JSON.stringify(text.slice(0, 100))}`);
}

/**
 * The ports where a job's store may be: the given one and its neighbour, for when a program of another job has it.
 * @param taken the port itself belongs to another launcher's store
 */
export function storePortsOf(masterPort: number, taken: boolean): number[] {
  // downwards at the upper end
  const step = masterPort > 65000 ? -1 : 1;
  const first = masterPort + (taken ? step : 0);
  return [first, first + step];
}

function finish(one: Sighting, env: Environment, explicit: ExplicitLaunch): RankLaunch {
  const { launcher, rank, restartCount, nodeRank } = one;
  const worldSize = one.worldSize ?? 1;
  const nnodes = one.nnodes ?? 1;
  const localRank = explicit.localRank ?? one.localRank;
  const localWorldSize = explicit.localWorldSize ?? one.localWorldSize;
  const inside = (value: number, size: number, name: string, sizeName: string): void => {
    checkInteger(value, name, launcher, 0);
    checkInteger(size, sizeName, launcher, 1);
    if (value >= size) throw new DistributedError(`${launcher}: ${name} ${value} is not below ${sizeName} ${size}`);
  };
  inside(rank, worldSize, 'rank', 'world size');
  inside(localRank, localWorldSize, 'local rank', 'local world size');
  inside(nodeRank, nnodes, 'node rank', 'number of nodes');
  if (localWorldSize > worldSize) throw new DistributedError(`${launcher}: local world size ${localWorldSize} is above world size ${worldSize}`);

  const masterAddr = explicit.masterAddr ?? (env['MASTER_ADDR'] || one.masterAddr || (nnodes === 1 ? '127.0.0.1' : null));
  if (masterAddr === null) throw new DistributedError(`the address of rank 0 is not known (${worldSize} ranks, launcher: ${launcher}): set MASTER_ADDR`);
  const masterPort = checkInteger(explicit.masterPort ?? portIn(env) ?? one.masterPort ?? DEFAULT_MASTER_PORT, 'masterPort', 'detectLaunch', 1, 65535);
  const storeRuns = launcher === 'shardgrad';
  const storePorts = storeRuns
    ? [checkInteger(Number(env['SHARDGRAD_STORE_PORT']), 'SHARDGRAD_STORE_PORT', 'shardgrad', 1, 65535)]
    : storePortsOf(masterPort, launcher === 'torchrun');
  const runId = explicit.runId ?? one.runId ?? 'none';
  return {
    level: 'rank',
    launcher,
    rank,
    worldSize,
    localRank,
    localWorldSize,
    nodeRank,
    nnodes,
    masterAddr,
    masterPort,
    storePorts,
    storeRuns,
    runId,
    restartCount,
  };
}

/** The error for launchers that disagree: a table of what each of them says. */
function refusal(found: readonly Sighting[]): DistributedError {
  const show = (value: number | null): string => (value === null ? '-' : String(value));
  const rows = [
    ['launcher', 'rank', 'of', 'local', 'node', 'of', 'from'],
    ...found.map((one) => [one.launcher, show(one.rank), show(one.worldSize), show(one.localRank), show(one.nodeRank), show(one.nnodes), one.seen.join(' ')]),
  ];
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  const table = rows.map((row) => `  ${row.map((cell, column) => cell.padEnd(widths[column]!)).join('  ')}`.trimEnd());
  return new DistributedError(
    `the environment is that of several launchers, and they disagree; unset the variables of all but one, or give rank and worldSize yourself:\n${table.join('\n')}`,
  );
}
