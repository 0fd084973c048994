// What checkpoints save, as memory() shows it and as it was predicted, and the choice of blocks by a budget.
import { describe, expect, test } from 'vitest';
import { checkpointWithin } from '../lib/distributed/checkpoint_within.js';
import { estimateMemory } from '../lib/distributed/estimate_memory.js';
import { gptPlan } from '../lib/distributed/tensor_parallel/gpt_plan.js';
import * as sg from '../lib/index.js';
import { devices } from './helpers/devices.js';

const { nn } = sg;
const [LAYERS, WIDTH, TIME, ROWS, HEADS] = [6, 32, 64, 4, 4];
/** Bytes of one activation [ROWS, TIME, WIDTH]. */
const h = ROWS * TIME * WIDTH * 4;
/** Statistics of rows: one number each. */
const row = ROWS * TIME * 4;

const gpt = (device: string | sg.Device = 'cpu', dropout = 0): sg.nn.GPT =>
  new nn.GPT({ vocabSize: 97, layers: LAYERS, heads: HEADS, dim: WIDTH, context: TIME, dropout, device });
const loss = (model: sg.nn.GPT, device: sg.Device): sg.Tensor => {
  const tokens = sg.zeros([ROWS, TIME], { dtype: 'int32', device });
  return model.forward(tokens, tokens);
};

interface Shown {
  readonly activations: number;
  readonly peak: number;
}

/** What memory() shows of a step without an optimizer. */
function shown(model: sg.nn.GPT, device: string): Shown {
  const on = sg.device(device);
  let found: Shown = { activations: 0, peak: 0 };
  for (let step = 0; step < 2; step++) {
    sg.collectGarbage();
    sg.resetPeakMemory(on);
    const before = sg.memory(on).live;
    sg.scope(() => {
      const y = loss(model, on);
      const activations = sg.memory(on).live - before;
      y.backward();
      found = { activations, peak: sg.memory(on).peak };
    });
    model.zeroGrad();
  }
  return found;
}

describe.each(devices)('on %s', (device) => {
  /** What a block keeps: norms their input's statistics, layers and attention their inputs, mlp what enters GELU. */
  const inputs = 2 * h; // of the block, and of its second half
  const norms = 2 * (h + 2 * row);
  const products = 3 * h + 4 * h;
  const attention = h + HEADS * row;
  test.each<[string, sg.CheckpointModulesOptions, number]>([
    // a block's result is the next one's input
    ['full', {}, h],
    ['but for products and attention', { keep: 'expensive' }, inputs + products + attention],
    ['but for products without the wide one, and attention', { keep: 'expensive', recompute: ['gelu'] }, inputs + 3 * h + attention],
    ['attention alone', { recompute: 'attention' }, inputs + norms + products],
    ['the feed-forward alone', { recompute: ['mlp'] }, inputs + norms + 3 * h + attention],
  ])('%s: a block keeps what was predicted', (_, options, each) => {
    const model = gpt(device);
    const without = shown(model, device);
    const saved = LAYERS * (inputs + norms + products + attention - each);
    sg.checkpointModules(model, 'transformer.h.*', options);
    const found = shown(model, device);
    // the anchor of a checkpoint is a number
    expect(Math.abs(without.activations - found.activations - saved)).toBeLessThanOrEqual(LAYERS * 8);
    expect(found.peak).toBeLessThan(without.peak);
    const estimate = estimateMemory(model, { loss });
    expect([estimate.activations, estimate.peak]).toEqual([found.activations, found.peak]);
  });
});

