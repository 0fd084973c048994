// Placements: how one tensor lies on the ranks along one axis of a mesh. (The vocabulary of PyTorch's DTensor and of GSPMD.)
import { describe, ShapeError, ValueError } from '../errors.js';
import { checkInteger } from '../shape.js';

/** A part of a dimension that is cut by itself: query, key and value of a packed projection, gate and up of a gated one. */
export interface Block {
  /** Its length along the dimension. */
  readonly size: number;
  /** Pieces are whole multiples of this many, for example of a head; 1. */
  readonly unit?: number;
  /** So many neighbouring ranks share each piece: where there are fewer key heads than ranks; 1. */
  readonly repeat?: number;
}

/** Every rank has all of it. */
export interface Replicate {
  /** Which placement this is. */
  readonly kind: 'replicate';
}
/** Every rank has a piece along one dimension. */
export interface Shard {
  /** Which placement this is. */
  readonly kind: 'shard';
  /** The dimension that is cut. */
  readonly dim: number;
  /** Null: the dimension is one block. */
  readonly blocks: readonly Block[] | null;
}
/** Every rank has a contribution. */
export interface Partial {
  /** Which placement this is. */
  readonly kind: 'partial';
  /** What makes one of all contributions. */
  readonly op: 'sum' | 'avg' | 'min' | 'max';
}
/** How a tensor lies on the ranks along one axis of a mesh. */
export type Placement = Replicate | Shard | Partial;

const replicate: Replicate = Object.freeze({ kind: 'replicate' });

/** Every rank has all of it. */
export function Replicate(): Replicate {
  return replicate;
}

/**
 * Every rank has a piece along `dim`, in rank order; the first ones ⌈n / ranks⌉, the last may be shorter or empty.
 * @param options.blocks lengths that make up the dimension, each of which is cut by itself
 */
export function Shard(dim: number, options: { readonly blocks?: readonly Block[] } = {}): Shard {
  checkInteger(dim, 'dim', 'Shard', 0, 7);
  const blocks = options?.blocks ?? null;
  if (blocks !== null && (!Array.isArray(blocks) || blocks.length === 0))
    throw new ValueError(`Shard: blocks must be a list of { size }, got ${describe(blocks)}`);
  for (const { size, unit = 1, repeat = 1 } of blocks ?? []) {
    checkInteger(size, 'a block size', 'Shard', 0);
    checkInteger(unit, 'a unit', 'Shard', 1);
    checkInteger(repeat, 'a repeat', 'Shard', 1);
    if (size % unit !== 0) throw new ShapeError(`Shard: a block of ${size} is no multiple of its unit ${unit}`);
  }
  return Object.freeze({ kind: 'shard', dim, blocks });
}

/** Every rank has a contribution; the tensor is their sum (or another reduction), which has still to be made. */
export function Partial(op: Partial['op'] = 'sum'): Partial {
  if (!['sum', 'avg', 'min', 'max'].includes(op)) throw new ValueError(`Partial: op must be sum, avg, min or max, got ${describe(op)}`);
  return Object.freeze({ kind: 'partial', op });
}

export function isPlacement(x: unknown): x is Placement {
  return typeof x === 'object' && x !== null && 'kind' in x && (x.kind === 'replicate' || x.kind === 'shard' || x.kind === 'partial');
}

export function samePlacement(a: Placement, b: Placement): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

/** `Shard(0)`, as in errors. */
export function showPlacement(p: Placement): string {
  if (p.kind === 'replicate') return 'Replicate';
  return p.kind === 'partial' ? `Partial(${p.op})` : `Shard(${p.dim}${p.blocks ? `, ${p.blocks.length} blocks` : ''})`;
}
