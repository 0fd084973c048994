// Activation checkpointing in every form gives the bits of a run without it, dropout included, keeps what it says, and runs what it says again.
import { describe, expect, test } from 'vitest';
import * as sg from '../lib/index.js';
import { block, native, withNative } from '../lib/native.js';
import { devices } from './helpers/devices.js';

const { nn } = sg;
type Tensor = sg.Tensor;

const values = (t: Tensor): number[] => Array.from(t.toTypedArraySync() as Float32Array);

/** Attention with a mask and dropout, which runs in primitives; a block as users write them. */
class Block extends nn.Module {
  norm: sg.nn.LayerNorm;
  attention: sg.nn.MultiheadAttention;
  up: sg.nn.Linear;
  down: sg.nn.Linear;
  drop: sg.nn.Dropout;
  constructor(on: sg.nn.FactoryOptions) {
    super();
    this.norm = new nn.LayerNorm(8, on);
    this.attention = new nn.MultiheadAttention(8, 2, { ...on, dropout: 0.2 });
    this.up = new nn.Linear(8, 16, on);
    this.down = new nn.Linear(16, 8, on);
    this.drop = new nn.Dropout(0.3);
  }
  override forward(x: Tensor, { mask }: { mask: Tensor }): { y: Tensor; seen: number } {
    const n = this.norm.forward(x);
    const h = x.add(this.attention.forward(n, n, n, { attnMask: mask }));
    const y = this.down.forward(sg.gelu(this.up.forward(h)).mul(sg.sigmoid(h.mean()))).add(this.drop.forward(h));
    y.mul_(0.5); // in place, on what may be kept
    return { y, seen: x.shape[1]! };
  }
}

class Model extends nn.Module {
  gpt: sg.nn.GPT;
  blocks: sg.nn.ModuleList<Block>;
  constructor(on: sg.nn.FactoryOptions) {
    super();
    this.gpt = new nn.GPT({ vocabSize: 11, layers: 3, heads: 2, dim: 8, context: 6, dropout: 0.25, ...on });
    this.blocks = new nn.ModuleList([new Block(on), new Block(on)]);
  }
  override forward(tokens: Tensor): Tensor {
    let y = this.gpt.transformer.forward(tokens);
    const mask = sg.arange(0, 36, 1, { device: y.device }).reshape([6, 6]).remainder(3).eq(1);
    for (const block of this.blocks) y = block.forward(y, { mask }).y;
    return this.gpt.lm_head.forward(y);
  }
}

const tokens = (device: string): Tensor => sg.arange(0, 12, 1, { dtype: 'int64', device }).remainder(7).reshape([2, 6]);

interface Run {
  readonly loss: number[];
  readonly gradients: Record<string, number[]>;
}

/** Two steps, so that keys of random numbers move on. */
function run(model: Model, device: string, autocast: sg.amp.AutocastDType | null = null): Run {
  sg.manualSeed(5);
  const loss: number[] = [];
  const gradients: Record<string, number[]> = {};
  for (let step = 0; step < 2; step++) {
    sg.scope(() => {
      const y = sg.amp.autocast(autocast, () => model.forward(tokens(device)));
      const mean = sg.crossEntropy(y.reshape([-1, 11]), tokens(device).reshape([-1]));
      mean.backward();
      loss.push(mean.itemSync(), sg.rand([1]).itemSync());
    });
    sg.defaultGenerator().step++;
  }
  for (const [name, p] of model.namedParameters()) gradients[name] = values(p.grad!);
  model.zeroGrad();
  return { loss, gradients };
}

const forms: readonly [string, sg.ModuleChoice, sg.CheckpointModulesOptions][] = [
  ['every block of GPT', 'gpt.transformer.h.*', {}],
  ['blocks by class, every second', nn.GPTBlock, { every: 2 }],
  ['blocks with nested results and options', Block, {}],
  ['attention within blocks', ['gpt.transformer.h.*.attn', 'blocks.*.attention'], {}],
  ['all modules, nested', (_: unknown, path: string) => path !== '' && !/^(gpt|blocks|gpt\.transformer\.h)$/.test(path), {}],
  ['but for products and attention', (m: sg.nn.Module) => m instanceof nn.GPTBlock || m instanceof Block, { keep: 'expensive' }],
  ['products without the wide one', nn.GPTBlock, { keep: 'expensive', recompute: ['gelu'] }],
  ['attention alone', (m: sg.nn.Module) => m instanceof nn.GPTBlock || m instanceof Block, { recompute: 'attention' }],
  ['keeping pointwise ops alone', (m: sg.nn.Module) => m instanceof nn.GPTBlock || m instanceof Block, { keep: ['add', 'gelu', 'mul', 'dropout', 'softmax'] }],
  ['keeping linear, not products elsewhere', Block, { keep: ['linear', 'mlp'] }],
  ['by a function', Block, { keep: ({ op, module }: sg.OpCall) => op === 'matmul' && module.includes('attention') }],
  ['nothing recomputed', Block, { recompute: [] }],
];

