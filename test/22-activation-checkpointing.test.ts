// Activation checkpointing in every form gives the bits of a run without it, dropout included, keeps what it says, and runs what it says again.
import { describe, expect, test } from 'vitest';
import * as sg from '../lib/index.js';
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
    const h = x.add(this.attention.forward(n, n, n, { mask }));
    const y = this.down.forward(sg.gelu(this.up.forward(h)).mul(sg.sigmoid(h.mean()))).add(this.drop.forward(h));
    y.mul_(0.5); // in place, on what may be kept
    return { y, seen: x.shape[1]! };
  }
}

class Model extends nn.Module {
  gpt: sg.nn.GPT;
  blocks: sg.nn.ModuleList<Block>;
  constructor(private readonly on: sg.nn.FactoryOptions) {
    super();
    this.gpt = new nn.GPT({ vocabSize: 11, layers: 3, heads: 2, dim: 8, context: 6, dropout: 0.25, ...on });
    this.blocks = new nn.ModuleList([new Block(on), new Block(on)]);
  }
  override forward(tokens: Tensor): Tensor {
    let y = this.gpt.transformer.forward(tokens);
    const mask = sg.arange(0, 36, 1, { device: y.device }).reshape([6, 6]).remainder(3).ne(1);
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
