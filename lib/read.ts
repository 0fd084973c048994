// From bytes of a device to JavaScript values.
import { type DType, rawArray, type TypedArray } from './dtype.js';
import { DTypeError } from './errors.js';
import type { Shape } from './shape.js';
import type { NestedArray } from './tensor.js';

const scratch = new Float32Array(1);
const scratchBits = new Uint32Array(scratch.buffer);

function bfloat16ToNumber(bits: number): number {
  scratchBits[0] = bits << 16;
  return scratch[0]!;
}

function float16ToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exp = (bits >> 10) & 31;
  const man = bits & 0x3ff;
  if (exp === 31) return man ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (exp === 0 ? man * 2 ** -24 : (1024 + man) * 2 ** (exp - 25));
}

/** The 8-bit formats: `manBits` of mantissa; E4M3 has no infinity, E5M2 does. */
function float8ToNumber(bits: number, manBits: number, bias: number): number {
  const sign = bits & 0x80 ? -1 : 1;
  const exp = (bits & 0x7f) >> manBits;
  const man = bits & ((1 << manBits) - 1);
  if (manBits === 3 && (bits & 0x7f) === 0x7f) return Number.NaN;
  if (manBits === 2 && exp === 31) return man ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (exp === 0 ? man * 2 ** (1 - bias - manBits) : ((1 << manBits) + man) * 2 ** (exp - bias - manBits));
}

const widen: Partial<Record<DType, (bits: number) => number>> = {
  bfloat16: bfloat16ToNumber,
  float16: float16ToNumber,
  float8_e4m3: (bits) => float8ToNumber(bits, 3, 7),
  float8_e5m2: (bits) => float8ToNumber(bits, 2, 15),
};

export function decode(bytes: Uint8Array, dtype: DType, raw: boolean): TypedArray {
  const values = new (rawArray(dtype))(bytes.buffer as ArrayBuffer);
  const convert = widen[dtype];
  if (raw || !convert) return values;
  const wide = new Float32Array(values.length);
  for (let i = 0; i < wide.length; i++) wide[i] = convert(values[i] as number);
  return wide;
}

export function nest(values: TypedArray, shape: Shape, dtype: DType): NestedArray {
  let at = 0;
  const element = (): number | boolean => {
    const v = values[at++]!;
    if (dtype === 'bool') return v !== 0;
    const n = Number(v);
    if (typeof v === 'bigint' && !Number.isSafeInteger(n)) {
      throw new DTypeError(`toArray: int64 value ${v} is beyond 2^53; read it with toTypedArray()`);
    }
    return n;
  };
  const level = (d: number): NestedArray => {
    if (d === shape.length) return element();
    const out = new Array<NestedArray>(shape[d]!);
    for (let i = 0; i < out.length; i++) out[i] = level(d + 1);
    return out;
  };
  return level(0);
}