describe.each(devices)('on %s', (device) => {
  const on = { device } as const;
  const made = (): Model => {
    sg.manualSeed(1);
    return new Model(on);
  };

  test.each(forms)('%s: the bits of a run without', (_, which, options) => {
    const model = made();
    const expected = [null, 'bfloat16' as const].map((dtype) => run(model, device, dtype));
    const names = Object.keys(model.stateDict());
    const undo = sg.checkpointModules(model, which, options);
    expect([null, 'bfloat16' as const].map((dtype) => run(model, device, dtype))).toEqual(expected);
    expect(Object.keys(model.stateDict())).toEqual(names);
    undo();
    expect(model.modules().filter((m) => m.checkpointing)).toEqual([]);
    expect(run(model, device)).toEqual(expected[0]);
  });
});

describe.skipIf(!devices.includes('cuda:0'))('captured graphs on cuda', () => {
  test.each<sg.CheckpointModulesOptions | null>([{}, { keep: 'expensive' }, { recompute: 'attention' }])(
    '%j: replays have the bits of those without',
    async (options) => {
      const run = async (checkpointed: boolean): Promise<number[][]> => {
        sg.manualSeed(1);
        const model = new nn.GPT({ vocabSize: 11, layers: 2, heads: 2, dim: 8, context: 6, dropout: 0.25, device: 'cuda:0' });
        if (checkpointed) sg.checkpointModules(model, 'transformer.h.*', options!);
        const step = (x: Tensor): Tensor => {
          const loss = model.forward(x, x);
          loss.backward();
          const made = sg.cat(model.parameters().map((p) => p.grad!.reshape([-1])));
          model.zeroGrad();
          return made;
        };
        const captured = sg.graph.capture(step, [tokens('cuda:0')]);
        const found: number[][] = [];
        for (let i = 0; i < 3; i++) found.push(Array.from((await captured.replay().toTypedArray()) as Float32Array));
        captured.dispose();
        return found;
      };
      const expected = await run(false);
      expect(expected[1]).not.toEqual(expected[0]); // other masks
      expect(await run(true)).toEqual(expected);
    },
  );
});

/** Calls of kernels while `fn` runs. */
function counted(fn: () => void): Record<string, number> {
  const calls: Record<string, number> = {};
  const run = (): void => {
    const { name } = native.ops[block[0]!]!;
    calls[name] = (calls[name] ?? 0) + 1;
    addon.run();
  };
  const addon = native;
  withNative({ ...native, run }, fn);
  return calls;
}

