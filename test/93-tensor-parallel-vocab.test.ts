// Vocabularies that are spread over the ranks: the table and the loss of one process, for sizes that divide, that do not, and that leave ranks
// without any class.
import { describe, expect, test } from 'vitest';
import { initDeviceMesh } from '../lib/distributed/device_mesh.js';
import { fullTensor, layoutOf, setLayout } from '../lib/distributed/distribute.js';
import { simulate } from '../lib/distributed/simulate.js';
import { gatherFromSequence } from '../lib/distributed/tensor_parallel/regions.js';
import { type VocabParallelLossOptions, vocabParallelCrossEntropy } from '../lib/distributed/tensor_parallel/vocab_cross_entropy.js';
import { VocabParallelEmbedding, vocabularyOf } from '../lib/distributed/tensor_parallel/vocab_embedding.js';
import { VocabParallelHead } from '../lib/distributed/tensor_parallel/vocab_head.js';
import * as sg from '../lib/index.js';
import { expectClose } from './helpers/metric.js';

const { nn } = sg;
const read = async (t: sg.Tensor): Promise<Float64Array> => (await t.detach().to('float64').toTypedArray()) as Float64Array;
const numbers = (shape: readonly number[], device: string, factor = 1): sg.Tensor =>
  sg.fromTypedArray(
    Float64Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => factor * Math.sin((i + 1) * 1.3)),
    [...shape],
    { device },
  );
const V = 7;
const tokens = (device: string): sg.Tensor => sg.tensor([0, 6, 3, 3, 2, 5, 1, 6, 0, 4, 2, 5], { dtype: 'int64', device }).reshape([2, 6]);

describe.each([1, 2, 3, 4, 6])('%i ranks', (ranks) => {
  test.each([
    { classes: V, sequence: false, paddingIdx: null },
    { classes: V, sequence: ranks < 4, paddingIdx: 3 },
    { classes: 9, sequence: false, paddingIdx: null },
  ])('an embedding: %o', async ({ classes, sequence, paddingIdx }) => {
    sg.manualSeed(4);
    const alone = new nn.Embedding(classes, 3, { dtype: 'float64', paddingIdx });
    const whole = alone.forward(tokens('cpu'));
    whole.mul(numbers(whole.shape, 'cpu')).sum().backward();
    const [y, grad] = [await read(whole), await read(alone.weight.grad!)];
    await simulate(ranks, async ({ world, device, rank }) => {
      const mesh = await initDeviceMesh({ tp: ranks }, { group: world });
      sg.manualSeed(4 + rank);
      const layer = new VocabParallelEmbedding(classes, 3, { mesh, dtype: 'float64', paddingIdx, sequenceParallel: sequence });
      const part = layer.forward(tokens(String(device)));
      const made = sequence ? gatherFromSequence(part, world, { gradient: 'slice' }) : part;
      made
        .mul(numbers(made.shape, String(device)))
        .sum()
        .backward();
      expect(await read(made)).toEqual(y);
      expect(await read(fullTensor(setLayout(layer.weight.grad!, layoutOf(layer.weight)!)))).toEqual(grad);
    });
  });

  type Case = Omit<VocabParallelLossOptions, 'mesh' | 'vocabSize' | 'weight'> & { factor?: number; weighted?: boolean; dtype?: sg.DType; classes?: number };
  test.each<Case>([
    {},
    { reduction: 'sum' },
    { reduction: 'none' },
    { ignoreIndex: 5 },
    { ignoreIndex: 0, labelSmoothing: 0.1 },
    { factor: 1000 },
    { factor: 1000, labelSmoothing: 0.3 },
    { weighted: true },
    { weighted: true, labelSmoothing: 0.2, ignoreIndex: 2 },
    { normalizer: 17 },
    { classes: 12, labelSmoothing: 0.1 },
    { dtype: 'float32', labelSmoothing: 0.1 },
    { dtype: 'float32', factor: 1000 },
    { dtype: 'bfloat16' },
    { dtype: 'bfloat16', labelSmoothing: 0.1, factor: 10 },
  ])('the loss: %o', async ({ factor = 4, weighted, dtype = 'float64', classes = V, ...options }) => {
    const loss = async (of: (logits: sg.Tensor, targets: sg.Tensor, weight: sg.Tensor | undefined) => sg.Tensor, device: string, rows: [number, number]) => {
      const logits = numbers([2, 6, classes], device, factor)
        .to(dtype)
        .slice(2, ...rows)
        .contiguous();
      logits.requiresGrad = true;
      const weight = weighted ? numbers([classes], device).abs() : undefined;
      const y = of(logits, tokens(device), weight);
      y.mul(numbers(y.shape, device)).sum().backward();
      expect(y.dtype).toBe(dtype === 'float64' ? 'float64' : 'float32');
      return [await read(y), await read(logits.grad!)] as const;
    };
    const [y, d] = await loss((logits, targets, weight) => sg.crossEntropy(logits, targets, { ...options, weight, dim: -1 }), 'cpu', [0, classes]);
    const found = await simulate(ranks, async ({ world, device }) => {
      const mesh = await initDeviceMesh({ tp: ranks }, { group: world });
      const { start, length } = vocabularyOf(classes, mesh);
      const run = (logits: sg.Tensor, targets: sg.Tensor, weight: sg.Tensor | undefined): sg.Tensor =>
        vocabParallelCrossEntropy(logits, targets, { ...options, weight, mesh, vocabSize: classes });
      return { start, length, made: await loss(run, String(device), [start, start + length]) };
    });
    const bound = dtype === 'float64' ? 1e-12 : dtype === 'float32' ? 1e-5 : 1e-2;
    const scale = Math.hypot(...d);
    for (const { start, length, made } of found) {
      expectClose(made[0], y, dtype === 'bfloat16' ? 1e-5 : bound, 'loss');
      expect(made[0]).toEqual(found[0]!.made[0]);
      const mine = d.filter((_, i) => i % classes >= start && i % classes < start + length);
      expectClose(made[1], mine, bound, 'gradient', scale / 100);
    }
  });

  test('a head gives all logits, and their loss without gathering them', async () => {
    sg.manualSeed(9);
    const alone = new nn.Linear(4, V, { bias: false, dtype: 'float64' });
    const hidden = numbers([2, 6, 4], 'cpu');
    hidden.requiresGrad = true;
    const logits = alone.forward(hidden);
    const loss = sg.crossEntropy(logits, tokens('cpu'), { dim: -1 });
    loss.backward();
    const expected = [await read(logits), await read(loss), await read(hidden.grad!), await read(alone.weight.grad!)];
    await simulate(ranks, async ({ world, device }) => {
      const mesh = await initDeviceMesh({ tp: ranks }, { group: world });
      sg.manualSeed(9);
      const head = VocabParallelHead.from(new nn.Linear(4, V, { bias: false, dtype: 'float64', device }), { mesh });
      const x = numbers([2, 6, 4], String(device));
      x.requiresGrad = true;
      const all = head.forward(x);
      const made = head.loss(x, tokens(String(device)));
      made.backward();
      const grad = fullTensor(setLayout(head.weight.grad!, layoutOf(head.weight)!));
      const found = [await read(all), await read(made), await read(x.grad!), await read(grad)];
      found.forEach((values, i) => expectClose(values, expected[i]!, 1e-12, ['logits', 'loss', 'dx', 'dw'][i]!));
    });
  });
});

