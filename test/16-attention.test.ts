// Attention over several tiles, on every device and in every form of its kernels: against float64 on the CPU, whose own rows are
// in the op table and in the goldens. Sizes lie beside those of tiles (64 and 128) and of padded heads (64, 96, 128).
import { describe, expect, test } from 'vitest';
import type { DType } from '../lib/index.js';
import * as sg from '../lib/index.js';
import type { Tensor } from '../lib/tensor.js';
import { devices } from './helpers/devices.js';
import { expectClose } from './helpers/metric.js';
import { seedOf, stream, uniform } from './helpers/random.js';
import { build, type Nd } from './helpers/reference.js';
import { make, read, rounded } from './helpers/tensors.js';

interface Problem {
  readonly batch?: number;
  readonly heads?: number;
  readonly keyHeads?: number;
  readonly queries: number;
  readonly keys?: number;
  readonly features: number;
  readonly causal?: boolean;
  readonly scale?: number;
  /** The value of a mask at [batch, head, query, key], or of a boolean one. */
  readonly mask?: (index: readonly number[]) => number;
  readonly boolean?: boolean;
  readonly maskShape?: readonly number[];
  /** Elements that q, k and v lie behind an aligned address. */
  readonly offset?: number;
}

const HIDDEN = Number.NEGATIVE_INFINITY;
const forward: Partial<Record<DType, number>> = { float32: 3e-6, float64: 1e-13, float16: 1.5e-3, bfloat16: 1e-2 };
const backward: Partial<Record<DType, number>> = { float32: 1e-5, float64: 1e-12, float16: 4e-3, bfloat16: 3e-2 };

/** A tensor in the memory order [B, T, H, D], as projections leave it, seen as [B, H, T, D]. */
function heads(x: Nd, dtype: DType, device: string, offset: number): Tensor {
  const [b, h, t, d] = x.shape as [number, number, number, number];
  const flat = new Float64Array(offset + x.data.length);
  x.data.forEach((value, i) => {
    const [bi, hi, ti, di] = [Math.floor(i / (h * t * d)), Math.floor(i / (t * d)) % h, Math.floor(i / d) % t, i % d];
    flat[offset + ((bi * t + ti) * h + hi) * d + di] = value;
  });
  const memory = sg.fromTypedArray(flat, [flat.length], { device }).to(dtype);
  return sg.permute(sg.reshape(sg.narrow(memory, 0, offset, x.data.length), [b, t, h, d]), [0, 2, 1, 3]).detach();
}

interface Run {
  readonly out: Nd;
  readonly gradients: Nd[];
}

function attend(values: readonly Nd[], mask: Nd | null, p: Problem, dtype: DType, device: string): Run {
  return sg.scope(() => {
    const inputs = values.slice(0, 3).map((x) => {
      const t = heads(x, dtype, device, p.offset ?? 0);
      t.requiresGrad = true;
      return t;
    });
    const [q, k, v] = inputs as [Tensor, Tensor, Tensor];
    const options = { causal: p.causal ?? false, ...(p.scale === undefined ? {} : { scale: p.scale }) };
    const m = mask ? make(mask, p.boolean ? 'bool' : dtype, device) : null;
    const y = sg.scaledDotProductAttention(q, k, v, { ...options, ...(m ? { mask: m } : {}) });
    y.backward({ gradient: heads(values[3]!, dtype, device, 0) });
    const result = { out: read(y), gradients: inputs.map((x) => read(x.grad!)) };
    for (const x of inputs) {
      x.grad!.dispose();
      x.grad = null;
    }
    return result;
  });
}

function check(name: string, p: Problem, dtypes: readonly DType[], device: string): void {
  const { batch = 1, heads: h = 2, keyHeads = h, queries, keys = queries, features } = p;
  for (const dtype of dtypes) {
    const next = stream(seedOf(name));
    const draw = (...shape: number[]): Nd => rounded(uniform(shape, -1.5, 1.5, next), dtype, 'cpu');
    const values = [
      draw(batch, h, queries, features),
      draw(batch, keyHeads, keys, features),
      draw(batch, keyHeads, keys, features),
      draw(batch, h, queries, features),
    ];
    const mask = p.mask ? rounded(build(p.maskShape ?? [batch, h, queries, keys], p.mask), dtype, 'cpu') : null;
    const expected = attend(values, mask, p, 'float64', 'cpu');
    const got = attend(values, mask, p, dtype, device);
    expectClose(got.out.data, expected.out.data, forward[dtype]!, `${name} ${dtype}: out`);
    ['dq', 'dk', 'dv'].forEach((label, i) => {
      expectClose(got.gradients[i]!.data, expected.gradients[i]!.data, backward[dtype]!, `${name} ${dtype}: ${label}`);
    });
    const again = attend(values, mask, p, dtype, device);
    expect([again.out, ...again.gradients], `${name} ${dtype}: the same bits once more`).toEqual([got.out, ...got.gradients]);
  }
}

