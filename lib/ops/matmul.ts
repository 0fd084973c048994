// Matrix products and the fusions that pay on top of them. `linear`, `mlp` and `attentionPacked` are several native calls under
// one graph node: bias, GELU, residual and the bias gradient ride on the matrix products instead of passing over memory again.

import { record, recording } from '../autograd/node.js';
import { keptAs, withGelu } from '../autograd/selective.js';
import { context } from '../context.js';
import { allocate } from '../create.js';
import { type DType, isFloating, promoteTypes } from '../dtype.js';
import { DTypeError, describe, ShapeError, ValueError } from '../errors.js';
import { broadcastShapes, checkInteger, numel, type Shape, sameShape, showShape } from '../shape.js';
import { Tensor } from '../tensor.js';
import { autocasts } from './autocast.js';
import { gelu } from './blend.js';
import { contiguous, to } from './copy.js';
import { deviceOf, type Fresh, fresh, invoke } from './door.js';
import { sum } from './reduce.js';
import { mT, permute, reshape } from './view.js';

/** The form of GELU that products have. */
export const geluTanh = (x: Tensor): Tensor => gelu(x.detach(), { approximate: 'tanh' });

/** The epilogues of csrc/core/device.h. */
export const EPILOGUE = { none: 0, gelu: 1, residual: 2, geluBackward: 3, accumulate: 4 } as const;

function checkTensor(x: unknown, op: string, name: string): asserts x is Tensor {
  if (!(x instanceof Tensor)) throw new ValueError(`${op}: ${name} must be a tensor, got ${describe(x)}`);
}

/** Sums of 16-bit products and bias gradients are kept in this type. */
export function wideType(dtype: DType): 'float32' | 'float64' {
  return dtype === 'float64' ? 'float64' : 'float32';
}

/** A tensor with its leading dimensions broadcast to `batch`, as a raw view outside the graph. */
function withBatch(x: Tensor, batch: Shape): Tensor {
  const lead = batch.length - (x.ndim - 2);
  const strides = batch.map((s, i) => (i < lead || (x.shape[i - lead] === 1 && s !== 1) ? 0 : x.strides[i - lead]!));
  return new Tensor(x.storage, [...batch, ...x.shape.slice(-2)], [...strides, ...x.strides.slice(-2)], x.offset, x.dtype);
}

interface GemmOptions {
  bias?: Tensor | null;
  extra?: Tensor | null;
  out?: Tensor | Fresh;
  pre?: Tensor | Fresh | null;
  columnSums?: Fresh | null;
  epilogue?: number;
}

/** The native product of [.., M, K] and [.., K, N], outside the graph. Returns the fresh outputs in order. */
export function gemm(a: Tensor, b: Tensor, options: GemmOptions = {}): Tensor[] {
  const batch = a.ndim === 2 && b.ndim === 2 ? [] : broadcastShapes(a.shape.slice(0, -2), b.shape.slice(0, -2), 'matmul');
  const out = options.out ?? fresh([...batch, a.shape[a.ndim - 2]!, b.shape[b.ndim - 1]!], a.dtype);
  return invoke(
    'matmul',
    deviceOf('matmul', [a, b]),
    [
      batch.length ? withBatch(a, batch) : a,
      batch.length ? withBatch(b, batch) : b,
      options.bias ?? null,
      options.extra ?? null,
      out,
      options.pre ?? null,
      options.columnSums ?? null,
    ],
    [options.epilogue ?? EPILOGUE.none],
  );
}

/** [.., K] as one matrix of rows, without a copy where strides allow. */
export function rows(x: Tensor): Tensor {
  return x.ndim === 2
    ? x
    : reshape(
        x.detach(),
        [-1, x.shape[x.ndim - 1]!].map((s, i) => (i === 0 ? numel(x.shape.slice(0, -1)) : s)),
      );
}

/**
 * Matrix product, as PyTorch's: vectors, matrices, and batches that broadcast. 16-bit floats are accumulated in float32.
 */
