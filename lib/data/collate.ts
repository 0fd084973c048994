// From samples to batches. Stacking happens on typed arrays, so that it can run in a worker and write straight into memory shared
// with the main thread; only there do arrays become tensors. Numbers become float32 and bigints int64, as everywhere: give class
// labels as bigints or as typed arrays of integers.
import { fromTypedArray } from '../create.js';
import type { DeviceLike } from '../device.js';
import type { DType, TypedArray } from '../dtype.js';
import { DataError, describe, ShapeError } from '../errors.js';
import { stack as stackTensors } from '../ops/joining.js';
import { numel, sameShape, showShape } from '../shape.js';
import { Tensor } from '../tensor.js';
import { dtypeOf, type HostArray, isHostArray, isTypedArray } from './host_array.js';

/** What a batch of samples S looks like after collation. */
export type Collated<S> = S extends Tensor | HostArray | TypedArray | number | bigint | boolean
  ? Tensor
  : S extends string
    ? string[]
    : S extends object
      ? { -readonly [K in keyof S]: Collated<S[K]> }
      : unknown;

/** Makes a batch of samples. Typed arrays and HostArrays in the result become tensors, all else stays as it is. */
export type CollateFunction<S = unknown> = (samples: S[]) => unknown | Promise<unknown>;

type ArrayKind = new (buffer: ArrayBufferLike, offset: number, length: number) => TypedArray;

/**
 * A piece of memory that the arrays of one batch are laid out in. What does not fit is allocated apart, and `next` then makes a
 * larger piece for later batches: the size need not be known beforehand.
 */
export class Arena {
  private used = 0;
  private constructor(private readonly buffer: SharedArrayBuffer) {}

  static ofBytes(bytes: number): Arena {
    return new Arena(new SharedArrayBuffer(bytes));
  }

  /** The arena for the next batch: this one emptied, or a larger one. */
  next(): Arena {
    if (this.used > this.buffer.byteLength) return Arena.ofBytes(Math.ceil(this.used * 1.25));
    this.used = 0;
    return this;
  }

  take(Kind: ArrayKind, length: number): TypedArray {
    const bytes = length * (Kind as unknown as { BYTES_PER_ELEMENT: number }).BYTES_PER_ELEMENT;
    const offset = this.used;
    this.used += Math.ceil(bytes / 64) * 64;
    return this.used <= this.buffer.byteLength ? new Kind(this.buffer, offset, length) : new Kind(new ArrayBuffer(bytes), 0, length);
  }

  owns(array: TypedArray): boolean {
    return array.buffer === this.buffer;
  }
}

function newArray(Kind: ArrayKind, length: number, arena: Arena | null): TypedArray {
  return arena ? arena.take(Kind, length) : new Kind(new ArrayBuffer(length * (Kind as unknown as { BYTES_PER_ELEMENT: number }).BYTES_PER_ELEMENT), 0, length);
}

function kindOf(array: TypedArray): ArrayKind {
  return (array instanceof Uint8Array ? Uint8Array : array.constructor) as ArrayKind;
}

