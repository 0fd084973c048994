// The kernels that are measured, on a CPU (kernels.ts) and on a GPU (gpu/kernels.ts): what each works on, what it must at least move or
// compute, and our side of it. The other side is the function of the same kind in pytorch/kernels.py, which is told the same numbers.
import type { DType, Tensor } from '../lib/index.js';
import * as sg from '../lib/index.js';
import { optim } from '../lib/index.js';

/** Sizes, by the names that both sides know. */
export type Sizes = Readonly<Record<string, number>>;

export interface KernelCase {
  readonly name: string;
  readonly kind: string;
  readonly dtype: DType;
  readonly sizes: Sizes;
  /** What must be read and written at least, or computed at least. */
  readonly bytes?: number;
  readonly flops?: number;
}

const WIDTH: Partial<Record<DType, number>> = { float32: 4, bfloat16: 2, float16: 2 };

/** A case limited by memory: `passes` times over `elements` of its dtype, and some bytes more. */
function moving(name: string, kind: string, dtype: DType, sizes: Sizes, elements: number, passes: number, more = 0): KernelCase {
  return { name, kind, dtype, sizes, bytes: elements * passes * WIDTH[dtype]! + more };
}

/** How large the cases are. */
export interface Scale {
  /** Elements of pointwise ops in 16 bits; half as many in float32. */
  readonly n: number;
  /** Of softmax and sums. */
  readonly rows: number;
  readonly cols: number;
  /** Of the model whose norms, losses, products and optimizer are measured. */
  readonly tokens: number;
  readonly dim: number;
  readonly vocabSize: number;
  readonly layers: number;
  /** Batch, heads, positions, width of a head. */
  readonly attention: readonly (readonly [number, number, number, number])[];
  /** Edge of a large square product. */
  readonly square: number;
  /** Images and channels of a network's first stage; each later one has half the edge and twice the channels. */
  readonly images: { readonly count: number; readonly channels: number; readonly edge: number };
}

export const SCALES = {
  gpu: {
    n: 1 << 28,
    rows: 1 << 15,
    cols: 4096,
    tokens: 65536,
    dim: 768,
    vocabSize: 50304,
    layers: 12,
    attention: [
      [64, 12, 1024, 64],
      [16, 16, 2048, 64],
      [4, 16, 4096, 128],
      [1, 12, 1024, 64],
    ],
    square: 8192,
    images: { count: 256, channels: 64, edge: 56 },
  },
  cpu: {
    n: 1 << 23,
    rows: 4096,
    cols: 1024,
    tokens: 3072,
    dim: 384,
    vocabSize: 8192,
    layers: 6,
    attention: [
      [12, 6, 256, 64],
      [1, 12, 1024, 64],
    ],
    square: 1024,
    images: { count: 8, channels: 64, edge: 56 },
  },
  /** To see that everything runs. */
  tiny: {
    n: 1 << 12,
    rows: 64,
    cols: 128,
    tokens: 32,
    dim: 64,
    vocabSize: 256,
    layers: 1,
    attention: [[2, 2, 64, 64]],
    square: 64,
    images: { count: 2, channels: 4, edge: 8 },
  },
} satisfies Record<string, Scale>;

