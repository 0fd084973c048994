// Buffers under fullyShard: whole on every rank, and equal. At each training forward they become those of the first rank, as with
// DistributedDataParallel, so that a model that is saved or evaluated does not depend on the way it was spread or on who asks.
import { noGrad } from '../autograd/modes.js';
import { context } from '../context.js';
import type { Module } from '../nn/module.js';
import type { Tensor } from '../tensor.js';
import type { GroupSettings } from './fully_shard_group.js';
import type { Call } from './fully_shard_pass.js';
import type { ProcessGroup } from './process_group.js';

/** The ranks that have the same model and different data. */
export function dataRanks({ mesh, axis, replicateAxis }: GroupSettings): ProcessGroup {
  return mesh.group(axis, ...(replicateAxis ? [replicateAxis] : []));
}

/** Takes over the values of the first rank. */
export function follow(t: Tensor, settings: GroupSettings, label: string): void {
  if (!t.isMeta) dataRanks(settings).broadcast(t, { src: 0, label }).wait();
}

/** The outermost forward brings all buffers, by as few collectives as possible; one that is repeated for backward, or that reduces nothing, none. */
export function followBuffers(module: Module, { group, pass, again }: Call): void {
  const { gradEnabled, keyTape } = context();
  if (again || pass.depth > 1 || !module.training || !group.synchronizes || !(gradEnabled || keyTape)) return;
  const [ranks, buffers] = [dataRanks(group.settings), module.buffers()];
  if (ranks.size === 1 || buffers.length === 0) return;
  noGrad(() => {
    for (const work of ranks.coalesce(() => buffers.map((b) => ranks.broadcast(b, { src: 0, label: `of the buffers of ${group.label}` })))) work.wait();
  });
}
