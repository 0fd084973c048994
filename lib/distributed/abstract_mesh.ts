// A mesh without ranks: everything that follows from the sizes and one rank's place, for asking what that rank would have. Its groups carry
// nothing; in a dry run their collectives give results of the right shapes.
import type { Device } from '../device.js';
import { DistributedError } from '../errors.js';
import { checkInteger } from '../shape.js';
import { coordinateOf, DeviceMesh, keyOf, MESH_AXES, type MeshAxis, type MeshSizes, shapeOf, subsets } from './device_mesh.js';
import { ProcessGroup } from './process_group.js';
import type { Transport } from './transport.js';

const nobody: Transport = {
  join: () => Promise.reject(new DistributedError('split: the ranks of this mesh are only thought of')),
};

/** The mesh as the rank of this number would see it. */
export function abstractMesh(sizes: MeshSizes, rank: number, device: Device, where: string): DeviceMesh {
  for (const [axis, size] of Object.entries(sizes ?? {})) if (size !== undefined) checkInteger(size, axis, where, 1);
  const total = Object.values(sizes ?? {}).reduce((n, size) => n * (size ?? 1), 1);
  const shape = shapeOf(sizes, total, where);
  checkInteger(rank, 'rank', where, 0, total - 1);
  const mine = coordinateOf(rank, shape);
  const groups = new Map<string, ProcessGroup>();
  const longer = MESH_AXES.filter((_, i) => shape[i]! > 1);
  for (const axes of subsets(longer)) {
    const members = membersOf(axes, shape, mine, total);
    const options = { name: axes.join('.') || 'self', rank: members.indexOf(rank), size: members.length, worldRanks: Int32Array.from(members) };
    const backend = device.type === 'cpu' ? ('cpu' as const) : ('staged' as const);
    groups.set(keyOf(axes), new ProcessGroup({ ...options, device, timeoutMs: 600_000, backend, id: 0, transport: nobody }));
  }
  return new DeviceMesh(groups.get(keyOf(longer))!, shape, mine, groups, MESH_AXES);
}

/** The ranks that differ from this one in these axes alone. */
function membersOf(axes: readonly MeshAxis[], shape: readonly number[], mine: readonly number[], total: number): number[] {
  const fixed = MESH_AXES.flatMap((axis, i) => (axes.includes(axis) ? [] : [i]));
  const member = (r: number): boolean => {
    const at = coordinateOf(r, shape);
    return fixed.every((i) => at[i] === mine[i]);
  };
  return Array.from({ length: total }, (_, r) => r).filter(member);
}
