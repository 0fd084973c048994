// What each launcher leaves in the environment of the processes it starts, one function a launcher. A function gives null when its
// launcher was not there, and says nothing about the others: environment.ts decides between them.
import { DistributedError } from '../errors.js';
import { expandCounts, expandHosts } from './slurm.js';

/** Variables by name, as `process.env`. */
export type Environment = Readonly<Record<string, string | undefined>>;

/** Who started the ranks; where only RANK and WORLD_SIZE say it, nobody knows who set them. */
export type LauncherName = 'shardgrad' | 'torchrun' | 'Open MPI' | 'MPICH' | 'Slurm' | 'RANK and WORLD_SIZE' | 'Kubernetes' | 'Kubeflow' | 'none';

/** How many ranks to start on a node: a number, or by the cores or GPUs it has. */
export type RankCount = number | 'auto' | 'cpu' | 'gpu';

/** What one launcher says. Null: it does not say. */
export interface Sighting {
  readonly launcher: LauncherName;
  /** The variables that were looked at and are set, as `NAME=value`, for tables. */
  readonly seen: readonly string[];
  readonly rank: number;
  readonly worldSize: number | null;
  readonly localRank: number;
  readonly localWorldSize: number;
  readonly nodeRank: number;
  readonly nnodes: number | null;
  readonly masterAddr: string | null;
  readonly masterPort: number | null;
  readonly runId: string | null;
  readonly restartCount: number;
  /** One process a pod, which is a rank unless it is to start several. */
  readonly ofPod: boolean;
  /** Set when the process stands for a node, on which this many ranks are to be started. */
  readonly nprocPerNode: RankCount | null;
}

/** The first port of dynamic use by formula: jobs on one cluster rarely share it. */
const portOf = (jobId: number): number => 10000 + (jobId % 20000);

/** Reads variables and remembers which were there. */
class Reader {
  readonly seen: string[] = [];
  constructor(private readonly env: Environment) {}

  text(...names: string[]): string | null {
    for (const name of names) {
      const value = this.env[name];
      if (value === undefined || value === '') continue;
      const entry = `${name}=${value}`;
      if (!this.seen.includes(entry)) this.seen.push(entry);
      return value;
    }
    return null;
  }

  /** The first of the variables that is set, a whole number. Throws DistributedError when it is anything else. */
  integer(...names: string[]): number | null {
    for (const name of names) {
      const value = this.text(name);
      if (value === null) continue;
      if (!/^\d{1,10}$/.test(value))
        throw new DistributedError(`${name} in the environment must be a whole number from 0, got ${JSON.stringify(value.slice(0, 100))}`);
      return Number(value);
    }
    return null;
  }

  /** As `integer`; throws when it is missing. */
  need(name: string, because: string): number {
    const value = this.integer(name);
    if (value === null) throw new DistributedError(`${name} is missing in the environment, though ${because}`);
    return value;
  }
}

const nothing = { masterAddr: null, masterPort: null, runId: null, restartCount: 0, ofPod: false, nprocPerNode: null } as const;
const pod = { ...nothing, localRank: 0, localWorldSize: 1, ofPod: true } as const;

/** The variables that torchrun and our own launcher give every rank. */
function perRank(reader: Reader, launcher: LauncherName, because: string): Omit<Sighting, 'seen'> {
  const worldSize = reader.need('WORLD_SIZE', because);
  const localWorldSize = reader.integer('LOCAL_WORLD_SIZE') ?? 1;
  const nnodes = reader.integer('GROUP_WORLD_SIZE') ?? Math.ceil(worldSize / Math.max(1, localWorldSize));
  const rank = reader.need('RANK', because);
  const nodeRank = reader.integer('GROUP_RANK') ?? Math.floor(rank / Math.max(1, localWorldSize));
  return { ...nothing, launcher, rank, worldSize, localRank: reader.integer('LOCAL_RANK') ?? 0, localWorldSize, nodeRank, nnodes };
}

export function shardgrad(env: Environment): Sighting | null {
  const reader = new Reader(env);
  if (reader.text('SHARDGRAD_STORE_PORT') === null) return null;
  const base = perRank(reader, 'shardgrad', 'SHARDGRAD_STORE_PORT is set');
  return { ...base, runId: reader.text('SHARDGRAD_RUN_ID'), restartCount: reader.integer('SHARDGRAD_RESTART_COUNT') ?? 0, seen: reader.seen };
}

