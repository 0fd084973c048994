// Models made without memory: their values are those that they would have had with it, whole or in pieces, and no rank needs room for the whole.
import { describe, expect, test } from 'vitest';
import { initDeviceMesh } from '../lib/distributed/device_mesh.js';
import { fullTensor } from '../lib/distributed/distribute.js';
import { fullyShard } from '../lib/distributed/fully_shard.js';
import { materialize } from '../lib/distributed/materialize.js';
import { simulate } from '../lib/distributed/simulate.js';
import * as sg from '../lib/index.js';
import { flatten } from './helpers/ranks.js';

const { nn } = sg;
const seeded = <T>(fn: () => T): T => sg.withGenerator(new sg.Generator(7), fn);

class Zoo extends nn.Module {
  embedding: sg.nn.Embedding;
  linear: sg.nn.Linear;
  conv: sg.nn.Conv2d;
  norm: sg.nn.BatchNorm2d;
  truncated: sg.nn.Parameter;
  orthogonal: sg.nn.Parameter;
  striped: sg.nn.Parameter;
  last: sg.nn.Linear;
  constructor(on: sg.nn.FactoryOptions) {
    super();
    this.embedding = new nn.Embedding(11, 6, { ...on, paddingIdx: 3 });
    this.linear = new nn.Linear(6, 5, on);
    this.conv = new nn.Conv2d(2, 3, 3, on);
    this.norm = new nn.BatchNorm2d(3, on);
    this.truncated = new nn.Parameter(sg.empty([7, 3], on));
    nn.init.truncNormal_(this.truncated);
    this.orthogonal = new nn.Parameter(sg.zeros([4, 5], on));
    nn.init.orthogonal_(this.orthogonal);
    this.striped = new nn.Parameter(sg.randn([5, 4], on));
    sg.noGrad(() => {
      this.striped.slice(1, 0, 2).fill_(0.5);
      this.striped.slice(0, 1, 2).uniform_(-3, 3);
    });
    this.registerBuffer('positions', sg.arange(0, 5, 1, { device: on.device }));
    this.registerBuffer('diagonal', sg.eye(3, 4, { device: on.device }));
    this.registerBuffer('table', sg.tensor([[1, 2.5]], { dtype: 'float16', device: on.device }));
    this.last = new nn.Linear(5, 5, on); // draws behind all others
  }
  override forward(): never {
    throw new Error('not for calls');
  }
}

test.each(['float32', 'float64', 'bfloat16'] as const)('%s: values are those of the model with memory', async (dtype) => {
  const real = seeded(() => new Zoo({ dtype }));
  const made = seeded(() => materialize(new Zoo({ dtype, device: 'meta' })));
  expect([...made.namedParameters()].map(([name]) => name)).toEqual([...real.namedParameters()].map(([name]) => name));
  expect(await flatten(made.parameters())).toEqual(await flatten(real.parameters()));
  expect(await flatten(made.buffers())).toEqual(await flatten(real.buffers()));
  const after = (fn: () => unknown): Promise<number> =>
    seeded(() => {
      fn();
      return sg.rand([]).item();
    });
  expect(await after(() => new Zoo({ device: 'meta' }))).toBe(await after(() => new Zoo({})));
});

describe.each([1, 2, 3, 4])('%i ranks', (size) => {
  test('pieces of what one process has, then a step', async () => {
    const options = { vocabSize: 61, layers: 2, heads: 2, dim: 16, context: 8 };
    const step = (model: sg.nn.GPT, device?: sg.Device): void => {
      const tokens = sg.tensor([[1, 2, 3, 4]], { dtype: 'int64', device });
      model.forward(tokens, tokens).backward();
      new sg.optim.SGD(model.parameters(), { lr: 0.1 }).step();
    };
    const real = seeded(() => new nn.GPT({ ...options, dtype: 'float64' }));
    const values = await flatten(real.parameters());
    step(real);
    const trained = await flatten(real.parameters());
    const ranks = await simulate(size, async ({ world, device }) => {
      const mesh = await initDeviceMesh({ dpShard: size }, { group: world });
      const model = seeded(() => new nn.GPT({ ...options, dtype: 'float64', device: 'meta' }));
      for (const block of model.transformer.h) fullyShard(block, { mesh });
      fullyShard(model, { mesh });
      expect(() => step(model, device)).toThrow(/on device meta; materialize\(model\) gives it values/);
      materialize(model);
      const all = async (): Promise<number[]> => flatten(sg.noGrad(() => model.parameters().map((p) => fullTensor(p))));
      const before = await all();
      step(model, device);
      return { before, after: await all() };
    });
    for (const { before, after } of ranks) {
      expect(before).toEqual(values);
      after.forEach((v, i) => expect(v).toBeCloseTo(trained[i]!, 12));
    }
  });
});

test('no rank ever has more than its pieces and one whole parameter', async () => {
  const size = 4;
  await simulate(size, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ dpShard: size }, { group: world });
    const layers = 24;
    const model = new nn.Sequential(...Array.from({ length: layers }, () => new nn.Linear(128, 128, { device: 'meta' })));
    for (const layer of model.children()) fullyShard(layer, { mesh });
    fullyShard(model, { mesh });
    sg.collectGarbage();
    const before = sg.memory(device).live;
    sg.resetPeakMemory(device);
    materialize(model);
    const [weight, all] = [128 * 128 * 4, layers * 129 * 128 * 4];
    const { live, peak } = sg.memory(device);
    expect((live - before) / (all / size)).toBeCloseTo(1, 2);
    expect(peak - before).toBeLessThan(all / size + 1.5 * weight);
  });
});

test('init fills what it wants to, and what cannot be repeated is named', async () => {
  class Made extends nn.Module {
    plain = new nn.Linear(2, 2, { device: 'meta' });
    scaled = new nn.Parameter(sg.randn([2], { device: 'meta' }).mul(2));
    constructor() {
      super();
      this.registerBuffer('angles', sg.arange(0, 4, 1, { dtype: 'float32', device: 'meta' }).cos());
    }
    override forward(): never {
      throw new Error('not for calls');
    }
  }
  expect(() => materialize(new Made())).toThrow(/how "scaled" got its values is not known.*pass init/);
  const names: string[] = [];
  const made = materialize(new Made(), {
    init: (name, whole) => {
      names.push(name);
      if (name.startsWith('plain')) return false;
      sg.noGrad(() => whole.fill_(3));
      return undefined;
    },
  });
  expect(names).toEqual(['scaled', 'plain.weight', 'plain.bias', 'angles']);
  expect(await flatten([made.scaled, ...made.buffers()])).toEqual([3, 3, 3, 3, 3, 3]);
  expect(() => materialize(3 as never)).toThrow(/expected a module, got 3/);
  expect(() => materialize(new Made(), { device: 'meta' })).toThrow(/device meta is where the model is/);
  expect(() => materialize(new Made(), { init: 3 as never })).toThrow(/init must be a function, got 3/);
});
