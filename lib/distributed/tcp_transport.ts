// Groups over the connections of a mesh: ranks of several hosts.
import { randomUUID } from 'node:crypto';
import type { Device } from '../device.js';
import { fromNative } from '../errors.js';
import { native } from '../native.js';
import { Mesh } from './mesh.js';
import type { ProcessGroup } from './process_group.js';
import { type Membership, staged, type Transport, type WorldOptions, worldMember, worldOf } from './transport.js';

async function join(mesh: Mesh, device: Device, m: Membership, members: readonly number[]): Promise<number> {
  void device.slot; // opens it
  try {
    return await mesh.connect(m.name, members, m.timeoutMs, (descriptors, key) =>
      staged(device, native.joinTcpGroup(m.name, m.rank, m.size, m.timeoutMs, m.parent, m.recorder, m.worldRanks, descriptors, key)),
    );
  } catch (error) {
    throw fromNative(error);
  }
}

/** Parts of a group get connections of their own: what one of them waits for does not hold up another. */
function overMesh(mesh: Mesh): Transport {
  return { join: (parent, part) => (part ? join(mesh, parent.device, part, Array.from(part.worldRanks)) : Promise.resolve(0)) };
}

/** The group of all ranks of a mesh, which knows their addresses. Resolves when this rank is connected to all. */
export async function tcpWorld(mesh: Mesh, options: WorldOptions): Promise<ProcessGroup> {
  const everybody = Array.from({ length: options.size }, (_, r) => r);
  return worldOf(options, await join(mesh, options.device, worldMember(options), everybody), overMesh(mesh));
}

/** All ranks of a group in one process, connected over loopback. */
export async function loopbackWorlds(ranks: readonly WorldOptions[]): Promise<{ worlds: ProcessGroup[]; close(): Promise<void> }> {
  const token = randomUUID();
  const meshes = await Promise.all(ranks.map(({ rank }) => Mesh.listen({ rank, token, host: '127.0.0.1' })));
  const close = async (): Promise<void> => {
    await Promise.all(meshes.map((mesh) => mesh.close()));
  };
  for (const mesh of meshes) mesh.introduce(meshes.map(({ address }) => address));
  try {
    return { worlds: await Promise.all(ranks.map((options, i) => tcpWorld(meshes[i]!, options))), close };
  } catch (error) {
    await close();
    throw error;
  }
}