export function torchrun(env: Environment): Sighting | null {
  const reader = new Reader(env);
  const runId = reader.text('TORCHELASTIC_RUN_ID');
  if (runId === null) return null;
  const base = perRank(reader, 'torchrun', 'TORCHELASTIC_RUN_ID is set');
  return { ...base, runId, restartCount: reader.integer('TORCHELASTIC_RESTART_COUNT') ?? 0, seen: reader.seen };
}

/** MPI's processes know how many share their host, not which host it is: that follows from how ranks are laid out. */
function mpiNode(rank: number, worldSize: number, localRank: number, localWorldSize: number): { nnodes: number; nodeRank: number } {
  const nnodes = Math.ceil(worldSize / Math.max(1, localWorldSize));
  const bySlot = (rank - localRank) % Math.max(1, localWorldSize) === 0;
  return { nnodes, nodeRank: bySlot ? (rank - localRank) / Math.max(1, localWorldSize) : rank % nnodes };
}

export function openMpi(env: Environment): Sighting | null {
  const reader = new Reader(env);
  const rank = reader.integer('OMPI_COMM_WORLD_RANK');
  if (rank === null) return null;
  const because = 'OMPI_COMM_WORLD_RANK is set';
  const worldSize = reader.need('OMPI_COMM_WORLD_SIZE', because);
  const localRank = reader.need('OMPI_COMM_WORLD_LOCAL_RANK', because);
  const localWorldSize = reader.need('OMPI_COMM_WORLD_LOCAL_SIZE', because);
  const runId = reader.text('PMIX_NAMESPACE', 'OMPI_MCA_ess_base_jobid');
  const masterPort = runId === null ? null : portOf(Number(/\d{1,12}/.exec(runId)?.[0] ?? 0));
  const node = mpiNode(rank, worldSize, localRank, localWorldSize);
  return { ...nothing, launcher: 'Open MPI', rank, worldSize, localRank, localWorldSize, ...node, masterPort, runId, seen: reader.seen };
}

export function mpich(env: Environment): Sighting | null {
  const reader = new Reader(env);
  const rank = reader.integer('PMI_RANK', 'PALS_RANKID');
  if (rank === null) return null;
  const worldSize = reader.need('PMI_SIZE', `${reader.seen[0]!.split('=')[0]} is set`);
  const localRank = reader.integer('MPI_LOCALRANKID', 'PALS_LOCAL_RANKID', 'LOCAL_RANK');
  const localWorldSize = reader.integer('MPI_LOCALNRANKS', 'PALS_LOCAL_SIZE', 'LOCAL_WORLD_SIZE') ?? (worldSize === 1 ? 1 : null);
  if (localWorldSize === null)
    throw new DistributedError('MPICH says rank and size, but not how many ranks share this host; set LOCAL_RANK and LOCAL_WORLD_SIZE');
  const local = localRank ?? rank % Math.max(1, localWorldSize);
  const node = mpiNode(rank, worldSize, local, localWorldSize);
  return { ...nothing, launcher: 'MPICH', rank, worldSize, localRank: local, localWorldSize, ...node, seen: reader.seen };
}

/** Step ids from here on mean no srun step: the batch script, an interactive shell, an external process. */
const FIRST_SPECIAL_STEP = 0xfffffff0;

export function slurm(env: Environment): Sighting | null {
  const reader = new Reader(env);
  const step = reader.text('SLURM_STEP_ID', 'SLURM_STEPID');
  // an allocation without a step runs one process, whatever was allocated
  if (step === null || !/^\d+$/.test(step) || Number(step) >= FIRST_SPECIAL_STEP) return null;
  const because = 'SLURM_STEP_ID is set';
  const rank = reader.need('SLURM_PROCID', because);
  const worldSize = reader.integer('SLURM_STEP_NUM_TASKS', 'SLURM_NTASKS') ?? 1;
  const nnodes = reader.integer('SLURM_STEP_NUM_NODES', 'SLURM_NNODES') ?? 1;
  const localRank = reader.need('SLURM_LOCALID', because);
  const nodeRank = reader.integer('SLURM_NODEID') ?? 0;
  const perNode = reader.text('SLURM_STEP_TASKS_PER_NODE', 'SLURM_TASKS_PER_NODE');
  const localWorldSize = (perNode === null ? undefined : expandCounts(perNode)[nodeRank]) ?? Math.ceil(worldSize / Math.max(1, nnodes));
  const hosts = reader.text('SLURM_STEP_NODELIST', 'SLURM_JOB_NODELIST', 'SLURM_NODELIST');
  const job = reader.integer('SLURM_JOB_ID', 'SLURM_JOBID');
  return {
    ...nothing,
    launcher: 'Slurm',
    rank,
    worldSize,
    localRank,
    localWorldSize,
    nodeRank,
    nnodes,
    masterAddr: hosts === null ? null : expandHosts(hosts)[0]!,
    masterPort: job === null ? null : portOf(job),
    runId: job === null ? null : `${job}.${step}`,
    restartCount: reader.integer('SLURM_RESTART_COUNT') ?? 0,
    seen: reader.seen,
  };
}

