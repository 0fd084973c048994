// Modules where the goldens do not look: state that is loaded wrongly, moves, masks in all their forms, padding modes, summaries,
// modes after generate. Where PyTorch has the case, the behaviour is its.
import { describe, expect, test } from 'vitest';
import * as sg from '../lib/index.js';
import { nn, ShapeError, type Tensor, ValueError } from '../lib/index.js';

class Small extends nn.Module {
  fc = new nn.Linear(2, 3);
  again = this.fc;
  scale = new nn.Parameter(sg.ones([2]));
  declare steps: Tensor;
  constructor() {
    super();
    this.registerBuffer('steps', sg.zeros([1]));
  }
  override forward(x: Tensor): Tensor {
    return this.fc.forward(x.mul(this.scale));
  }
}

describe('state', () => {
  test('nothing is written unless all of it fits', () => {
    const model = new Small();
    const before = model.fc.weight.toArraySync();
    const dict = Object.fromEntries(Object.entries(model.stateDict()).map(([k, t]) => [k, sg.zerosLike(t)]));
    expect(() => model.loadStateDict({ ...dict, scale: sg.zeros([9]) })).toThrow(ShapeError);
    expect(() => model.loadStateDict({ ...dict, scale: 3 as unknown as Tensor })).toThrow(ValueError);
    expect(model.fc.weight.toArraySync()).toEqual(before);
    expect(model.loadStateDict(dict, null as never)).toEqual({ missing: [], unexpected: [] });
  });
  test('a buffer is a tensor or null', () => {
    const model = new Small();
    expect(() => {
      model.steps = 5 as unknown as Tensor;
    }).toThrow(/buffer "steps" must be a tensor or null, got 5/);
    model.steps = sg.ones([1]);
    expect(model.stateDict()['steps']!.itemSync()).toBe(1);
  });
  test('a move takes the gradients along', () => {
    const model = new nn.Linear(2, 2);
    const loss = (dtype: 'float32' | 'float64'): Tensor => model.forward(sg.ones([1, 2], { dtype })).sum();
    loss('float32').backward();
    model.to('float64');
    expect(model.weight.grad!.dtype).toBe('float64');
    loss('float64').backward();
    expect(model.weight.grad!.toArraySync()).toEqual([
      [2, 2],
      [2, 2],
    ]);
  });
  test('a module inside itself is named, not followed', () => {
    const a = new Small() as Small & { inner?: nn.Module };
    a.inner = new nn.Sequential(a);
    expect(() => a.stateDict()).toThrow(/a module contains itself: inner\.0\.inner/);
    expect(() => a.forward(sg.ones([1, 2]))).toThrow(ValueError);
  });
});

test('summary: the tree, each parameter counted once', () => {
  const model = new Small();
  model.scale.requiresGrad = false;
  expect(model.summary().split('\n')).toEqual([
    'Small            scale [2] frozen        2',
    '  fc: Linear     weight [3,2], bias [3]  9',
    '  again: Linear  shared',
    '11 parameters, 9 trained, 0.0 MiB',
  ]);
});

describe('running statistics of batch normalisation', () => {
  const batch = (dtype: sg.DType): Tensor =>
    sg.tensor(
      [
        [1, 2],
        [3, 5],
        [8, 13],
      ],
      { dtype },
    );
  // as PyTorch 2.13 prints them
  test.each([
    ['float64', [0.4, 0.6666666666666667], [2.2, 4.133333333333334]],
    ['bfloat16', [0.400390625, 0.66796875], [2.203125, 4.125]],
  ] as const)('have the dtype of the parameters: %s', (dtype, mean, variance) => {
    const norm = new nn.BatchNorm1d(2, { dtype });
    expect([norm.running_mean!.dtype, norm.running_var!.dtype, norm.num_batches_tracked!.dtype]).toEqual([dtype, dtype, 'int64']);
    norm.forward(batch(dtype));
    const close = (t: Tensor, expected: readonly number[]): void =>
      (t.toArraySync() as number[]).forEach((x, i) => expect(Math.abs(x - expected[i]!)).toBeLessThan(1e-14));
    close(norm.running_mean!, mean);
    close(norm.running_var!, variance);
    norm.eval();
    expect(norm.forward(batch(dtype)).dtype).toBe(dtype);
  });
  test('take values of another dtype from a state dict', () => {
    const trained = new nn.BatchNorm1d(2);
    trained.forward(batch('float32'));
    const wide = new nn.BatchNorm2d(2, { dtype: 'float64' });
    wide.loadStateDict(trained.stateDict());
    expect(wide.running_var!.dtype).toBe('float64');
    expect(wide.running_var!.toArraySync()).toEqual(trained.running_var!.toArraySync());
    expect(wide.num_batches_tracked!.itemSync()).toBe(1);
    const back = new nn.BatchNorm1d(2);
    back.loadStateDict(wide.stateDict());
    expect(back.running_var!.dtype).toBe('float32');
    expect(back.running_var!.toArraySync()).toEqual(trained.running_var!.toArraySync());
  });
});

