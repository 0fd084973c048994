// What carries a group: memory shared by the ranks of one host, or connections between hosts. A transport makes the native half of
// a group; the operations are the same on all of them. Tensors of a GPU go by way of the host's memory, unless NCCL moves them.
import type { Device } from '../device.js';
import { fromNative } from '../errors.js';
import { native } from '../native.js';
import { overNccl } from './nccl.js';
import { ProcessGroup } from './process_group.js';
import { segmentName } from './segment_name.js';
import { exchangeText } from './split.js';

/** What moves tensors between the ranks: the CPU, the CPU by way of the host's memory for those of a GPU, or NCCL. */
export type Backend = 'cpu' | 'staged' | 'nccl';

/** A group as one of its ranks joins it. */
export interface Membership {
  readonly name: string;
  readonly rank: number;
  readonly size: number;
  readonly timeoutMs: number;
  /** Native number of the group it is a part of; 0: it is the world. */
  readonly parent: number;
  /** The file of a world's flight recorder; empty: memory. */
  readonly recorder: string;
  /** Each rank's place in the world; empty for the world. */
  readonly worldRanks: Int32Array;
}

/** What carries a group. @internal */
export interface Transport {
  /**
   * Joins a part of a group and returns its native number. Every rank of the parent calls it, also those that join nothing: they
   * pass null. Resolves when all have joined.
   */
  join(parent: ProcessGroup, part: Membership | null): Promise<number>;
}

/** Joins a group over the shared memory of that name. Its rank 0 makes the memory: it must come first. */
export function joinShared(segment: string, device: Device, m: Membership): number {
  void device.slot; // opens it
  try {
    return staged(device, native.joinShmGroup(m.name, m.rank, m.size, m.timeoutMs, m.parent, m.recorder, m.worldRanks, segment));
  } catch (error) {
    throw fromNative(error);
  }
}

/** Lets a group carry tensors of the device, whichever it is. */
export function staged(device: Device, id: number): number {
  if (device.type !== 'cpu') native.stageGroup(id, device.slot);
  return id;
}

export interface WorldOptions {
  readonly rank: number;
  readonly size: number;
  readonly device: Device;
  readonly timeoutMs: number;
  /** `cpu` on the CPU, elsewhere `staged` unless given. */
  readonly backend?: Backend;
  /** File of the flight recorder; in memory unless given. */
  readonly recorder?: string;
}

/** What this rank joins as a member of the world. */
export function worldMember({ rank, size, timeoutMs, recorder = '' }: WorldOptions): Membership {
  return { name: 'world', rank, size, timeoutMs, parent: 0, recorder, worldRanks: new Int32Array() };
}

/** The group of all ranks, from its native half. With backend nccl it is staged until `startNccl` has resolved. */
export function worldOf(options: WorldOptions, id: number, transport: Transport): ProcessGroup {
  const { device, backend = device.type === 'cpu' ? 'cpu' : 'staged' } = options;
  return new ProcessGroup({ ...worldMember(options), device, backend, id, transport: backend === 'nccl' ? overNccl(transport) : transport });
}

/** The group of all ranks of one host, not yet sealed. Rank 0 must come first. */
export function sharedWorld(segment: string, options: WorldOptions): ProcessGroup {
  return worldOf(options, joinShared(segment, options.device, worldMember(options)), sharedMemory);
}

/** The ranks of one host. */
export const sharedMemory: Transport = {
  async join(parent, part) {
    const made = part?.rank === 0 ? segmentName() : '';
    const first = part?.rank === 0 ? joinShared(made, parent.device, part) : 0;
    const segments = await exchangeText(parent, made, 'of split');
    const id = part && part.rank > 0 ? joinShared(segments[parent.worldRanks.indexOf(part.worldRanks[0]!)]!, parent.device, part) : first;
    try {
      await parent.barrier({ label: 'of split' });
    } finally {
      if (id > 0) native.sealGroup(id);
    }
    return id;
  },
};
