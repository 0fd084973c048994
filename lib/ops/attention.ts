// Scaled dot-product attention and rotary positions. The fused kernel never stores the matrix of scores. It has no gradient of
// the mask, no dropout, and one head size; calls that need more run in primitives, which do store it.

import { noGrad } from '../autograd/modes.js';
import { mayRecord } from '../autograd/node.js';
import { arange, fromTypedArray, ones } from '../create.js';
import type { DeviceLike } from '../device.js';
import { DTypeError, ShapeError } from '../errors.js';
import { scope } from '../memory.js';
import { dropout } from '../random.js';
import { broadcastShapes, checkInteger, checkNumber, numel, type Shape, sameShape, showShape } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { checkFinite, checkFlag, checkFloat, checkSameDType, checkTensor, optionsOf } from './arguments.js';
import { autocasts } from './autocast.js';
import { maskedFill } from './blend.js';
import { contiguous, to } from './copy.js';
import { deviceOf, door, fresh, like } from './door.js';
import { triu } from './joining.js';
import { matmul, wideType } from './matmul.js';
import { add, cos, eq, logicalNot, mul, sin } from './pointwise.js';
import { max } from './reduce.js';
import { softmax } from './softmax.js';
import { expand, mT, reshape, unsqueeze } from './view.js';

/** Mask, scale and dropout of `scaledDotProductAttention`. */
export interface AttentionOptions {
  /** Added to the scores (floating point), or true where a query may attend (bool); broadcasts to [B, H, Tq, Tk]. */
  mask?: Tensor | null;
  /** A query sees no later key. The last query is aligned with the last key, so a decoder may pass its newest queries alone. Default false. */
  causal?: boolean;
  /** Factor of the scores; 1/√D by default. */
  scale?: number;
  /** Whether H may be a multiple of Hkv; by default it may. */
  enableGqa?: boolean;
  /** Probability of dropping an attention weight, or what drops some of the weights [B, H, Tq, Tk]. */
  dropout?: number | ((weights: Tensor) => Tensor);
}

interface Heads {
  readonly batch: Shape;
  readonly heads: number;
  readonly groups: number;
}

function checkHeads(q: Tensor, k: Tensor, v: Tensor, gqa: boolean): Heads {
  const op = 'scaledDotProductAttention';
  const shapes = `query ${showShape(q.shape)}, key ${showShape(k.shape)}, value ${showShape(v.shape)}`;
  if (q.ndim < 2 || k.ndim !== q.ndim || v.ndim !== q.ndim)
    throw new ShapeError(`${op}: expected [B, H, T, D], or fewer leading dimensions, for each: ${shapes}`);
  deviceOf(op, [q, k, v]);
  checkSameDType(q, k, op, 'query and key');
  checkSameDType(q, v, op, 'query and value');
  const batch = q.shape.slice(0, -3);
  const headsOf = (x: Tensor): number => (x.ndim > 2 ? x.shape[x.ndim - 3]! : 1);
  const [heads, keyHeads] = [headsOf(q), headsOf(k)];
  const fits = sameShape(k.shape.slice(0, -3), batch) && sameShape(k.shape.slice(0, -1), v.shape.slice(0, -1)) && q.shape[q.ndim - 1] === k.shape[k.ndim - 1];
  if (!fits) throw new ShapeError(`${op}: sizes do not agree: ${shapes}`);
  if (heads !== keyHeads && (keyHeads === 0 || heads % keyHeads !== 0))
    throw new ShapeError(`${op}: ${heads} query heads are no multiple of ${keyHeads} key heads: ${shapes}`);
  if (heads !== keyHeads && !gqa) throw new ShapeError(`${op}: ${heads} query heads on ${keyHeads} key heads need enableGqa: ${shapes}`);
  return { batch, heads, groups: keyHeads === 0 ? 1 : heads / keyHeads };
}