/** All cases of a dtype; exp, the sum of all, casts and AdamW are those of float32. */
export function kernelCases({ n, rows, cols, tokens, dim, vocabSize, layers, attention, square, images }: Scale, dtype: DType): KernelCase[] {
  const matrix = rows * cols;
  const cases: KernelCase[] = [
    moving('copy', 'copy', dtype, { n }, n, 2),
    {
      name: `product ${square}³`,
      kind: 'matmul',
      dtype,
      sizes: { m: square, k: square, n: square },
      flops: 2 * square ** 3,
    },
    moving('add', 'add', dtype, { n }, n, 3),
    moving('gelu', 'gelu', dtype, { n }, n, 2),
    moving('exp', 'exp', 'float32', { n: n / 2 }, n / 2, 2),
    moving('add of rows', 'addRow', dtype, { rows, cols }, matrix, 2),
    moving('cast to bfloat16', 'cast', 'float32', { n: n / 2 }, n / 2, 1, n),
    moving('transpose', 'transpose', dtype, { rows, cols }, matrix, 2),
    moving('sum of all', 'sumAll', 'float32', { n: n / 2 }, n / 2, 1),
    moving('sum of rows', 'sumRows', dtype, { rows, cols }, matrix, 1),
    moving('sum of columns', 'sumColumns', dtype, { rows, cols }, matrix, 1),
    moving('softmax', 'softmax', dtype, { rows, cols }, matrix, 2),
    moving('softmax backward', 'softmaxBackward', dtype, { rows, cols }, matrix, 3),
  ];
  for (const norm of ['layerNorm', 'rmsNorm']) {
    cases.push(moving(norm, norm, dtype, { rows: tokens, cols: dim }, tokens * dim, 2));
    cases.push(moving(`${norm} backward`, `${norm}Backward`, dtype, { rows: tokens, cols: dim }, tokens * dim, 3));
  }
  const some = tokens / 4;
  cases.push(
    moving('crossEntropy', 'crossEntropy', dtype, { rows: some, cols: vocabSize }, some * vocabSize, 1),
    moving('crossEntropy backward', 'crossEntropyBackward', dtype, { rows: some, cols: vocabSize }, some * vocabSize, 2),
    moving('embedding', 'embedding', dtype, { tokens, dim, vocabSize }, tokens * dim, 2),
    moving('embedding backward', 'embeddingBackward', dtype, { tokens, dim, vocabSize }, tokens * dim + vocabSize * dim, 1),
    moving('AdamW', 'adamw', 'float32', { layers, dim, vocabSize }, parameterCount(layers, dim, vocabSize), 7),
  );
  for (const [b, h, t, d] of attention) {
    const flops = 2 * b * h * t * t * d; // two products, half of each masked
    const sizes = { b, h, t, d };
    cases.push({ name: `attention ${b}x${h}x${t}x${d}`, kind: 'attention', dtype, sizes, flops });
    cases.push({ name: `attention ${b}x${h}x${t}x${d} backward`, kind: 'attentionBackward', dtype, sizes, flops: 2.5 * flops });
  }
  const products: [string, number, number, number][] = [
    ['qkv', tokens, dim, 3 * dim],
    ['projection', tokens, dim, dim],
    ['mlp in', tokens, dim, 4 * dim],
    ['mlp out', tokens, 4 * dim, dim],
    ['logits', some, dim, vocabSize],
  ];
  for (const [name, m, k, width] of products) {
    cases.push({ name: `${name} [${m},${k}]·[${k},${width}]`, kind: 'linear', dtype, sizes: { m, k, n: width }, flops: 2 * m * k * width });
  }
  cases.push({
    name: 'weight gradient of mlp in',
    kind: 'weightGradient',
    dtype,
    sizes: { m: tokens, k: dim, n: 4 * dim },
    flops: 8 * tokens * dim * dim,
  });
  return dtype === 'float32' ? [...cases, ...imageCases(images)] : cases;
}

/** Convolutions of a residual network, pooling and batch norm, in float32. */
function imageCases({ count, channels, edge }: Scale['images']): KernelCase[] {
  const cases: KernelCase[] = [];
  const convolution = (c: number, f: number, size: number, k: number, stride: number): void => {
    const sizes = { n: count, c, f, size, k, stride, groups: 1, dilation: 1 };
    const name = `conv ${k}x${k}${stride > 1 ? ` stride ${stride}` : ''}, ${c} to ${f} channels, ${count} images ${size}x${size}`;
    const flops = 2 * count * f * c * k * k * Math.ceil(size / stride) ** 2;
    cases.push({ name, kind: 'conv', dtype: 'float32', sizes, flops });
    cases.push({ name: `${name} backward`, kind: 'convBackward', dtype: 'float32', sizes, flops: 2 * flops });
  };
  convolution(channels, channels, edge, 3, 1);
  convolution(channels, 2 * channels, edge, 3, 2);
  convolution(4 * channels, channels, edge / 4, 1, 1);
  convolution(4 * channels, 4 * channels, edge / 4, 3, 1);
  const sizes = { n: count, c: channels, size: edge };
  const elements = count * channels * edge ** 2;
  for (const [name, kind, passes] of [
    ['maxPool2d 2x2', 'maxPool', 1],
    ['batchNorm', 'batchNorm', 2],
  ] as const) {
    const title = `${name}, ${channels} channels, ${count} images ${edge}x${edge}`;
    cases.push(moving(title, kind, 'float32', sizes, elements, passes));
    cases.push(moving(`${title} backward`, `${kind}Backward`, 'float32', sizes, elements, passes === 1 ? 1 : 3));
  }
  return cases;
}

