// N ranks in one process, each on a device of its own (by default a virtual one of the CPU): what tests and first steps use in place of
// N processes.
import { type Device, device, synchronize } from '../device.js';
import { checkInteger } from '../shape.js';
import { chooseBackend, startNccl } from './nccl.js';
import type { ProcessGroup } from './process_group.js';
import { segmentName } from './segment_name.js';
import { loopbackWorlds } from './tcp_transport.js';
import { type Backend, sharedWorld, type WorldOptions } from './transport.js';

/** After this long, a rank that has failed ends the waits in all groups it belonged to. */
const PARTS_MS = 3000;

/** One of the ranks that `simulate` runs. */
export interface SimulatedRank {
  /** This rank, from 0. */
  readonly rank: number;
  /** Its device: `cpu:0` for rank 0, unless told otherwise. */
  readonly device: Device;
  /** The group of all ranks. */
  readonly world: ProcessGroup;
}

/** What `simulate` makes ranks of. */
export interface SimulateOptions {
  /** How long a collective may last. Default 10 minutes. */
  timeoutMs?: number;
  /** Shared memory unless given, or TCP over loopback, as between hosts. */
  transport?: 'shm' | 'tcp';
  /** `cpu` unless given; on `cuda` every rank has a GPU, or with SHARDGRAD_SHARE_GPUS=1 they share those there are. */
  device?: 'cpu' | 'cuda';
  /** What moves the tensors of GPUs: `staged` (default, by way of the host's memory) or `nccl`. */
  backend?: Backend;
}

/**
 * Runs `fn` as N ranks at once, on devices cpu:0 … cpu:N−1 (or cuda:0 …), and returns their results in rank order. When one throws, the waits of
 * the others end too, and its error is the one thrown.
 *
 * A rank must not wait synchronously (`itemSync`, `synchronizeSync`) for what a later rank is still to start: all share one thread.
 */
export async function simulate<T>(size: number, fn: (rank: SimulatedRank) => T | Promise<T>, options: SimulateOptions = {}): Promise<T[]> {
  checkInteger(size, 'size', 'simulate', 1, 256);
  const { timeoutMs = 600_000, transport = 'shm', device: type = 'cpu' } = options;
  checkInteger(timeoutMs, 'timeoutMs', 'simulate', 1);
  const backend = chooseBackend('simulate', type, options.backend ?? (type === 'cpu' ? 'cpu' : 'staged'), size);
  const ranks = Array.from({ length: size }, (_, rank) => ({ rank, size, device: device(`${type}:${rank}`), backend, timeoutMs }));
  const { worlds, close } = transport === 'tcp' ? await loopbackWorlds(ranks) : sharedWorlds(ranks);
  try {
    if (backend === 'nccl') await Promise.all(worlds.map(startNccl));
    let first: { error: unknown } | null = null;
    const late: NodeJS.Timeout[] = [];
    const run = async (world: ProcessGroup): Promise<T> => {
      try {
        const result = await fn({ rank: world.rank, device: world.device, world });
        await world.close();
        await synchronize(world.device);
        return result;
      } catch (error) {
        // what follows on the other ranks is a consequence
        first ??= { error };
        const reason = `rank ${world.rank} has failed: ${(error as Error)?.message ?? error}`;
        world.abort(reason);
        // who waits for this rank in a part of the world may find a reason of its own first
        late.push(setTimeout(() => world.abortParts(reason), PARTS_MS));
        throw error;
      }
    };
    const results = await Promise.allSettled(worlds.map(run));
    for (const timer of late) clearTimeout(timer);
    if (first) throw (first as { error: unknown }).error;
    return results.map((r) => (r as PromiseFulfilledResult<Awaited<T>>).value);
  } finally {
    // faults that came of the first failure must not meet whoever uses these devices next
    for (const world of worlds) {
      await world.close().catch(() => {});
      await synchronize(world.device).catch(() => {});
    }
    await close();
  }
}

function sharedWorlds(ranks: readonly WorldOptions[]): { worlds: ProcessGroup[]; close(): Promise<void> } {
  const segment = segmentName();
  const worlds = ranks.map((options) => sharedWorld(segment, options));
  worlds[0]!.seal();
  return { worlds, close: async () => {} };
}