test('misuse is named, and an index that no rank has is an error', async () => {
  await simulate(2, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ tp: 2 }, { group: world });
    const logits = sg.zeros([2, V], { device });
    const targets = sg.tensor([0, 1], { dtype: 'int64', device });
    expect(() => vocabParallelCrossEntropy(logits, targets, { mesh, vocabSize: V })).toThrow(/of 7 classes rank \d of 2 has [43], the logits are \[2,7\]/);
    expect(() => vocabParallelCrossEntropy(logits, targets, { mesh } as never)).toThrow(/vocabSize/);
    expect(() => vocabParallelCrossEntropy(logits, targets, { vocabSize: V } as never)).toThrow(/expected a mesh/);
    expect(() => vocabParallelCrossEntropy(logits, targets.reshape([1, 2]), { mesh, vocabSize: 14 })).toThrow(
      /targets \[1,2\] are not logits \[2,7\] without the last dimension/,
    );
    expect(() => VocabParallelEmbedding.from(3 as never, { mesh })).toThrow(/expected an Embedding/);
    expect(() => VocabParallelHead.from(3 as never, { mesh })).toThrow(/expected a Linear/);
  });
  const wrong = (bad: number) =>
    simulate(2, async ({ world, device }) => {
      const mesh = await initDeviceMesh({ tp: 2 }, { group: world });
      const layer = new VocabParallelEmbedding(4, 2, { mesh });
      await layer.forward(sg.tensor([1, bad], { dtype: 'int64', device })).toArray();
    });
  await expect(wrong(4)).rejects.toThrow(/embedding: index 4 at position 1 is out of range/);
  await expect(wrong(-1)).rejects.toThrow(/embedding: index -1 at position 1 is out of range/);
  const wrongTarget = simulate(2, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ tp: 2 }, { group: world });
    await vocabParallelCrossEntropy(sg.zeros([2, 2], { device }), sg.tensor([1, 4], { dtype: 'int64', device }), { mesh, vocabSize: 4 }).item();
  });
  await expect(wrongTarget).rejects.toThrow(/crossEntropy: .*at .*1.* out of range/);
});
