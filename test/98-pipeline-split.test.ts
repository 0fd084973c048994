// Where a pipeline is cut: by the number of layers with weights for the ends, and by costs that a short run of each layer has measured.
import { describe, expect, test, vi } from 'vitest';
import { initDeviceMesh } from '../lib/distributed/device_mesh.js';
import { materialize } from '../lib/distributed/materialize.js';
import { measureLayers } from '../lib/distributed/pipeline/measure_layers.js';
import { Pipeline } from '../lib/distributed/pipeline/pipeline.js';
import { type Split, splitLayers } from '../lib/distributed/pipeline/split_layers.js';
import { simulate } from '../lib/distributed/simulate.js';
import * as sg from '../lib/index.js';

const { nn } = sg;
const gpt = (vocabSize: number, layers: number, device = 'meta'): sg.nn.GPT =>
  new nn.GPT({ vocabSize, layers, heads: 2, dim: 16, context: 8, dropout: 0.1, device });
const sizes = (model: sg.nn.GPT, stages: number, split?: Split): number[] =>
  splitLayers(model.pipelineLayers(), stages, split).map(([first, end]) => end - first);

describe('by layers', () => {
  test('GPT counts its head as its products, and its embeddings not at all', () => {
    expect(sizes(gpt(10, 8), 2)).toEqual([5, 5]); // a head like nothing: 4 blocks each
    expect(sizes(gpt(832, 8), 2)).toEqual([7, 3]); // of 832 / (12 · 16 + 2 · 8) = 4 blocks: 6 in front of it, 2 with it
    expect(sizes(gpt(832, 8), 4)).toEqual([4, 3, 2, 1]);
    // GPT-2 small
    const small = new nn.GPT({ vocabSize: 50257, layers: 12, heads: 12, dim: 768, context: 1024, device: 'meta' });
    expect(sizes(small, 4)).toEqual([5, 4, 4, 1]);
  });

  test('weights of one’s own', () => {
    expect(sizes(gpt(832, 8), 2, { inputWeight: 1, outputWeight: 1 })).toEqual([5, 5]);
    expect(sizes(gpt(832, 8), 5, { inputWeight: 1, outputWeight: 1 })).toEqual([2, 2, 2, 2, 2]);
    expect(sizes(gpt(10, 8), 2, { inputWeight: 4 })).toEqual([3, 7]);
    expect(sizes(gpt(10, 8), 3, { outputWeight: 4 })).toEqual([5, 4, 1]);
    const chain = new nn.Sequential(...Array.from({ length: 6 }, () => new nn.Linear(2, 2)));
    expect(splitLayers(chain.pipelineLayers(), 3)).toEqual([[0, 2], [2, 4], [4, 6]]); // biome-ignore format: pairs
    expect(() => sizes(gpt(10, 8), 2, { inputWeight: -1 })).toThrow('Pipeline: split: inputWeight must be a number from 0, got -1');
    expect(() => sizes(gpt(10, 8), 2, { outputWeight: Number.NaN })).toThrow('outputWeight must be a number from 0, got NaN');
    expect(() => sizes(gpt(10, 8), 2, {} as never)).toThrow(
      "split must be 'layers', { inputWeight, outputWeight }, 'parameters', { costs } or a list of sizes",
    );
  });
});

/** Layers that take some milliseconds of this thread each. */
function slow(milliseconds: readonly number[], device = 'cpu'): sg.nn.Sequential {
  class Slow extends nn.Module {
    inner = new nn.Linear(4, 4, { device });
    constructor(private readonly ms: number) {
      super();
    }
    override forward(x: sg.Tensor): sg.Tensor {
      for (const end = performance.now() + this.ms; performance.now() < end; );
      return this.inner.forward(x);
    }
  }
  return new nn.Sequential(...milliseconds.map((ms) => new Slow(ms)));
}