const both: readonly DType[] = ['bfloat16', 'float16'];
const wide: readonly DType[] = ['float32', 'float64'];

for (const device of devices) {
  describe(`attention in tiles on ${device}`, () => {
    const row = (name: string, p: Problem, dtypes: readonly DType[]): void => test(name, () => check(name, p, dtypes, device));
    for (const features of [64, 96, 128]) {
      row(`${features} features, ragged, causal`, { queries: 333, features, causal: true }, ['bfloat16']);
      row(`${features} features, a multiple of the tiles`, { queries: 256, heads: 1, features }, ['float16']);
      row(`${features} features, groups of queries`, { batch: 2, heads: 4, keyHeads: 2, queries: 130, features, causal: true }, ['float16']);
      row(`${features} features, more keys than queries`, { keyHeads: 1, queries: 100, keys: 260, features, causal: true }, ['bfloat16']);
      row(`${features} features, more queries than keys`, { queries: 200, keys: 130, features, causal: true }, ['bfloat16']);
      row(`${features} features, one query`, { queries: 1, keys: 7, features }, both);
      const mask = ([, , q, k]: readonly number[]): number => (q! % 5 === 3 || (k! + q!) % 7 < 2 ? 0 : 1);
      row(`${features} features, boolean mask with empty rows`, { queries: 140, keys: 150, features, mask, boolean: true, causal: true }, ['bfloat16']);
      const bias = ([b, h, q, k]: readonly number[]): number => (q === 1 ? -1e30 : k! > 140 ? HIDDEN : Math.sin(b! + 2 * h! + q! / 3 + k! / 5));
      row(`${features} features, additive mask`, { queries: 150, features, mask: bias }, ['bfloat16']);
    }
    for (const features of [8, 40, 72, 104]) row(`${features} features, padded`, { queries: 70, keys: 90, features, causal: true }, both);
    row('mask that is broadcast', { batch: 2, queries: 70, features: 64, mask: ([, , , k]) => Math.cos(k!), maskShape: [2, 1, 1, 70] }, ['float16']);
    row('negative scale', { queries: 90, features: 64, scale: -0.2, causal: true }, both);
    row('scale of zero', { queries: 70, features: 64, scale: 0 }, ['bfloat16']);
    row('unaligned rows', { queries: 90, features: 64, causal: true, offset: 3 }, both);
    row('features that fill no 16 bytes', { queries: 70, features: 20, causal: true }, both);
    row('long rows of 16 bits', { heads: 1, queries: 66, features: 136, causal: true }, ['bfloat16']);
    row('wide types', { keyHeads: 1, queries: 70, keys: 150, features: 40, causal: true }, wide);
    row('wide types, several columns of tiles', { heads: 1, queries: 20, keys: 66, features: 136 }, wide);
    row('wide types, more queries than keys', { heads: 1, queries: 140, keys: 70, features: 24, causal: true }, wide);
    row(
      'wide types, mask',
      { batch: 2, queries: 70, keys: 90, features: 32, mask: ([b, h, q, k]) => (q === 2 ? HIDDEN : (b! + h! + q! * k!) % 3), causal: true },
      wide,
    );
  });

  test(`attention without queries, keys or features on ${device}`, () => {
    const shapes: [number, number, number][] = [
      [0, 3, 8],
      [3, 0, 8],
      [2, 3, 0],
    ];
    for (const dtype of [...wide, ...both]) {
      for (const [queries, keys, features] of shapes) {
        sg.scope(() => {
          const [q, k, v] = [queries, keys, keys].map((t) => sg.ones([2, 2, t, features], { dtype, device, requiresGrad: true })) as [Tensor, Tensor, Tensor];
          const y = sg.scaledDotProductAttention(q, k, v);
          expect(read(y).data).toEqual(new Float64Array(4 * queries * features));
          y.backward({ gradient: sg.ones(y.shape, { dtype, device }) });
          for (const x of [q, k, v]) {
            expect(read(x.grad!).data).toEqual(new Float64Array(x.numel));
            x.grad!.dispose();
            x.grad = null;
          }
        });
      }
    }
  });
}
