// What backward owes the user beyond the rules of single ops: hooks, kept gradients, what happens when it runs twice, grad() beside
// backward(), checkpoints. Figures are worked out by hand; PyTorch 2.13 gives the same.
import { describe, expect, test } from 'vitest';
import * as sg from '../lib/index.js';
import { AutogradError, type NestedArray, ShapeError, type Tensor, ValueError } from '../lib/index.js';

const leaf = (data: number | number[]): Tensor => sg.tensor(data, { dtype: 'float64', requiresGrad: true });
const values = (t: Tensor | null): NestedArray | null => t?.toArraySync() ?? null;

describe('gradients of tensors that are no leaves', () => {
  test('retainGrad keeps what reaches the tensor, adding up over runs', () => {
    const x = leaf([1, 2]);
    const y = x.mul(3).retainGrad();
    const other = x.mul(5);
    const loss = y.square().add(other).sum();
    loss.backward({ retainGraph: true });
    expect(values(y.grad)).toEqual([6, 12]);
    loss.backward();
    expect(values(y.grad)).toEqual([12, 24]);
    expect(other.grad).toBeNull();
  });
  test('hooks see the gradient first, and what they give instead is kept', () => {
    const x = leaf([1, 2]);
    const y = x.mul(3).retainGrad();
    y.registerHook((g) => g.mul(10));
    y.sum().backward();
    expect([values(y.grad), values(x.grad)]).toEqual([
      [10, 10],
      [30, 30],
    ]);
  });
  test('a tensor outside every graph has none to keep', () => {
    expect(() => sg.ones([2]).retainGrad()).toThrow(AutogradError);
  });
});

describe('hooks', () => {
  test('run in order, each on the result of the one before', () => {
    const x = leaf(1);
    x.registerHook((g) => g.mul(2));
    x.registerHook((g) => g.add(1));
    x.mul(1).backward();
    expect(values(x.grad)).toBe(3);
  });
  test('one that removes itself does not skip the next; removing twice takes no other away', () => {
    const seen: string[] = [];
    const y = leaf(1).mul(2);
    const remove = y.registerHook(() => {
      seen.push('once');
      remove();
    });
    y.registerHook(() => void seen.push('always'));
    y.backward({ retainGraph: true });
    remove();
    y.backward();
    expect(seen).toEqual(['once', 'always', 'always']);
  });
  test('the same function may be registered twice', () => {
    const x = leaf(1);
    const y = x.mul(1);
    const double = (g: Tensor): Tensor => g.mul(2);
    y.registerHook(double);
    const remove = y.registerHook(double);
    remove();
    y.backward();
    expect(values(x.grad)).toBe(2);
  });
});

test('a leaf that no longer wants a gradient gets none', () => {
  const x = leaf(1);
  const y = x.mul(2);
  x.requiresGrad = false;
  y.backward();
  expect(x.grad).toBeNull();
});

describe('slopes where a function has none', () => {
  const slope = (f: (x: Tensor) => Tensor, at: number[]): NestedArray | null => {
    const x = leaf(at);
    f(x).sum().backward();
    return values(x.grad);
  };
  test('clamp with one bound passes the gradient at the bound, as with two', () => {
    expect(slope((x) => x.clamp(0), [-1, 0, 1, Number.NaN])).toEqual([0, 1, 1, 0]);
    expect(slope((x) => x.clamp(null, 0), [-1, 0, 1, Number.NaN])).toEqual([1, 1, 0, 0]);
  });
  test('where bounds cross, the upper one gets the gradient', () => {
    const [x, low, high] = [leaf([5, 1, 3]), leaf([3, 3, 0]), leaf([2, 2, 9])];
    x.clamp(low, high).sum().backward();
    expect([values(x.grad), values(low.grad), values(high.grad)]).toEqual([
      [0, 0, 1],
      [0, 0, 0],
      [1, 1, 0],
    ]);
  });
  test('std of equal elements', () => {
    expect(slope((x) => x.std(), [2, 2, 2])).toEqual([0, 0, 0]);
  });
  test('atan2 at the origin', () => {
    expect(slope((x) => x.atan2(x), [0])).toEqual([0]);
  });
  test('xlogy by x is ln y also where x is 0, unless y has no logarithm', () => {
    const y = sg.tensor([Math.E, 0, -1], { dtype: 'float64' });
    expect(slope((x) => x.xlogy(y), [0, 0, 0])).toEqual([1, 0, 0]);
  });
});

