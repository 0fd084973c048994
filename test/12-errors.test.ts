// The texts of typical mistakes, to the letter: each names the op, the values and what does not fit. A change of a text is a
// change of the interface; it shows here.
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import * as sg from '../lib/index.js';

const { nn, optim, ones, zeros, tensor } = sg;

const child = fileURLToPath(new URL('children/debug_line.mjs', import.meta.url));

type Mistake = [what: string, call: () => unknown, kind: new (text: string) => sg.ShardgradError, text: string];

function disposed(): sg.Tensor {
  const t = ones([2]);
  t.dispose();
  return t;
}

const shapes: Mistake[] = [
  ['inner dimensions of matmul', () => ones([2, 5]).matmul(ones([3, 4])), sg.ShapeError, 'matmul: inner dimensions differ: a [2,5] · b [3,4] (5 ≠ 3)'],
  ['operands that do not broadcast', () => ones([2, 3]).add(ones([4])), sg.ShapeError, 'add: shapes do not broadcast: [2,3] and [4] (3 ≠ 4 in dimension -1)'],
  ['reshape to another size', () => ones([2, 3]).reshape([4]), sg.ShapeError, 'reshape: [4] has 4 elements, the tensor has 6'],
  ['reshape with a wrong -1', () => ones([2, 3]).reshape([4, -1]), sg.ShapeError, 'reshape: cannot infer -1 of [4,-1] for 6 elements'],
  ['a view that would need a copy', () => ones([2, 3]).t().view([6]), sg.ShapeError, 'view: [6] is not a view of [3,2] with strides [1,3]; use reshape()'],
  ['a dimension out of range', () => ones([2, 3]).sum(2), sg.ShapeError, 'sum: dimension 2 is out of range [-2, 2) of a tensor with 2 dimensions'],
  ['a dimension twice', () => ones([2, 3]).sum([1, -1]), sg.ShapeError, 'sum: dimension 1 appears twice'],
  [
    'options in place of a flag',
    () => ones([2, 3]).sum(1, { keepdim: true } as unknown as boolean),
    sg.ValueError,
    'sum: keepdim must be true or false, got an object of class Object',
  ],
  ['a fractional dimension', () => ones([2]).sum(0.5), sg.ShapeError, 'sum: a dimension is a whole number, got 0.5'],
  ['permute with too few dimensions', () => ones([2, 3]).permute([0]), sg.ShapeError, 'permute: expected 2 dimensions of [2,3], got [0]'],
  ['a negative size', () => zeros([2, -1]), sg.ShapeError, 'zeros: sizes are whole numbers from 0, got -1 in [2,-1]'],
  ['a shape that is a number', () => zeros(3 as never), sg.ShapeError, 'zeros: a shape is an array of sizes, got 3'],
  ['nine dimensions', () => zeros([1, 1, 1, 1, 1, 1, 1, 1, 1]), sg.ShapeError, 'zeros: at most 8 dimensions, got 9'],
  ['ragged data', () => tensor([[1, 2], [3]]), sg.ShapeError, 'tensor: the nested arrays are ragged: expected 2 elements at level 1, got an array of 1'],
  ['item of several elements', () => ones([2]).itemSync(), sg.ShapeError, 'itemSync: expected one element, the tensor is [2]'],
  ['the maximum of nothing', () => zeros([2, 0]).max(1), sg.ShapeError, 'max: no elements to reduce in [2,0]'],
  ['cat of unequal sizes', () => sg.cat([ones([2, 3]), ones([2, 4])]), sg.ShapeError, 'cat: sizes differ outside dimension 0: [2,3] and [2,4]'],
  [
    'linear with the wrong number of features',
    () => sg.linear(ones([2, 3]), ones([4, 5])),
    sg.ShapeError,
    'linear: input [2,3] does not fit weight [4,5] (3 ≠ 5 features)',
  ],
  ['a narrow past the end', () => ones([4]).narrow(0, 3, 2), sg.ShapeError, 'narrow: 2 elements from 3 do not fit dimension 0 of [4]'],
  ['a position out of range', () => ones([4]).at(4), sg.ValueError, 'at: 4 is not a position of a dimension of 4 (tensor [4])'],
  [
    'heads that do not divide',
    () => sg.scaledDotProductAttention(ones([1, 3, 2, 4]), ones([1, 2, 2, 4]), ones([1, 2, 2, 4])),
    sg.ShapeError,
    'scaledDotProductAttention: 3 query heads are no multiple of 2 key heads: query [1,3,2,4], key [1,2,2,4], value [1,2,2,4]',
  ],
];

