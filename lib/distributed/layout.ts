// Layout: a global shape, and how it is cut over the axes of a mesh. Cuts are ordered: where two axes cut the same dimension, the later one cuts
// the pieces of the earlier. Which elements a rank has follows from its coordinates alone, so every rank knows what all others have.
import { describe, ShapeError, ValueError } from '../errors.js';
import { type Shape, showShape } from '../shape.js';
import type { DeviceMesh, MeshAxis } from './device_mesh.js';
import { type Block, isPlacement, type Placement, type Shard, samePlacement, showPlacement } from './placement.js';

/** By axis; what is not named is replicated. Axes that cut the same dimension do so in the order in which they are named. */
export type Placements = { readonly [A in MeshAxis]?: Placement };

/** Elements [start, start + length) of a dimension of the whole tensor. */
export interface Range {
  /** The first element. */
  readonly start: number;
  /** How many there are. */
  readonly length: number;
}

/** A range with its place in the ranges that were cut. */
export interface Piece extends Range {
  readonly offset: number;
}

export const lengthOf = (ranges: readonly Range[]): number => ranges.reduce((n, r) => n + r.length, 0);

/** The shape of a whole tensor, and how it is cut over the axes of a mesh. */
export class Layout {
  /** What is not replicated, in order; axes of size 1 do not occur. */
  readonly entries: readonly (readonly [MeshAxis, Exclude<Placement, { kind: 'replicate' }>])[];

  constructor(
    /** The ranks. */
    readonly mesh: DeviceMesh,
    /** Shape of the whole tensor. */
    readonly shape: Shape,
    placements: Placements,
    where = 'Layout',
  ) {
    const entries: [MeshAxis, Exclude<Placement, { kind: 'replicate' }>][] = [];
    for (const [axis, placement] of Object.entries(placements ?? {}) as [MeshAxis, Placement | undefined][]) {
      if (placement === undefined) continue;
      if (!mesh.axes.includes(axis)) throw new ValueError(`${where}: "${axis}" is no axis of the mesh; it has ${mesh.axes.join(', ')}`);
      if (!isPlacement(placement))
        throw new ValueError(`${where}: the placement over ${axis} must be Replicate(), Shard(dim) or Partial(), got ${describe(placement)}`);
      if (placement.kind === 'shard' && placement.dim >= shape.length)
        throw new ShapeError(`${where}: ${showPlacement(placement)} over ${axis} does not fit ${showShape(shape)}, which has no dimension ${placement.dim}`);
      if (placement.kind !== 'replicate' && mesh.size(axis) > 1) entries.push([axis, placement]);
    }
    this.entries = entries;
    this.ranges(); // finds blocks that do not fit
  }

  /** How it lies along an axis. */
  placement(axis: MeshAxis): Placement {
    return this.entries.find(([a]) => a === axis)?.[1] ?? { kind: 'replicate' };
  }

  /** The axes that cut a dimension, in order. */
  cuts(dim: number): MeshAxis[] {
    return this.entries.filter(([, p]) => p.kind === 'shard' && p.dim === dim).map(([axis]) => axis);
  }

  /** As an object again, with some placements replaced; an axis that is replaced cuts last. */
  with(changes: Placements): Layout {
    const kept = this.entries.filter(([axis]) => !(axis in changes));
    return new Layout(this.mesh, this.shape, { ...Object.fromEntries(kept), ...changes });
  }

  /** What the rank at these coordinates has of each dimension, in the order in which it has it. */
  ranges(coordinate: (axis: MeshAxis) => number = (axis) => this.mesh.rank(axis)): Range[][] {
    const ranges: Range[][] = this.shape.map((length) => [{ start: 0, length }]);
    for (const [axis, p] of this.entries) {
      if (p.kind === 'shard') ranges[p.dim] = cut(ranges[p.dim]!, p, this.mesh.size(axis), coordinate(axis));
    }
    return ranges;
  }

  /** The shape of what this rank has. */
  get localShape(): number[] {
    return this.ranges().map(lengthOf);
  }

  /** Whether every rank has the same elements in both. */
  equals(other: Layout): boolean {
    const same = (a: Layout['entries'], b: Layout['entries']): boolean =>
      a.length === b.length && a.every(([axis, p], i) => axis === b[i]![0] && samePlacement(p, b[i]![1]));
    const sorted = (l: Layout, dim: number | null): Layout['entries'] =>
      l.entries.filter(([, p]) => (p.kind === 'shard' ? p.dim : null) === dim).toSorted(([a], [b]) => (dim === null ? a.localeCompare(b) : 0));
    return (
      this.shape.length === other.shape.length &&
      this.shape.every((s, i) => s === other.shape[i]) &&
      [null, ...this.shape.keys()].every((dim) => same(sorted(this, dim), sorted(other, dim)))
    );
  }

  /** `[8,4] Shard(0) over tp, Partial(sum) over dpShard`. */
  toString(): string {
    const text = this.entries.map(([axis, p]) => `${showPlacement(p)} over ${axis}`).join(', ');
    return `${showShape(this.shape)} ${text || 'Replicate'}`;
  }
}

/** The i-th of k pieces of what has been cut so far. */
export function cut(ranges: readonly Range[], shard: Shard, k: number, i: number): Piece[] {
  const total = lengthOf(ranges);
  const blocks: readonly Block[] = shard.blocks ?? [{ size: total }];
  const sizes = blocks.reduce((n, b) => n + b.size, 0);
  if (sizes !== total) throw new ShapeError(`Shard: blocks of ${sizes} do not make up the ${total} of dimension ${shard.dim}`);
  const pieces: Piece[] = [];
  let begin = 0;
  for (const { size, unit = 1, repeat = 1 } of blocks) {
    if (k % repeat !== 0) throw new ShapeError(`Shard: ${k} ranks cannot share pieces by ${repeat}`);
    const parts = k / repeat;
    const each = Math.ceil(size / unit / parts) * unit;
    const place = Math.floor(i / repeat);
    pieces.push(...within(ranges, begin + Math.min(size, place * each), begin + Math.min(size, (place + 1) * each)));
    begin += size;
  }
  return pieces;
}

/** Places [from, to) of the ranges laid one after another. */
function within(ranges: readonly Range[], from: number, to: number): Piece[] {
  const found: Piece[] = [];
  let at = 0;
  for (const { start, length } of ranges) {
    const [first, last] = [Math.max(from, at), Math.min(to, at + length)];
    if (last > first) found.push({ start: start + first - at, length: last - first, offset: first });
    at += length;
  }
  return found;
}
