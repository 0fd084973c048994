// The loss straight from the hidden states beside the product and the loss one after the other: all gradients, in pieces too, in every way
// that autograd can ask for them; and what it keeps in memory.
import { describe, expect, test } from 'vitest';
import type { DType, Tensor } from '../lib/index.js';
import * as sg from '../lib/index.js';

type Options = Parameters<typeof sg.linearCrossEntropy>[3];
const apart = (x: Tensor, w: Tensor, t: Tensor, { bias, ...rest }: NonNullable<Options> = {}): Tensor =>
  sg.crossEntropy(sg.linear(x, w, bias), t, { ...rest, dim: -1 });

/** 1,100 rows of 16,385 classes: three pieces in float64, the last one shorter. */
const LARGE = { rows: 1100, classes: 16385, width: 3 };
const SMALL = { rows: 14, classes: 9, width: 4 };

const asLeaf = (t: Tensor): Tensor => {
  t.requiresGrad = true;
  return t;
};

function inputs({ rows, classes, width }: typeof SMALL, dtype: DType = 'float64'): { x: Tensor; w: Tensor; b: Tensor; t: Tensor } {
  sg.manualSeed(7);
  const leaf = (...shape: number[]): Tensor => asLeaf(sg.randn(shape, { dtype: 'float64' }).to(dtype));
  const t = sg.randint(0, classes, [2, rows / 2]);
  return { x: leaf(2, rows / 2, width), w: leaf(classes, width), b: leaf(classes), t };
}

const close = async (a: Tensor, b: Tensor, tolerance: number): Promise<void> => {
  const [x, y] = [await a.double().sub(b.double()).norm().item(), await b.double().norm().item()];
  expect(x).toBeLessThanOrEqual(tolerance * y);
};

describe.each([
  ['one piece', SMALL, {}],
  ['three pieces', LARGE, {}],
  ['three pieces, ignored rows', LARGE, { ignoreIndex: 4 }],
  ['one piece, smoothing', SMALL, { labelSmoothing: 0.2 }],
  ['three pieces, a sum', LARGE, { reduction: 'sum' as const }],
  ['one piece, a normalizer', SMALL, { normalizer: 5 }],
])('%s', (_name, size, options) => {
  test('gives the loss and the gradients of the two functions', async () => {
    const { x, w, b, t } = inputs(size);
    const [fused, simple] = [sg.linearCrossEntropy, apart].map((f) => f(x, w, t, { bias: b, ...options }));
    await close(fused!, simple!, 1e-14);
    const weights = [x, w, b];
    const [ours, theirs] = [fused!, simple!].map((loss) => sg.grad(loss.mul(0.3), weights));
    for (const i of [0, 1, 2]) await close(ours![i]!, theirs![i]!, 1e-12);
  });
});

test('a wrong target is named with its row of all rows', async () => {
  const { x, w, t } = inputs(LARGE);
  const wrong = t.clone();
  wrong.narrow(0, 1, 1).narrow(1, 549, 1).fill_(-3);
  const loss = sg.linearCrossEntropy(x, w, wrong);
  await expect(loss.item()).rejects.toThrow('crossEntropy: target -3 at row 1099 is out of range: there are 16385 classes');
});

test('backward can run again, add to what is there, and be differentiated', async () => {
  const { x, w, b, t } = inputs(SMALL);
  const loss = sg.linearCrossEntropy(x, w, t, { bias: b });
  loss.backward({ retainGraph: true });
  const first = w.grad!.clone();
  loss.backward();
  await close(w.grad!, first.mul(2), 1e-15);
  expect(() => loss.backward()).toThrow(/was freed by an earlier backward/);
  const bend = (f: typeof apart): Tensor => {
    const [dx, dw] = sg.grad(f(x, w, t, { bias: b, labelSmoothing: 0.1 }), [x, w], { createGraph: true });
    return sg.grad(dx!.square().sum().add(dw!.sin().sum()), [w])[0]!;
  };
  await close(bend(sg.linearCrossEntropy), bend(apart), 1e-12);
});

test('gradients of some of the inputs alone', async () => {
  const { x, w, b, t } = inputs(SMALL);
  const all = sg.grad(apart(x, w, t, { bias: b }), [x, w, b]);
  await close(sg.grad(sg.linearCrossEntropy(x, w.detach(), t, { bias: b.detach() }), [x])[0]!, all[0]!, 1e-13);
  await close(sg.grad(sg.linearCrossEntropy(x.detach(), w, t, { bias: b.detach() }), [w])[0]!, all[1]!, 1e-13);
  await close(sg.grad(sg.linearCrossEntropy(x.detach(), w.detach(), t, { bias: b }), [b])[0]!, all[2]!, 1e-13);
});

