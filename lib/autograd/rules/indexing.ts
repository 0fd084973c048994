// Gradients of indexing, ordering, scans and joins. Reading at indices and adding at indices are each other's gradients; both
// are deterministic, so backward is.
import { zeros } from '../../create.js';
import { where } from '../../ops/blend.js';
import { clone } from '../../ops/copy.js';
import { door, like } from '../../ops/door.js';
import { gather, indexSelect, scatter } from '../../ops/gather.js';
import { indexAt, putAt, writeInto } from '../../ops/places.js';
import { div, eq, logicalAnd, mul } from '../../ops/pointwise.js';
import { cumprod, cumsum } from '../../ops/sort.js';
import { expand, narrow } from '../../ops/view.js';
import type { Tensor } from '../../tensor.js';
import type { Node } from '../node.js';
import type { IndexingName, Rules } from './types.js';

/** Zeros of the shape of input 0, for a gradient to be written into. */
const blank = (n: Node, g: Tensor): Tensor => zeros(n.shapeOf(0), { dtype: g.dtype, device: g.device });

/** The index tensors of index and indexPut, saved from input `first` on. */
const indicesOf = (n: Node, first: number): Tensor[] => n.edges.slice(first).map((_, i) => n.in(first + i));

/** Values that were picked along the last dimension go back to where they came from. */
const picked = {
  outputs: [1],
  grad: (n: Node, g: Tensor) => [writeInto('scatter', blank(n, g), Math.max(0, n.shapeOf(0).length - 1), n.out(1), g)],
};

const runningSum = (x: Tensor, reverse: boolean): Tensor => door('cumsum', [x], [like(x)], [Number(reverse)], { reverse })[0]!;

/**
 * dx_i = Σ_{j≥i} g_j · Π_{k≤j, k≠i} x_k. Before the first zero that is a quotient; at the first zero it is the sum over products
 * without it; after it, 0.
 */
function cumprodGradient(x: Tensor, g: Tensor): Tensor {
  const zero = eq(x, 0);
  const seen = cumsum(zero, -1);
  const firstZero = logicalAnd(zero, eq(seen, 1));
  const withoutFirst = runningSum(mul(g, cumprod(where(firstZero, 1, x), -1)), true);
  const quotient = div(runningSum(mul(g, cumprod(x, -1)), true), where(zero, 1, x));
  return where(firstZero, withoutFirst, where(eq(seen, 0), quotient, 0));
}

export const indexingRules: Rules<IndexingName> = {
  gather: { inputs: [1], grad: (n, g) => [writeInto('scatterAdd', blank(n, g), n.attrs.dim, n.in(1), g)] },
  scatter: { inputs: [1], grad: (n, g) => [() => scatter(g, n.attrs.dim, n.in(1), 0), null, () => gather(g, n.attrs.dim, n.in(1))] },
  scatterAdd: { inputs: [1], grad: (n, g) => [g, null, () => gather(g, n.attrs.dim, n.in(1))] },
  indexSelect: { inputs: [1], grad: (n, g) => [writeInto('indexAdd', blank(n, g), n.attrs.dim, n.in(1), g)] },
  indexAdd: { inputs: [1], grad: (n, g) => [g, null, () => indexSelect(g, n.attrs.dim, n.in(1))] },
  index: {
    inputs: (needs) => needs.map((_, i) => i).slice(1),
    grad: (n, g) => [putAt(blank(n, g), n.attrs.first, indicesOf(n, 1), g, true)],
  },
  indexPut: {
    inputs: (needs) => needs.map((_, i) => i).slice(2),
    grad: (n, g) => {
      const { first, accumulate } = n.attrs;
      const indices = indicesOf(n, 2);
      const none = (): Tensor => expand(zeros([], { dtype: g.dtype, device: g.device }), n.shapeOf(1));
      return [() => (accumulate ? g : putAt(clone(g), first, indices, none(), false)), () => indexAt(g, first, indices)];
    },
  },
  nonzero: null,
  sort: picked,
  topk: picked,
  cumsum: { grad: (n, g) => [runningSum(g, !n.attrs.reverse)] },
  cumprod: {
    inputs: [0],
    grad: (n, g) => {
      const x = n.in(0);
      return [x.ndim === 0 ? g : cumprodGradient(x, g)];
    },
  },
  multinomial: null,
  oneHot: null,
  cat: {
    grad: (n, g) => {
      const { dim, sizes } = n.attrs;
      let end = 0;
      return sizes.map((size) => {
        end += size;
        const start = end - size;
        return () => narrow(g, dim, start, size);
      });
    },
  },
  triangle: { grad: (n, g) => [door('triangle', [g], [like(g)], [n.attrs.diagonal, Number(n.attrs.upper)], n.attrs)[0]!] },
};
