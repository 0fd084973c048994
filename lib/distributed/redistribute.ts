// From one layout to another, by the cheapest collectives: what can be sliced locally is sliced first, a sum that is to be cut is
// reduce-scattered, a piece that is to be cut elsewhere goes by all-to-all, and only the rest is gathered or reduced as a whole.
import { zerosLike } from '../create.js';
import { InternalError } from '../errors.js';
import { scope } from '../memory.js';
import { clone, contiguous } from '../ops/copy.js';
import { cat } from '../ops/pieces.js';
import { movedim, narrow, reshape } from '../ops/view.js';
import { numel } from '../shape.js';
import type { Tensor } from '../tensor.js';
import type { MeshAxis } from './device_mesh.js';
import { cut, type Layout, lengthOf, type Piece } from './layout.js';
import { type Partial, Replicate, type Shard, samePlacement } from './placement.js';

/** The local tensor of layout `to` that belongs to `x` of layout `from`; in stream order, outside of graphs. `x` itself when they are equal. */
export function convert(x: Tensor, from: Layout, to: Layout): Tensor {
  return scope(() => {
    let [current, layout] = [x, from];
    while (!layout.equals(to)) {
      const step = nextStep(layout, to);
      [current, layout] = [step.run(current), step.to];
    }
    return current;
  });
}

interface Step {
  readonly to: Layout;
  readonly run: (x: Tensor) => Tensor;
}

function nextStep(layout: Layout, to: Layout): Step {
  return slice(layout, to) ?? reduceScatter(layout, to) ?? exchange(layout, to) ?? reduce(layout, to) ?? gather(layout, to) ?? contribute(layout, to);
}

/** The next cut of a dimension on the way to the target; null when the cuts there are no beginning of the target's. */
function nextCut(layout: Layout, to: Layout, dim: number): readonly [MeshAxis, Shard] | null {
  const [now, wanted] = [layout.cuts(dim), to.cuts(dim)];
  const isPrefix = now.length < wanted.length && now.every((axis, i) => axis === wanted[i] && samePlacement(layout.placement(axis), to.placement(axis)));
  const axis = wanted[now.length];
  return isPrefix && axis ? [axis, to.placement(axis) as Shard] : null;
}

/** Of all dimensions, a next cut over an axis that now has a placement of this kind. */
function cutOf(layout: Layout, to: Layout, kind: 'replicate' | 'partial' | 'shard'): readonly [MeshAxis, Shard] | null {
  for (const dim of to.shape.keys()) {
    const next = nextCut(layout, to, dim);
    if (next && layout.placement(next[0]).kind === kind) return next;
  }
  return null;
}

/** The pieces of all ranks along an axis, by place in what is cut. */
function piecesOf(layout: Layout, axis: MeshAxis, shard: Shard): Piece[][] {
  const whole = layout.ranges()[shard.dim]!;
  const ranks = layout.mesh.size(axis);
  return Array.from({ length: ranks }, (_, i) => cut(whole, shard, ranks, i));
}

/** Parts of a dimension laid one after another; without a copy where they lie so already. */
function select(x: Tensor, dim: number, parts: readonly { readonly offset: number; readonly length: number }[]): Tensor {
  const joined: { offset: number; length: number }[] = [];
  for (const { offset, length } of parts) {
    const last = joined.at(-1);
    if (last && last.offset + last.length === offset) last.length += length;
    else if (length > 0) joined.push({ offset, length });
  }
  if (joined.length === 0) return narrow(x, dim, 0, 0);
  if (joined.length === 1) return narrow(x, dim, joined[0]!.offset, joined[0]!.length);
  return cat(
    joined.map((p) => narrow(x, dim, p.offset, p.length)),
    dim,
  );
}

/** What every rank has it can cut by itself. */
function slice(layout: Layout, to: Layout): Step | null {
  const next = cutOf(layout, to, 'replicate');
  if (!next) return null;
  const [axis, shard] = next;
  const mine = piecesOf(layout, axis, shard)[layout.mesh.rank(axis)]!;
  return { to: layout.with({ [axis]: shard }), run: (x) => clone(select(x, shard.dim, mine)) };
}

/** Sums of which each rank wants a piece. */
function reduceScatter(layout: Layout, to: Layout): Step | null {
  const next = cutOf(layout, to, 'partial');
  if (!next) return null;
  const [axis, shard] = next;
  const { op } = layout.placement(axis) as Partial;
  const pieces = piecesOf(layout, axis, shard);
  const run = (x: Tensor): Tensor => {
    const rows = movedim(select(x, shard.dim, pieces.flat()), shard.dim, 0);
    const made = layout.mesh
      .group(axis)
      .reduceScatter(contiguous(rows), { op, rows: pieces.map(lengthOf), label: label(layout) })
      .wait();
    return contiguous(movedim(made, 0, shard.dim));
  };
  return { to: layout.with({ [axis]: shard }), run };
}

