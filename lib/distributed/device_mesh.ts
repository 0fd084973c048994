// DeviceMesh: the ranks of a job as a box with named sides. A rank has a coordinate on every axis, and for every set of axes there is the
// group of the ranks that differ from it in these alone. All groups are made at once, in one order on every rank, so nothing later has to
// agree on anything before it can communicate.
import type { Device } from '../device.js';
import { DistributedError, describe, ValueError } from '../errors.js';
import { checkInteger } from '../shape.js';
import { ProcessGroup } from './process_group.js';

/**
 * From outside to inside: neighbouring ranks, usually on one host, differ in the last one, which communicates most.
 * `pp` pipeline stages, `dpReplicate` copies of the model, `dpShard` shards of its parameters, `cp` context, `ep` experts, `tp` tensors.
 */
export const MESH_AXES = ['pp', 'dpReplicate', 'dpShard', 'cp', 'ep', 'tp'] as const;
/** An axis of a mesh. */
export type MeshAxis = (typeof MESH_AXES)[number];
/** Ranks along each axis: 1 unless given; −1 for one of them means all that is left. */
export type MeshSizes = { readonly [A in MeshAxis]?: number };

/** What a mesh is made of. */
export interface MeshOptions {
  /** All ranks of the job, in the order of their numbers. */
  readonly group: ProcessGroup;
}

/**
 * Makes the mesh and all its groups. Every rank of the group calls it with the same sizes.
 * @throws DistributedError where the sizes do not multiply to the group's; ValueError for wrong axes or sizes
 */
export async function initDeviceMesh(sizes: MeshSizes, options: MeshOptions): Promise<DeviceMesh> {
  const op = 'initDeviceMesh';
  const world = options?.group;
  if (!(world instanceof ProcessGroup)) throw new ValueError(`${op}: expected { group }, the group of all ranks, got ${describe(world)}`);
  const shape = shapeOf(sizes, world.size, op);
  const coordinate = coordinateOf(world.rank, shape);
  const groups = new Map<string, ProcessGroup>();
  const longer = MESH_AXES.filter((_, i) => shape[i]! > 1);
  for (const axes of subsets(longer)) {
    if (axes.length === longer.length) {
      groups.set(keyOf(axes), world);
      continue;
    }
    const inside = (i: number): boolean => axes.includes(MESH_AXES[i]!);
    const flat = (of: (i: number) => boolean): number => shape.reduce((n, size, i) => (of(i) ? n * size + coordinate[i]! : n), 0);
    const part = await world.split(
      flat((i) => !inside(i)),
      { key: flat(inside), name: `${world.name}.${axes.join('.') || 'self'}` },
    );
    groups.set(keyOf(axes), part!);
  }
  return new DeviceMesh(world, shape, coordinate, groups, MESH_AXES);
}

/** Ranks along each of MESH_AXES. */
export function shapeOf(sizes: MeshSizes, total: number, op: string): number[] {
  if (typeof sizes !== 'object' || sizes === null) throw new ValueError(`${op}: expected sizes by axis, such as { dpShard: 2, tp: 2 }, got ${describe(sizes)}`);
  for (const name of Object.keys(sizes)) {
    if (!MESH_AXES.includes(name as MeshAxis)) throw new ValueError(`${op}: there is no axis "${name}"; axes are ${MESH_AXES.join(', ')}`);
  }
  const shape = MESH_AXES.map((axis) => (sizes[axis] === -1 ? -1 : checkInteger(sizes[axis] ?? 1, axis, op, 1)));
  const open = MESH_AXES.filter((_, i) => shape[i] === -1);
  if (open.length > 1) throw new ValueError(`${op}: only one axis can take all that is left, got -1 for ${open.join(' and ')}`);
  const given = shape.reduce((n, size) => (size === -1 ? n : n * size), 1);
  const left = open.length === 1 ? Math.floor(total / given) : 1;
  if (left < 1 || given * left !== total) {
    const text = MESH_AXES.flatMap((axis, i) => (shape[i] === 1 ? [] : [`${axis} ${shape[i]}`])).join(' × ') || '1';
    throw new DistributedError(`${op}: ${text} does not make ${total} ranks`);
  }
  return shape.map((size) => (size === -1 ? left : size));
}

export function coordinateOf(rank: number, shape: readonly number[]): number[] {
  const coordinate = new Array<number>(shape.length);
  let rest = rank;
  for (let i = shape.length - 1; i >= 0; i--) {
    coordinate[i] = rest % shape[i]!;
    rest = Math.floor(rest / shape[i]!);
  }
  return coordinate;
}

