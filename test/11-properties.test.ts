// Laws that hold for every shape: views, strides, broadcasting, joining and splitting.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Tensor } from '../lib/index.js';
import * as sg from '../lib/index.js';
import { expectClose } from './helpers/metric.js';
import { check } from './helpers/property.js';
import { broadcastShape, build, map, type Nd, nd, size } from './helpers/reference.js';
import { layouts, make, read, representable } from './helpers/tensors.js';
import { applyChain, chains } from './helpers/view_chain.js';

const shapes = fc.array(fc.nat(4), { maxLength: 4 });
const fullShapes = fc.array(fc.integer({ min: 1, max: 4 }), { maxLength: 4 });
const layoutOf = fc.constantFrom(...layouts);
const counting = (shape: readonly number[]): Nd => nd(shape, (i) => i + 1);

function expectEqual(t: Tensor, expected: Nd, label: string): void {
  expect([...t.shape], `${label}: shape`).toEqual([...expected.shape]);
  expectClose(read(t).data, expected.data, 0, label);
}

/** Integers below 2^8: exact in every dtype. */
const weights = (shape: readonly number[]): Nd => nd(shape, (i) => ((i * 7) % 13) - 6);

describe('views', () => {
  test('any chain of views shows what the definition says', () => {
    check(
      [fullShapes, layoutOf, chains],
      (shape, layout, chain) => {
        const values = representable(counting(shape), layout);
        const { view, expected, shown } = applyChain(chain, make(values, 'float32', 'cpu', layout), values);
        expectEqual(view, expected, `${layout} [${shape}]: ${shown}`);
        expectEqual(view.contiguous(), expected, `${shown}, contiguous`);
      },
      1500,
    );
  });

  test('writing through a view changes the base there and nowhere else', () => {
    check(
      [fullShapes, chains],
      (shape, chain) => {
        // expanded views have several elements on one place, reshapes may copy: both are left out
        const kept = chain.filter(([kind]) => kind !== 6 && kind !== 7);
        const base = make(counting(shape), 'float32', 'cpu');
        const { view, expected, shown } = applyChain(kept, base, counting(shape));
        view.mul_(-1);
        const touched = new Set(expected.data);
        expectEqual(
          base,
          map((v) => (touched.has(v) ? -v : v), counting(shape)),
          shown,
        );
      },
      500,
    );
  });

  test('the gradient of a chain of views is its adjoint', () => {
    check(
      [fullShapes, chains],
      (shape, chain) => {
        const x = make(counting(shape), 'float64', 'cpu');
        x.requiresGrad = true;
        const { view, expected, shown } = applyChain(chain, x, counting(shape));
        if (size(expected.shape) === 0) return;
        const w = weights(expected.shape);
        view
          .mul(make(w, 'float64', 'cpu'))
          .sum()
          .backward();
        const v = nd(shape, (i) => ((i * 5) % 11) - 5);
        const pushed = applyChain(chain, make(v, 'float64', 'cpu'), v).expected;
        const dot = (a: Nd, b: Nd): number => map((p, q) => p * q, a, b).data.reduce((p, q) => p + q, 0);
        expect(dot(v, read(x.grad!)), shown).toBe(dot(pushed, w));
        x.grad!.dispose();
      },
      500,
    );
  });

  test('reshape keeps row-major order and inverts; view agrees wherever it does not throw', () => {
    check([fullShapes, layoutOf, fc.array(fc.nat(7), { maxLength: 4 })], (shape, layout, cuts) => {
      const values = representable(counting(shape), layout);
      const x = make(values, 'int32', 'cpu', layout);
      let rest = size(shape);
      const target: number[] = [];
      for (const cut of cuts) {
        const divisors = Array.from({ length: rest }, (_, i) => i + 1).filter((d) => rest % d === 0);
        const d = divisors[cut % divisors.length]!;
        target.push(d);
        rest /= d;
      }
      target.push(rest);
      const expected = nd(target, values.data);
      expectEqual(x.reshape(target), expected, `[${shape}] as [${target}]`);
      expectEqual(x.reshape(target).reshape(shape), values, `[${shape}] and back`);
      try {
        expectEqual(x.view(target), expected, `view [${target}]`);
      } catch (error) {
        if (!(error instanceof sg.ShapeError)) throw error;
        expect(layout, 'a contiguous tensor has a view of every shape').not.toBe('contiguous');
      }
    });
  });

  test('slices clip, count from the end and walk backwards as in Python', () => {
    const bound = fc.option(fc.integer({ min: -7, max: 7 }), { nil: null });
    check(
      [fc.nat(5), bound, bound, fc.constantFrom(-3, -2, -1, 1, 2, 3)],
      (length, start, end, step) => {
        const size = length;
        const wrap = (v: number): number => (v < 0 ? v + size : v);
        const [low, high] = step > 0 ? [0, size] : [-1, size - 1];
        const from = start === null ? (step > 0 ? 0 : size - 1) : Math.min(high, Math.max(low, wrap(start)));
        const to = end === null ? (step > 0 ? size : -1) : Math.min(high, Math.max(low, wrap(end)));
        const expected: number[] = [];
        for (let i = from; step > 0 ? i < to : i > to; i += step) expected.push(i + 1);
        expectEqual(
          make(counting([length]), 'float32', 'cpu').index(sg.slice(start, end, step)),
          nd([expected.length], expected),
          `${length}: ${start} ${end} ${step}`,
        );
      },
      1000,
    );
  });
});