function checkMask(mask: unknown, q: Tensor, shape: Shape): asserts mask is Tensor {
  const op = 'scaledDotProductAttention';
  checkTensor(mask, op, 'the mask');
  deviceOf(op, [q, mask]);
  if (mask.dtype !== 'bool' && mask.dtype !== q.dtype) throw new DTypeError(`${op}: the mask must be bool or ${q.dtype} like the query, got ${mask.dtype}`);
  if (!sameShape(broadcastShapes(mask.shape, shape, op), shape))
    throw new ShapeError(`${op}: the mask ${showShape(mask.shape)} does not broadcast to ${showShape(shape)}`);
}

/** The dimension of features must be laid out without gaps. */
const dense = (x: Tensor): Tensor => (x.strides[x.ndim - 1] === 1 || x.shape[x.ndim - 1]! < 2 ? x : contiguous(x));

/**
 * softmax(q·kᵀ·scale + mask)·v (Vaswani et al., 2017), computed in blocks (Dao et al., 2022). q is [B, H, Tq, D], k and v are
 * [B, Hkv, Tk, D] with H a multiple of Hkv (grouped queries: Ainslie et al., 2023); leading dimensions may be fewer or more. Rows
 * with every key masked give 0.
 */
export const scaledDotProductAttention = autocasts(
  'scaledDotProductAttention',
  (q: Tensor, k: Tensor, v: Tensor, options?: AttentionOptions): Tensor => {
    const op = 'scaledDotProductAttention';
    checkFloat(q, op, 'the query');
    checkFloat(k, op, 'the key');
    checkFloat(v, op, 'the value');
    const o = optionsOf(options, op);
    const { batch, heads, groups } = checkHeads(q, k, v, checkFlag(o.enableGqa ?? true, 'enableGqa', op));
    const causal = checkFlag(o.causal ?? false, 'causal', op);
    const [rows, features] = q.shape.slice(-2) as [number, number];
    const scale = checkFinite(o.scale ?? 1 / Math.sqrt(Math.max(1, features)), 'scale', op);
    const drop = droppingOf(o.dropout ?? 0);
    const mask = o.mask ?? null;
    const columns = k.shape[k.ndim - 2]!;
    const images = numel(batch);
    if (mask !== null) checkMask(mask, q, q.ndim > 2 ? [...batch, heads, rows, columns] : [rows, columns]);
    const fold = (x: Tensor): Tensor => reshape(x, [images, x.ndim > 2 ? x.shape[x.ndim - 3]! : 1, ...x.shape.slice(-2)]);
    const folded = [fold(q), fold(k), fold(v)] as const;
    const foldedMask = mask === null ? null : mask.ndim <= 4 && batch.length <= 1 ? mask : fold(expand(mask, [...batch, heads, rows, columns]));
    const slow = drop !== null || v.shape[v.ndim - 1] !== features || (mask?.requiresGrad && mayRecord());
    const y = slow ? inPrimitives(folded, foldedMask, causal, scale, groups, drop) : fused(folded, foldedMask, causal, scale);
    return reshape(y, [...q.shape.slice(0, -1), v.shape[v.ndim - 1]!]);
  },
  [0, 1, 2, 'mask'],
);

type Qkv = readonly [Tensor, Tensor, Tensor];
type Dropping = (weights: Tensor) => Tensor;

function droppingOf(given: number | Dropping): Dropping | null {
  if (typeof given === 'function') return given;
  const rate = checkNumber(given, 'dropout', 'scaledDotProductAttention', 0, 1);
  return rate > 0 ? (weights) => dropout(weights, rate) : null;
}

function fused([q, k, v]: Qkv, mask: Tensor | null, causal: boolean, scale: number): Tensor {
  const [b, h, rows] = q.shape as [number, number, number];
  const wide = mask === null ? null : expand(mask.detach(), [b, h, rows, k.shape[2]!]);
  const [y, lse] = door('attention', [dense(q), dense(k), dense(v), wide], [like(q), fresh([b, h, rows], wideType(q.dtype))], [Number(causal), scale], {
    causal,
    scale,
  });
  if (y!.gradFn === null) lse!.dispose();
  return y!;
}