/** A piece that becomes one along another dimension. */
function exchange(layout: Layout, to: Layout): Step | null {
  const next = cutOf(layout, to, 'shard');
  if (!next) return null;
  const [axis, shard] = next;
  const old = layout.placement(axis) as Shard;
  if (old.dim === shard.dim || layout.cuts(old.dim).at(-1) !== axis) return null;
  const { mesh } = layout;
  const without = layout.with({ [axis]: Replicate() });
  const [given, taken] = [piecesOf(without, axis, old), piecesOf(without, axis, shard)];
  const mine = mesh.rank(axis);
  const run = (x: Tensor): Tensor => {
    const rest = x.shape.map((s, d) => (d === old.dim || d === shard.dim ? 1 : s));
    const shapeOf = (of: number, at: number): number[] =>
      rest.map((s, d) => (d === old.dim ? lengthOf(given[of]!) : d === shard.dim ? lengthOf(taken[at]!) : s));
    const parts = taken.map((pieces, r) => reshape(contiguous(select(x, shard.dim, pieces)), [numel(shapeOf(mine, r))]));
    const [send, receive] = [parts.map((p) => p.numel), given.map((_, r) => numel(shapeOf(r, mine)))];
    const flat = mesh
      .group(axis)
      .allToAll(cat(parts), { send, receive, label: label(layout) })
      .wait();
    let at = 0;
    const received = receive.map((n, r) => {
      at += n;
      return reshape(narrow(flat, 0, at - n, n), shapeOf(r, mine));
    });
    return inOrder(cat(received, old.dim), old.dim, given);
  };
  return { to: layout.with({ [axis]: shard }), run };
}

/** Sums that are wanted whole. */
function reduce(layout: Layout, to: Layout): Step | null {
  const found = layout.entries.find(([axis, p]) => p.kind === 'partial' && !samePlacement(p, to.placement(axis)));
  if (!found) return null;
  const [axis, { op }] = found as [MeshAxis, Partial];
  return {
    to: layout.with({ [axis]: Replicate() }),
    run: (x) =>
      layout.mesh
        .group(axis)
        .allReduce(clone(x), { op, label: label(layout) })
        .wait(),
  };
}

/** The last cut of a dimension is taken back. */
function gather(layout: Layout, to: Layout): Step | null {
  for (const dim of layout.shape.keys()) {
    const [now, wanted] = [layout.cuts(dim), to.cuts(dim)];
    const same = now.findIndex((axis, i) => axis !== wanted[i] || !samePlacement(layout.placement(axis), to.placement(axis)));
    if (same < 0) continue;
    const axis = now.at(-1)!;
    const without = layout.with({ [axis]: Replicate() });
    const pieces = piecesOf(without, axis, layout.placement(axis) as Shard);
    const run = (x: Tensor): Tensor => {
      const rows = contiguous(movedim(x, dim, 0));
      const all = layout.mesh
        .group(axis)
        .allGather(rows, { rows: pieces.map(lengthOf), label: label(layout) })
        .wait();
      return contiguous(movedim(inOrder(all, 0, pieces), 0, dim));
    };
    return { to: without, run };
  }
  return null;
}

/** All ranks' pieces, one rank after another, in the order of the dimension; of those that several have, the first. */
function inOrder(x: Tensor, dim: number, pieces: readonly (readonly Piece[])[]): Tensor {
  const all: { place: number; offset: number; length: number }[] = [];
  let offset = 0;
  for (const piece of pieces.flat()) {
    all.push({ place: piece.offset, offset, length: piece.length });
    offset += piece.length;
  }
  const first = all.filter((a, i) => all.findIndex((b) => b.place === a.place) === i);
  return select(
    x,
    dim,
    first.toSorted((a, b) => a.place - b.place),
  );
}

/** A replicated tensor as contributions: all of a sum from the first rank. */
function contribute(layout: Layout, to: Layout): Step {
  const found = to.entries.find(([axis, p]) => p.kind === 'partial' && layout.placement(axis).kind === 'replicate');
  if (!found) throw new InternalError(`redistribute: no way from ${layout} to ${to}`);
  const [axis, partial] = found;
  const zero = (partial as Partial).op === 'sum' && layout.mesh.rank(axis) > 0;
  return { to: layout.with({ [axis]: partial }), run: (x) => (zero ? zerosLike(x) : clone(x)) };
}

const label = (layout: Layout): string => `of redistribute from ${layout}`;
