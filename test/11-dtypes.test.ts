// Dtypes: promotion as in PyTorch, weak numbers, exact integers, what each type can hold and how it rounds.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { DType, Tensor } from '../lib/index.js';
import * as sg from '../lib/index.js';
import { Golden } from './helpers/golden.js';
import { expectClose } from './helpers/metric.js';
import { check } from './helpers/property.js';
import { read } from './helpers/tensors.js';

describe('dtypes', () => {
  const golden = new Golden('promotion');

  test.each(golden.cases)('$a promotes as in PyTorch', ({ a, results, scalarTensor }) => {
    for (const [b, expected] of Object.entries(results)) {
      expect(sg.resultType([sg.zeros([2], { dtype: a }), sg.zeros([2], { dtype: b as DType })]), `${a} and ${b}`).toBe(expected);
      expect(sg.zeros([2], { dtype: a }).add(sg.zeros([2], { dtype: b as DType })).dtype, `${a} + ${b}`).toBe(expected);
    }
    for (const [b, expected] of Object.entries(scalarTensor)) {
      expect(sg.zeros([2], { dtype: a }).add(sg.zeros([], { dtype: b as DType })).dtype, `${a} + scalar ${b}`).toBe(expected);
    }
  });

  test('numbers are weak', () => {
    const kinds: [DType, number, DType][] = [
      ['float16', 2, 'float16'],
      ['bfloat16', 0.5, 'bfloat16'],
      ['float64', 0.5, 'float64'],
      ['int32', 2, 'int32'],
      ['uint8', 2, 'uint8'],
      ['int64', 0.5, 'float32'],
      ['bool', 2, 'int64'],
      ['bool', 0.5, 'float32'],
    ];
    for (const [dtype, value, expected] of kinds) expect(sg.ones([2], { dtype }).mul(value).dtype, `${dtype} × ${value}`).toBe(expected);
  });

  test('int64 is exact beyond 2^24 and 2^53', () => {
    check([fc.bigInt(-(2n ** 62n), 2n ** 62n), fc.bigInt(-(2n ** 61n), 2n ** 61n)], (a, b) => {
      const values = (t: Tensor): bigint => (t.toTypedArraySync() as BigInt64Array)[0]!;
      const [x, y] = [sg.tensor([a]), sg.tensor([b])];
      expect(values(x.add(y))).toBe(BigInt.asIntN(64, a + b));
      expect(values(x.mul(y))).toBe(BigInt.asIntN(64, a * b));
      expect(values(x.sub(y))).toBe(BigInt.asIntN(64, a - b));
      expect(values(x.neg().abs())).toBe(a < 0n ? -a : a);
    });
  });

  test('whole numbers are neither NaN nor infinite', () => {
    for (const dtype of ['int64', 'int32', 'uint8', 'bool'] as const) {
      const x = sg.tensor([0, 1], { dtype });
      expect([x.isnan(), x.isinf(), x.isfinite()].map((t) => t.toArraySync())).toEqual([
        [false, false],
        [false, false],
        [true, true],
      ]);
    }
  });

  test('whole numbers have no negative powers, and bool holds no sums', () => {
    const x = sg.tensor([1, 2], { dtype: 'int64' });
    expect(() => x.pow(-1)).toThrow(/int64 to the power -1 is not whole/);
    expect(() => x.clone().pow_(-1)).toThrow(sg.ValueError);
    expect(x.float().pow(-1).toArraySync()).toEqual([1, 0.5]);
    expect(() => x.to('bool').add_(x)).toThrow(sg.DTypeError);
    expect(
      x
        .to('bool')
        .add_(sg.tensor([true, false]))
        .toArraySync(),
    ).toEqual([true, true]);
  });

  test('clamp keeps the dtype that its bounds give, in place the tensor’s', () => {
    const x = sg.tensor([-3n, 5n, 2n ** 60n + 1n]);
    expect(x.clamp(0).toTypedArraySync()).toEqual(BigInt64Array.of(0n, 5n, 2n ** 60n + 1n));
    expect(x.clamp(null, 4.5).toArraySync()).toEqual([-3, 4.5, 4.5]);
    expect(x.clone().clamp_(-1, 7).toArraySync()).toEqual([-1, 5, 7]);
    expect(() => x.clamp_(0.5)).toThrow(sg.DTypeError);
    expect(() => x.clamp_()).toThrow(sg.ValueError);
  });

  test('every dtype holds what it can represent', () => {
    const ranges: [DType, fc.Arbitrary<number>][] = [
      ['float32', fc.float({ noNaN: true })],
      ['float64', fc.double({ noNaN: true })],
      ['int32', fc.integer()],
      ['uint8', fc.integer({ min: 0, max: 255 })],
      ['int8', fc.integer({ min: -128, max: 127 })],
      ['int16', fc.integer({ min: -32768, max: 32767 })],
      ['uint16', fc.nat(65535)],
      ['uint32', fc.nat(2 ** 31 - 1)],
      ['float16', fc.integer({ min: -2048, max: 2048 })],
      ['bfloat16', fc.integer({ min: -256, max: 256 })],
      ['float8_e4m3', fc.integer({ min: -16, max: 16 })],
      ['float8_e5m2', fc.integer({ min: -8, max: 8 })],
    ];
    for (const [dtype, values] of ranges) {
      check(
        [fc.array(values, { minLength: 1, maxLength: 20 })],
        (list) => {
          const t = sg.fromTypedArray(Float64Array.from(list), [list.length], { dtype });
          expectClose(read(t).data, list, 0, dtype);
        },
        60,
      );
    }
  });

  test('16-bit floats round to nearest, ties to even', () => {
    const nearest = (x: number, digits: number, smallest: number): number => {
      const step = 2 ** Math.max(Math.floor(Math.log2(Math.abs(x))) - digits, smallest);
      const down = Math.floor(x / step);
      const up = x / step - down;
      return (up > 0.5 || (up === 0.5 && down % 2 !== 0) ? down + 1 : down) * step;
    };
    check(
      [fc.double({ min: 2 ** -13, max: 60000, noNaN: true }), fc.boolean()],
      (value, negative) => {
        const x = Math.fround(negative ? -value : value);
        const t = sg.tensor([x]);
        expect(t.to('bfloat16').itemSync()).toBe(nearest(x, 7, -133));
        expect(t.to('float16').itemSync()).toBe(nearest(x, 10, -24));
      },
      1000,
    );
  });
});