/** All sets of the axes, in one order; the empty one first. */
export function subsets(axes: readonly MeshAxis[]): MeshAxis[][] {
  return Array.from({ length: 2 ** axes.length }, (_, bits) => axes.filter((_, i) => bits & (1 << i)));
}

export const keyOf = (axes: readonly MeshAxis[]): string => MESH_AXES.filter((axis) => axes.includes(axis)).join(' ');

/** The ranks of a job as a box with named sides, as `initDeviceMesh` makes it: a coordinate on every axis, and a group for every set of axes. */
export class DeviceMesh {
  /** @internal */
  constructor(
    /** The group of all ranks of the job. */
    readonly world: ProcessGroup,
    private readonly shape: readonly number[],
    private readonly coordinates: readonly number[],
    private readonly groups: ReadonlyMap<string, ProcessGroup>,
    /** The axes of this mesh: all, or those of a sub-mesh. */
    readonly axes: readonly MeshAxis[],
  ) {}

  /** Where this rank computes. */
  get device(): Device {
    return this.world.device;
  }

  /** Ranks along these axes; of the whole mesh without any. */
  size(...axes: readonly MeshAxis[]): number {
    return this.checked('size', axes).reduce((n, axis) => n * this.shape[MESH_AXES.indexOf(axis)]!, 1);
  }

  /** This rank's coordinate along these axes, counted as one axis when there are several. */
  rank(...axes: readonly MeshAxis[]): number {
    return this.checked('rank', axes).reduce((n, axis) => n * this.size(axis) + this.coordinates[MESH_AXES.indexOf(axis)]!, 0);
  }

  /** The group of the ranks that differ from this one in these axes alone; of the whole mesh without any. Its ranks are those of `rank`. */
  group(...axes: readonly MeshAxis[]): ProcessGroup {
    const long = this.checked('group', axes).filter((axis) => this.size(axis) > 1);
    return this.groups.get(keyOf(long))!;
  }

  /** The mesh of these axes that this rank lies in. */
  submesh(...axes: readonly MeshAxis[]): DeviceMesh {
    if (axes.length === 0) throw new ValueError('submesh: name at least one axis');
    return new DeviceMesh(this.world, this.shape, this.coordinates, this.groups, this.checked('submesh', axes));
  }

  private checked(op: string, axes: readonly MeshAxis[]): readonly MeshAxis[] {
    if (axes.length === 0) return this.axes;
    for (const axis of axes) {
      if (!this.axes.includes(axis)) throw new ValueError(`${op}: ${describe(axis)} is no axis of this mesh; it has ${this.axes.join(', ')}`);
    }
    return this.axes.filter((axis) => axes.includes(axis));
  }

  /** Who is where: a table for each place on the outer axes, with the innermost two as rows and columns; this rank in brackets. */
  toString(): string {
    const long = this.axes.filter((axis) => this.size(axis) > 1);
    const outer = long.slice(0, -2);
    const [across, down] = [long.at(-1), long.at(-2)];
    const numbered = (axis: MeshAxis | undefined): string[] => (axis ? Array.from({ length: this.size(axis) }, (_, i) => `${axis} ${i}`) : ['']);
    const [columns, rows] = [numbered(across), numbered(down)];
    const mine = this.world.worldRanks[this.world.rank]!;
    const ranks = this.group(...this.axes).worldRanks.map((r) => (r === mine ? `[${r}]` : ` ${r} `));
    const width = Math.max(...[...ranks, ...columns].map((text) => text.length)) + 2;
    const line = (label: string, cells: readonly string[]): string =>
      `  ${label.padEnd(rows.at(-1)!.length)}${cells.map((cell) => cell.padStart(width)).join('')}`.trimEnd();
    const lines = [`mesh of ${long.map((axis) => `${axis} ${this.size(axis)}`).join(' × ') || 'one rank'}`];
    for (let at = 0; at < ranks.length; at += rows.length * columns.length) {
      const sizes = outer.map((axis) => this.size(axis));
      const place = coordinateOf(at / (rows.length * columns.length), sizes);
      if (outer.length > 0) lines.push(`  ${outer.map((axis, i) => `${axis} ${place[i]}`).join(', ')}`);
      if (across) lines.push(line('', columns));
      rows.forEach((label, r) => lines.push(line(label, ranks.slice(at + r * columns.length, at + (r + 1) * columns.length))));
    }
    return lines.join('\n');
  }
}
