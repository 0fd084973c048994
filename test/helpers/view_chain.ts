// Random chains of view operations, applied to a tensor and to the reference at once.
import fc from 'fast-check';
import { slice } from '../../lib/index.js';
import type { Tensor } from '../../lib/tensor.js';
import { at, build, expand, type Nd, permute, reshape } from './reference.js';

export interface Step {
  readonly tensor: (x: Tensor) => Tensor;
  readonly reference: (x: Nd) => Nd;
  readonly show: string;
}

/** A step that fits the shape, chosen by whole numbers, so that every choice is one and shrinks well. */
function step(shape: readonly number[], kind: number, a: number, b: number, c: number): Step {
  const n = shape.length;
  const d = n ? a % n : 0;
  const e = n ? b % n : 0;
  switch (kind) {
    case 0: {
      const order = shape.map((_, i) => (i + a) % n);
      if (n > 1 && b % 2) [order[0], order[n - 1]] = [order[n - 1]!, order[0]!];
      return { tensor: (x) => x.permute(order), reference: (x) => permute(x, order), show: `permute [${order}]` };
    }
    case 1: {
      if (n === 0) return identity;
      const order = shape.map((_, i) => i);
      [order[d], order[e]] = [order[e]!, order[d]!];
      return { tensor: (x) => x.transpose(d, e - n), reference: (x) => permute(x, order), show: `transpose ${d} ${e - n}` };
    }
    case 2: {
      if (n === 0) return identity;
      const size = shape[d]!;
      const start = size ? b % size : 0;
      const stride = 1 + (c % 3);
      const count = Math.ceil((size - start) / stride);
      return {
        tensor: (x) => x.index(...before(d), slice(start, null, stride)),
        reference: (x) => build(replace(shape, d, count), (index) => at(x, replace(index, d, start + index[d]! * stride))),
        show: `slice ${d} from ${start} by ${stride}`,
      };
    }
    case 3: {
      if (n === 0 || shape[d] === 0) return identity;
      const size = shape[d]!;
      return {
        tensor: (x) => x.index(...before(d), slice(null, null, -1)),
        reference: (x) => build(shape, (index) => at(x, replace(index, d, size - 1 - index[d]!))),
        show: `reverse ${d}`,
      };
    }
    case 4: {
      if (n === 0 || shape[d] === 0) return identity;
      const k = b % shape[d]!;
      return {
        tensor: (x) => x.select(d, k),
        reference: (x) =>
          build(
            shape.filter((_, i) => i !== d),
            (index) => at(x, [...index.slice(0, d), k, ...index.slice(d)]),
          ),
        show: `select ${d} ${k}`,
      };
    }
    case 5: {
      if (n > 4) return identity;
      const place = a % (n + 1);
      return {
        tensor: (x) => x.unsqueeze(place),
        reference: (x) => reshape(x, [...shape.slice(0, place), 1, ...shape.slice(place)]),
        show: `unsqueeze ${place}`,
      };
    }
    case 6: {
      const wide = shape.map((s, i) => (s === 1 ? 1 + ((a + i) % 3) : s));
      const full = n < 5 && b % 2 ? [2, ...wide] : wide;
      return { tensor: (x) => x.expand(full), reference: (x) => expand(x, full), show: `expand [${full}]` };
    }
    case 7: {
      const target = c % 2 ? [-1] : [...shape].reverse();
      const known = shape.reduce((p, s) => p * s, 1);
      if (target[0] === -1 && known === 0) return identity;
      return { tensor: (x) => x.reshape(target), reference: (x) => reshape(x, target[0] === -1 ? [known] : target), show: `reshape [${target}]` };
    }
    default: {
      if (n < 2 || d === e) return identity;
      const offset = (c % 3) - 1;
      const count = Math.max(0, offset >= 0 ? Math.min(shape[d]!, shape[e]! - offset) : Math.min(shape[d]! + offset, shape[e]!));
      const rest = shape.filter((_, i) => i !== d && i !== e);
      return {
        tensor: (x) => x.diagonal(offset, d, e),
        reference: (x) =>
          build([...rest, count], (index) => {
            const k = index.at(-1)!;
            const others = index.slice(0, -1);
            return at(
              x,
              shape.map((_, i) => (i === d ? k + Math.max(0, -offset) : i === e ? k + Math.max(0, offset) : others.shift()!)),
            );
          }),
        show: `diagonal ${offset} of ${d} ${e}`,
      };
    }
  }
}

const identity: Step = { tensor: (x) => x, reference: (x) => x, show: '' };
/** Whole dimensions in front of dimension d. */
const before = (d: number): ReturnType<typeof slice>[] => Array.from({ length: d }, () => slice());
const replace = (list: readonly number[], i: number, value: number): number[] => list.map((v, k) => (k === i ? value : v));

/** Steps as quadruples of small numbers: [kind, a, b, c]. */
export const chains: fc.Arbitrary<[number, number, number, number][]> = fc.array(fc.tuple(fc.nat(8), fc.nat(7), fc.nat(7), fc.nat(7)), {
  minLength: 1,
  maxLength: 5,
});

/** Applies a chain to both sides. */
export function applyChain(
  chain: readonly (readonly [number, number, number, number])[],
  x: Tensor,
  reference: Nd,
): { view: Tensor; expected: Nd; shown: string } {
  let view = x;
  let expected = reference;
  const shown: string[] = [];
  for (const [kind, a, b, c] of chain) {
    const next = step(expected.shape, kind, a, b, c);
    view = next.tensor(view);
    expected = next.reference(expected);
    shown.push(next.show);
  }
  return { view, expected, shown: shown.filter(Boolean).join(', ') };
}
