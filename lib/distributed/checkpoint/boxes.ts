// Boxes: what a rank has of a tensor, as products of ranges, and who writes which of them: every element once, replicas in turn.
import type { MeshAxis } from '../device_mesh.js';
import type { Layout, Range } from '../layout.js';

/** Elements [offsets, offsets + sizes) of the whole tensor; they begin at `local` in what the rank has. */
export interface Box {
  readonly offsets: readonly number[];
  readonly sizes: readonly number[];
  readonly local: readonly number[];
}

/** Several ranges of a dimension make several boxes. Empty ones are left out. */
export function boxesOf(ranges: readonly (readonly Range[])[]): Box[] {
  let boxes: Box[] = [{ offsets: [], sizes: [], local: [] }];
  for (const dim of ranges) {
    let at = 0;
    const places = dim.map((range) => {
      at += range.length;
      return { ...range, local: at - range.length };
    });
    boxes = boxes.flatMap((box) =>
      places.filter((p) => p.length > 0).map((p) => ({ offsets: [...box.offsets, p.start], sizes: [...box.sizes, p.length], local: [...box.local, p.local] })),
    );
  }
  return boxes;
}

const keyOf = (box: Box): string => `${box.offsets}:${box.sizes}`;

/**
 * The boxes of a tensor that this rank is to write. Of ranks that have the same box one writes it: which one goes around with `turn`, so that
 * replicas share the work.
 * @param staged the tensor belongs to one stage of a pipeline: ranks along `pp` have others
 */
export function ownBoxes(layout: Layout, turn: number, staged = false): Box[] {
  const { mesh } = layout;
  const here = (axis: MeshAxis): number => mesh.rank(axis);
  const own = boxesOf(layout.ranges());
  const cuts = new Set(layout.entries.flatMap(([axis, p]) => (p.kind === 'shard' ? [axis] : [])));
  const replicas = mesh.axes.filter((axis) => !cuts.has(axis) && mesh.size(axis) > 1 && !(staged && axis === 'pp'));
  if (replicas.length > 0 && mesh.rank(...replicas) !== turn % mesh.size(...replicas)) return [];
  // pieces that neighbours on one axis share belong to the first of them
  const shared = layout.entries.filter(([, p]) => p.kind === 'shard' && p.blocks?.some((b) => (b.repeat ?? 1) > 1)).map(([axis]) => axis);
  return own.filter((box) =>
    shared.every((axis) => {
      for (let before = 0; before < mesh.rank(axis); before++) {
        const theirs = boxesOf(layout.ranges((a) => (a === axis ? before : here(a))));
        if (theirs.some((b) => keyOf(b) === keyOf(box))) return false;
      }
      return true;
    }),
  );
}

/** What two boxes have in common, or null. */
export function intersection(a: Omit<Box, 'local'>, b: Omit<Box, 'local'>): { offsets: number[]; sizes: number[] } | null {
  const offsets = a.offsets.map((o, d) => Math.max(o, b.offsets[d]!));
  const sizes = offsets.map((o, d) => Math.min(a.offsets[d]! + a.sizes[d]!, b.offsets[d]! + b.sizes[d]!) - o);
  return sizes.every((s) => s > 0) ? { offsets, sizes } : null;
}