describe('options given as null are the defaults', () => {
  const x = sg.ones([2, 3, 4]);
  const none = null as never;
  test.each([
    ['MultiheadAttention', () => new nn.MultiheadAttention(4, 2, none).forward(x, undefined, undefined, none)],
    ['Embedding', () => new nn.Embedding(3, 2, { paddingIdx: null }).forward(sg.zeros([2], { dtype: 'int64' }))],
    ['LSTM', () => new nn.LSTM(4, 3).forward(x, null)[0]],
    ['GRU', () => new nn.GRU(4, 3).forward(x, null)[0]],
    ['multinomial', () => sg.multinomial(sg.ones([3]), 1, { generator: none, replacement: none })],
    ['generate', () => new nn.GPT({ vocabSize: 5, layers: 1, heads: 1, dim: 4, context: 8 }).generate(sg.zeros([1, 1], { dtype: 'int64' }), none)],
  ])('%s', (_, run) => {
    expect(run()).toBeInstanceOf(sg.Tensor);
  });
});

describe('wrong arguments of modules', () => {
  test.each([
    ['a momentum that is no number', () => new nn.BatchNorm1d(3, { momentum: 'x' as never }), ValueError],
    ['a sequence without steps', () => new nn.LSTM(2, 3).forward(sg.ones([0, 1, 2])), ShapeError],
    ['an unknown padding mode', () => new nn.Conv1d(1, 1, 1, { paddingMode: 'mirror' as never }), ValueError],
    ['a mask that is no tensor', () => new nn.MultiheadAttention(4, 2).forward(sg.ones([1, 2, 4]), undefined, undefined, { attnMask: 5 as never }), ValueError],
    [
      'padding of another batch',
      () => new nn.MultiheadAttention(4, 2).forward(sg.ones([1, 2, 4]), undefined, undefined, { keyPaddingMask: sg.zeros([3, 2], { dtype: 'bool' }) }),
      ShapeError,
    ],
  ] as const)('%s', (_, run, error) => {
    expect(run).toThrow(error);
  });
});

describe('MultiheadAttention takes masks in every form', () => {
  const [batch, heads, time] = [2, 2, 3];
  const attention = new nn.MultiheadAttention(4, heads);
  const x = sg.randn([batch, time, 4]);
  const hidden = sg.rand([batch, heads, time, time]).gt(0.6);
  hidden.index('...', 0).fill_(0); // every query sees a key
  const padding = sg.tensor([
    [false, true, false],
    [false, false, true],
  ]);
  const added = (mask: Tensor): Tensor => sg.where(mask, Number.NEGATIVE_INFINITY, sg.zeros([]));
  const expected = attention.forward(x, x, x, { attnMask: hidden.logicalOr(padding.reshape([batch, 1, 1, time])) });
  test.each([
    ['bool and bool', hidden, padding],
    ['batch and heads in one dimension', hidden.reshape([batch * heads, time, time]), padding],
    ['added and bool', added(hidden), padding],
    ['bool and added', hidden, added(padding)],
    ['added and added', added(hidden).reshape([batch * heads, time, time]), added(padding)],
  ])('%s', (_, attnMask, keyPaddingMask) => {
    expect(sg.allclose(attention.forward(x, x, x, { attnMask, keyPaddingMask }), expected, { atol: 1e-6 })).toBe(true);
  });
});