describe('measured', () => {
  test.each(['cpu', 'meta'])('time and memory of each layer, of a model on %s', async (device) => {
    const model = slow([4, 24, 4, 12], device);
    const before = sg.memory('cpu').live;
    const { costs, bytes } = await measureLayers(model, { inputs: sg.randn([8, 4]) }, { runs: 3 });
    expect(costs).toHaveLength(4);
    expect(costs[1]).toBeGreaterThan(costs[3]!);
    expect(costs[3]).toBeGreaterThan(costs[0]!);
    expect(bytes).toEqual([128, 128, 128, 128].map((n) => expect.toSatisfy((b: number) => b >= n && b <= 8 * n)));
    expect(splitLayers(model.pipelineLayers(), 2, { costs: [4, 24, 4, 12] })).toEqual(splitLayers(model.pipelineLayers(), 2, { costs }));
    expect(sg.memory('cpu').live).toBeLessThanOrEqual(before + 8 * 4 * 4); // the inputs
    expect(model.parameters().every((p) => p.isMeta === (device === 'meta') && p.grad === null)).toBe(true);
  });

  test('the model stays as it is: values, gradients, random numbers, what device meta remembers', async () => {
    await sg.withGenerator(new sg.Generator(1), async () => {
      const tokens = sg.randint(0, 32, [2, 8], { dtype: 'int64' });
      const model = gpt(32, 2, 'cpu');
      model.forward(tokens, tokens).backward();
      const read = async (): Promise<unknown[]> => Promise.all(model.parameters().flatMap((p) => [p.detach().toArray(), p.grad!.toArray()]));
      const [values, state] = [await read(), sg.defaultGenerator().getState()];
      const { costs, bytes } = await measureLayers(model, { inputs: tokens, targets: tokens }, { runs: 1 });
      expect(await read()).toEqual(values);
      expect(sg.defaultGenerator().getState()).toEqual(state);
      expect(costs.every((c) => c > 0)).toBe(true);
      expect(bytes[1]).toBeGreaterThan(bytes[0]!);
    });
    const made = async (measured: boolean): Promise<unknown> => {
      const model = sg.withGenerator(new sg.Generator(1), () => gpt(32, 2));
      const tokens = sg.zeros([2, 8], { dtype: 'int64' });
      if (measured) await measureLayers(model, { inputs: tokens, targets: tokens }, { runs: 1 });
      return Promise.all(materialize(model).parameters().map((p) => p.detach().toArray())); // biome-ignore format: one chain
    };
    expect(await made(true)).toEqual(await made(false));
  });

  test('all ranks of a group get the same numbers, and cut alike', async () => {
    const found = await simulate(2, async ({ world, device }) => {
      const mesh = await initDeviceMesh({ pp: 2 }, { group: world });
      const model = slow([60, 20, 20, 20], 'meta'); // far from any other cut's cost: another test that runs may delay a layer
      const inputs = sg.randn([8, 4], { device });
      const split = await measureLayers(model, { inputs }, { runs: 3, group: world });
      const pipeline = materialize(new Pipeline(model, { mesh, split, microBatches: 2, loss: (y) => y.square().mean() }));
      await pipeline.step(inputs);
      return { split, names: [...pipeline.namedParameters()].map(([name]) => name) };
    });
    expect(found[0]!.split).toEqual(found[1]!.split);
    expect(found.map((f) => f.names.length)).toEqual([2, 6]);
  });

  test('mistakes', async () => {
    const inputs = sg.zeros([1, 2]);
    const model = new nn.Sequential(new nn.Linear(2, 2));
    await expect(measureLayers(3 as never, { inputs })).rejects.toThrow('measureLayers: expected a module, got 3');
    await expect(measureLayers(new nn.Linear(2, 2), { inputs })).rejects.toThrow('measureLayers: a Linear does not say where it can be cut');
    await expect(measureLayers(model, { inputs: 3 as never })).rejects.toThrow('measureLayers: the micro-batch must be { inputs, targets }, got 3');
    await expect(measureLayers(model, { inputs }, { runs: 0 })).rejects.toThrow('runs must be');
    await expect(measureLayers(model, { inputs }, { group: 3 as never })).rejects.toThrow('measureLayers: group must be a process group, got 3');
    const layer = model.get(0);
    vi.spyOn(layer, 'forward').mockImplementation(() => {
      throw new Error('made to fail');
    });
    await expect(measureLayers(model, { inputs })).rejects.toThrow('made to fail');
    expect(layer.parameters().every((p) => p.grad === null)).toBe(true);
  });
});