test('in a checkpoint, whatever that keeps', async () => {
  const { x, w, t } = inputs(SMALL);
  const [whole] = sg.grad(sg.linearCrossEntropy(x.tanh(), w, t), [x]);
  for (const options of [{}, { keep: ['matmul'] }, { keep: ['linearCrossEntropy'] }, { recompute: ['tanh'] }] as const) {
    const segment = (y: Tensor): Tensor => sg.linearCrossEntropy(y.tanh(), w, t);
    const [again] = sg.grad(sg.checkpoint(options, segment, x), [x]);
    await close(again!, whole!, 1e-15);
  }
});

test.each(['bfloat16', 'float16'] as const)('%s: float32 losses, gradients in the type of the inputs', async (dtype) => {
  const { x, w, b, t } = inputs({ rows: 200, classes: 70, width: 16 }, dtype);
  const [loss, simple] = [sg.linearCrossEntropy, apart].map((f) => f(x, w, t, { bias: b }));
  expect(loss!.dtype).toBe('float32');
  await close(loss!, simple!, 1e-6);
  const exact = [x, w, b].map((v) => asLeaf(v.detach().double()));
  const wanted = sg.grad(apart(exact[0]!, exact[1]!, t, { bias: exact[2]! }), exact);
  const made = sg.grad(loss!, [x, w, b]);
  for (const i of [0, 1, 2]) {
    expect(made[i]!.dtype).toBe(dtype);
    await close(made[i]!, wanted[i]!, 0.02);
  }
});

test('under autocast the gradient of a float32 weight is a float32 sum', async () => {
  const { x, w, t } = inputs({ rows: 200, classes: 70, width: 16 }, 'float32');
  const loss = sg.amp.autocast('bfloat16', () => sg.linearCrossEntropy(x, w, t));
  const [dw] = sg.grad(loss, [w]);
  expect(dw!.dtype).toBe('float32');
  expect(await dw!.bfloat16().float().sub(dw!).abs().max().item()).toBeGreaterThan(0); // not rounded to 16 bits
  await close(dw!, sg.grad(apart(x, w, t), [w])[0]!, 0.02);
});

test('all logits are never there, and nothing is left of the pieces', async () => {
  const { x, w, t } = inputs(LARGE, 'float32');
  const logits = 4 * LARGE.rows * LARGE.classes;
  const before = sg.memory().live;
  sg.resetPeakMemory();
  const loss = sg.linearCrossEntropy(x, w, t);
  await loss.item();
  expect(sg.memory().peak - before).toBeLessThan(0.6 * logits);
  expect(sg.memory().live - before).toBeLessThan(0.02 * logits); // the gradients
  loss.backward();
  const gradients = x.grad!.nbytes + w.grad!.nbytes;
  expect(sg.memory().live - before - gradients).toBeLessThan(200);
  sg.noGrad(() => sg.linearCrossEntropy(x, w, t).dispose());
  expect(sg.memory().live - before - gradients).toBeLessThan(200);
});

test('on the meta device', () => {
  const on = { device: 'meta' } as const;
  const [x, w] = [sg.zeros([4, 3], { ...on, requiresGrad: true }), sg.zeros([7, 3], { ...on, requiresGrad: true })];
  const loss = sg.linearCrossEntropy(x, w, sg.zeros([4], { ...on, dtype: 'int64' }));
  loss.backward();
  expect([loss.shape, w.grad!.shape]).toEqual([[], [7, 3]]);
});

test('what does not fit is said', () => {
  const { x, w, t } = inputs(SMALL);
  const [some, float] = [t.narrow(1, 0, 3), w.float()];
  expect(() => sg.linearCrossEntropy(x, w, some)).toThrow('linearCrossEntropy: targets [2,3] are not the input [2,7,4] without its features');
  expect(() => sg.linearCrossEntropy(x, float, t)).toThrow('linearCrossEntropy: dtypes differ: the input is float64, the weight float32');
  expect(() => sg.linearCrossEntropy(x, w.t(), t)).toThrow(/^linearCrossEntropy: input \[2,7,4\] does not fit weight \[4,9\]/);
  expect(() => sg.linearCrossEntropy(x, w, t, { bias: sg.zeros([4], { dtype: 'float64' }) })).toThrow('linearCrossEntropy: the bias must be [9], got [4]');
  expect(() => sg.linearCrossEntropy(x, w, t, 3 as never)).toThrow(/linearCrossEntropy/);
  expect(() => sg.linearCrossEntropy(x, w, t, { labelSmoothing: 2 })).toThrow(/labelSmoothing/);
});