/** The definition, with the scores in memory. */
function inPrimitives([q, k, v]: Qkv, mask: Tensor | null, causal: boolean, scale: number, groups: number, drop: Dropping | null): Tensor {
  const perQuery = (x: Tensor): Tensor => {
    const [b, h, t, d] = x.shape as [number, number, number, number];
    return groups === 1 ? x : reshape(expand(unsqueeze(x, 2), [b, h, groups, t, d]), [b, h * groups, t, d]);
  };
  let scores = mul(matmul(q, mT(perQuery(k))), scale);
  if (mask !== null) scores = mask.dtype === 'bool' ? maskedFill(scores, logicalNot(mask), Number.NEGATIVE_INFINITY) : add(scores, mask);
  if (causal) {
    const [rows, columns] = scores.shape.slice(-2) as [number, number];
    scores = maskedFill(scores, triu(ones([rows, columns], { dtype: 'bool', device: q.device }), columns - rows + 1), Number.NEGATIVE_INFINITY);
  }
  if (scores.shape[3] === 0) return matmul(scores, perQuery(v));
  const dead = eq(max(scores.detach(), -1, true), Number.NEGATIVE_INFINITY);
  const weights = maskedFill(softmax(maskedFill(scores, dead, 0), -1), dead, 0);
  return matmul(drop === null ? weights : drop(weights), perQuery(v));
}

/** Which features form a pair. */
export interface RotaryOptions {
  /** Pairs of neighbours (2i, 2i + 1) as in the paper; by default (i, i + D/2) as in GPT-NeoX and Llama. */
  interleaved?: boolean;
}

/**
 * Rotates each pair of features of x [B, T, H, D] by the angle of its position (RoFormer; Su et al., 2021). `cos` and `sin` are
 * [T, D/2] float32: rows of what rotaryTables makes.
 */
export function rotaryEmbedding(x: Tensor, cos: Tensor, sin: Tensor, options?: RotaryOptions): Tensor {
  const op = 'rotaryEmbedding';
  checkFloat(x, op);
  checkTensor(cos, op, 'cos');
  checkTensor(sin, op, 'sin');
  const interleaved = checkFlag(optionsOf(options, op).interleaved ?? false, 'interleaved', op);
  if (x.ndim !== 4 || x.shape[3]! % 2 !== 0)
    throw new ShapeError(`${op}: expected [batch, time, heads, an even number of features], got ${showShape(x.shape)}`);
  const table = [x.shape[1]!, x.shape[3]! / 2];
  for (const [name, t] of [
    ['cos', cos],
    ['sin', sin],
  ] as const) {
    if (!sameShape(t.shape, table)) throw new ShapeError(`${op}: ${name} must be ${showShape(table)} for ${showShape(x.shape)}, got ${showShape(t.shape)}`);
    if (t.dtype !== 'float32') throw new DTypeError(`${op}: ${name} must be float32, got ${t.dtype}`);
  }
  const inputs = [x, cos.detach(), sin.detach()];
  return door('rotaryEmbedding', inputs, [like(x)], [Number(interleaved), 0], { interleaved, inverse: false })[0]!;
}

/** What `rotaryEmbedding` turns by: each [length, D/2] float32. */
export interface RotaryTables {
  /** Cosines of the angles. */
  readonly cos: Tensor;
  /** Sines of the angles. */
  readonly sin: Tensor;
}

/** cos and sin of position · base^(−2i/D) for positions 0 … length − 1: each [length, D/2] float32, computed in float64. */
export function rotaryTables(features: number, length: number, options?: { base?: number; device?: DeviceLike }): RotaryTables {
  const op = 'rotaryTables';
  const d = checkInteger(features, 'the number of features', op, 2, 2 ** 20);
  if (d % 2 !== 0) throw new ShapeError(`${op}: the number of features must be even, got ${d}`);
  const { base = 10000, device = 'cpu' } = optionsOf(options, op);
  checkFinite(base, 'base', op, Number.MIN_VALUE);
  const rates = Float64Array.from({ length: d / 2 }, (_, i) => base ** ((-2 * i) / d));
  return noGrad(() =>
    scope(() => {
      const positions = arange(0, checkInteger(length, 'the length', op, 0), 1, { dtype: 'float64', device });
      const angles = mul(unsqueeze(positions, 1), fromTypedArray(rates, [1, d / 2], { device }));
      return { cos: to(cos(angles), 'float32'), sin: to(sin(angles), 'float32') };
    }),
  );
}
