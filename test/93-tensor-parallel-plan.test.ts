// parallelize: plans find modules or say what they may have meant, names and parameters stay, and what a plan makes trains, generates, recomputes
// and saves as the model did.
import { expect, test } from 'vitest';
import { countValid } from '../lib/distributed/count_valid.js';
import { DistributedDataParallel } from '../lib/distributed/ddp.js';
import { initDeviceMesh } from '../lib/distributed/device_mesh.js';
import { fullTensor, layoutOf, setLayout } from '../lib/distributed/distribute.js';
import { fullyShard } from '../lib/distributed/fully_shard.js';
import { materialize } from '../lib/distributed/materialize.js';
import { simulate } from '../lib/distributed/simulate.js';
import { gptPlan } from '../lib/distributed/tensor_parallel/gpt_plan.js';
import { parallelize } from '../lib/distributed/tensor_parallel/parallelize.js';
import type { ParallelPlan } from '../lib/distributed/tensor_parallel/plan.js';
import { scatterToSequence } from '../lib/distributed/tensor_parallel/regions.js';
import * as sg from '../lib/index.js';
import { expectClose } from './helpers/metric.js';

const { nn } = sg;
const read = async (t: sg.Tensor): Promise<Float64Array> => (await t.detach().to('float64').toTypedArray()) as Float64Array;
const options = { vocabSize: 11, layers: 2, heads: 4, dim: 8, context: 8, dtype: 'float64' } as const;
const gpt = (device: string, seed = 1): sg.nn.GPT => {
  sg.manualSeed(seed);
  return new nn.GPT({ ...options, device });
};
const tokens = (device: string): sg.Tensor => sg.tensor([1, 9, 3, 3, 0, 10, 2, 7, 5, 5, 8, 4, 6, 1, 0, 2], { dtype: 'int64', device }).reshape([2, 8]);

test('paths that match nothing are named, with what may have been meant, and nothing is changed', async () => {
  await simulate(2, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ tp: 2 }, { group: world });
    const model = gpt(String(device));
    const before = model.summary();
    const fails = (plan: unknown, text: RegExp): void => {
      expect(() => parallelize(model, mesh, plan as ParallelPlan)).toThrow(text);
      expect(model.summary()).toBe(before);
      for (const p of model.parameters()) expect(layoutOf(p)).toBe(null);
    };
    fails(
      { lm_head: { style: 'vocabHead' }, 'transformer.h.*.attn.c_atn': { style: 'column' } },
      /parallelize: no module of GPT is at "transformer\.h\.\*\.attn\.c_atn" \(did you mean "transformer\.h\.\*\.attn\.c_attn"/,
    );
    fails({ 'h.0': { style: 'sequence' }, xyzxyzxyzxyz: { style: 'row' } }, /no module of GPT is at "h\.0"[^,]*, nor at "xyzxyzxyzxyz"$/);
    fails({ 'transformer.h.0.attn.c_attn': { style: 'column' }, 'transformer.h.*.attn.c_attn': { style: 'column' } }, /is meant by "[^"]+" and by "[^"]+"/);
    fails({ lm_head: { style: 'rows' } }, /the style of "lm_head" must be \{ style \} with one of column, row, .*, got a string "rows"/);
    fails({ lm_head: null }, /the style of "lm_head" must be/);
    fails({ 'transformer.ln_f': { style: 'column' } }, /"transformer\.ln_f" is a LayerNorm; the style column is for Linear/);
    fails([], /a plan is an object of styles by path, got /);
    expect(() => parallelize(3 as never, mesh, {})).toThrow(/expected a module/);
    expect(() => parallelize(model, 3 as never, {})).toThrow(/expected a mesh/);
    expect(() => gptPlan(3 as never)).toThrow(/gptPlan: expected a GPT/);
    const elsewhere = gpt(device.toString() === 'cpu:0' ? 'cpu:1' : 'cpu:0');
    expect(() => parallelize(elsewhere, mesh, gptPlan(elsewhere))).toThrow(/parameter "transformer\.wte\.weight" is on cpu:\d, the mesh on cpu:\d/);
    const used = gpt(String(device));
    used.forward(tokens(String(device)), tokens(String(device))).backward();
    expect(() => parallelize(used, mesh, gptPlan(used))).toThrow(/parameter "[^"]+" has a gradient, which is that of the whole; call zeroGrad\(\) before/);
  });
  await simulate(4, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ tp: 4 }, { group: world });
    const few = new nn.GPT({ ...options, heads: 2, device });
    expect(() => parallelize(few, mesh, gptPlan(few))).toThrow(/2 units of 4 leave one of 4 ranks without any/);
  });
});