describe('convolutions beyond the border', () => {
  test.each(['reflect', 'replicate', 'circular'] as const)('%s', (paddingMode) => {
    const x = sg.randn([2, 2, 5, 6]);
    const layer = new nn.Conv2d(2, 4, [3, 2], { padding: [1, 2], stride: [2, 1], groups: 2, paddingMode });
    const expected = sg.conv2d(sg.pad(x, [2, 2, 1, 1], { mode: paddingMode }), layer.weight, layer.bias, { stride: [2, 1], groups: 2 });
    expect(sg.equal(layer.forward(x), expected)).toBe(true);
  });
  test("'same' of an even kernel pads one more behind", () => {
    const layer = new nn.Conv1d(1, 1, 4, { padding: 'same', paddingMode: 'circular', bias: false });
    sg.noGrad(() => layer.weight.copy_(sg.tensor([[[1, 10, 100, 1000]]])));
    expect(layer.forward(sg.tensor([[1, 2, 3, 4]])).toArraySync()).toEqual([[3214, 4321, 1432, 2143]]);
  });
});

describe('backward hooks', () => {
  const values = (grads: readonly (Tensor | null)[]): unknown[] => grads.map((g) => g?.toArraySync());
  const ones = (): Tensor => sg.ones([1, 2], { requiresGrad: true });

  test('see the gradients of arguments and outputs, and may replace the former', () => {
    const layer = new nn.Linear(2, 1, { bias: false });
    sg.noGrad(() => layer.weight.copy_(sg.tensor([[3, 4]])));
    const seen: unknown[] = [];
    const remove = layer.registerFullBackwardHook((_m, gradInput, gradOutput) => {
      seen.push(values(gradInput), values(gradOutput));
      return gradInput.map((g) => g!.mul(10));
    });
    layer.registerFullBackwardHook((_m, gradInput) => void seen.push(values(gradInput)));
    const x = ones();
    layer.forward(x).mul(2).sum().backward();
    expect(seen).toEqual([[[[6, 8]]], [[[2]]], [[[60, 80]]]]);
    expect([x.grad!.toArraySync(), layer.weight.grad!.toArraySync()]).toEqual([[[60, 80]], [[2, 2]]]);
    remove();
    layer.forward(x).sum().backward();
    expect(seen.length).toBe(4);
  });
  test('run without arguments that need gradients, in a fused block, with arrays of outputs, and not under noGrad', () => {
    const calls: string[] = [];
    const watch = (m: nn.Module, name: string): void => void m.registerFullBackwardHook((_m, i, o) => void calls.push(`${name} ${i.length} ${o.length}`));
    const lstm = new nn.LSTM(2, 3);
    watch(lstm, 'lstm');
    const [y, [h]] = lstm.forward(sg.ones([4, 1, 2]));
    y.sum().add(h.sum()).backward();
    const gpt = new nn.GPT({ vocabSize: 5, layers: 1, heads: 1, dim: 4, context: 8 });
    watch(gpt.transformer.h.get(0).mlp.c_fc, 'c_fc');
    const tokens = sg.zeros([1, 3], { dtype: 'int64' });
    sg.noGrad(() => gpt.forward(tokens));
    gpt.forward(tokens, tokens).backward();
    expect(calls).toEqual(['lstm 0 3', 'c_fc 1 1']);
  });
  test('wrong replacements are named', () => {
    const layer = new nn.Linear(2, 2);
    let wrong: unknown;
    layer.registerFullBackwardHook(() => wrong as Tensor[]);
    const run = (): void => layer.forward(ones()).sum().backward();
    for (const given of [5, [], [sg.ones([3])], [null]]) {
      wrong = given;
      expect(run).toThrow(/Linear: a backward hook must return/);
    }
  });
});

test('generate leaves every part in the mode it found', () => {
  const model = new nn.GPT({ vocabSize: 5, layers: 1, heads: 1, dim: 4, context: 8, dropout: 0.1 });
  model.transformer.drop.eval();
  model.generate(sg.zeros([1, 1], { dtype: 'int64' }), { maxNewTokens: 2 });
  expect(model.modules().map((m) => m.training)).toEqual(model.modules().map((m) => m !== model.transformer.drop));
});