const dtypes: Mistake[] = [
  ['matmul of two dtypes', () => ones([2, 2]).matmul(ones([2, 2], { dtype: 'float64' })), sg.DTypeError, 'matmul: dtypes differ: a is float32, b is float64'],
  [
    'an unknown dtype',
    () => zeros([2], { dtype: 'float' as never }),
    sg.DTypeError,
    'zeros: unknown dtype a string "float"; known are float32, float64, float16, bfloat16, int64, int32, uint8, bool, int8, int16, uint16, uint32, float8_e4m3, float8_e5m2',
  ],
  ['the mean of integers', () => tensor([1n, 2n]).mean(), sg.DTypeError, 'mean: expects a floating-point tensor, got int64; convert it with float()'],
  [
    'a gradient of integers',
    () => zeros([2], { dtype: 'int64', requiresGrad: true }),
    sg.DTypeError,
    'requiresGrad: only floating-point tensors have gradients, this one is int64',
  ],
  ['a float into integers', () => tensor([1n]).add_(0.5), sg.DTypeError, 'add_: the result is float32 and cannot go into a tensor of int64'],
  ['indices that are floats', () => ones([3]).gather(0, ones([1])), sg.DTypeError, 'gather: the index must be int32 or int64, got float32'],
  ['mixed data', () => tensor([1, true] as never), sg.DTypeError, 'tensor: the data mixes numbers, booleans and bigints'],
  ['int64 beyond 2^53', () => tensor(2n ** 60n).itemSync(), sg.DTypeError, 'itemSync: the int64 value is beyond 2^53; read it with toTypedArray()'],
];

const values: Mistake[] = [
  ['something that is no tensor', () => sg.exp('x' as never), sg.ValueError, 'exp: the input must be a tensor, got a string "x"'],
  ['an operand that is no number', () => ones([2]).add(null as never), sg.ValueError, 'add: the second operand must be a tensor or a number, got null'],
  ['a step of 0', () => sg.slice(0, 1, 0), sg.ValueError, 'slice: step must not be 0'],
  ['an endless range', () => sg.arange(0, 10, -1), sg.ValueError, 'arange: no whole number of steps of -1 leads from 0 to 10'],
  [
    'an unknown reduction',
    () => sg.mseLoss(ones([2]), ones([2]), { reduction: 'avg' as never }),
    sg.ValueError,
    'mseLoss: reduction must be one of mean, sum, none, got a string "avg"',
  ],
  ['clamp without bounds', () => ones([2]).clamp(), sg.ValueError, 'clamp: give min, max or both'],
  [
    'a NaN learning rate',
    () => new optim.SGD([new nn.Parameter(ones([2]))], { lr: Number.NaN }),
    sg.ValueError,
    'SGD: lr must be a finite number from 0, got NaN',
  ],
  [
    "an optimizer's option in PyTorch's spelling",
    () => new optim.Lion([new nn.Parameter(ones([2]))], { weight_decay: 0.1 } as never),
    sg.ValueError,
    'Lion: there is no option weight_decay; there are lr, betas, weightDecay, maximize, stochasticRounding',
  ],
  [
    'the same in a group',
    () => new optim.SGD([{ params: [new nn.Parameter(ones([2]))], learningRate: 1 } as never]),
    sg.ValueError,
    'SGD: there is no option learningRate; there are lr, momentum, dampening, nesterov, weightDecay, maximize, stochasticRounding',
  ],
  [
    'a learning rate in place of the options',
    () => new optim.AdamW([new nn.Parameter(ones([2]))], 0.1 as never),
    sg.ValueError,
    'AdamW: options must be an object, got 0.1',
  ],
  [
    'arithmetic by an operator',
    () => (ones([1]) as never as number) * 2,
    sg.ValueError,
    'operators of JavaScript do not work on tensors; use methods, as x.mul(y), x.lt(0), or read a number with item()',
  ],
  [
    'a comparison by an operator',
    () => (ones([1]) as never as number) > 0,
    sg.ValueError,
    'operators of JavaScript do not work on tensors; use methods, as x.mul(y), x.lt(0), or read a number with item()',
  ],
];