/** RANK and WORLD_SIZE set by hand or by an operator; without LOCAL_RANK, one process a pod. */
export function plain(env: Environment): Sighting | null {
  const reader = new Reader(env);
  const rank = reader.integer('RANK');
  const worldSize = reader.integer('WORLD_SIZE');
  if (rank === null || (worldSize === null && reader.text('LOCAL_RANK') === null && env['JOB_COMPLETION_INDEX'])) return null;
  if (worldSize === null) throw new DistributedError('WORLD_SIZE is missing in the environment, though RANK is set');
  const launcher = 'RANK and WORLD_SIZE';
  if (reader.text('LOCAL_RANK') !== null) return { ...perRank(reader, launcher, 'RANK is set'), seen: reader.seen };
  return { ...pod, launcher, rank, worldSize, nodeRank: rank, nnodes: worldSize, seen: reader.seen };
}

/** An indexed job of Kubernetes: one process a pod. It is not told how many pods there are. */
export function kubernetes(env: Environment): Sighting | null {
  const reader = new Reader(env);
  const rank = reader.integer('JOB_COMPLETION_INDEX');
  if (rank === null || env['RANK']) return null;
  const worldSize = reader.integer('WORLD_SIZE');
  return { ...pod, launcher: 'Kubernetes', rank, worldSize, nodeRank: rank, nnodes: worldSize, seen: reader.seen };
}

/** PET_* are torchrun's options as variables. Kubeflow gives them to a pod, which is a node. */
export function kubeflow(env: Environment): Sighting | null {
  const reader = new Reader(env);
  const nodes = reader.text('PET_NNODES');
  const count = reader.text('PET_NPROC_PER_NODE');
  if (nodes === null && count === null) return null;
  const nnodes = nodes === null ? 1 : parseNodes(nodes, 'PET_NNODES in the environment');
  const nodeRank = reader.integer('PET_NODE_RANK') ?? (nnodes === 1 ? 0 : reader.integer('JOB_COMPLETION_INDEX'));
  if (nodeRank === null) throw new DistributedError('PET_NODE_RANK is missing in the environment, though PET_NNODES is set');
  const endpoint = /^(.+):(\d{1,5})$/.exec(reader.text('PET_RDZV_ENDPOINT') ?? '');
  return {
    ...pod,
    launcher: 'Kubeflow',
    rank: nodeRank,
    worldSize: nnodes,
    nodeRank,
    nnodes,
    masterAddr: reader.text('PET_MASTER_ADDR') ?? endpoint?.[1] ?? null,
    masterPort: reader.integer('PET_MASTER_PORT') ?? (endpoint ? Number(endpoint[2]) : null),
    runId: reader.text('PET_RDZV_ID'),
    nprocPerNode: count === null ? 1 : parseRankCount(count, 'PET_NPROC_PER_NODE in the environment'),
    seen: reader.seen,
  };
}

/** `4`, `auto`, `cpu` or `gpu`. */
export function parseRankCount(text: string, where: string): RankCount {
  if (text === 'auto' || text === 'cpu' || text === 'gpu') return text;
  if (/^\d{1,5}$/.test(text) && Number(text) > 0) return Number(text);
  throw new DistributedError(`${where} must be a whole number from 1, auto, cpu or gpu, got ${JSON.stringify(text.slice(0, 100))}`);
}

/** `4`, or `4:4` as torchrun writes a fixed number of nodes. */
export function parseNodes(text: string, where: string): number {
  const match = /^(\d{1,6})(?::(\d{1,6}))?$/.exec(text);
  if (!match || Number(match[1]) < 1) throw new DistributedError(`${where} must be a whole number from 1, got ${JSON.stringify(text.slice(0, 100))}`);
  if (match[2] !== undefined && Number(match[1]) !== Number(match[2])) {
    throw new DistributedError(`${where}: a range of nodes (${text}) needs an elastic launcher; give one number`);
  }
  return Number(match[1]);
}