/** Shapes of a GPT's parameters. */
function parameterShapes(layers: number, dim: number, vocabSize: number): number[][] {
  const block = [[3 * dim, dim], [3 * dim], [dim, dim], [dim], [4 * dim, dim], [4 * dim], [dim, 4 * dim], [dim], [dim], [dim], [dim], [dim]];
  return [[vocabSize, dim], [1024, dim], ...Array.from({ length: layers }, () => block).flat()];
}
const parameterCount = (layers: number, dim: number, vocabSize: number): number =>
  parameterShapes(layers, dim, vocabSize).reduce((sum, shape) => sum + shape.reduce((a, b) => a * b), 0);

type Make = (sizes: Sizes, make: (...shape: number[]) => Tensor, on: sg.TensorOptions) => () => unknown;

/** The gradient alone: the graph stays from call to call. */
function backwardOf(y: Tensor, inputs: Tensor[]): () => unknown {
  const gradient = sg.randnLike(y.detach());
  return () => sg.grad(y, inputs, { gradient, retainGraph: true });
}
const leaf = (x: Tensor): Tensor => {
  x.requiresGrad = true;
  return x;
};
const imagesOf = (s: Sizes, make: (...shape: number[]) => Tensor): Tensor => make(s['n']!, s['c']!, s['size']!, s['size']!);
const filtersOf = (s: Sizes, make: (...shape: number[]) => Tensor): Tensor => make(s['f']!, s['c']! / s['groups']!, s['k']!, s['k']!);
const convolve = (s: Sizes, x: Tensor, w: Tensor): Tensor => {
  const dilation = s['dilation']!;
  return sg.conv2d(x, w, null, { stride: s['stride']!, padding: (dilation * (s['k']! - 1)) >> 1, dilation, groups: s['groups']! });
};
const batchNorm = (x: Tensor, w: Tensor, b: Tensor): Tensor => sg.batchNorm(x, null, null, w, b, true);
const attend = (q: Tensor, k: Tensor, v: Tensor): Tensor => sg.scaledDotProductAttention(q, k, v, { causal: true });

