// Gradients of the fused layers. A fused backward is recorded like any op, so gradients of gradients exist wherever it has a rule
// of its own: in primitives, or because the op is linear and its backward is again one of the family.

import { ones } from '../../create.js';
import { AutogradError } from '../../errors.js';
import { where } from '../../ops/blend.js';
import { contiguous, to } from '../../ops/copy.js';
import { deviceOf, door, type Fresh, fresh, type Input, invoke, like } from '../../ops/door.js';
import { gather, indexSelect } from '../../ops/gather.js';
import { wideType } from '../../ops/matmul.js';
import { writeInto } from '../../ops/places.js';
import { add, eq, exp, mul, ne, neg, rsqrt, square, sub } from '../../ops/pointwise.js';
import { mean, sum } from '../../ops/reduce.js';
import { softmax } from '../../ops/softmax.js';
import { reshape, unsqueeze } from '../../ops/view.js';
import type { Tensor } from '../../tensor.js';
import { type Node, record, recording } from '../node.js';
import type { NativeOpName, NeuralName, OpAttrs, Rule, Rules } from './types.js';

type Maybe = Tensor | null | undefined;

/** Ops whose backward is fused and not differentiated further. */
const noSecond = (op: string): { grad: () => never } => ({
  grad: () => {
    throw new AutogradError(`createGraph: no second derivative of ${op}`);
  },
});

/** As door, for a backward whose last outputs are not always wanted: absent ones are left out, and must be last. */
function fused<K extends NativeOpName>(
  op: K,
  inputs: readonly Input[],
  outputs: readonly (Fresh | null)[],
  attrs: readonly number[],
  saved: OpAttrs<K>,
): Maybe[] {
  const made = invoke(op, deviceOf(op, inputs), [...inputs, ...outputs], attrs);
  if (recording(inputs)) record(op, inputs, made, saved);
  return made;
}

const saved = (n: Node, i: number): Tensor | null => n.input(i) as Tensor | null;

/** Outputs for the gradients of weight and bias, inputs 1 and 2; null when neither is wanted. */
function parameterOutputs(n: Node, size: number): (Fresh | null)[] {
  const one = (i: number): Fresh => fresh([size], n.inputMeta[i]?.dtype ?? wideType(n.inputMeta[0]!.dtype));
  return n.needs(1) || n.needs(2) ? [one(1), one(2)] : [null, null];
}

const total = (...parts: Maybe[]): Tensor | null => {
  const present = parts.filter((p): p is Tensor => !!p);
  return present.length ? present.reduce((a, b) => add(a, b)) : null;
};

/**
 * Gradients of the backward of layerNorm (centered) and rmsNorm, whose outputs are dx = r·(a − mean(a) − h·mean(a·h)) with a = dy·w
 * and h = (x − mean(x))·r, dw = Σ dy·h, and db = Σ dy. The statistics are computed again from x: they depend on it.
 */
function normSecond(centered: boolean): Pick<Rule<'layerNormBackward'>, 'inputs' | 'grad'> {
  return {
    inputs: [0, 1, 2],
    grad: (n, gx: Maybe, gw: Maybe, gb: Maybe) => {
      const wide = (t: Tensor): Tensor => to(t, wideType(t.dtype));
      const m = (t: Tensor): Tensor => mean(t, -1, true);
      const [dy, x] = [wide(n.in(0)), wide(n.in(1))];
      const w = saved(n, 2);
      const a = w === null ? dy : mul(dy, w);
      const d = centered ? sub(x, m(x)) : x;
      const r = rsqrt(add(m(square(d)), n.attrs.eps));
      const h = mul(d, r);
      const back = (t: Tensor): Tensor => mul(r, sub(centered ? sub(t, m(t)) : t, mul(h, m(mul(t, h)))));
      const u = gx ? wide(gx) : null;
      const da = u ? back(u) : null;
      const throughH = total(gw && mul(dy, gw), u && neg(mul(r, add(mul(u, m(mul(a, h))), mul(a, m(mul(u, h)))))));
      const throughR = u && neg(mul(mul(r, h), m(mul(u, back(a)))));
      return [
        () => total(da && (w === null ? da : mul(da, w)), gw && mul(h, gw), gb && add(mul(dy, 0), gb)),
        () => total(throughH && back(throughH), throughR),
        () => da && mul(da, dy),
      ];
    },
  };
}