test('names, parameters and ties stay; every parameter knows its layout; the values are those of rank 0', async () => {
  const expected = gpt('cpu');
  const shapes = Object.fromEntries([...expected.namedParameters()].map(([name, p]) => [name, p.shape]));
  const values: Record<string, Float64Array> = {};
  for (const [name, p] of expected.namedParameters()) values[name] = await read(p);
  await simulate(2, async ({ world, device, rank }) => {
    const mesh = await initDeviceMesh({ tp: 2 }, { group: world });
    const model = gpt(String(device), 1 + rank);
    const objects = model.parameters();
    model.eval();
    expect(parallelize(model, mesh, gptPlan(model, { sequenceParallel: true }))).toBe(model);
    expect(model.modules().every((m) => !m.training)).toBe(true);
    expect(new Set(model.parameters())).toEqual(new Set(objects));
    expect(model.lm_head.weight).toBe(model.transformer.wte.weight);
    expect(Object.keys(model.stateDict()).sort()).toEqual(Object.keys(expected.stateDict()).sort());
    for (const [name, p] of model.namedParameters()) {
      expect(layoutOf(p)!.shape, name).toEqual(shapes[name]);
      expect(layoutOf(p)!.localShape).toEqual(p.shape);
      expect(await read(fullTensor(p)), name).toEqual(values[name]);
    }
    const bytes = model.parameters().reduce((n, p) => n + p.numel, 0);
    expect(bytes).toBeLessThan(0.65 * expected.parameters().reduce((n, p) => n + p.numel, 0));
  });
});

test('without targets every rank has all logits, and generates the same tokens', async () => {
  const alone = gpt('cpu');
  const logits = await read(alone.forward(tokens('cpu')));
  const text = await alone.generate(tokens('cpu').slice(1, 0, 3), { maxNewTokens: 9, seed: 5 }).toArray();
  await simulate(2, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ tp: 2 }, { group: world });
    const model = gpt(String(device));
    parallelize(model, mesh, gptPlan(model));
    expectClose(await read(model.forward(tokens(String(device)))), logits, 1e-12, 'logits');
    expect(await model.generate(tokens(String(device)).slice(1, 0, 3), { maxNewTokens: 9, seed: 5 }).toArray()).toEqual(text);
  });
});

/** A model of one's own: blocks that are recomputed, dropout on features that are spread, and a last norm on the whole sequence. */
class Own extends nn.Module {
  up: sg.nn.Linear;
  drop = new nn.Dropout(0.3);
  down: sg.nn.Linear;
  norm: sg.nn.RMSNorm;
  constructor(device: string) {
    super();
    this.up = new nn.Linear(6, 12, { device, dtype: 'float64' });
    this.down = new nn.Linear(12, 6, { device, dtype: 'float64' });
    this.norm = new nn.RMSNorm(6, { device, dtype: 'float64' });
  }
  override forward(x: sg.Tensor): sg.Tensor {
    const once = (y: sg.Tensor): sg.Tensor => this.norm.forward(y.add(this.down.forward(this.drop.forward(this.up.forward(y)).relu())));
    return sg.checkpoint(once, sg.checkpoint(once, x));
  }
}