export const matmul = autocasts('matmul', (a: Tensor, b: Tensor): Tensor => {
  checkTensor(a, 'matmul', 'a');
  checkTensor(b, 'matmul', 'b');
  if (a.ndim === 0 || b.ndim === 0) throw new ShapeError(`matmul: both operands need a dimension: a ${showShape(a.shape)} · b ${showShape(b.shape)}`);
  const k = a.shape[a.ndim - 1]!;
  const kb = b.shape[b.ndim === 1 ? 0 : b.ndim - 2]!;
  if (k !== kb) throw new ShapeError(`matmul: inner dimensions differ: a ${showShape(a.shape)} · b ${showShape(b.shape)} (${k} ≠ ${kb})`);
  if (a.dtype !== b.dtype) throw new DTypeError(`matmul: dtypes differ: a is ${a.dtype}, b is ${b.dtype}`);
  if (!isFloating(a.dtype)) return to(matmul(to(a, 'float64'), to(b, 'float64')), a.dtype); // exact below 2^53
  if (a.ndim === 1) return squeezeAt(matmul(reshape(a, [1, k]), b), b.ndim === 1 ? 0 : -2);
  if (b.ndim === 1) return squeezeAt(matmul(a, reshape(b, [k, 1])), -1);
  if (b.ndim === 2 && a.ndim > 2) return foldedProduct(a, b);
  const y = gemm(a, b)[0]!;
  if (recording([a, b])) record('matmul', [a, b], [y], undefined);
  return y;
});

/** A batch of rows times one matrix is one larger product. */
function foldedProduct(a: Tensor, b: Tensor): Tensor {
  const lead = a.shape.slice(0, -1);
  return reshape(matmul(reshape(a, [numel(lead), a.shape[a.ndim - 1]!]), b), [...lead, b.shape[1]!]);
}

function squeezeAt(x: Tensor, dim: number): Tensor {
  const d = dim < 0 ? x.ndim + dim : dim;
  return reshape(
    x,
    x.shape.filter((_, i) => i !== d),
  );
}

/** Product of two matrices, [M, K]·[K, N]. Throws ShapeError for other numbers of dimensions. */
export const mm = autocasts('mm', (a: Tensor, b: Tensor): Tensor => {
  checkTensor(a, 'mm', 'a');
  checkTensor(b, 'mm', 'b');
  if (a.ndim !== 2 || b.ndim !== 2) throw new ShapeError(`mm: expected two matrices, got ${showShape(a.shape)} and ${showShape(b.shape)}`);
  return matmul(a, b);
});
/** Product of two batches of matrices of equal size, [B, M, K]·[B, K, N]. */
export const bmm = autocasts('bmm', (a: Tensor, b: Tensor): Tensor => {
  checkTensor(a, 'bmm', 'a');
  checkTensor(b, 'bmm', 'b');
  if (a.ndim !== 3 || b.ndim !== 3 || a.shape[0] !== b.shape[0]) {
    throw new ShapeError(`bmm: expected two 3-d tensors with equal batch sizes, got ${showShape(a.shape)} and ${showShape(b.shape)}`);
  }
  return matmul(a, b);
});
/** Inner product of two vectors. */
export const dot = autocasts('dot', (a: Tensor, b: Tensor): Tensor => {
  checkTensor(a, 'dot', 'a');
  checkTensor(b, 'dot', 'b');
  if (a.ndim !== 1 || b.ndim !== 1) throw new ShapeError(`dot: expected two vectors, got ${showShape(a.shape)} and ${showShape(b.shape)}`);
  return matmul(a, b);
});
/** Outer product of two vectors. */
export function outer(a: Tensor, b: Tensor): Tensor {
  checkTensor(a, 'outer', 'a');
  checkTensor(b, 'outer', 'b');
  if (a.ndim !== 1 || b.ndim !== 1) throw new ShapeError(`outer: expected two vectors, got ${showShape(a.shape)} and ${showShape(b.shape)}`);
  return reshape(a, [a.numel, 1]).mul(reshape(b, [1, b.numel]));
}