/** Gradients of dx = s·dL/dx for one loss a row: the curvature of log-sum-exp, weighted as the row is, and dx/s for s. */
const crossEntropySecond: Rule<'crossEntropyBackward'> = {
  inputs: [0, 1, 2, 3, 4],
  grad: (n, g) => {
    const [scale, logits, targets, lse] = [n.in(0), n.in(1), n.in(2), n.in(4)];
    const weight = saved(n, 3);
    const { ignoreIndex, smoothing } = n.attrs;
    const valid = ne(targets, ignoreIndex);
    const rowWeight = (): Tensor => {
      if (weight === null) return to(valid, lse.dtype);
      const own = indexSelect(weight, 0, where(valid, targets, 0));
      return where(valid, add(mul(own, 1 - smoothing), mul(mean(weight), smoothing)), 0);
    };
    const bend = (): Tensor => {
      const p = softmax(logits, -1);
      return mul(mul(p, sub(g, sum(mul(p, g), -1, true))), unsqueeze(mul(rowWeight(), scale), -1));
    };
    const one = ones([1], { dtype: scale.dtype, device: scale.device });
    return [() => sum(mul(g, crossEntropyBackward(one, logits, targets, weight, lse, n.attrs)), -1), bend];
  },
};

export function crossEntropyBackward(
  scale: Tensor,
  logits: Tensor,
  targets: Tensor,
  weight: Tensor | null,
  lse: Tensor,
  attrs: OpAttrs<'crossEntropy'>,
): Tensor {
  return door('crossEntropyBackward', [scale, logits, targets, weight, lse], [like(logits)], [attrs.ignoreIndex, attrs.smoothing], attrs)[0]!;
}

/** The fused attention kernel wants features side by side. */
const dense = (x: Tensor): Tensor => (x.strides[x.ndim - 1] === 1 ? x : contiguous(x));

const convInput = (dy: Tensor, w: Tensor, shape: readonly number[], geometry: readonly number[]): Tensor =>
  door('conv2dBackwardInput', [dy, w], [fresh(shape, dy.dtype)], geometry, { geometry })[0]!;
const convWeight = (dy: Tensor, x: Tensor, shape: readonly number[], withBias: boolean, geometry: readonly number[]): Maybe[] =>
  fused('conv2dBackwardWeight', [dy, x], [fresh(shape, dy.dtype), withBias ? fresh([shape[0]!], dy.dtype) : null], geometry, { geometry });
const convForward = (x: Tensor, w: Tensor, shape: readonly number[], geometry: readonly number[]): Tensor =>
  door('conv2d', [x, w, null], [fresh(shape, x.dtype)], geometry, { geometry })[0]!;