describe('broadcasting', () => {
  test('agrees with the definition, and refuses what it refuses', () => {
    check(
      [shapes, shapes, layoutOf, layoutOf],
      (a, b, left, right) => {
        const [x, y] = [representable(counting(a), left), representable(counting(b), right)];
        let expected: Nd | null = null;
        try {
          broadcastShape(a, b);
          expected = map((p, q) => p - 2 * q, x, y);
        } catch {}
        const run = (): Tensor => make(x, 'float32', 'cpu', left).sub(make(y, 'float32', 'cpu', right).mul(2));
        if (expected) expectEqual(run(), expected, `[${a}] and [${b}]`);
        else expect(run).toThrow(sg.ShapeError);
      },
      600,
    );
  });

  test('gradients are summed over what was repeated', () => {
    check([fullShapes, fc.nat(15), fc.nat(15)], (shape, dropA, dropB) => {
      const thin = (drop: number): number[] => shape.map((s, i) => (drop & (1 << i) ? 1 : s));
      const [a, b] = [thin(dropA), thin(dropB)].map((s) => {
        const t = make(counting(s), 'float64', 'cpu');
        t.requiresGrad = true;
        return t;
      }) as [Tensor, Tensor];
      const wide = broadcastShape(a.shape, b.shape);
      a.mul(b)
        .mul(make(weights(wide), 'float64', 'cpu'))
        .sum()
        .backward();
      const expected = (own: Tensor, other: Tensor): Nd => {
        const out = nd(own.shape, () => 0);
        const terms = map((w, v) => w * v, weights(wide), counting(other.shape));
        const places = map(
          (_, i) => i,
          nd(wide, () => 0),
          nd(own.shape, (i) => i),
        );
        terms.data.forEach((term, i) => (out.data[places.data[i]!]! += term));
        return out;
      };
      expectEqual(a.grad!, expected(a, b), `[${a.shape}] of [${wide}]`);
      expectEqual(b.grad!, expected(b, a), `[${b.shape}] of [${wide}]`);
      a.grad!.dispose();
      b.grad!.dispose();
    });
  });
});

describe('joining and splitting', () => {
  const cutAt = fc.array(fc.integer({ min: 0, max: 3 }), { minLength: 1, maxLength: 4 });

  test('cat undoes split, chunk and unbind', () => {
    check([fullShapes, fc.nat(3), cutAt, layoutOf], (shape, which, sizes, layout) => {
      const dim = which % (shape.length + 1);
      const whole = [...shape.slice(0, dim), sizes.reduce((p, q) => p + q, 0), ...shape.slice(dim)];
      const values = representable(counting(whole), layout);
      const x = make(values, 'float32', 'cpu', layout);
      const parts = x.split(sizes, dim);
      expect(parts.map((p) => p.shape[dim])).toEqual(sizes);
      expectEqual(sg.cat(parts, dim), values, 'cat of split');
      if (whole[dim]! > 0) {
        expectEqual(sg.cat(x.chunk(3, dim), dim), values, 'cat of chunk');
        expectEqual(sg.stack(x.unbind(dim), dim), values, 'stack of unbind');
      }
    });
  });

  test('flip, roll, pad and repeat are what they say', () => {
    check([fullShapes, fc.nat(3), fc.integer({ min: -5, max: 5 }), layoutOf], (shape, which, shift, layout) => {
      if (shape.length === 0) return;
      const d = which % shape.length;
      const n = shape[d]!;
      const values = representable(counting(shape), layout);
      const x = make(values, 'float32', 'cpu', layout);
      const move = (f: (k: number) => number): Nd => build(shape, (index) => values.data[index.reduce((p, k, i) => p * shape[i]! + (i === d ? f(k) : k), 0)]!);
      expectEqual(
        x.flip([d]),
        move((k) => n - 1 - k),
        'flip',
      );
      expectEqual(
        x.roll(shift, d),
        move((k) => (((k - shift) % n) + n) % n),
        'roll',
      );
      const repeats = shape.map((_, i) => (i === d ? 2 : 1));
      expectEqual(x.repeat(repeats).narrow(d, n, n), values, 'the second half of repeat');
    });
  });
});