const others: Mistake[] = [
  [
    'use after dispose',
    () => disposed().add(1),
    sg.DisposedError,
    'add: the input ([2] float32) was disposed, or the scope that made it has ended; return it from the scope or keep() it',
  ],
  [
    'reading after dispose',
    () => disposed().toArraySync(),
    sg.DisposedError,
    'toTypedArraySync: the tensor was disposed, or the scope that made it has ended; return it from the scope or keep() it',
  ],
  ['an unknown device', () => zeros([2], { device: 'gpu' }), sg.DeviceError, 'unknown device a string "gpu": expected cpu, cpu:N, cuda:N or meta'],
  [
    'two devices',
    () => ones([2]).add(ones([2], { device: 'cpu:1' })),
    sg.DeviceError,
    'add: tensors are on different devices: cpu:0 and cpu:1; move one with to()',
  ],
  ['values of a meta tensor', () => ones([2], { device: 'meta' }).toArraySync(), sg.DTypeError, 'toTypedArraySync: a tensor on device meta has no values'],
  [
    'backward of a constant',
    () => ones([]).backward(),
    sg.AutogradError,
    'backward: the tensor does not require a gradient: no input of its graph does, or it was made under noGrad',
  ],
  [
    'backward of several elements',
    () => ones([2], { requiresGrad: true }).mul(2).backward(),
    sg.ShapeError,
    'backward: the tensor has 2 elements; only one-element tensors need no gradient argument',
  ],
  [
    'a leaf changed in place',
    () => ones([2], { requiresGrad: true }).mul_(2),
    sg.AutogradError,
    'mul_: a leaf that requires a gradient cannot be changed in place; use noGrad(() => …)',
  ],
];

function twice(): void {
  const y = ones([2], { requiresGrad: true }).square().sum();
  y.backward();
  y.backward();
}
function changed(): void {
  const x = ones([2], { requiresGrad: true });
  const y = x.exp();
  const z = y.mul(y).sum();
  y.add_(1);
  z.backward();
}
function inference(): sg.Tensor {
  return sg.inferenceMode(() => ones([2]));
}
const graphs: Mistake[] = [
  [
    'a gradient written into a view',
    () =>
      zeros([2, 2])
        .at(0)
        .copy_(ones([2], { requiresGrad: true })),
    sg.AutogradError,
    'copy_: what requires a gradient cannot be written into a view; write into the base with indexPut_',
  ],
  [
    'a gradient added into a view',
    () =>
      zeros([2, 2])
        .at(0)
        .add_(ones([2], { requiresGrad: true })),
    sg.AutogradError,
    'add_: what requires a gradient cannot be written into a view; write into the base with indexPut_',
  ],
  [
    'a tensor of inferenceMode in a view op',
    () => sg.cat([inference(), ones([2], { requiresGrad: true })]),
    sg.AutogradError,
    'cat: a tensor made in inferenceMode cannot be part of a graph; clone() it outside',
  ],
  ['an expanded target', () => ones([1, 2]).expand([3, 2]).add_(1), sg.ShapeError, 'add_: the target [3,2] is expanded; clone() it to write to it'],
  ['a second backward', twice, sg.AutogradError, 'backward: the graph of sum was freed by an earlier backward; pass retainGraph: true to the first one'],
  [
    'a saved tensor changed in place',
    changed,
    sg.AutogradError,
    'backward: mul needs a tensor of shape [2] that was changed in place by add_ (version 1, expected 0)',
  ],
];

