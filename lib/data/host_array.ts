// Arrays in JavaScript memory: what datasets hand out and workers pass along, before anything is a tensor. A bare typed array is a
// vector; a HostArray adds a shape, and a dtype where the typed array does not say it (bool, the 16-bit floats).
import type { DType, TypedArray } from '../dtype.js';
import { DTypeError, describe, ShapeError } from '../errors.js';
import { numel, showShape } from '../shape.js';

/** An array with a shape, in JavaScript memory; `data.length` is the product of the shape. */
export interface HostArray<T extends TypedArray = TypedArray> {
  /** The elements in row-major order. */
  readonly data: T;
  /** Size of each dimension. */
  readonly shape: readonly number[];
  /** Needed only for bool, float16 and bfloat16 (raw bits); the kind of `data` otherwise. */
  readonly dtype?: DType;
}

const dtypeOfKind: Record<string, DType> = {
  Float32Array: 'float32',
  Float64Array: 'float64',
  BigInt64Array: 'int64',
  Int32Array: 'int32',
  Uint8Array: 'uint8',
  Uint8ClampedArray: 'uint8',
  Int8Array: 'int8',
  Int16Array: 'int16',
  Uint16Array: 'uint16',
  Uint32Array: 'uint32',
};

export function isTypedArray(value: unknown): value is TypedArray {
  return ArrayBuffer.isView(value) && !(value instanceof DataView);
}

export function isHostArray(value: unknown): value is HostArray {
  return typeof value === 'object' && value !== null && isTypedArray((value as HostArray).data) && Array.isArray((value as HostArray).shape);
}

/** The dtype of a typed array. Throws DTypeError for kinds that no tensor has (BigUint64Array). */
export function dtypeOf(data: TypedArray, where: string): DType {
  // by tag, since a Node Buffer is a Uint8Array too
  const dtype = dtypeOfKind[data[Symbol.toStringTag]];
  if (dtype === undefined) throw new DTypeError(`${where}: ${describe(data)} has no tensor dtype`);
  return dtype;
}

/** Checks that the shape has as many elements as the array. */
export function checkHostArray(array: HostArray, where: string): HostArray {
  const count = numel(array.shape);
  if (count !== array.data.length) {
    throw new ShapeError(`${where}: shape ${showShape(array.shape)} has ${count} elements, the array has ${array.data.length}`);
  }
  return array;
}

/** A zeroed typed array of the same kind as `like`, over `buffer` when given. */
export function sameKind<T extends TypedArray>(like: T, length: number): T {
  // subarray-free construction: Buffer's own constructor is deprecated
  const Kind = (like instanceof Uint8Array ? Uint8Array : like.constructor) as new (n: number) => T;
  return new Kind(length);
}

/** Moves the elements into memory that worker threads share, unless they are there already. */
export function toShared<T extends TypedArray>(array: T): T {
  if (array.buffer instanceof SharedArrayBuffer) return array;
  const Kind = (array instanceof Uint8Array ? Uint8Array : array.constructor) as new (b: SharedArrayBuffer) => T;
  const shared = new Kind(new SharedArrayBuffer(array.byteLength));
  shared.set(array as never);
  return shared;
}
