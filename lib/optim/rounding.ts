// Stochastic rounding draws an element's random bits by its place in the whole model, so that any number of ranks gives the bits of one
// process. This is where the native step hears of that: which parameter of the model a tensor is, and which elements of it a rank has.
import type { Layout, Range } from '../distributed/layout.js';
import { layoutOf, stagePlaceOf } from '../distributed/layout_of.js';
import type { Tensor } from '../tensor.js';
import { originalOf } from './original.js';

/** Of the flags, which are the second number of the options. */
const PIECES = 2;

/**
 * The end of the options of a step (csrc/ops/optim.h): the position of each tensor in the optimizer, and what it is of the whole model unless
 * that says it all.
 * @param rounded the tensors; null where nothing is rounded
 */
export function pushPlaces(options: number[], positions: readonly number[], rounded: readonly (Tensor | null)[]): void {
  options.push(...positions);
  const known = rounded.map((p, i) => (p?.dtype === 'bfloat16' && p.numel > 0 ? describe(p, positions[i]!) : null));
  if (known.every((d) => d === null)) return;
  options[1]! |= PIECES;
  let at = options.length + rounded.length;
  for (const d of known) {
    options.push(d ? at : 0);
    at += d?.length ?? 0;
  }
  for (const d of known) if (d) options.push(...d);
}

/** The parameter's number and its piece (csrc/ops/piece.h); null for a whole one whose number is its position. */
function describe(p: Tensor, position: number): number[] | null {
  const number = stagePlaceOf(originalOf(p))?.number ?? position;
  const layout = layoutOf(p);
  const piece = layout ? pieceOf(layout) : WHOLE;
  return piece === WHOLE && number === position ? null : [number, ...piece];
}

const WHOLE: readonly number[] = [0];
const pieces = new WeakMap<Layout, readonly number[]>();

function pieceOf(layout: Layout): readonly number[] {
  const known = pieces.get(layout);
  if (known) return known;
  const made = describePiece(layout);
  pieces.set(layout, made);
  return made;
}

/** Neighbouring dimensions are one where the inner one is whole. */
function describePiece(layout: Layout): readonly number[] {
  const ranges = layout.ranges();
  const dims: { readonly stride: number; readonly size: number; readonly ranges: readonly Range[] }[] = [];
  for (let d = layout.shape.length - 1, stride = 1; d >= 0; d--) {
    const [size, inner] = [layout.shape[d]!, dims.at(-1)];
    if (inner && isWhole(inner.ranges, inner.size)) {
      const scaled = ranges[d]!.map((r) => ({ start: r.start * inner.size, length: r.length * inner.size }));
      dims[dims.length - 1] = { stride: inner.stride, size: size * inner.size, ranges: scaled };
    } else dims.push({ stride, size, ranges: ranges[d]! });
    stride *= size;
  }
  if (dims.every((dim) => isWhole(dim.ranges, dim.size))) return WHOLE;
  const numbers = dims.flatMap((dim) => {
    const joined = join(dim.ranges);
    return [dim.stride, lengthOf(joined), joined.length, ...joined.flatMap((r) => [r.start, r.length])];
  });
  return [dims.length, ...numbers];
}

const isWhole = (ranges: readonly Range[], size: number): boolean => lengthOf(ranges) === size && join(ranges).length === 1;
const lengthOf = (ranges: readonly Range[]): number => ranges.reduce((n, r) => n + r.length, 0);

/** Neighbouring ranges as one. */
function join(ranges: readonly Range[]): Range[] {
  const joined: Range[] = [];
  for (const r of ranges) {
    const last = joined.at(-1);
    if (last && last.start + last.length === r.start) joined[joined.length - 1] = { start: last.start, length: last.length + r.length };
    else if (r.length > 0) joined.push(r);
  }
  return joined;
}
