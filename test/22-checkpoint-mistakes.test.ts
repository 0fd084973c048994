// Checkpointed segments that do another thing the second time, and choices of modules and ops that mean nothing: each ends in one clear sentence.
import { describe, expect, test } from 'vitest';
import * as sg from '../lib/index.js';

const { nn } = sg;
type Tensor = sg.Tensor;

describe('mistakes', () => {
  const gpt = (): sg.nn.GPT => new nn.GPT({ vocabSize: 11, layers: 2, heads: 2, dim: 8, context: 6 });
  const w = sg.randn([4, 4], { requiresGrad: true });
  let calls = 0;
  /** Does another thing the second time. */
  const fickle = (first: (z: Tensor) => unknown, then: (z: Tensor) => unknown) => {
    calls = 0;
    return (z: Tensor): Tensor => (calls++ ? then(z) : first(z)) as Tensor;
  };
  class Fickle extends nn.Module {
    override forward(x: Tensor): Tensor {
      return calls++ ? x.sum(0) : x.mul(2);
    }
  }
  class Outer extends nn.Module {
    inner = new Fickle();
    override forward(x: Tensor): Tensor {
      return this.inner.forward(x.matmul(w));
    }
  }
  const product = (z: Tensor): Tensor => z.matmul(w);

  test.each<[RegExp, sg.CheckpointOptions, (z: Tensor) => unknown, (z: Tensor) => unknown]>([
    [/the recomputation gave \[3\] float32, the first run \[3,4\] float32/, {}, product, (z) => product(z).sum(1)],
    [/the recomputation gave \[3,4\] float64, the first run \[3,4\] float32/, {}, product, (z) => product(z).to('float64')],
    [/the recomputation gave 1 tensors, the first run 2/, {}, (z) => [product(z), z.mul(w.sum())], (z) => [product(z)]],
    [/drew more random numbers than the first run/, {}, product, (z) => sg.dropout(product(z))],
    [/drew fewer random numbers than the first run/, {}, (z) => sg.dropout(product(z)), product],
    [/ran tanh in no module where the first run kept matmul in no module/, { recompute: [] }, product, (z) => product(z.tanh())],
    [/ran mul in no module where the first run kept nothing more/, { recompute: [] }, product, (z) => product(z).mul(2)],
    [/asked for 1 of the 2 results that the first run kept/, { recompute: [] }, (z) => product(z).mul(2), product],
    [/matmul in no module gave \[3,4\] float32 in the first run and gives \[2,4\] float32 now/, { recompute: [] }, product, (z) => product(z.slice(0, 0, 2))],
  ])('%s', (message, options, first, then) => {
    const made: unknown = sg.checkpoint(options, fickle(first, then), sg.ones([3, 4]));
    const ys = [made].flat() as Tensor[];
    expect(() => ys[0]!.sum().backward()).toThrow(message);
  });

  test('the module is named', () => {
    const model = new Outer();
    sg.checkpointModules(model, 'inner');
    calls = 0;
    expect(() =>
      model
        .forward(sg.ones([3, 4]))
        .sum()
        .backward(),
    ).toThrow(/^checkpoint in Fickle "inner": the recomputation gave \[4\] float32, the first run \[3,4\] float32; it must be deterministic/);
  });

  test.each<[RegExp, unknown, unknown]>([
    [/no module of GPT is at "transformer.g.\*" \(did you mean "transformer.h.\*" or/, 'transformer.g.*', {}],
    [/"transformer.h" is a ModuleList, which is never called; its modules are "transformer.h.\*"/, 'transformer.h', {}],
    [/GPT has no module of class Conv2d/, nn.Conv2d, {}],
    [/GPT has no module that is meant/, () => false, {}],
    [/which modules must be paths, a class or a function of a module and its path, got 3/, 3, {}],
    [/fewer than 9 such modules/, nn.GPTBlock, { every: 9 }],
    [/every must be/, nn.GPTBlock, { every: 0 }],
    [/recompute names a string "gelus", which is no op/, nn.GPTBlock, { keep: 'expensive', recompute: ['gelus'] }],
    [/keep names a string "matmull", which is no op/, nn.GPTBlock, { keep: ['matmull'] }],
    [/recompute must be a list of ops or one of expensive, attention, got a string "all"/, nn.GPTBlock, { recompute: 'all' }],
  ])('%s', (message, which, options) => {
    expect(() => sg.checkpointModules(gpt(), which as sg.ModuleChoice, options as sg.CheckpointModulesOptions)).toThrow(message);
  });

  test('twice, an async function, no function', () => {
    const model = gpt();
    sg.checkpointModules(model, 'transformer.h.1');
    expect(() => sg.checkpointModules(model, nn.GPTBlock)).toThrow(/"transformer.h.1" is checkpointed already; undo that first/);
    expect(() => sg.checkpoint(async (z: Tensor) => z, sg.ones([1]))).toThrow(
      /must return tensors, in arrays and plain objects or not, got an object of class Promise/,
    );
    expect(() => sg.checkpoint({ keep: 'expensive' }, 3 as never)).toThrow(/expected a function, got 3/);
  });
});