/** Our side by kind: gives the call that is measured. */
export const ours: Readonly<Record<string, Make>> = {
  copy: (s, make) => {
    const x = make(s['n']!);
    return () => x.clone();
  },
  add: (s, make) => {
    const [x, y] = [make(s['n']!), make(s['n']!)];
    return () => x.add(y);
  },
  gelu: (s, make) => {
    const x = make(s['n']!);
    return () => sg.gelu(x, { approximate: 'tanh' });
  },
  exp: (s, make) => {
    const x = make(s['n']!);
    return () => x.exp();
  },
  addRow: (s, make) => {
    const [x, row] = [make(s['rows']!, s['cols']!), make(s['cols']!)];
    return () => x.add(row);
  },
  cast: (s, make) => {
    const x = make(s['n']!);
    return () => x.to('bfloat16');
  },
  transpose: (s, make) => {
    const x = make(s['rows']!, s['cols']!);
    return () => x.t().contiguous();
  },
  sumAll: (s, make) => {
    const x = make(s['n']!);
    return () => x.sum();
  },
  sumRows: (s, make) => {
    const x = make(s['rows']!, s['cols']!);
    return () => x.sum(1);
  },
  sumColumns: (s, make) => {
    const x = make(s['rows']!, s['cols']!);
    return () => x.sum(0);
  },
  softmax: (s, make) => {
    const x = make(s['rows']!, s['cols']!);
    return () => x.softmax(-1);
  },
  softmaxBackward: (s, make) => {
    const x = leaf(make(s['rows']!, s['cols']!));
    return backwardOf(x.softmax(-1), [x]);
  },
  layerNorm: (s, make) => {
    const [x, w, b] = [make(s['rows']!, s['cols']!), make(s['cols']!), make(s['cols']!)];
    return () => sg.layerNorm(x, [s['cols']!], w, b);
  },
  layerNormBackward: (s, make) => {
    const [x, w, b] = [leaf(make(s['rows']!, s['cols']!)), leaf(make(s['cols']!)), leaf(make(s['cols']!))];
    return backwardOf(sg.layerNorm(x, [s['cols']!], w, b), [x, w, b]);
  },
  rmsNorm: (s, make) => {
    const [x, w] = [make(s['rows']!, s['cols']!), make(s['cols']!)];
    return () => sg.rmsNorm(x, [s['cols']!], w);
  },
  rmsNormBackward: (s, make) => {
    const [x, w] = [leaf(make(s['rows']!, s['cols']!)), leaf(make(s['cols']!))];
    return backwardOf(sg.rmsNorm(x, [s['cols']!], w), [x, w]);
  },
  crossEntropy: (s, make, on) => {
    const [x, y] = [make(s['rows']!, s['cols']!), sg.randint(0, s['cols']!, [s['rows']!], { device: on.device })];
    return () => sg.crossEntropy(x, y);
  },
  crossEntropyBackward: (s, make, on) => {
    const [x, y] = [leaf(make(s['rows']!, s['cols']!)), sg.randint(0, s['cols']!, [s['rows']!], { device: on.device })];
    return backwardOf(sg.crossEntropy(x, y), [x]);
  },
  embedding: (s, make, on) => {
    const [w, ids] = [make(s['vocabSize']!, s['dim']!), sg.randint(0, s['vocabSize']!, [s['tokens']!], { device: on.device })];
    return () => sg.embedding(ids, w);
  },
  embeddingBackward: (s, make, on) => {
    const [w, ids] = [leaf(make(s['vocabSize']!, s['dim']!)), sg.randint(0, s['vocabSize']!, [s['tokens']!], { device: on.device })];
    return backwardOf(sg.embedding(ids, w), [w]);
  },
  adamw: (s, make) => {
    const parameters = parameterShapes(s['layers']!, s['dim']!, s['vocabSize']!).map((shape) => leaf(make(...shape)));
    for (const p of parameters) p.grad = make(...p.shape);
    const optimizer = new optim.AdamW(parameters, { lr: 1e-4, weightDecay: 0.1 });
    return () => optimizer.step();
  },
  attention: (s, make) => {
    const [q, k, v] = [1, 2, 3].map(() => make(s['b']!, s['h']!, s['t']!, s['d']!)) as [Tensor, Tensor, Tensor];
    return () => attend(q, k, v);
  },
  attentionBackward: (s, make) => {
    const [q, k, v] = [1, 2, 3].map(() => leaf(make(s['b']!, s['h']!, s['t']!, s['d']!))) as [Tensor, Tensor, Tensor];
    return backwardOf(attend(q, k, v), [q, k, v]);
  },
  conv: (s, make) => {
    const [x, w] = [imagesOf(s, make), filtersOf(s, make)];
    return () => convolve(s, x, w);
  },
  convBackward: (s, make) => {
    const [x, w] = [leaf(imagesOf(s, make)), leaf(filtersOf(s, make))];
    return backwardOf(convolve(s, x, w), [x, w]);
  },
  maxPool: (s, make) => {
    const x = imagesOf(s, make);
    return () => sg.maxPool2d(x, 2);
  },
  maxPoolBackward: (s, make) => {
    const x = leaf(imagesOf(s, make));
    return backwardOf(sg.maxPool2d(x, 2), [x]);
  },
  batchNorm: (s, make) => {
    const [x, w, b] = [imagesOf(s, make), make(s['c']!), make(s['c']!)];
    return () => batchNorm(x, w, b);
  },
  batchNormBackward: (s, make) => {
    const [x, w, b] = [leaf(imagesOf(s, make)), leaf(make(s['c']!)), leaf(make(s['c']!))];
    return backwardOf(batchNorm(x, w, b), [x, w, b]);
  },
  matmul: (s, make) => {
    const [a, b] = [make(s['m']!, s['k']!), make(s['k']!, s['n']!)];
    return () => a.matmul(b);
  },
  linear: (s, make) => {
    const [x, w] = [make(s['m']!, s['k']!), make(s['n']!, s['k']!)];
    return () => sg.linear(x, w);
  },
  weightGradient: (s, make) => {
    const [x, g] = [make(s['m']!, s['k']!), make(s['m']!, s['n']!)];
    return () => g.t().matmul(x);
  },
};