describe('checkpoint', () => {
  const noise = (x: Tensor): Tensor => sg.dropout(x, 0.5);
  test('gradients are those of the segment itself, in grad() too', () => {
    const [x, w] = [leaf([1, 2]), leaf([3, 4])];
    const y = sg.checkpoint((z) => z.mul(w).square(), x);
    expect(sg.grad(y.sum(), [x, w], { retainGraph: true }).map(values)).toEqual([
      [18, 64],
      [6, 32],
    ]);
    expect(w.grad).toBeNull();
    y.sum().backward({ retainGraph: true });
    y.sum().backward();
    expect(values(w.grad)).toEqual([12, 64]);
  });
  test('gradients of gradients', () => {
    const x = leaf([2]);
    const [first] = sg.grad(sg.checkpoint((z) => z.pow(3), x).sum(), [x], { createGraph: true });
    expect(values(first!)).toEqual([12]);
    expect(sg.grad(first!, [x]).map(values)).toEqual([[12]]);
  });
  test('a checkpoint inside a checkpoint repeats the same draws', () => {
    sg.manualSeed(7);
    const x = sg.ones([64], { requiresGrad: true });
    const y = sg.checkpoint((z) => sg.checkpoint((u) => noise(u.mul(1)), noise(z)).mul(1), x);
    const drawn = values(y);
    const next = sg.rand([1]);
    y.sum().backward();
    expect(values(x.grad)).toEqual(drawn);
    // and the generator does not notice the recomputation
    sg.manualSeed(7);
    noise(noise(x));
    expect(values(sg.rand([1]))).toEqual(values(next));
  });
  test('what the function closes over may have a history of its own', () => {
    const w = leaf([2]);
    const h = w.mul(3);
    sg.checkpoint((z) => z.mul(h), leaf([5]))
      .add(h)
      .sum()
      .backward();
    expect(values(w.grad)).toEqual([18]);
  });
  test('several results, one of them not used, one an argument', () => {
    const [x, w] = [leaf([2]), leaf([3])];
    const [a, , c] = sg.checkpoint((z) => [z.mul(w), z.exp(), z], x) as [Tensor, Tensor, Tensor];
    a.add(c).sum().backward();
    expect([values(x.grad), values(w.grad), x.isLeaf]).toEqual([[4], [2], true]);
  });
  test('a leaf inside and outside of it calls its hook with the complete gradient', () => {
    const [x, w] = [leaf([5]), leaf([2])];
    const seen: unknown[] = [];
    for (const p of [x, w]) p.registerPostAccumulateGradHook(() => seen.push(values(p.grad)));
    sg.checkpoint((z) => z.mul(w).add(w), x)
      .sum()
      .backward();
    expect(seen).toEqual(expect.arrayContaining([[2], [6]]));
    expect(seen.length).toBe(2);
  });
  test('an argument changed in place is found', () => {
    const x = sg.ones([2]);
    const w = leaf([1, 2]);
    const y = sg.checkpoint((z) => z.to('float64').mul(w), x);
    x.add_(1);
    expect(() => y.sum().backward()).toThrow(/checkpoint needs a tensor of shape \[2\] that was changed in place by add_/);
  });
  test('a function that gives another shape the second time', () => {
    let calls = 0;
    const y = sg.checkpoint((z) => (calls++ ? z.sum() : z.mul(2)), leaf([1, 2]));
    expect(() => y.sum().backward()).toThrow(/checkpoint: the recomputation gave \[\] float64, the first run \[2\] float64/);
  });
  test('a function that gives no tensor', () => {
    expect(() => sg.checkpoint(() => 3 as unknown as Tensor)).toThrow(ValueError);
  });
  test('leaves no memory behind, also when the graph is kept', () => {
    const x = sg.ones([1000], { requiresGrad: true });
    const leaks = sg.checkLeaks(() =>
      sg.scope(() => {
        const y = sg.checkpoint((z) => z.exp().mul(z).sin(), x).sum();
        y.backward({ retainGraph: true });
        x.grad!.dispose();
        x.grad = null;
        y.backward();
        x.grad!.dispose();
        x.grad = null;
      }),
    );
    expect(leaks).toEqual([]);
  });
});

test('a function of the user lets go of what it saved', () => {
  const x = sg.ones([1000], { requiresGrad: true });
  const cube = sg.defineFunction({
    forward: (ctx, z: Tensor) => {
      const square = z.square();
      ctx.saveForBackward(z, square);
      return square.mul(z);
    },
    backward: (ctx, g) => g.mul(ctx.savedTensors[1]!).mul(3),
  });
  const leaks = sg.checkLeaks(() =>
    sg.scope(() => {
      const y = cube(x.mul(2)).sum();
      y.backward({ retainGraph: true });
      y.backward();
      x.grad!.dispose();
      x.grad = null;
      sg.noGrad(() => cube(x));
    }),
  );
  expect(leaks).toEqual([]);
});

describe('a function of the user with a wrong backward', () => {
  const wrong = (gradient: unknown): (() => void) => {
    const f = sg.defineFunction({ name: 'double', forward: (_ctx, x: Tensor) => x.mul(2), backward: () => gradient as Tensor });
    return () =>
      f(leaf([1, 2]))
        .sum()
        .backward();
  };
  test.each([
    ['a number', 5, ValueError],
    ['another shape', sg.ones([7]), ShapeError],
    ['fewer dimensions', sg.ones([]), ShapeError],
  ] as const)('%s', (_, gradient, error) => {
    expect(wrong(gradient)).toThrow(error);
    expect(wrong(gradient)).toThrow(/double/);
  });
  test('gradcheck of one that gives no tensor', () => {
    expect(() => sg.gradcheck((x) => [x] as unknown as Tensor, [leaf([1])])).toThrow(ValueError);
  });
});
