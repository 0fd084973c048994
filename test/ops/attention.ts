// Rows of attention and rotary embeddings, against their definitions.
import * as sg from '../../lib/index.js';
import { float, type Input, type Row } from '../helpers/op_table.js';
import { along, at, build, expand, map, matmul, type Nd, nd, softmaxOf, transpose } from '../helpers/reference.js';

interface Options {
  readonly causal?: boolean;
  readonly scale?: number;
}

/** softmax(q·kᵀ·scale + mask)·v with each key head shared by a group of query heads; a row that sees nothing gives 0. */
function attention(q: Nd, k: Nd, v: Nd, mask: Nd | null, boolean: boolean, options: Options): Nd {
  const [batch, heads, rows, dim] = q.shape as [number, number, number, number];
  const group = heads / k.shape[1]!;
  const wide = (x: Nd): Nd => build([batch, heads, x.shape[2]!, x.shape[3]!], ([b, h, t, d]) => at(x, [b!, Math.floor(h! / group), t!, d!]));
  const scores = map((s) => s * (options.scale ?? 1 / Math.sqrt(dim)), matmul(q, transpose(wide(k), -1, -2)));
  const columns = scores.shape[3]!;
  const shift = mask && expand(mask, scores.shape);
  const seen = build(scores.shape, (i) => {
    if (options.causal && i[3]! > i[2]! + columns - rows) return Number.NEGATIVE_INFINITY;
    if (shift && boolean) return at(shift, i) ? at(scores, i) : Number.NEGATIVE_INFINITY;
    return at(scores, i) + (shift ? at(shift, i) : 0);
  });
  const weights = along(seen, -1, (row) => (row.every((s) => s === Number.NEGATIVE_INFINITY) ? row.map(() => 0) : softmaxOf(row)));
  return matmul(weights, wide(v));
}

const tensors = (heads: number, keyHeads: number, rows: number, columns: number, dim = 4, constant = false): Input[] => [
  { shape: [2, heads, rows, dim], low: -1.5, high: 1.5, constant },
  { shape: [2, keyHeads, columns, dim], low: -1.5, high: 1.5, constant },
  { shape: [2, keyHeads, columns, dim], low: -1.5, high: 1.5, constant },
];

function row(name: string, inputs: Input[], options: Options = {}): Row {
  const mask = inputs.length > 3;
  const boolean = inputs[3]?.dtype === 'bool';
  return {
    name: `attention ${name}`,
    inputs,
    fn: (q, k, v, m) => sg.scaledDotProductAttention(q!, k!, v!, { ...options, ...(mask ? { mask: m! } : {}) }),
    ref: (q, k, v, m) => attention(q!, k!, v!, m ?? null, boolean, options),
    tolerance: 5,
  };
}

const attentions: Row[] = [
  row('of everything', tensors(2, 2, 3, 5)),
  row('causal', tensors(2, 2, 4, 4), { causal: true }),
  row('causal, last query sees the last key', tensors(2, 2, 2, 5), { causal: true }),
  row('with two query heads a key head', tensors(4, 2, 3, 3), { causal: true }),
  row('with one key head for all', tensors(3, 1, 2, 4)),
  row('with another scale', tensors(1, 1, 3, 3), { scale: 0.3 }),
  row('of one query', tensors(2, 2, 1, 6), { causal: true }),
  row('with a boolean mask', [...tensors(2, 2, 3, 5), { shape: [3, 5], low: 0, high: 2, dtype: 'bool' }]),
  row('with a boolean mask a batch', [...tensors(2, 2, 3, 5), { shape: [2, 1, 1, 5], low: 0, high: 2, dtype: 'bool' }]),
  row('with an additive mask', [...tensors(2, 1, 3, 4), { shape: [3, 4], low: -2, high: 2, constant: true }]),
  row('with a mask and causal', [...tensors(2, 2, 4, 4), { shape: [2, 1, 4, 4], low: -2, high: 2, constant: true }], { causal: true }),
  row('past a block', tensors(2, 1, 67, 131, 8, true), { causal: true }),
  row('of long rows', tensors(1, 1, 33, 260, 16, true)),
];

/** Su et al., 2021: pairs (2i, 2i+1) when interleaved, else (i, i + D/2), turned by their position's angle. */
function rotate(x: Nd, cos: Nd, sin: Nd, interleaved: boolean): Nd {
  const half = x.shape[3]! / 2;
  return build(x.shape, ([b, t, h, d]) => {
    const pair = interleaved ? Math.floor(d! / 2) : d! % half;
    const first = interleaved ? d! % 2 === 0 : d! < half;
    const other = interleaved ? (first ? d! + 1 : d! - 1) : first ? d! + half : d! - half;
    const [c, s] = [at(cos, [t!, pair]), at(sin, [t!, pair])];
    return at(x, [b!, t!, h!, d!]) * c + at(x, [b!, t!, h!, other]) * (first ? -s : s);
  });
}

const angles = (f: (a: number) => number): Nd => nd([3, 4], (i) => Math.fround(f(Math.floor(i / 4) * 10 ** -(i % 4))));
const table = (f: (a: number) => number, like: sg.Tensor): sg.Tensor => sg.fromTypedArray(Float32Array.from(angles(f).data), [3, 4], { device: like?.device });

const rotations: Row[] = [false, true].map((interleaved) => ({
  name: `rotaryEmbedding${interleaved ? ', interleaved' : ''}`,
  inputs: [float([2, 3, 2, 8])],
  fn: (x) => sg.rotaryEmbedding(x!, table(Math.cos, x!), table(Math.sin, x!), { interleaved }),
  ref: (x) => rotate(x!, angles(Math.cos), angles(Math.sin), interleaved),
  tolerance: 2,
}));

export const rows: readonly Row[] = [...attentions, ...rotations];