const modules: Mistake[] = [
  [
    'a layer that does not fit, with its place',
    () => new nn.Sequential(new nn.Linear(2, 2)).forward(ones([3, 5])),
    sg.ShapeError,
    'linear: input [3,5] does not fit weight [2,2] (5 ≠ 2 features) in Linear "0"',
  ],
  [
    'a missing key',
    () => new nn.Linear(2, 2).loadStateDict({ weight: ones([2, 2]) }),
    sg.ValueError,
    'loadStateDict: keys do not match Linear: missing bias; unexpected none',
  ],
  [
    'an unknown key',
    () => new nn.Linear(2, 2, { bias: false }).loadStateDict({ weight: ones([2, 2]), scale: ones([2]) }),
    sg.ValueError,
    'loadStateDict: keys do not match Linear: missing none; unexpected scale',
  ],
  [
    'a parameter of another shape',
    () => new nn.Linear(2, 2, { bias: false }).loadStateDict({ weight: ones([3, 2]) }),
    sg.ShapeError,
    'loadStateDict: "weight" has shape [3,2], the module\'s is [2,2]',
  ],
];

const families = { shapes, dtypes, values, others, graphs, modules };

for (const [family, mistakes] of Object.entries(families)) {
  describe(family, () => {
    test.each(mistakes)('%s', (_, call, kind, text) => {
      let error: unknown;
      sg.scope(() => {
        try {
          call();
        } catch (e) {
          error = e;
        }
      });
      expect(error).toBeInstanceOf(kind);
      expect((error as Error).message).toBe(text);
      expect((error as sg.ShardgradError).code).toBe(kind.name);
    });
  });
}

describe('faults that only the data shows', () => {
  test('an index out of range is raised at the next wait, naming the op', async () => {
    const read = async (): Promise<unknown> =>
      ones([3, 2])
        .index(tensor([0n, 5n]))
        .toArray();
    await expect(read()).rejects.toThrow(new sg.ValueError('index: index 5 is out of range [-3, 3) at position 1'));
    expect(() => sg.embedding(tensor([1n, 9n]), ones([4, 2])).toArraySync()).toThrow(
      new sg.ValueError('embedding: index 9 at position 1 is out of range: there are 4 rows'),
    );
    // the fault is over once raised
    expect(ones([2]).add(1).toArraySync()).toEqual([2, 2]);
  });

  test.each([
    ['SHARDGRAD_MEMORY_LIMIT', '300MB'],
    ['SHARDGRAD_NUM_THREADS', '-1'],
  ])('%s=%s is refused', (name, value) => {
    const run = spawnSync(process.execPath, [child], { encoding: 'utf8', env: { ...process.env, [name]: value } });
    expect(run.stdout).toBe(`at once ValueError ${name} must be a whole number from 1, got "${value}"\n`);
  });

  test('debug mode throws at the line that enqueued the op, and names it', () => {
    const run = spawnSync(process.execPath, [child], { encoding: 'utf8', env: { ...process.env, SHARDGRAD_DEBUG: '1' } });
    expect(run.stdout).toMatch(/^at once ValueError index: index 7 is out of range \[-3, 3\) at position 0 \(enqueued at .*debug_line\.mjs:6:\d+\)\n$/);
    expect(run.stderr).toBe('');
  });

  test('an impossible allocation names the op and leaves the process usable', () => {
    expect(() => zeros([2 ** 40, 2 ** 9])).toThrow(sg.OutOfMemoryError);
    expect(() => ones([2 ** 26, 1]).matmul(ones([1, 2 ** 26]))).toThrow(sg.OutOfMemoryError);
    expect(ones([2]).sum().itemSync()).toBe(2);
  });
});