export const neuralRules: Rules<NeuralName> = {
  softmax: { outputs: [0], grad: (n, g) => [door('softmaxBackward', [g, n.out(0)], [like(g)], [], undefined)[0]!] },
  softmaxBackward: {
    inputs: [0, 1],
    grad: (n, g) => {
      const [dy, y] = [n.in(0), n.in(1)];
      const inner = (t: Tensor): Tensor => sum(mul(t, y), -1, true);
      return [() => door('softmaxBackward', [g, y], [like(g)], [], undefined)[0]!, () => sub(mul(g, sub(dy, inner(dy))), mul(dy, inner(g)))];
    },
  },
  logSoftmax: { outputs: [0], grad: (n, g) => [door('logSoftmaxBackward', [g, n.out(0)], [like(g)], [], undefined)[0]!] },
  logSoftmaxBackward: {
    inputs: [0, 1],
    grad: (n, g) => {
      const p = exp(n.in(1));
      return [() => sub(g, sum(mul(g, p), -1, true)), () => neg(mul(mul(g, p), sum(n.in(0), -1, true)))];
    },
  },
  logsumexp: { inputs: [0], grad: (n, g) => [mul(unsqueeze(g, -1), softmax(n.in(0), -1))] },

  layerNorm: {
    inputs: [0, 1],
    outputs: [1, 2],
    constant: [1, 2],
    grad: (n, g) => {
      const x = n.in(0);
      const parameters = parameterOutputs(n, x.shape[x.ndim - 1]!);
      return fused('layerNormBackward', [g, x, saved(n, 1), n.out(1), n.out(2)], [like(x), ...parameters], [], n.attrs);
    },
  },
  layerNormBackward: normSecond(true),
  rmsNorm: {
    inputs: [0, 1],
    outputs: [1],
    constant: [1],
    grad: (n, g) => {
      const x = n.in(0);
      const parameters = parameterOutputs(n, x.shape[x.ndim - 1]!);
      return fused('rmsNormBackward', [g, x, saved(n, 1), n.out(1)], [like(x), parameters[0]!], [], n.attrs);
    },
  },
  rmsNormBackward: normSecond(false),
  groupNorm: {
    inputs: [0, 1],
    outputs: [1, 2],
    constant: [1, 2],
    grad: (n, g) => {
      const x = n.in(0);
      const parameters = parameterOutputs(n, x.shape[1]!);
      return fused('groupNormBackward', [g, x, saved(n, 1), n.out(1), n.out(2)], [like(x), ...parameters], [n.attrs.groups], undefined);
    },
  },
  groupNormBackward: noSecond('groupNorm'),
  batchNorm: {
    inputs: [0, 1],
    outputs: [1, 2],
    constant: [1, 2],
    grad: (n, g) => {
      const x = n.in(0);
      const parameters = parameterOutputs(n, x.shape[1]!);
      return fused('batchNormBackward', [g, x, saved(n, 1), n.out(1), n.out(2)], [like(x), ...parameters], [Number(n.attrs.training)], undefined);
    },
  },
  batchNormBackward: noSecond('batchNorm'),

  crossEntropy: {
    inputs: [0, 1, 2],
    outputs: [1],
    constant: [1],
    grad: (n, g) => [crossEntropyBackward(g, n.in(0), n.in(1), saved(n, 2), n.out(1), n.attrs)],
  },
  crossEntropyBackward: crossEntropySecond,

  attention: {
    inputs: [0, 1, 2, 3],
    outputs: [0, 1],
    constant: [1],
    grad: (n, g) => {
      const [q, k, v] = [n.in(0), n.in(1), n.in(2)];
      const { causal, scale } = n.attrs;
      return door('attentionBackward', [dense(g), q, k, v, saved(n, 3), n.out(0), n.out(1)], [like(q), like(k), like(v)], [Number(causal), scale], undefined);
    },
  },
  attentionBackward: noSecond('attention'),
  rotaryEmbedding: {
    inputs: [1, 2],
    grad: (n, g) => {
      const { interleaved, inverse } = n.attrs;
      return [door('rotaryEmbedding', [g, n.in(1), n.in(2)], [like(g)], [Number(interleaved), Number(!inverse)], { interleaved, inverse: !inverse })[0]!];
    },
  },

  conv2d: {
    inputs: (needs) => [0, 1].filter((i) => needs[1 - i]),
    grad: (n, g) => {
      const { geometry } = n.attrs;
      const [dw, db] = n.needs(1) ? convWeight(g, n.in(0), n.shapeOf(1), n.needs(2), geometry) : [];
      return [() => convInput(g, n.in(1), n.shapeOf(0), geometry), dw, () => db ?? sum(g, [0, 2, 3])];
    },
  },
  // both are linear in each input, and stay in the family
  conv2dBackwardInput: {
    inputs: [0, 1],
    grad: (n, g) => {
      const { geometry } = n.attrs;
      return [() => convForward(g, n.in(1), n.shapeOf(0), geometry), () => convWeight(n.in(0), g, n.shapeOf(1), false, geometry)[0]!];
    },
  },
  conv2dBackwardWeight: {
    inputs: [0, 1],
    grad: (n, gw: Maybe, gb: Maybe) => {
      const { geometry } = n.attrs;
      const bias = gb ? reshape(gb, [1, gb.numel, 1, 1]) : null;
      return [
        () => total(gw && convForward(n.in(1), gw, n.shapeOf(0), geometry), bias && add(mul(n.in(0), 0), bias)),
        () => (gw ? convInput(n.in(0), gw, n.shapeOf(1), geometry) : null),
      ];
    },
  },
  maxPool2d: { outputs: [1], grad: (n, g) => [door('maxPool2dBackward', [g, n.out(1)], [fresh(n.shapeOf(0), g.dtype)], [], undefined)[0]!] },
  maxPool2dBackward: {
    inputs: [1],
    grad: (n, g) => {
      const at = n.in(1);
      const planes = (t: Tensor): Tensor => reshape(t, [t.shape[0]!, t.shape[1]!, t.shape[2]! * t.shape[3]!]);
      return [reshape(gather(planes(g), 2, planes(at)), at.shape)];
    },
  },
  avgPool2d: { grad: (n, g) => [door('avgPool2dBackward', [g], [fresh(n.shapeOf(0), g.dtype)], n.attrs.geometry, n.attrs)[0]!] },
  avgPool2dBackward: { grad: (n, g) => [door('avgPool2d', [g], [fresh(n.shapeOf(0), g.dtype)], n.attrs.geometry, n.attrs)[0]!] },

  embedding: {
    inputs: [1],
    grad: (n, g) => {
      const { paddingIndex } = n.attrs;
      const make = (): Tensor => door('embeddingBackward', [g, n.in(1)], [fresh(n.shapeOf(0), g.dtype)], [paddingIndex], n.attrs)[0]!;
      const addTo = (sum: Tensor): boolean => {
        if (paddingIndex >= 0 || sum.dtype !== g.dtype) return false;
        writeInto('indexAdd', sum, 0, reshape(n.in(1), [-1]), reshape(g, [-1, sum.shape[1]!]));
        return true;
      };
      return [Object.assign(make, { addTo })];
    },
  },
  embeddingBackward: {
    inputs: [1],
    grad: (n, g) => {
      const rows = door('embedding', [g, n.in(1)], [fresh(n.shapeOf(0), g.dtype)], [], n.attrs)[0]!;
      return [n.attrs.paddingIndex < 0 ? rows : where(unsqueeze(eq(n.in(1), n.attrs.paddingIndex), -1), 0, rows)];
    },
  },
  // the same key drops the same elements
  dropout: {
    grad: (n, g) => {
      const { p, key, layout } = n.attrs;
      return [door('dropout', [g], [like(g)], [p, ...key, ...layout], n.attrs)[0]!];
    },
  },
};