export function checkLinear(op: string, x: Tensor, weight: Tensor, bias: Tensor | null | undefined): void {
  checkTensor(x, op, 'the input');
  checkTensor(weight, op, 'the weight');
  if (weight.ndim !== 2) throw new ShapeError(`${op}: the weight must be [out, in], got ${showShape(weight.shape)}`);
  if (x.ndim === 0 || x.shape[x.ndim - 1] !== weight.shape[1]) {
    throw new ShapeError(
      `${op}: input ${showShape(x.shape)} does not fit weight ${showShape(weight.shape)} (${x.shape[x.ndim - 1] ?? 'no'} ≠ ${weight.shape[1]} features)`,
    );
  }
  if (x.dtype !== weight.dtype) throw new DTypeError(`${op}: dtypes differ: the input is ${x.dtype}, the weight ${weight.dtype}`);
  if (!isFloating(x.dtype)) throw new DTypeError(`${op}: expects floating-point tensors, got ${x.dtype}`);
  if (bias === null || bias === undefined) return;
  checkTensor(bias, op, 'the bias');
  if (bias.ndim !== 1 || bias.shape[0] !== weight.shape[0]) {
    throw new ShapeError(`${op}: the bias must be [${weight.shape[0]}], got ${showShape(bias.shape)}`);
  }
}

function checkResidual(residual: unknown, op: string, shape: Shape, dtype: DType): asserts residual is Tensor {
  checkTensor(residual, op, 'the residual');
  if (!sameShape(residual.shape, shape) || !isFloating(residual.dtype) || promoteTypes(residual.dtype, dtype) !== residual.dtype) {
    throw new ShapeError(`${op}: the residual must be ${showShape(shape)} ${dtype} or wider, got ${showShape(residual.shape)} ${residual.dtype}`);
  }
}

/** The product that ends a block, with bias, and added to the residual in the residual's dtype. */
function intoResidual(x: Tensor, weight: Tensor, bias: Tensor | null, residual: Tensor | null | undefined): Tensor {
  const extra = residual ? rows(contiguous(residual.detach())) : null;
  return gemm(x, mT(weight.detach()), {
    bias: bias?.detach() ?? null,
    extra,
    out: extra ? fresh(extra.shape, extra.dtype) : undefined,
    epilogue: extra ? EPILOGUE.residual : EPILOGUE.none,
  })[0]!;
}

/**
 * y = x·Wᵀ + b, with x `[.., in]`, weight `[out, in]`, bias `[out]`.
 * @param options.residual of y's shape, of x's dtype or a wider one that y then has, is added in the same pass
 */
export const linear = autocasts(
  'linear',
  (x: Tensor, weight: Tensor, bias?: Tensor | null, options: { residual?: Tensor } = {}): Tensor => {
    checkLinear('linear', x, weight, bias);
    const shape = [...x.shape.slice(0, -1), weight.shape[0]!];
    const residual = options.residual;
    if (residual !== undefined) checkResidual(residual, 'linear', shape, x.dtype);
    const y = intoResidual(rows(x), weight, bias ?? null, residual);
    const out = shape.length === 2 ? y : reshape(y, shape);
    const inputs = [x, weight, bias ?? null, residual ?? null];
    if (recording(inputs)) record('linear', inputs, [out], undefined);
    return out;
  },
  [0, 1],
);

/**
 * The feed-forward block of GPT-2: y = gelu(x·W1ᵀ + b1)·W2ᵀ + b2, with the tanh form of GELU.
 * @param options.residual of y's shape, is added in the same pass
 */
export const mlp = autocasts(
  'mlp',
  (x: Tensor, w1: Tensor, b1: Tensor | null, w2: Tensor, b2: Tensor | null, options: { residual?: Tensor } = {}): Tensor => {
    checkLinear('mlp', x, w1, b1);
    checkTensor(w2, 'mlp', 'the second weight');
    for (const b of [b1, b2, options.residual]) if (b !== null && b !== undefined) checkTensor(b, 'mlp', 'a bias or the residual');
    if (w2.ndim !== 2 || w2.shape[1] !== w1.shape[0]) throw new ShapeError(`mlp: weights ${showShape(w1.shape)} and ${showShape(w2.shape)} do not chain`);
    const shape = [...x.shape.slice(0, -1), w2.shape[0]!];
    const residual = options.residual;
    if (residual) checkResidual(residual, 'mlp', shape, x.dtype);
    const inputs = [x, w1, b1, w2, b2, residual ?? null];
    // what a checkpoint keeps is what a graph will want
    const recorded = recording(inputs) || context().kept !== null;
    const hidden = fresh([numel(x.shape.slice(0, -1)), w1.shape[0]!], x.dtype);
    const first = { bias: b1?.detach() ?? null, out: hidden, pre: recorded ? hidden : null, epilogue: EPILOGUE.gelu };
    const [act, pre] = withGelu(hidden, () => gemm(rows(x), mT(w1.detach()), first), geluTanh);
    const y = intoResidual(act, w2, b2, residual);
    const out = shape.length === 2 ? y : reshape(y, shape);
    if (recording(inputs)) record('mlp', inputs, [out, pre!], undefined);
    else pre?.dispose();
    act.dispose();
    return out;
  },
  [0, 1, 3],
);

