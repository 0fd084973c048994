// Tensors from JavaScript values and from nothing.
import { context } from './context.js';
import { deferFill } from './deferred.js';
import { type Device, type DeviceLike, device } from './device.js';
import { checkDType, type DType, dtypeSize, isFloating, type TypedArray } from './dtype.js';
import { DTypeError, describe, fromNative, ShapeError, ValueError } from './errors.js';
import { native } from './native.js';
import { copy_, fill_, to } from './ops/copy.js';
import { fresh, invoke } from './ops/door.js';
import { diagonal } from './ops/view.js';
import { withRelief } from './pressure.js';
import { checkInteger, checkNumber, checkShape, numel, type Shape, showShape } from './shape.js';
import { born, META } from './storage.js';
import { type NestedArray, Tensor, wrap } from './tensor.js';

/** What functions that make tensors take last. */
export interface TensorOptions {
  /** Element type; by default what the data suggests, else float32. */
  dtype?: DType;
  /** Where it lives; `cpu` by default. */
  device?: DeviceLike;
  /** Whether the tensor is a leaf that gathers a gradient. Default false. */
  requiresGrad?: boolean;
}

interface Resolved {
  dtype: DType | undefined;
  device: Device;
  requiresGrad: boolean;
}

function resolve(options: TensorOptions | undefined, op: string): Resolved {
  if (options !== undefined && (typeof options !== 'object' || options === null)) {
    throw new ValueError(`${op}: options must be an object, got ${describe(options)}`);
  }
  const o = options ?? {};
  return {
    dtype: o.dtype === undefined ? undefined : checkDType(o.dtype, op),
    device: device(o.device ?? 'cpu'),
    requiresGrad: o.requiresGrad ?? false,
  };
}

function finish(t: Tensor, o: Resolved): Tensor {
  if (o.requiresGrad) t.requiresGrad = true;
  return t;
}

/** A tensor whose elements are whatever the memory holds. */
export function empty(shape: readonly number[], options?: TensorOptions): Tensor {
  const o = resolve(options, 'empty');
  return finish(allocate(checkShape(shape, 'empty'), o.dtype ?? 'float32', o.device, 'empty'), o);
}

export function allocate(shape: Shape, dtype: DType, on: Device, op: string): Tensor {
  const bytes = numel(shape) * dtypeSize[dtype];
  const { scope, inference } = context();
  let handle = META;
  if (on.type !== 'meta') {
    handle = withRelief(
      on,
      op,
      () => () => undefined,
      () => native.alloc(on.slot, bytes),
    );
  }
  const storage = born(handle, on, bytes, scope);
  storage.inference = inference;
  return wrap(storage, shape, dtype);
}

/** A tensor filled with one value; the value's kind gives the dtype unless the options do. */
export function full(shape: readonly number[], value: number | boolean, options?: TensorOptions): Tensor {
  const o = resolve(options, 'full');
  if (typeof value !== 'number' && typeof value !== 'boolean') throw new ValueError(`full: the value must be a number or a boolean, got ${describe(value)}`);
  const t = allocate(checkShape(shape, 'full'), o.dtype ?? (typeof value === 'boolean' ? 'bool' : 'float32'), o.device, 'full');
  return finish(fill_(t, Number(value)), o);
}
/** A tensor of zeros. */
export function zeros(shape: readonly number[], options?: TensorOptions): Tensor {
  const o = resolve(options, 'zeros');
  return finish(fill_(allocate(checkShape(shape, 'zeros'), o.dtype ?? 'float32', o.device, 'zeros'), 0), o);
}
/** A tensor of ones. */
export function ones(shape: readonly number[], options?: TensorOptions): Tensor {
  const o = resolve(options, 'ones');
  return finish(fill_(allocate(checkShape(shape, 'ones'), o.dtype ?? 'float32', o.device, 'ones'), 1), o);
}

