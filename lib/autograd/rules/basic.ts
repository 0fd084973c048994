// Gradients of views, copies, reductions and matrix products, and of the fused blocks made of them.
import { allocate, arange, zeros } from '../../create.js';
import { castGradient } from '../../ops/autocast.js';
import { where } from '../../ops/blend.js';
import { clone, contiguous, copy_, to } from '../../ops/copy.js';
import { fresh, invoke } from '../../ops/door.js';
import { EPILOGUE, gemm, matmul, rows, unpackHeads } from '../../ops/matmul.js';
import { putAt, writeInto } from '../../ops/places.js';
import { div, eq, mul, sign } from '../../ops/pointwise.js';
import { prod, sum, sumTo } from '../../ops/reduce.js';
import { diagonal, expand, movedim, mT, permute, reshape, slice } from '../../ops/view.js';
import type { Tensor } from '../../tensor.js';
import type { Node } from '../node.js';
import { linearCrossEntropyRule } from './linear_cross_entropy.js';
import type { CompositeName, OpAttrs, ReduceName, Reduction, Rule, Rules, ViewName } from './types.js';

type ReduceNode = Node & { attrs: Reduction };
/** A reduction's result or gradient with the reduced dimensions as size 1. */
function withDims(n: ReduceNode, t: Tensor): Tensor {
  return reshape(t, n.attrs.kept);
}
/** A gradient of a reduction spread over what was reduced. */
function spread(n: ReduceNode, g: Tensor): Tensor {
  return expand(withDims(n, g), n.shapeOf(0));
}

/** max and min: evenly over the elements that equal the result. */
const extreme = {
  inputs: [0],
  outputs: [0],
  grad: (n: ReduceNode, g: Tensor) => {
    const mask = to(eq(n.in(0), withDims(n, n.out(0))), g.dtype);
    return [mul(div(spread(n, g), sum(mask, n.attrs.dims, true)), mask)];
  },
};

export const reduceRules: Rules<ReduceName> = {
  sum: { grad: (n, g) => [spread(n, g)] },
  mean: { grad: (n, g) => [spread(n, div(g, n.attrs.count))] },
  prod: { inputs: [0], grad: (n, g) => [prodGradient(n.in(0), withDims(n, g), n.attrs.dims)] },
  max: extreme,
  min: extreme,
  any: null,
  all: null,
  argmax: null,
  argmin: null,
  norm1: { inputs: [0], grad: (n, g) => [mul(spread(n, g), sign(n.in(0)))] },
  norm2: {
    inputs: [0],
    outputs: [0],
    // the subgradient 0 at the origin
    grad: (n, g) => [mul(spread(n, where(eq(n.out(0), 0), 0, div(g, n.out(0)))), n.in(0))],
  },
  sumSquares: { inputs: [0], grad: (n, g) => [mul(mul(spread(n, g), n.in(0)), 2)] },
  countNonzero: null,
};

/** The product of all others, exact with zeros: quotients where there are none, else the product without the one zero. */
function prodGradient(x: Tensor, g: Tensor, dims: readonly number[]): Tensor {
  const zero = eq(x, 0);
  const zeroCount = sum(zero, dims, true);
  const nonzero = where(zero, 1, x);
  const rest = expand(prod(nonzero, dims, true), x.shape);
  const noZero = div(rest, nonzero);
  const gradient = where(eq(zeroCount, 0), noZero, where(eq(zeroCount, 1), where(zero, rest, 0), 0));
  return mul(expand(g, x.shape), gradient);
}

/** The gradient of diagonal by index. */
function embedDiagonal(n: Node & { attrs: OpAttrs<'diagonal'> }, g: Tensor): Tensor {
  const { offset, dim1, dim2 } = n.attrs;
  const shape = n.shapeOf(0);
  const order = [dim1, dim2, ...shape.map((_, d) => d).filter((d) => d !== dim1 && d !== dim2)];
  const full = zeros(
    order.map((d) => shape[d]!),
    { dtype: g.dtype, device: g.device },
  );
  const from = (start: number): Tensor => arange(start, start + g.shape[g.ndim - 1]!, 1, { device: g.device });
  putAt(full, 0, [from(Math.max(0, -offset)), from(Math.max(0, offset))], movedim(g, -1, 0), false);
  return permute(
    full,
    shape.map((_, d) => order.indexOf(d)),
  );
}

// The first gradient writes into a view of zeros; a recorded one by index, since a graph cannot follow a write to a view.
export const viewRules: Rules<ViewName> = {
  reshape: { grad: (n, g) => [reshape(g, n.shapeOf(0))] },
  permute: {
    grad: (n, g) => {
      const inverse = new Array<number>(n.attrs.dims.length);
      n.attrs.dims.forEach((d, i) => {
        inverse[d] = i;
      });
      return [permute(g, inverse)];
    },
  },
  expand: { grad: (n, g) => [sumTo(g, n.shapeOf(0))] },
  slice: {
    grad: (n, g) => {
      const { dim, start, step } = n.attrs;
      const full = zeros(n.shapeOf(0), { dtype: g.dtype, device: g.device });
      const count = g.shape[dim]!;
      if (n.differentiatesBackward()) return [writeInto('indexAdd', full, dim, arange(start, start + count * step, step, { device: g.device }), g)];
      if (count > 0) {
        const end = step > 0 ? start + (count - 1) * step + 1 : start + (count - 1) * step - 1;
        copy_(slice(full, dim, start, end < 0 ? null : end, step), g);
      }
      return [full];
    },
  },
  diagonal: {
    grad: (n, g) => {
      if (n.differentiatesBackward()) return [embedDiagonal(n, g)];
      const full = zeros(n.shapeOf(0), { dtype: g.dtype, device: g.device });
      copy_(diagonal(full, n.attrs.offset, n.attrs.dim1, n.attrs.dim2), g);
      return [full];
    },
  },
};

