// Tensors of every memory layout from reference arrays, and back. Layouts are written out as strides here, not made by the
// view operations under test.
import { type DType, fromTypedArray } from '../../lib/index.js';
import { Tensor } from '../../lib/tensor.js';
import { at, build, type Nd, size } from './reference.js';

export const layouts = ['contiguous', 'transposed', 'sliced', 'flipped', 'expanded'] as const;
export type Layout = (typeof layouts)[number];

/** The values a layout can hold: an expanded one repeats its first slice of the first dimension that is wider than 1. */
export function representable(x: Nd, layout: Layout): Nd {
  const d = x.shape.findIndex((s) => s > 1);
  if (layout !== 'expanded' || d < 0) return x;
  return build(x.shape, (index) =>
    at(
      x,
      index.map((i, k) => (k === d ? 0 : i)),
    ),
  );
}

/** A tensor of these values in memory of the given layout; what lies between the elements is 77. */
export function make(x: Nd, dtype: DType, device: string, layout: Layout = 'contiguous'): Tensor {
  const { strides, offset, length } = place(x.shape, layout);
  const memory = new Float64Array(length).fill(77);
  const index = x.shape.map(() => 0);
  let position = offset;
  for (let i = 0; i < x.data.length; i++) {
    memory[position] = x.data[i]!;
    // the next index in row-major order
    for (let d = index.length - 1; d >= 0; d--) {
      position += strides[d]!;
      if (++index[d]! < x.shape[d]!) break;
      position -= x.shape[d]! * strides[d]!;
      index[d] = 0;
    }
  }
  const wide = fromTypedArray(memory, [length], { device });
  const base = dtype === 'float64' ? wide : wide.to(dtype);
  if (base !== wide) wide.dispose();
  return new Tensor(base.storage, x.shape, strides, offset, dtype);
}

function place(shape: readonly number[], layout: Layout): { strides: number[]; offset: number; length: number } {
  const order = shape.map((_, d) => d);
  if (layout === 'transposed') order.reverse();
  const expanded = layout === 'expanded' ? shape.findIndex((s) => s > 1) : -1;
  const strides = new Array<number>(shape.length);
  let step = layout === 'sliced' ? 2 : 1;
  for (const d of order.reverse()) {
    strides[d] = d === expanded ? 0 : step;
    if (d !== expanded) step *= shape[d]! + (layout === 'sliced' ? 1 : 0);
  }
  if (layout === 'sliced') return { strides, offset: 3, length: step + 3 };
  if (layout !== 'flipped' || size(shape) === 0) return { strides, offset: 0, length: Math.max(step, 1) };
  return { strides: strides.map((s) => -s), offset: size(shape) - 1, length: size(shape) };
}

/** The values of a tensor as doubles. */
export function read(t: Tensor): Nd {
  return { shape: t.shape, data: Float64Array.from(t.toTypedArraySync() as ArrayLike<number | bigint>, Number) };
}

/** The values as this dtype rounds them. */
export function rounded(x: Nd, dtype: DType, device: string): Nd {
  const t = make(x, dtype, device);
  const values = read(t);
  t.dispose();
  return values;
}