function likeOf(x: Tensor, value: number, options: TensorOptions | undefined, op: string): Tensor {
  if (!(x instanceof Tensor)) throw new ValueError(`${op}: expected a tensor, got ${describe(x)}`);
  const o = resolve({ dtype: x.dtype, device: x.device, ...options }, op);
  return finish(fill_(allocate(x.shape, o.dtype!, o.device, op), value), o);
}
/** Zeros of the same shape, dtype and device. */
export function zerosLike(x: Tensor, options?: TensorOptions): Tensor {
  return likeOf(x, 0, options, 'zerosLike');
}
/** Ones of the same shape, dtype and device. */
export function onesLike(x: Tensor, options?: TensorOptions): Tensor {
  return likeOf(x, 1, options, 'onesLike');
}
/** One value everywhere, of the same shape, dtype and device. */
export function fullLike(x: Tensor, value: number, options?: TensorOptions): Tensor {
  return likeOf(x, checkNumber(value, 'value', 'fullLike'), options, 'fullLike');
}

/** `start`, `start + step`, … up to, without, `end`. With one number: 0 to `end`. Whole numbers give int64. */
export function arange(start: number, end?: number, step = 1, options?: TensorOptions): Tensor {
  const o = resolve(options, 'arange');
  const from = end === undefined ? 0 : checkNumber(start, 'start', 'arange');
  const to_ = checkNumber(end ?? start, 'end', 'arange');
  checkNumber(step, 'step', 'arange');
  const count = Math.ceil((to_ - from) / step);
  if (step === 0 || !Number.isFinite(count) || count < 0) throw new ValueError(`arange: no whole number of steps of ${step} leads from ${from} to ${to_}`);
  const whole = Number.isInteger(from) && Number.isInteger(step) && Number.isInteger(to_);
  const shape = checkShape([count], 'arange');
  return finish(stepwise(shape, o.dtype ?? (whole ? 'int64' : 'float32'), o.device, from, step), o);
}

/** `start`, `start + step`, … */
function stepwise(shape: Shape, dtype: DType, on: Device, start: number, step: number): Tensor {
  const t = invoke('arange', on, [fresh(shape, dtype)], [start, step])[0]!;
  if (t.isMeta) deferFill(t, (real) => invoke('arange', real.device, [real], [start, step]));
  return t;
}

/** `steps` numbers from `start` to `end`, both included. */
export function linspace(start: number, end: number, steps: number, options?: TensorOptions): Tensor {
  const o = resolve(options, 'linspace');
  checkNumber(start, 'start', 'linspace');
  checkNumber(end, 'end', 'linspace');
  const n = checkInteger(steps, 'steps', 'linspace', 0);
  const dtype = o.dtype ?? 'float32';
  if (!isFloating(dtype)) throw new DTypeError(`linspace: expects a floating-point dtype, got ${dtype}`);
  const step = n > 1 ? (end - start) / (n - 1) : 0;
  return finish(stepwise(checkShape([n], 'linspace'), dtype, o.device, start, step), o);
}

/** The identity matrix [n, m]. */
export function eye(n: number, m?: number, options?: TensorOptions): Tensor {
  const o = resolve(options, 'eye');
  const t = zeros([n, m ?? n], { ...options, requiresGrad: false });
  fill_(diagonal(t), 1);
  return finish(t, o);
}

/** The dtype of a typed array's elements, as a tensor. */
function dtypeOf(data: TypedArray): DType | null {
  if (data instanceof Float32Array) return 'float32';
  if (data instanceof Float64Array) return 'float64';
  if (data instanceof BigInt64Array) return 'int64';
  if (data instanceof Int32Array) return 'int32';
  if (data instanceof Uint8Array || (data as unknown) instanceof Uint8ClampedArray) return 'uint8';
  if (data instanceof Int8Array) return 'int8';
  if (data instanceof Int16Array) return 'int16';
  if (data instanceof Uint16Array) return 'uint16';
  if (data instanceof Uint32Array) return 'uint32';
  return null;
}

/**
 * A tensor of a typed array's elements in row-major order; the data is copied. `dtype` converts, except that raw bits may be
 * given: a Uint16Array with dtype float16 or bfloat16, and a Uint8Array with bool or a float8 type, are taken as they are.
 */