export const copyRule: Rule<'copy'> = { grad: (n, g) => [() => to(g, { device: (n as Node).inputDevice(0) })] };

export const matmulRule: Rule<'matmul'> = {
  inputs: (needs) => [0, 1].filter((i) => needs[1 - i]),
  grad: (n, g) => [() => matmul(g, mT(n.in(1))), () => matmul(mT(n.in(0)), g)],
};

/** A product in the dtype of the input whose gradient it is: autocast's float32 weights get theirs unrounded. */
function productFor(n: Node, i: number, a: Tensor, b: Tensor): Tensor {
  return gemm(a, b, { out: fresh([a.shape[0]!, b.shape[1]!], n.inputMeta[i]!.dtype) })[0]!;
}

/** dW = gᵀ·x of input i and db = column sums of g, which ride on the packing of g. */
function weightGradient(n: Node, i: number, g: Tensor, x: Tensor): [Tensor, Tensor | null] {
  const out = fresh([g.shape[1]!, x.shape[1]!], n.inputMeta[i]!.dtype);
  const made = gemm(mT(g), x, { out, columnSums: n.needs(i + 1) ? fresh([g.shape[1]!], n.inputMeta[i + 1]!.dtype) : null });
  return [made[0]!, made[1] ?? null];
}

/** The gradient of `linear` in the type of its product: a wide residual made it wider. */
function inProductType(n: Node, g: Tensor): Tensor {
  const saved = n.needs(0) ? n.in(1) : n.needs(1) ? n.in(0) : null;
  return saved ? castGradient('linear', g, saved.dtype) : g;
}

/** The same gradients in recorded primitives, for gradients of gradients. */
function linearInPrimitives(n: Node, wide: Tensor): (() => Tensor | null)[] {
  const g = inProductType(n, wide);
  const flat = reshape(g, [-1, g.shape[g.ndim - 1]!]);
  const x = n.needs(1) ? reshape(n.in(0), [-1, n.shapeOf(0)[n.shapeOf(0).length - 1]!]) : null;
  return [() => matmul(g, n.in(1)), () => matmul(mT(flat), x!), () => sum(flat, 0), () => wide];
}

export const compositeRules: Rules<CompositeName> = {
  linear: {
    inputs: (needs) => [0, 1].filter((i) => needs[1 - i]),
    grad: (n, g) => {
      if (n.differentiatesBackward()) return linearInPrimitives(n, g);
      const dy = rows(contiguous(inProductType(n, g)));
      let bias: Tensor | null = null;
      return [
        () => reshape(productFor(n, 0, dy, n.in(1).detach()), n.shapeOf(0)),
        () => {
          const [dw, db] = weightGradient(n, 1, dy, rows(n.in(0)));
          bias = db;
          return dw;
        },
        () => bias ?? sum(dy, 0),
        () => g,
      ];
    },
  },
  mlp: {
    inputs: [0, 1, 3],
    outputs: [1],
    constant: [1],
    grad: (n, g) => {
      n.refuseDouble();
      const dy = rows(contiguous(castGradient('mlp', g, n.in(3).dtype)));
      // GELU's input, which the product below turns into its output: only one of the two lives until backward
      const act = n.lastUse ? n.out(1) : clone(n.out(1));
      const dpre = gemm(dy, n.in(3).detach(), { extra: act, pre: act, epilogue: EPILOGUE.geluBackward })[0]!;
      act.storage.wrote('the gradient of mlp');
      let [db1, db2]: (Tensor | null)[] = [null, null];
      const first = (): Tensor => {
        const [dw, db] = weightGradient(n, 1, dpre, rows(n.in(0)));
        db1 = db;
        return dw;
      };
      const second = (): Tensor => {
        const [dw, db] = weightGradient(n, 3, dy, act);
        db2 = db;
        return dw;
      };
      return [
        () => reshape(productFor(n, 0, dpre, n.in(1).detach()), n.shapeOf(0)),
        first,
        () => db1 ?? sum(dpre, 0),
        second,
        () => db2 ?? sum(dy, 0),
        () => g,
      ];
    },
  },
  linearCrossEntropy: linearCrossEntropyRule,
  attentionPacked: {
    inputs: [0],
    outputs: [0, 1],
    constant: [1],
    grad: (n, g) => {
      n.refuseDouble();
      const { heads, causal, scale } = n.attrs;
      const qkv = n.in(0).detach();
      const [b, t, c3] = qkv.shape as [number, number, number];
      const d = c3 / 3 / heads;
      const perHead = (x: Tensor): Tensor => permute(reshape(x.detach(), [b, t, heads, d]), [0, 2, 1, 3]);
      const dqkv = allocate(qkv.shape, qkv.dtype, qkv.device, 'attentionPacked backward');
      invoke(
        'attentionBackward',
        qkv.device,
        [perHead(contiguous(g)), ...unpackHeads(qkv, heads), null, perHead(n.out(0)), n.out(1), ...unpackHeads(dqkv, heads)],
        [Number(causal), scale],
      );
      return [dqkv];
    },
  },
  normalize: { inputs: [1], grad: (n, g) => [div(g, n.input(1)!)] },
  // saves its inputs: the segment runs again from them, and the engine goes on through what that records
  checkpoint: { inputs: (needs) => needs.map((_, i) => i), grad: () => [] },
  custom: { grad: (n, ...grads) => n.attrs.backward(n, grads) },
};
