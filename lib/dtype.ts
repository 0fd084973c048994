// Element types by name. The list and the codes come from the addon (csrc/core/dtype.h); the union here is checked against it.
import { DTypeError, describe } from './errors.js';
import { native } from './native.js';

/** Element types, by PyTorch's names; 16-bit and 8-bit floats compute in float32. */
export type DType =
  | 'float32'
  | 'float64'
  | 'float16'
  | 'bfloat16'
  | 'int64'
  | 'int32'
  | 'uint8'
  | 'bool'
  | 'int8'
  | 'int16'
  | 'uint16'
  | 'uint32'
  | 'float8_e4m3'
  | 'float8_e5m2';

/** What tensors are made of and read into. */
export type TypedArray = Float32Array | Float64Array | BigInt64Array | Int32Array | Uint8Array | Int8Array | Int16Array | Uint16Array | Uint32Array;

type Category = 'bool' | 'int' | 'float';
interface Info {
  readonly category: Category;
  /** What arithmetic on this type is done in. */
  readonly compute: 'float32' | 'float64' | 'int64';
  readonly array: new (buffer: ArrayBuffer) => TypedArray;
}

const info: Record<DType, Info> = {
  float32: { category: 'float', compute: 'float32', array: Float32Array },
  float64: { category: 'float', compute: 'float64', array: Float64Array },
  float16: { category: 'float', compute: 'float32', array: Uint16Array },
  bfloat16: { category: 'float', compute: 'float32', array: Uint16Array },
  int64: { category: 'int', compute: 'int64', array: BigInt64Array },
  int32: { category: 'int', compute: 'int64', array: Int32Array },
  uint8: { category: 'int', compute: 'int64', array: Uint8Array },
  bool: { category: 'bool', compute: 'int64', array: Uint8Array },
  int8: { category: 'int', compute: 'int64', array: Int8Array },
  int16: { category: 'int', compute: 'int64', array: Int16Array },
  uint16: { category: 'int', compute: 'int64', array: Uint16Array },
  uint32: { category: 'int', compute: 'int64', array: Uint32Array },
  float8_e4m3: { category: 'float', compute: 'float32', array: Uint8Array },
  float8_e5m2: { category: 'float', compute: 'float32', array: Uint8Array },
};

/** Code of each dtype at the native boundary. */
export const dtypeCode = {} as Record<DType, number>;
/** Bytes of one element. */
export const dtypeSize = {} as Record<DType, number>;
native.dtypes.forEach((name, code) => {
  if (!(name in info)) throw new DTypeError(`the addon knows a dtype "${name}" that lib/dtype.ts does not`);
  dtypeCode[name as DType] = code;
  dtypeSize[name as DType] = native.dtypeSizes[code]!;
});
for (const name of Object.keys(info)) {
  if (!(name in dtypeCode)) throw new DTypeError(`lib/dtype.ts knows a dtype "${name}" that the addon does not`);
}

/** Whether a dtype is one of the floating-point ones. */
export function isFloating(dtype: DType): boolean {
  return (info[dtype] ?? info[checkDType(dtype, 'isFloating')]).category === 'float';
}
export function computeType(dtype: DType): 'float32' | 'float64' | 'int64' {
  return info[dtype].compute;
}
/** The typed array that holds raw elements of this dtype (16-bit floats as Uint16Array, 8-bit ones as Uint8Array). */
export function rawArray(dtype: DType): new (buffer: ArrayBuffer) => TypedArray {
  return info[dtype].array;
}

export function checkDType(dtype: unknown, where: string): DType {
  if (typeof dtype !== 'string' || !Object.hasOwn(info, dtype)) {
    throw new DTypeError(`${where}: unknown dtype ${describe(dtype)}; known are ${Object.keys(info).join(', ')}`);
  }
  return dtype as DType;
}

const RANK: Record<Category, number> = { bool: 0, int: 1, float: 2 };

/** PyTorch's promotion of two tensor dtypes. */
export function promoteTypes(a: DType, b: DType): DType {
  if (a === b && Object.hasOwn(info, a)) return a;
  checkDType(a, 'promoteTypes');
  checkDType(b, 'promoteTypes');
  const [low, high] = RANK[info[a].category] <= RANK[info[b].category] ? [a, b] : [b, a];
  if (info[low].category !== info[high].category) return high;
  if (info[a].category === 'float') {
    if (a === 'float64' || b === 'float64') return 'float64';
    return 'float32'; // float16 with bfloat16 too: neither holds the other
  }
  const [sa, sb] = [dtypeSize[a], dtypeSize[b]];
  const unsigned = (t: DType): boolean => t.startsWith('u');
  if (unsigned(a) === unsigned(b)) return sa > sb ? a : b;
  const [u, s] = unsigned(a) ? [a, b] : [b, a];
  if (dtypeSize[s] > dtypeSize[u]) return s;
  return dtypeSize[u] === 1 ? 'int16' : dtypeSize[u] === 2 ? 'int32' : 'int64';
}

/**
 * The dtype of an operation on tensors and numbers, as PyTorch's result_type: tensors with dimensions decide, then tensors
 * without, then numbers, each later kind only if its category (bool < integer < float) is higher than the earlier ones'.
 */
export function resultType(operands: readonly (number | boolean | { dtype: DType; shape: readonly number[] })[]): DType {
  if (!Array.isArray(operands) || operands.length === 0) throw new DTypeError(`resultType: expected an array of operands, got ${describe(operands)}`);
  let dims: DType | null = null;
  let zero: DType | null = null;
  let wrapped: DType | null = null;
  for (const x of operands) {
    if (typeof x === 'number') wrapped = promoteTypes(wrapped ?? 'bool', Number.isInteger(x) ? 'int64' : 'float32');
    else if (typeof x === 'boolean') wrapped = wrapped ?? 'bool';
    else if (!Array.isArray(x?.shape) || !Object.hasOwn(info, x.dtype))
      throw new DTypeError(`resultType: operands are tensors, numbers or booleans, got ${describe(x)}`);
    else if (x.shape.length > 0) dims = dims === null ? x.dtype : promoteTypes(dims, x.dtype);
    else zero = zero === null ? x.dtype : promoteTypes(zero, x.dtype);
  }
  let result = dims;
  for (const other of [zero, wrapped]) {
    if (other === null) continue;
    if (result === null || RANK[info[other].category] > RANK[info[result].category]) result = other;
  }
  return result!;
}
