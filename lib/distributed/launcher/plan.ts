// From the options and the environment to what this launcher will do: which host it is, how many ranks it starts, where the store is,
// which token. Options win over the environment, the environment over defaults.
import { randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { DEFAULT_MASTER_PORT, detectNode, type Environment, type NodeLaunch, storePortsOf } from '../environment.js';
import { parseRankCount } from '../environment_sources.js';
import { checkToken } from '../handshake.js';
import { ownAddress } from '../own_address.js';
import { type RunOptions, UsageError } from './options.js';
import { type Program, programOf } from './script.js';

export interface Plan {
  readonly program: Program;
  readonly nnodes: number;
  readonly nodeRank: number;
  /** Ranks on this host. */
  readonly count: number;
  readonly masterAddr: string;
  /** Null: one host, and any port will do. */
  readonly masterPort: number | null;
  /** Candidates for the store's port; [0]: any. */
  readonly storePorts: readonly number[];
  /** Address the store listens on; null: not on this host. */
  readonly bindAddress: string | null;
  /** Where processes of this host find the store. */
  readonly storeHost: string;
  readonly token: string;
  readonly runId: string;
  readonly maxRestarts: number;
  /** Folder of this job's logs, or null. */
  readonly logFolder: string | null;
  readonly shutdownTimeoutMs: number;
  readonly profile: RunOptions['profile'];
  /** Environment of the ranks, before what each is given. */
  readonly env: Environment;
}

const LOOPBACK = '127.0.0.1';
/** All interfaces, which is no address to connect to. */
const ANYWHERE = ['0.0.0.0', '::'];

/** Throws UsageError for options that do not go together, DistributedError for an environment that does not fit. */
export async function makePlan(options: RunOptions, env: Environment): Promise<Plan> {
  const alone: NodeLaunch = { level: 'node', launcher: 'none', nodeRank: 0, nnodes: 1, nprocPerNode: null, masterAddr: null, masterPort: null, runId: null };
  if (options.standalone && (options.nnodes ?? 1) > 1) throw new UsageError('--standalone is for one host; leave it out, or --nnodes');
  // a job that is described in full needs no environment, and one on a single host is none of the surrounding launcher's
  const described = options.nnodes === 1 || (options.nnodes !== null && options.nodeRank !== null && options.masterAddr !== null);
  const node = options.standalone || described ? alone : detectNode(env);
  const nnodes = options.nnodes ?? node.nnodes;
  if (nnodes === null) throw new UsageError(`${node.launcher} does not say how many hosts there are: give --nnodes`);
  const nodeRank = options.nodeRank ?? (node.nnodes === nnodes || node.nnodes === null ? node.nodeRank : nnodes === 1 ? 0 : null);
  if (nodeRank === null) throw new UsageError(`which of the ${nnodes} hosts this is, is not known: give --node-rank`);
  if (nodeRank >= nnodes) throw new UsageError(`--node-rank ${nodeRank} is not below --nnodes ${nnodes}`);
  // one host meets itself, whatever it is called outside
  const masterAddr = options.masterAddr ?? (nnodes === 1 ? LOOPBACK : node.masterAddr);
  if (masterAddr === null) throw new UsageError('the address of the first host is not known: give --master-addr');
  const masterPort = options.masterPort ?? (nnodes === 1 ? null : (node.masterPort ?? DEFAULT_MASTER_PORT));
  const bindAddress = nodeRank > 0 ? null : (options.localAddr ?? (await listeningAddress(masterAddr, nnodes)));
  const runId = options.rdzvId ?? node.runId ?? (nnodes === 1 ? randomBytes(4).toString('hex') : 'none');
  return {
    program: programOf(options.command),
    nnodes,
    nodeRank,
    count: countOf(options, env),
    masterAddr,
    masterPort,
    storePorts: masterPort === null ? [0] : storePortsOf(masterPort, false),
    bindAddress,
    storeHost: bindAddress === null || ANYWHERE.includes(bindAddress) ? masterAddr : bindAddress,
    token: tokenOf(options, env, nnodes),
    runId,
    maxRestarts: options.maxRestarts,
    logFolder: options.logDir === null ? null : logFolderOf(options.logDir, runId),
    shutdownTimeoutMs: options.shutdownTimeoutMs,
    profile: options.profile,
    env,
  };
}

function tokenOf(options: RunOptions, env: Environment, nnodes: number): string {
  if (options.tokenFile !== null) {
    try {
      return checkToken(readFileSync(options.tokenFile, 'utf8').trim(), `--token-file ${options.tokenFile}`);
    } catch (error) {
      throw new UsageError((error as Error).message);
    }
  }
  if (env['SHARDGRAD_TOKEN'] || nnodes > 1) return checkToken(env['SHARDGRAD_TOKEN'], `${nnodes} hosts`);
  return randomBytes(32).toString('hex');
}

function countOf({ nprocPerNode }: RunOptions, env: Environment): number {
  const given = env['PET_NPROC_PER_NODE'];
  const count = nprocPerNode ?? (given ? parseRankCount(given, 'PET_NPROC_PER_NODE in the environment') : 1);
  if (typeof count === 'number') return count;
  const gpus = count === 'cpu' ? 0 : countGpus(env);
  if (count === 'gpu' && gpus === 0) throw new UsageError('--nproc-per-node gpu: no NVIDIA GPU was found here');
  return gpus > 0 ? gpus : availableParallelism();
}

function countGpus(env: Environment): number {
  const visible = env['CUDA_VISIBLE_DEVICES'];
  if (visible !== undefined) return visible.split(',').filter((id) => id.trim() !== '' && id.trim() !== '-1').length;
  try {
    return readdirSync('/proc/driver/nvidia/gpus').length;
  } catch {
    return 0;
  }
}

function logFolderOf(root: string, runId: string): string {
  const folder = join(root, runId.replaceAll(/[^\w.-]/g, '_'));
  try {
    mkdirSync(folder, { recursive: true });
  } catch (error) {
    throw new UsageError(`--log-dir: ${(error as Error).message}`);
  }
  return folder;
}

/** Where the first host listens. */
async function listeningAddress(host: string, nnodes: number): Promise<string> {
  const { own, found } = await ownAddress(host, nnodes > 1).catch((error: Error) => {
    throw new UsageError(`--master-addr ${host}: ${error.message}`);
  });
  if (own !== null) return own;
  throw new UsageError(
    `--master-addr ${host} (${found.join(', ')}) is no address of this host, which is to be the first: give --local-addr, the address to listen on`,
  );
}