/** q, k, v of a packed projection [B, T, 3·H·D] as [B, H, T, D] views, outside the graph. */
export function unpackHeads(qkv: Tensor, heads: number): [Tensor, Tensor, Tensor] {
  const [b, t, c3] = qkv.shape as [number, number, number];
  const d = c3 / 3 / heads;
  const [sb, st, sc] = qkv.strides as [number, number, number];
  const part = (i: number): Tensor => new Tensor(qkv.storage, [b, heads, t, d], [sb, d * sc, st, sc], qkv.offset + i * heads * d * sc, qkv.dtype);
  return [part(0), part(1), part(2)];
}

/**
 * Multi-head self-attention straight from the packed projection: qkv `[B, T, 3·C]` with query, key and value side by side, heads side by
 * side within each. Returns `[B, T, C]`. Nothing is transposed or copied, and the gradient is packed again.
 * @param options.causal whether a position sees no later one. Default true
 * @param options.scale factor of the scores. Default 1/√(C / heads)
 */
export const attentionPacked = autocasts('attentionPacked', (qkv: Tensor, heads: number, options: { causal?: boolean; scale?: number } = {}): Tensor => {
  checkTensor(qkv, 'attentionPacked', 'qkv');
  checkInteger(heads, 'heads', 'attentionPacked', 1);
  if (qkv.ndim !== 3 || qkv.shape[2]! % (3 * heads) !== 0) {
    throw new ShapeError(`attentionPacked: qkv must be [batch, time, 3·channels] with channels a multiple of ${heads} heads, got ${showShape(qkv.shape)}`);
  }
  if (!isFloating(qkv.dtype)) throw new DTypeError(`attentionPacked: expects a floating-point tensor, got ${qkv.dtype}`);
  const x = qkv.strides[2] === 1 ? qkv : contiguous(qkv);
  const [b, t, c3] = x.shape as [number, number, number];
  const d = c3 / 3 / heads;
  const causal = options.causal ?? true;
  const scale = options.scale ?? 1 / Math.sqrt(d);
  const [q, k, v] = unpackHeads(x.detach(), heads);
  const attend = (): Tensor[] => {
    const out = allocate([b, t, heads, d], x.dtype, x.device, 'attentionPacked');
    const statistics = fresh([b, heads, t], wideType(x.dtype));
    return [out, ...invoke('attention', x.device, [q, k, v, null, permute(out, [0, 2, 1, 3]), statistics], [Number(causal), scale])];
  };
  const [out, lse] = keptAs('attention', attend) as [Tensor, Tensor];
  const y = reshape(out, [b, t, heads * d]);
  if (recording([x])) record('attentionPacked', [x], [y, lse], { heads, causal, scale });
  else lse.dispose();
  return y;
});

/** a·b + input, with `input` broadcast to the product. */
export const addmm = autocasts('addmm', (input: Tensor, a: Tensor, b: Tensor): Tensor => {
  checkTensor(input, 'addmm', 'the input');
  return mm(a, b).add(input);
});

/** Sum of the diagonal of a matrix. */
export const trace = autocasts('trace', (x: Tensor): Tensor => {
  checkTensor(x, 'trace', 'x');
  if (x.ndim !== 2) throw new ShapeError(`trace: expected a matrix, got ${showShape(x.shape)}`);
  return sum(x.diagonal());
});