describe('what runs again', () => {
  const gpt = (): sg.nn.GPT => new nn.GPT({ vocabSize: 11, layers: 2, heads: 2, dim: 8, context: 6, dropout: 0.1 });
  const step = (model: sg.nn.GPT): void =>
    sg.scope(() => {
      model.forward(tokens('cpu'), tokens('cpu')).backward();
      model.zeroGrad();
    });
  /** Calls above those of a run without. */
  function more(which: sg.ModuleChoice, options: sg.CheckpointModulesOptions): Record<string, number> {
    const model = gpt();
    const without = counted(() => step(model));
    sg.checkpointModules(model, which, options);
    const calls = counted(() => step(model));
    const ops = ['matmul', 'attention', 'layerNorm', 'dropout', 'add'];
    return Object.fromEntries(ops.map((op) => [op, calls[op]! - without[op]!]));
  }

  test.each<[string, sg.ModuleChoice, sg.CheckpointModulesOptions, Record<string, number>]>([
    // a block has four products, two of them in its mlp; norms, dropout and the sums with what it was given are two each
    ['all of a block', nn.GPTBlock, {}, { matmul: 8, attention: 2, layerNorm: 4, dropout: 4, add: 4 }],
    ['one block of two', nn.GPTBlock, { every: 2 }, { matmul: 4, attention: 1, layerNorm: 2, dropout: 2, add: 2 }],
    ['all but products and attention', nn.GPTBlock, { keep: 'expensive' }, { matmul: 0, attention: 0, layerNorm: 4, dropout: 4, add: 4 }],
    ['products without the wide one', nn.GPTBlock, { keep: 'expensive', recompute: ['gelu'] }, { matmul: 2, attention: 0, layerNorm: 4, dropout: 4, add: 4 }],
    ['attention alone', nn.GPTBlock, { recompute: 'attention' }, { matmul: 0, attention: 2, layerNorm: 0, dropout: 0, add: 0 }],
    ['the feed-forward alone', nn.GPTBlock, { recompute: ['mlp'] }, { matmul: 4, attention: 0, layerNorm: 0, dropout: 0, add: 0 }],
    ['all but linear layers', nn.GPTBlock, { keep: ['linear'] }, { matmul: 4, attention: 2, layerNorm: 4, dropout: 4, add: 4 }],
    ['one module', 'transformer.h.1.mlp', { keep: ['matmul'] }, { matmul: 0, attention: 0, layerNorm: 0, dropout: 1, add: 1 }],
    ['nothing of a kept call', nn.GPTBlock, { keep: ['dropout'] }, { matmul: 8, attention: 2, layerNorm: 4, dropout: 0, add: 4 }],
  ])('%s', (_, which, options, expected) => {
    expect(more(which, options)).toEqual(expected);
  });

  test('by a function, which is told the module', () => {
    const seen = new Set<string>();
    const keep = ({ op, within, module }: sg.OpCall): boolean => {
      if (op === 'matmul') seen.add(`${within.join(' ')} in ${module}`);
      return op === 'matmul' && module.endsWith('.h.0.attn.c_attn"');
    };
    expect(more(nn.GPTBlock, { keep })['matmul']).toBe(7);
    expect([...seen].slice(0, 3)).toEqual([
      'linear in Linear "transformer.h.0.attn.c_attn"',
      'linear in Linear "transformer.h.0.attn.c_proj"',
      'mlp gelu in FeedForward "transformer.h.0.mlp"',
    ]);
  });

  test('a result that was changed in place, and all that was done to it', () => {
    const w = sg.randn([4, 4], { requiresGrad: true });
    const x = sg.randn([3, 4]);
    const fn = (z: Tensor): Tensor => {
      const y = sg.matmul(z, w);
      sg.noGrad(() => y.mul_(2));
      return sg.matmul(sg.gelu(y), w);
    };
    fn(x).sum().backward();
    const expected = values(w.grad!);
    w.grad = null;
    const y = sg.checkpoint({ keep: ['matmul'] }, fn, x);
    // the first of the products
    expect(counted(() => y.sum().backward())['matmul']).toBe(1 + 3);
    expect(values(w.grad!)).toEqual(expected);
  });

  test('a checkpoint within keeps to its own policy', () => {
    const w = sg.randn([4, 4], { requiresGrad: true });
    const x = sg.randn([3, 4], { requiresGrad: true });
    const inner = (z: Tensor): Tensor => sg.dropout(sg.matmul(sg.matmul(z, w).tanh(), w), 0.5);
    const run = (outer: sg.CheckpointOptions | null, within: sg.CheckpointOptions | null): [number, number[]] => {
      sg.manualSeed(3);
      const segment = (z: Tensor): Tensor => sg.matmul(within ? sg.checkpoint(within, inner, z) : inner(z), w).mul(z);
      const y = outer ? sg.checkpoint(outer, segment, x) : segment(x);
      const { matmul = 0 } = counted(() => y.sum().backward());
      const found = [w, x].flatMap((p) => values(p.grad!));
      for (const p of [w, x]) p.grad = null;
      return [matmul, found];
    };
    const [backward, expected] = run(null, null);
    // those of the outer segment again, with the first run of the inner one among them, and then its second
    expect(run({}, {})).toEqual([backward + 3 + 2, expected]);
    expect(run({ keep: ['matmul'] }, {})).toEqual([backward + 2 + 2, expected]);
    expect(run({}, { keep: ['matmul'] })).toEqual([backward + 3, expected]);
    expect(run({ keep: ['matmul'] }, { keep: ['matmul'] })).toEqual([backward + 2, expected]);
  });
});

describe('graphs', () => {
  const [x, w] = [sg.randn([3, 4], { requiresGrad: true }), sg.randn([4, 4], { requiresGrad: true })];
  const segment = (z: Tensor): Tensor => sg.matmul(sg.matmul(z, w).tanh(), w).square();
  const clear = (): void => {
    for (const p of [x, w]) p.grad = null;
  };

  test.each([{}, { keep: 'expensive' as const }, { recompute: ['tanh' as const] }])('kept for a second backward, and gradients of gradients: %j', (options) => {
    segment(x).sum().backward();
    const expected = values(w.grad!);
    const [first] = sg.grad(segment(x).sum(), [x], { createGraph: true });
    const second = values(sg.grad(first!.square().sum(), [w])[0]!);
    clear();
    const y = sg.checkpoint(options, segment, x).sum();
    y.backward({ retainGraph: true });
    expect(values(w.grad!)).toEqual(expected);
    clear();
    y.backward();
    expect(values(w.grad!)).toEqual(expected);
    clear();
    const [again] = sg.grad(sg.checkpoint(options, segment, x).sum(), [x], { createGraph: true });
    expect(values(sg.grad(again!.square().sum(), [w])[0]!)).toEqual(second);
  });

  test('nothing is left behind, whether backward runs, cannot run, or the segment fails', () => {
    const options = { keep: ['matmul', 'tanh'] } as const;
    const leaks = sg.checkLeaks(() => {
      sg.scope(() => {
        const y = sg.checkpoint(options, segment, x).sum();
        y.backward({ retainGraph: true });
        y.backward();
        for (const p of [x, w]) p.grad!.dispose();
        clear();
      });
      const failing = (z: Tensor): Tensor => {
        const y = segment(z);
        throw new Error(`after ${y.shape}`);
      };
      expect(() => sg.scope(() => sg.checkpoint(options, failing, x))).toThrow('after 3,4');
      sg.scope(() => void sg.checkpoint(options, (z) => sg.matmul(z, w).argmax(-1), x));
      sg.scope(() => void sg.noGrad(() => sg.checkpoint(options, segment, x)));
    });
    expect(leaks).toEqual([]);
  });
});
