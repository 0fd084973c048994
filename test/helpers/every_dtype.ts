// One tensor of every dtype, with bits that a conversion would change.
import { type DType, fromTypedArray, type Tensor } from '../../lib/index.js';

export function everyDType(): Record<DType, Tensor> {
  const bits16 = Uint16Array.from([0, 1, 0x3c00, 0x8000, 0x7c01, 0xffff]);
  const bits8 = Uint8Array.from([0, 1, 0x38, 0x80, 0x7f, 0xff]);
  return {
    float32: fromTypedArray(Float32Array.from([0, -0, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 1e-42]), [2, 3]),
    float64: fromTypedArray(Float64Array.from([0, -0, Math.PI, Number.NaN, -1e308, 5e-324]), [3, 2]),
    float16: fromTypedArray(bits16, [6], { dtype: 'float16' }),
    bfloat16: fromTypedArray(bits16, [1, 6], { dtype: 'bfloat16' }),
    int64: fromTypedArray(BigInt64Array.from([0n, -1n, 2n ** 63n - 1n, -(2n ** 63n)]), [4]),
    int32: fromTypedArray(Int32Array.from([2147483647, -2147483648]), [2]),
    uint8: fromTypedArray(bits8, [6]),
    bool: fromTypedArray(Uint8Array.from([1, 0, 1]), [3], { dtype: 'bool' }),
    int8: fromTypedArray(Int8Array.from([127, -128, 0]), [3]),
    int16: fromTypedArray(Int16Array.from([32767, -32768]), [2, 1]),
    uint16: fromTypedArray(bits16, [6]),
    uint32: fromTypedArray(Uint32Array.from([4294967295, 0]), [2]),
    float8_e4m3: fromTypedArray(bits8, [6], { dtype: 'float8_e4m3' }),
    float8_e5m2: fromTypedArray(bits8, [3, 2], { dtype: 'float8_e5m2' }),
  };
}