function isPlain(value: unknown): value is Record<string, unknown> {
  if (typeof value !== 'object' || value === null) return false;
  const prototype = Object.getPrototypeOf(value) as unknown;
  // objects that crossed a thread or a vm context have another Object.prototype
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

/** Stacks samples along a new first dimension, leaf by leaf. `arena` is where arrays are laid out, the heap when null. */
export function stackSamples(samples: readonly unknown[], arena: Arena | null, path = 'sample'): unknown {
  const first = samples[0];
  const expectAll = (holds: (value: unknown) => boolean): void => {
    const odd = samples.findIndex((sample) => !holds(sample));
    if (odd >= 0) throw new DataError(`collate: ${path} is ${describe(first)} in sample 0 of the batch and ${describe(samples[odd])} in sample ${odd}`);
  };
  if (first instanceof Tensor) {
    expectAll((x) => x instanceof Tensor);
    return stackTensors(samples as Tensor[]);
  }
  if (isTypedArray(first) || isHostArray(first)) {
    expectAll((x) => isTypedArray(x) || isHostArray(x));
    return stackArrays(samples as (TypedArray | HostArray)[], arena, path);
  }
  if (typeof first === 'number' || typeof first === 'boolean' || typeof first === 'bigint') {
    expectAll((x) => typeof x === typeof first);
    const Kind = typeof first === 'number' ? Float32Array : typeof first === 'bigint' ? BigInt64Array : Uint8Array;
    const data = newArray(Kind as ArrayKind, samples.length, arena);
    for (let i = 0; i < samples.length; i++) data[i] = samples[i] as number;
    return typeof first === 'boolean' ? { data, shape: [samples.length], dtype: 'bool' } : { data, shape: [samples.length] };
  }
  if (typeof first === 'string') {
    expectAll((x) => typeof x === 'string');
    return samples.slice();
  }
  if (Array.isArray(first)) {
    expectAll((x) => Array.isArray(x) && x.length === first.length);
    return first.map((_, i) =>
      stackSamples(
        samples.map((sample) => (sample as unknown[])[i]),
        arena,
        `${path}[${i}]`,
      ),
    );
  }
  if (isPlain(first)) {
    const keys = Object.keys(first);
    expectAll(isPlain);
    const odd = samples.findIndex((x) => Object.keys(x as object).length !== keys.length || !keys.every((key) => Object.hasOwn(x as object, key)));
    if (odd >= 0) {
      const other = Object.keys(samples[odd] as object).join(', ');
      throw new DataError(`collate: ${path} has the keys ${keys.join(', ')} in sample 0 of the batch and ${other} in sample ${odd}`);
    }
    return Object.fromEntries(
      keys.map((key) => [
        key,
        stackSamples(
          samples.map((sample) => (sample as Record<string, unknown>)[key]),
          arena,
          `${path}.${key}`,
        ),
      ]),
    );
  }
  throw new DataError(`collate: ${path} is ${describe(first)}, which cannot be stacked; pass a collate function`);
}

function stackArrays(values: readonly (TypedArray | HostArray)[], arena: Arena | null, path: string): HostArray {
  const arrays = values.map((value) => (isTypedArray(value) ? { data: value, shape: [value.length] } : value) as HostArray);
  const { data: head, shape, dtype } = arrays[0]!;
  const kind = dtypeOf(head, 'collate');
  const out = newArray(kindOf(head), arrays.length * head.length, arena);
  arrays.forEach(({ data, shape: other, dtype: otherType }, i) => {
    if (numel(other) !== data.length) {
      throw new ShapeError(`collate: ${path} of sample ${i} of the batch has ${data.length} elements, its shape ${showShape(other)} has ${numel(other)}`);
    }
    if (!sameShape(other, shape) || data.length !== head.length) {
      throw new ShapeError(
        `collate: ${path} is ${showShape(shape)} in sample 0 of the batch and ${showShape(other)} in sample ${i}; pad them, or pass a collate function`,
      );
    }
    if (data[Symbol.toStringTag] !== head[Symbol.toStringTag] || otherType !== dtype) {
      throw new DataError(`collate: ${path} is ${dtype ?? kind} in sample 0 of the batch and ${otherType ?? dtypeOf(data, 'collate')} in sample ${i}`);
    }
    out.set(data as never, i * head.length);
  });
  const stacked = { data: out, shape: [arrays.length, ...shape] };
  return dtype === undefined ? stacked : { ...stacked, dtype };
}

/** Applies `leaf` to the tensors and arrays of a batch, whatever they are nested in. */
function mapLeaves(value: unknown, leaf: (x: Tensor | TypedArray | HostArray) => unknown): unknown {
  if (value instanceof Tensor || isTypedArray(value) || isHostArray(value)) return leaf(value);
  if (Array.isArray(value)) return value.map((x) => mapLeaves(x, leaf));
  if (isPlain(value)) return Object.fromEntries(Object.entries(value).map(([key, x]) => [key, mapLeaves(x, leaf)]));
  return value;
}

/** The batch with every array a tensor on `device` (`cpu` unless given; tensors then stay where they are). */
export function toTensors(batch: unknown, device?: DeviceLike): unknown {
  const options = device === undefined ? {} : { device };
  return mapLeaves(batch, (x) => {
    if (x instanceof Tensor) return device === undefined ? x : x.to(device);
    if (isTypedArray(x)) return fromTypedArray(x, [x.length], options);
    return fromTypedArray(x.data, x.shape, x.dtype ? { ...options, dtype: x.dtype } : options);
  });
}

/** The batch in a form that another thread can take: every array in the arena (or at least alone in its buffer), no tensors. */
export function toMessage(batch: unknown, arena: Arena): unknown {
  const settle = (data: TypedArray): TypedArray => {
    if (arena.owns(data)) return data;
    // a view of a mapped file would otherwise take the whole file along
    const copy = arena.take(kindOf(data), data.length);
    copy.set(data as never);
    return copy;
  };
  return mapLeaves(batch, (x) => {
    if (isTypedArray(x)) return settle(x);
    if (!(x instanceof Tensor)) return { ...x, data: settle(x.data) };
    const host: { data: TypedArray; shape: readonly number[]; dtype: DType } = {
      data: settle(x.toTypedArraySync({ raw: true })),
      shape: x.shape,
      dtype: x.dtype,
    };
    x.dispose();
    return host;
  });
}