test.each([1, 2, 3])('recomputation, and dropout on features that are spread, on %i ranks', async (ranks) => {
  const x = (device: string): sg.Tensor =>
    sg.fromTypedArray(
      Float64Array.from({ length: 36 }, (_, i) => Math.sin(i)),
      [6, 6],
      { device },
    );
  const gradients = async (model: Own, y: sg.Tensor): Promise<Record<string, Float64Array>> => {
    y.square()
      .mul(x(String(y.device)).abs())
      .sum()
      .backward();
    const found: Record<string, Float64Array> = { y: await read(y) };
    for (const [name, p] of model.namedParameters()) found[name] = await read(layoutOf(p) ? fullTensor(setLayout(p.grad!, layoutOf(p)!)) : p.grad!);
    return found;
  };
  const run = (device: string, make: (model: Own) => Own): Promise<Record<string, Float64Array>> =>
    sg.withGenerator(new sg.Generator(3), async () => {
      const model = make(new Own(device));
      return gradients(model, model.forward(x(device)));
    });
  const expected = await run('cpu', (m) => m);
  for (const sequenceParallel of [false, true]) {
    await simulate(ranks, async ({ world, device }) => {
      const mesh = await initDeviceMesh({ tp: ranks }, { group: world });
      const found = await run(String(device), (model) => {
        parallelize(model, mesh, {
          up: { style: 'column', sequenceParallel },
          drop: { style: 'features' },
          down: { style: 'row', sequenceParallel },
          ...(sequenceParallel && { norm: { style: 'sequence' } }),
        });
        if (!sequenceParallel) return model;
        model.registerForwardPreHook((_m, [input]) => [scatterToSequence(input as sg.Tensor, world)]);
        class Whole extends nn.Module {
          constructor(readonly inner: Own) {
            super();
          }
          override forward(input: sg.Tensor): unknown {
            return this.inner.forward(input);
          }
        }
        parallelize(new Whole(model), mesh, { inner: { style: 'gatherSequence', gradient: 'slice' } });
        return model;
      });
      for (const [name, value] of Object.entries(expected)) expectClose(found[name]!, value, 1e-12, name);
    });
  }
});

test('a loss with a normalizer, whose gradients data parallelism sums', async () => {
  const alone = gpt('cpu');
  const masked = (device: string): sg.Tensor => tokens(device).indexPut([0, sg.slice(2, 7)], -100);
  alone.forward(tokens('cpu'), masked('cpu')).backward();
  const expected = await read(alone.transformer.wpe.weight.grad!);
  await simulate(4, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ dpReplicate: 2, tp: 2 }, { group: world });
    const model = gpt(String(device));
    parallelize(model, mesh, gptPlan(model, { sequenceParallel: true }));
    const group = mesh.group('dpReplicate');
    const ddp = new DistributedDataParallel(model, { group, gradientReduction: 'sum' });
    const at = mesh.rank('dpReplicate');
    const [x, y] = [tokens(String(device)).slice(0, at, at + 1), masked(String(device)).slice(0, at, at + 1)];
    ddp.forward(x, y, { normalizer: countValid(y, group).wait() }).backward();
    expectClose(await read(model.transformer.wpe.weight.grad!), expected, 1e-12, 'gradient');
  });
});

test.each([{ tp: 2 }, { tp: 4 }, { dpShard: 2, tp: 2 }])('a model made on device meta, on %o, has the values of one that was not', async (sizes) => {
  const expected = gpt('cpu', 6);
  const values: Record<string, Float64Array> = {};
  for (const [name, p] of expected.namedParameters()) values[name] = await read(p);
  await simulate(
    Object.values(sizes).reduce((a, b) => a * b, 1),
    async ({ world, device }) => {
      const mesh = await initDeviceMesh(sizes, { group: world });
      const model = gpt('meta', 6);
      parallelize(model, mesh, gptPlan(model, { sequenceParallel: true }));
      for (const p of model.parameters()) expect([p.isMeta, p.shape]).toEqual([true, layoutOf(p)!.localShape]);
      if (mesh.size('dpShard') > 1) for (const part of [...model.transformer.h, model]) fullyShard(part, { mesh });
      materialize(model);
      for (const [name, p] of model.namedParameters()) {
        expect(p.device).toBe(device);
        expect(await read(fullTensor(p)), name).toEqual(values[name]);
      }
    },
  );
});

test('steps leave nothing behind', async () => {
  await simulate(2, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ tp: 2 }, { group: world });
    const on = String(device);
    const model = gpt(on);
    parallelize(model, mesh, gptPlan(model, { sequenceParallel: true }));
    const opt = new sg.optim.SGD(model.parameters(), { lr: 0.1 });
    const step = (): void => {
      sg.scope(() => {
        model.forward(tokens(on), tokens(on)).backward();
        opt.step();
        opt.zeroGrad();
      });
    };
    step();
    const { count, live } = sg.memory(on);
    for (let i = 0; i < 5; i++) step();
    expect([sg.memory(on).count, sg.memory(on).live]).toEqual([count, live]);
  });
});