export function fromTypedArray(data: TypedArray, shape?: readonly number[], options?: TensorOptions): Tensor {
  const o = resolve(options, 'fromTypedArray');
  const source = ArrayBuffer.isView(data) ? dtypeOf(data) : null;
  if (source === null) throw new DTypeError(`fromTypedArray: expected a typed array with a tensor dtype, got ${describe(data)}`);
  const dims = checkShape(shape ?? [data.length], 'fromTypedArray');
  if (numel(dims) !== data.length) throw new ShapeError(`fromTypedArray: ${showShape(dims)} has ${numel(dims)} elements, the array ${data.length}`);
  const wanted = o.dtype ?? source;
  const bits =
    (source === 'uint16' && (wanted === 'float16' || wanted === 'bfloat16')) || (source === 'uint8' && (wanted === 'bool' || wanted.startsWith('float8')));
  const stored = bits ? wanted : source;
  if (o.device.type === 'meta') {
    const values = data.slice();
    const t = allocate(dims, wanted, o.device, 'fromTypedArray');
    deferFill(t, (real) => copy_(real, fromTypedArray(values, dims, { dtype: wanted, device: real.device })));
    return finish(t, o);
  }
  let handle: number;
  try {
    handle = native.upload(o.device.slot, data);
  } catch (error) {
    throw fromNative(error);
  }
  const t = wrap(born(handle, o.device, data.byteLength, context().scope), dims, stored);
  if (stored === wanted) return finish(t, o);
  const converted = to(t, wanted);
  t.dispose();
  return finish(converted, o);
}

/**
 * A tensor of a number, boolean, bigint, nested arrays of them, or a typed array. Numbers give float32, booleans bool,
 * bigints int64, typed arrays their own kind.
 */
export function tensor(data: NestedData | TypedArray, options?: TensorOptions): Tensor {
  if (data instanceof Tensor) throw new ValueError('tensor: the data is already a tensor; use clone() or to()');
  if (ArrayBuffer.isView(data)) return fromTypedArray(data as TypedArray, undefined, options);
  const shape = measure(data, []);
  const flat: (number | boolean | bigint)[] = [];
  flatten(data, shape, 0, flat);
  const kind = flat.length ? typeof flat[0] : 'number';
  if (flat.some((v) => typeof v !== kind)) throw new DTypeError('tensor: the data mixes numbers, booleans and bigints');
  const dtype = options?.dtype === undefined ? undefined : checkDType(options.dtype, 'tensor');
  if (kind === 'bigint') return fromTypedArray(BigInt64Array.from(flat as bigint[]), shape, options);
  if (kind === 'boolean') return fromTypedArray(Uint8Array.from(flat as boolean[], Number), shape, { ...options, dtype: dtype ?? 'bool' });
  if (dtype === 'int64' || dtype === 'float64' || dtype === 'int32' || dtype === 'uint32') {
    return fromTypedArray(Float64Array.from(flat as number[]), shape, { ...options, dtype });
  }
  return fromTypedArray(Float32Array.from(flat as number[]), shape, { ...options, dtype: dtype ?? 'float32' });
}

/** What `tensor` takes: a number, boolean or bigint, or arrays of them, all of one kind and not ragged. */
export type NestedData = number | boolean | bigint | readonly NestedData[] | NestedArray;

function measure(data: unknown, shape: number[]): number[] {
  if (!Array.isArray(data)) return shape;
  if (shape.length >= 8) throw new ShapeError('tensor: at most 8 levels of nesting');
  shape.push(data.length);
  return data.length ? measure(data[0], shape) : shape;
}

function flatten(data: unknown, shape: number[], level: number, out: (number | boolean | bigint)[]): void {
  if (level === shape.length) {
    if (typeof data !== 'number' && typeof data !== 'boolean' && typeof data !== 'bigint') {
      throw new ValueError(`tensor: elements must be numbers, booleans or bigints, got ${describe(data)}`);
    }
    out.push(data);
    return;
  }
  if (!Array.isArray(data) || data.length !== shape[level]) {
    throw new ShapeError(`tensor: the nested arrays are ragged: expected ${shape[level]} elements at level ${level}, got ${describe(data)}`);
  }
  for (const inner of data) flatten(inner, shape, level + 1, out);
}
