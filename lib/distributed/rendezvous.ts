// How a rank finds its job's store: the launcher runs it, or under other launchers rank 0 does. Keys of one start of a job are apart from
// those of the starts before it.
import { DistributedError } from '../errors.js';
import type { Environment, RankLaunch } from './environment.js';
import { checkToken } from './handshake.js';
import { ownAddress } from './own_address.js';
import { Store } from './store.js';
import { StoreServer } from './store_server.js';

/** How a rank has met the others of its job. */
export interface Rendezvous {
  /** The store, under a prefix of this job and this start of it. */
  readonly store: Store;
  /** The job's token, which connections between ranks prove, too. */
  readonly token: string;
  /** On rank 0 under other launchers than ours: the server, to be closed last. */
  readonly server: StoreServer | null;
}

/**
 * Connects a rank to the store of its job.
 * @param launch what detectLaunch said
 * @param env where SHARDGRAD_TOKEN is; our launcher sets it, under others it must be given
 * @throws DistributedError when there is no token, no port is free, or the store does not answer in time
 */
export async function meet(launch: RankLaunch, env: Environment, options: { timeoutMs?: number } = {}): Promise<Rendezvous> {
  const token = checkToken(env['SHARDGRAD_TOKEN'], `dist.init${startedBy(launch)}`);
  const server = launch.storeRuns || launch.rank > 0 ? null : await serve(launch, token);
  const host = server?.host ?? launch.masterAddr;
  const root = await Store.connect({ host, port: server?.port ?? launch.storePorts, token, ...options });
  return { store: keysOf(root, launch.runId, launch.restartCount), token, server };
}

function startedBy({ launcher }: RankLaunch): string {
  if (launcher === 'none') return '';
  return launcher === 'RANK and WORLD_SIZE' ? ` by ${launcher}, as torchrun or PyTorchJob set them` : ` under ${launcher}`;
}

/** The part of the store that belongs to one start of a job. */
export function keysOf(root: Store, runId: string, attempt: number): Store {
  return root.prefix('jobs').prefix(runId).prefix(String(attempt));
}

/** Where ranks say that they have come. */
export const PLACES = 'world/place';

/** For a launcher, of a rank that has ended: if it never came, those who wait for it are told. */
export async function neverCame(store: Store, rank: number): Promise<void> {
  const { swapped } = await store.compareSet(`${PLACES}/${rank}`, null, 'null');
  // rank 0 would have told what all said
  if (swapped && rank === 0) await store.set(`${PLACES}/all`, '[null]');
}

async function serve({ masterAddr, storePorts, nnodes }: RankLaunch, token: string): Promise<StoreServer> {
  const faults: string[] = [];
  const { own } = await ownAddress(masterAddr, nnodes > 1).catch((error: Error) => {
    throw new DistributedError(`rank 0 cannot run the store of the job: ${error.message}`);
  });
  for (const port of storePorts) {
    try {
      return await StoreServer.listen({ token, host: own ?? masterAddr, port });
    } catch (error) {
      faults.push((error as Error).message);
    }
  }
  throw new DistributedError(`rank 0 cannot run the store of the job: ${faults.join('; ')}`);
}
