// The fused blocks against the same mathematics in single ops, at sizes past one block of a kernel: results and all gradients.
// The single ops run in float64 on exactly the numbers that the fused ones get.
import { describe, expect, test } from 'vitest';
import type { DType, Tensor } from '../lib/index.js';
import * as sg from '../lib/index.js';
import { expectClose } from './helpers/metric.js';
import { stream, uniform } from './helpers/random.js';
import { type Nd, nd } from './helpers/reference.js';
import { type Layout, make, read, rounded } from './helpers/tensors.js';

interface Block {
  readonly name: string;
  readonly shapes: readonly (readonly number[])[];
  readonly fused: (...x: Tensor[]) => Tensor;
  readonly simple: (...x: Tensor[]) => Tensor;
}

const affine = (x: Tensor, w: Tensor, b: Tensor): Tensor => x.matmul(w.t()).add(b);

/** Attention by its definition, a causal mask aligned at the end. */
function attention(q: Tensor, k: Tensor, v: Tensor, causal: boolean): Tensor {
  const group = q.size(1) / k.size(1);
  const [wideK, wideV] = [k, v].map((t) => t.repeatInterleave(group, 1));
  let scores = q.matmul(wideK!.mT()).div(Math.sqrt(q.size(3)));
  if (causal) {
    const [rows, columns] = [q.size(2), k.size(2)];
    const visible = sg.tril(sg.ones([rows, columns], { dtype: 'bool' }), columns - rows);
    scores = scores.maskedFill(visible.logicalNot(), Number.NEGATIVE_INFINITY);
  }
  return scores.softmax(-1).matmul(wideV!);
}

/** Heads of a packed projection [B, T, 3·H·D], as [B, H, T, D] each. */
function unpack(qkv: Tensor, heads: number): Tensor[] {
  const [b, t, wide] = qkv.shape as [number, number, number];
  return qkv
    .reshape([b, t, 3, heads, wide / 3 / heads])
    .permute([2, 0, 3, 1, 4])
    .unbind(0);
}

const blocks: Block[] = [
  { name: 'linear', shapes: [[3, 70, 96], [160, 96], [160]], fused: (x, w, b) => sg.linear(x!, w!, b!), simple: (x, w, b) => affine(x!, w!, b!) },
  {
    name: 'linear with residual',
    shapes: [[210, 96], [33, 96], [33], [210, 33]],
    fused: (x, w, b, r) => sg.linear(x!, w!, b!, { residual: r! }),
    simple: (x, w, b, r) => affine(x!, w!, b!).add(r!),
  },
  {
    name: 'mlp',
    shapes: [[2, 65, 48], [192, 48], [192], [48, 192], [48], [2, 65, 48]],
    fused: (x, w1, b1, w2, b2, r) => sg.mlp(x!, w1!, b1!, w2!, b2!, { residual: r! }),
    simple: (x, w1, b1, w2, b2, r) => affine(sg.gelu(affine(x!, w1!, b1!), { approximate: 'tanh' }), w2!, b2!).add(r!),
  },
  ...[false, true].map(
    (causal): Block => ({
      name: `attentionPacked${causal ? ', causal' : ''}`,
      shapes: [[2, 139, 3 * 3 * 32]],
      fused: (x) => sg.attentionPacked(x!, 3, { causal }),
      simple: (x) =>
        attention(...(unpack(x!, 3) as [Tensor, Tensor, Tensor]), causal)
          .permute([0, 2, 1, 3])
          .reshape([2, 139, 96]),
    }),
  ),
  ...[
    [130, 130, 4, 4],
    [67, 200, 4, 2],
    [1, 150, 2, 1],
  ].map(
    ([rows, columns, heads, shared]): Block => ({
      name: `attention of ${rows} queries to ${columns} keys, ${heads} heads on ${shared}`,
      shapes: [
        [2, heads!, rows!, 40],
        [2, shared!, columns!, 40],
        [2, shared!, columns!, 40],
      ],
      fused: (q, k, v) => sg.scaledDotProductAttention(q!, k!, v!, { causal: true }),
      simple: (q, k, v) => attention(q!, k!, v!, true),
    }),
  ),
  { name: 'cross-entropy', shapes: [[130, 517]], fused: (x) => sg.crossEntropy(x!, labels()), simple: (x) => sg.nllLoss(sg.logSoftmax(x!, -1), labels()) },
];
const labels = (): Tensor => sg.fromTypedArray(Int32Array.from({ length: 130 }, (_, i) => (i * 37) % 517));

const tolerances: [DType, number, number][] = [
  ['float64', 1e-12, 1e-11],
  ['float32', 2e-6, 1e-5],
  ['float16', 1e-3, 4e-3],
  ['bfloat16', 8e-3, 3e-2],
];

interface Result {
  readonly y: Nd;
  readonly gradients: Nd[];
}

/** `like`: the dtype whose rounding the incoming gradient has. */
function run(fn: Block['fused'], values: readonly Nd[], dtype: DType, layout: Layout, like: DType): Result {
  return sg.scope(() => {
    const inputs = values.map((v) => make(v, dtype, 'cpu', layout));
    for (const x of inputs) x.requiresGrad = true;
    const y = fn(...inputs);
    y.backward({
      gradient: make(
        rounded(
          nd(y.shape, (i) => Math.cos(i)),
          like,
          'cpu',
        ),
        y.dtype,
        'cpu',
      ),
    });
    const result = { y: read(y), gradients: inputs.map((x) => read(x.grad!)) };
    for (const x of inputs) x.grad!.dispose();
    return result;
  });
}

describe.each(blocks)('$name', (block) => {
  test.each(tolerances)('%s', (dtype, forward, gradient) => {
    const next = stream(block.name.length);
    const values = block.shapes.map((s) => rounded(uniform(s, -1, 1, next), dtype, 'cpu'));
    const expected = run(block.simple, values, 'float64', 'contiguous', dtype);
    for (const layout of ['contiguous', 'transposed'] as const) {
      const result = run(block.fused, values, dtype, layout, dtype);
      expectClose(result.y.data, expected.y.data, forward, `${layout}: result`);
      result.gradients.forEach((g, i) => expectClose(g.data, expected.gradients[i]!.data, gradient, `${layout}: gradient of input ${i}`));
    }
    expect(expected.gradients.every((g) => g.data.some((v) => v !== 0))).toBe(true);
  });
});
