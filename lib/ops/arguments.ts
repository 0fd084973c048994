// What structured ops ask of their arguments before anything is computed: kinds, dtypes, options. Values that only the data
// can show (an index out of range) are found by the kernels and raised at the next wait.
import type { DType } from '../dtype.js';
import { DTypeError, describe, ShapeError, ValueError } from '../errors.js';
import { checkInteger, checkNumber, type Shape, sameShape, showShape } from '../shape.js';
import { requireAlive } from '../storage.js';
import { Tensor } from '../tensor.js';

export function checkTensor(x: unknown, op: string, name = 'the input'): asserts x is Tensor {
  if (!(x instanceof Tensor)) throw new ValueError(`${op}: ${name} must be a tensor, got ${describe(x)}`);
  // the text is made only when it is needed: this runs at every op
  if (!x.storage.alive) requireAlive(x.storage, op, `${name} (${showShape(x.shape)} ${x.dtype})`);
}

/** What element-wise functions take: a tensor or a number. */
export function checkOperand(op: string, x: unknown, which: string): asserts x is Tensor | number {
  if (!(x instanceof Tensor) && typeof x !== 'number') throw new ValueError(`${op}: ${which} must be a tensor or a number, got ${describe(x)}`);
}

export function checkTensors(xs: unknown, op: string): asserts xs is readonly Tensor[] {
  if (!Array.isArray(xs)) throw new ValueError(`${op}: expected an array of tensors, got ${describe(xs)}`);
  for (let i = 0; i < xs.length; i++) checkTensor(xs[i], op, `element ${i} of the array`);
}

/** The dtypes that floating-point kernels compute in; the 8-bit ones are for storage alone. */
export function isComputable(dtype: DType): boolean {
  return dtype === 'float32' || dtype === 'float64' || dtype === 'float16' || dtype === 'bfloat16';
}

/** A tensor that floating-point kernels can work on. */
export function checkFloat(x: unknown, op: string, name = 'the input'): asserts x is Tensor {
  checkTensor(x, op, name);
  if (!isComputable(x.dtype)) {
    throw new DTypeError(`${op}: ${name} must be float32, float64, float16 or bfloat16, got ${x.dtype}; convert it with to('float32')`);
  }
}

/** A tensor of indices: int32 or int64. */
export function checkIndices(index: unknown, op: string, name = 'the index'): asserts index is Tensor {
  checkTensor(index, op, name);
  if (index.dtype !== 'int64' && index.dtype !== 'int32') throw new DTypeError(`${op}: ${name} must be int32 or int64, got ${index.dtype}`);
}

export function checkSameDType(a: Tensor, b: Tensor, op: string, names: string): void {
  if (a.dtype !== b.dtype) throw new DTypeError(`${op}: dtypes of ${names} differ: ${a.dtype} and ${b.dtype}`);
}

/** A weight, bias or statistic of a layer: absent, or a floating-point tensor of exactly this shape. */
export function checkParameter(p: unknown, shape: Shape, op: string, name: string): Tensor | null {
  if (p === undefined || p === null) return null;
  checkFloat(p, op, name);
  if (!sameShape(p.shape, shape)) throw new ShapeError(`${op}: ${name} must be ${showShape(shape)}, got ${showShape(p.shape)}`);
  return p;
}

/** The options of a call; absent ones are an empty object. */
export function optionsOf<T extends object>(options: T | undefined, op: string): Partial<T> {
  if (options === undefined) return {};
  if (typeof options !== 'object' || options === null || Array.isArray(options) || options instanceof Tensor) {
    throw new ValueError(`${op}: options must be an object, got ${describe(options)}`);
  }
  return options;
}

export function checkFlag(value: unknown, name: string, op: string): boolean {
  if (typeof value !== 'boolean') throw new ValueError(`${op}: ${name} must be true or false, got ${describe(value)}`);
  return value;
}

/** A number that is neither NaN nor infinite. */
export function checkFinite(value: unknown, name: string, op: string, min = -Infinity): number {
  if (!Number.isFinite(checkNumber(value, name, op, min))) throw new ValueError(`${op}: ${name} must be finite, got ${value}`);
  return value as number;
}

export function checkChoice<T extends string>(value: unknown, choices: readonly T[], name: string, op: string): T {
  if (!choices.includes(value as T)) throw new ValueError(`${op}: ${name} must be one of ${choices.join(', ')}, got ${describe(value)}`);
  return value as T;
}

/** A number for every one of `count` dimensions, or one for all. */
export function checkSizes(value: unknown, count: number, name: string, op: string, min: number): number[] {
  const list = Array.isArray(value) ? value : new Array<unknown>(count).fill(value);
  if (list.length !== count) throw new ValueError(`${op}: ${name} must be one number or ${count}, got ${describe(value)}`);
  return list.map((v) => checkInteger(v, name, op, min, 2 ** 29));
}