describe('a budget', () => {
  const levelsOf = (modules: Record<string, string>): Record<string, number> => {
    const counts: Record<string, number> = {};
    for (const level of Object.values(modules)) counts[level] = (counts[level] ?? 0) + 1;
    return counts;
  };

  test('is kept, as memory() shows it, at a cost that grows with what is saved', () => {
    const model = gpt();
    const without = shown(model, 'cpu');
    let last = -1;
    for (const budget of [1, 0.9, 0.7, 0.5, 0.3, 0.15]) {
      const choice = checkpointWithin(model, { budget, loss });
      expect(choice.activationsWithout).toBe(without.activations);
      expect(choice.activations).toBeLessThanOrEqual(budget * without.activations);
      expect(choice.recomputed).toBeGreaterThanOrEqual(last);
      last = choice.recomputed;
      const { activations, peak } = shown(model, 'cpu');
      expect([activations, peak]).toEqual([choice.activations, choice.estimate.peak]);
      choice.undo();
      expect(model.modules().some((m) => m.checkpointing)).toBe(false);
    }
    // a forward is a third of a step
    expect(last).toBeGreaterThan(0.2);
    expect(last).toBeLessThan(1 / 3);
  });

  test('the cheap first: what costs no product, then the feed-forward, then all', () => {
    const model = gpt();
    const choose = (budget: number): Record<string, number> => {
      const choice = checkpointWithin(model, { budget, loss });
      choice.undo();
      return levelsOf(choice.modules);
    };
    expect(choose(1)).toEqual({ none: 6 });
    expect(choose(0.97)).toEqual({ selective: 2, none: 4 });
    expect(choose(0.85)).toEqual({ selective: 6 });
    expect(choose(0.55)).toEqual({ feedForward: 6 });
    expect(choose(0.15)).toEqual({ full: 6 });
  });

  test('in bytes, as a share, over blocks that are not alike', () => {
    const wide = (): sg.nn.Module => new nn.Sequential(new nn.Linear(16, 16), new nn.Tanh(), new nn.Sigmoid(), new nn.Tanh(), new nn.Sigmoid());
    const deep = (): sg.nn.Module => new nn.Sequential(new nn.Linear(16, 512), new nn.Linear(512, 512), new nn.Linear(512, 16));
    class Mixed extends nn.Module {
      parts = new nn.ModuleList<sg.nn.Module>([deep(), wide(), deep(), wide()]);
      override forward(x: sg.Tensor): sg.Tensor {
        let y = x;
        for (const part of this.parts) y = (part as sg.nn.Sequential).forward(y);
        return y.sum();
      }
    }
    const model = new Mixed();
    const plan = { loss: (m: Mixed, device: sg.Device): sg.Tensor => m.forward(sg.ones([64, 16], { device })) };
    const { activations } = estimateMemory(model, plan);
    // four results of [64, 16] that a pointwise op makes again
    const choice = checkpointWithin(model, { ...plan, budget: activations - 4096 });
    expect(choice.modules).toEqual({ 'parts.0': 'none', 'parts.1': expect.stringMatching(/selective|full/), 'parts.2': 'none', 'parts.3': 'none' });
    choice.undo();
    // the products are worth it where nothing else is left
    const half = checkpointWithin(model, { ...plan, budget: 0.6 });
    expect(half.activations).toBeLessThanOrEqual(0.6 * activations);
    expect(Object.values(half.modules)).toContain('full');
    half.undo();
    // among others
    const named = checkpointWithin(model, { ...plan, budget: 0.8, modules: ['parts.0', 'parts.2'] });
    expect(levelsOf(named.modules)).toEqual({ full: 1, none: 1 });
  });

  test.each<[string, Omit<Parameters<typeof checkpointWithin<sg.nn.GPT>>[1], 'budget' | 'loss'>]>([
    ['tensor parallel', { mesh: { tp: 2 }, tensorParallel: (model) => gptPlan(model, { sequenceParallel: true }) }],
    ['fullyShard', { mesh: { dpShard: 4 }, fullyShard: { modules: (model) => model.transformer.h } }],
    ['DistributedDataParallel', { mesh: { dpReplicate: 2 }, ddp: true, microBatches: 2 }],
    ['stages of a pipeline, in bfloat16', { inFlight: 3 }],
  ])('of a rank: %s', (name, plan) => {
    const model = gpt('meta', 0.1);
    const autocast = name.includes('bfloat16');
    const forward = (m: sg.nn.GPT, device: sg.Device): sg.Tensor => sg.amp.autocast(autocast ? 'bfloat16' : null, () => loss(m, device));
    const options = { ...plan, device: 'cpu', loss: forward };
    const without = estimateMemory(model, options);
    const choice = checkpointWithin(model, { ...options, budget: 0.5 });
    expect(choice.activations).toBeLessThanOrEqual(0.5 * without.activations);
    expect(choice.estimate.parameters).toBe(without.parameters);
    // what is counted to run again is what runs again
    const again = choice.estimate.operations - without.operations;
    expect(Math.abs(again / without.operations - choice.recomputed)).toBeLessThan(0.01);
    expect(estimateMemory(model, options).activations).toBe(choice.activations);
  });

  test('what cannot be is said', () => {
    const model = gpt();
    expect(() => checkpointWithin(model, { budget: 0.01, loss })).toThrow(
      /no choice keeps activations within 25227 bytes; the smallest budget is 3109\d\d bytes, 12\.3 % of those without checkpoints/,
    );
    expect(model.modules().some((m) => m.checkpointing)).toBe(false);
    expect(() => checkpointWithin(model, { budget: -1, loss })).toThrow(/budget must be/);
    expect(() => checkpointWithin(model, { budget: 0.5, loss, modules: ['transformer.h.*', 'transformer.h.0.mlp'] })).toThrow(
      /"transformer.h.0.mlp" is within another of the modules to choose among/,
    );
    expect(() => checkpointWithin(new nn.Linear(2, 2), { budget: 0.5, loss: () => sg.zeros([]) })).toThrow(/Linear has no ModuleList or Sequential/);
    sg.checkpointModules(model, 'transformer.h.3');
    expect(() => checkpointWithin(model, { budget: 0.5, loss })).toThrow(/"transformer.h.3" is checkpointed already/);
  });
});
