// What carries a group: memory shared by the ranks of one host, or connections between hosts. A transport makes the native half of
// a group; the operations are the same on all of them.
import type { Device } from '../device.js';
import { DeviceError, fromNative } from '../errors.js';
import { native } from '../native.js';
import { ProcessGroup } from './process_group.js';
import { segmentName } from './segment_name.js';
import { exchangeText } from './split.js';

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

export interface Transport {
  /**
   * Joins a part of a group and returns its native number. Every rank of the parent calls it, also those that join nothing: they
   * pass null. Resolves when all have joined.
   */
  join(parent: ProcessGroup, part: Membership | null): Promise<number>;
}

/** Joins a group over the shared memory of that name. Its rank 0 makes the memory: it must come first. */
export function joinShared(segment: string, m: Membership): number {
  try {
    return native.joinShmGroup(m.name, m.rank, m.size, m.timeoutMs, m.parent, m.recorder, m.worldRanks, segment);
  } catch (error) {
    throw fromNative(error);
  }
}

export interface WorldOptions {
  readonly rank: number;
  readonly size: number;
  readonly device: Device;
  readonly timeoutMs: number;
  /** File of the flight recorder; in memory unless given. */
  readonly recorder?: string;
}

/** The group of all ranks of one host, not yet sealed. Rank 0 must come first. */
export function sharedWorld(segment: string, { rank, size, device, timeoutMs, recorder = '' }: WorldOptions): ProcessGroup {
  if (device.type !== 'cpu') throw new DeviceError(`ProcessGroup: groups over shared memory are for cpu devices, got ${device}`);
  void device.slot; // opens it
  const member = { name: 'world', rank, size, timeoutMs, parent: 0, recorder, worldRanks: new Int32Array() };
  return new ProcessGroup({ ...member, device, id: joinShared(segment, member), transport: sharedMemory });
}

/** The ranks of one host. */
export const sharedMemory: Transport = {
  async join(parent, part) {
    const made = part?.rank === 0 ? segmentName() : '';
    const first = part?.rank === 0 ? joinShared(made, part) : 0;
    const segments = await exchangeText(parent, made, 'of split');
    const id = part && part.rank > 0 ? joinShared(segments[parent.worldRanks.indexOf(part.worldRanks[0]!)]!, part) : first;
    try {
      await parent.barrier({ label: 'of split' });
    } finally {
      if (id > 0) native.sealGroup(id);
    }
    return id;
  },
};
