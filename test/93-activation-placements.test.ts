// Placements of activations: the layers of tensor parallelism and everything between them are understood, and what would be a wrong number is an
// error that names both placements.
import { describe, expect, test } from 'vitest';
import { declarePlacement, placementOf, withPlacements } from '../lib/distributed/activation_placements.js';
import { type DeviceMesh, initDeviceMesh } from '../lib/distributed/device_mesh.js';
import { Partial, type Placement, Replicate, Shard, showPlacement } from '../lib/distributed/placement.js';
import { simulate } from '../lib/distributed/simulate.js';
import { ColumnParallelLinear } from '../lib/distributed/tensor_parallel/column_linear.js';
import { gptPlan } from '../lib/distributed/tensor_parallel/gpt_plan.js';
import { parallelize } from '../lib/distributed/tensor_parallel/parallelize.js';
import { gatherFromSequence, reduceFromTensorParallel, scatterToSequence } from '../lib/distributed/tensor_parallel/regions.js';
import { RowParallelLinear } from '../lib/distributed/tensor_parallel/row_linear.js';
import * as sg from '../lib/index.js';

const { nn } = sg;
const at = (x: sg.Tensor): string => {
  const p = placementOf(x);
  return p === null || p === 'unknown' ? String(p) : showPlacement(p);
};
const onTwo = async (fn: (mesh: DeviceMesh, device: string) => unknown): Promise<void> => {
  await simulate(2, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ tp: 2 }, { group: world });
    withPlacements(() => fn(mesh, String(device)));
    await world.barrier();
  });
};

describe('models pass, and keep their numbers', () => {
  test.each([false, true])('GPT, sequence parallel: %s', async (sequenceParallel) => {
    await simulate(2, async ({ world, device }) => {
      const mesh = await initDeviceMesh({ tp: 2 }, { group: world });
      const losses: number[] = [];
      for (const checked of [false, true]) {
        const gpt = sg.withGenerator(new sg.Generator(1), () => new nn.GPT({ vocabSize: 11, layers: 2, heads: 2, dim: 8, context: 6, dropout: 0.1, device }));
        parallelize(gpt, mesh, gptPlan(gpt, { sequenceParallel }));
        const tokens = sg.tensor([[1, 2, 3, 4, 5, 6]], { dtype: 'int64', device });
        const run = (): sg.Tensor =>
          sg.withGenerator(new sg.Generator(2), () => {
            const loss = gpt.forward(tokens, tokens);
            if (checked) expect(at(loss)).toBe('Replicate');
            loss.backward();
            return loss;
          });
        losses.push(await (checked ? withPlacements(run) : run()).item());
      }
      expect(losses[1]).toBe(losses[0]);
    });
  });

  test('what lies between layers is followed', () =>
    onTwo((mesh, device) => {
      const on = { device };
      const up = new ColumnParallelLinear(8, 12, { mesh, ...on });
      const down = new RowParallelLinear(12, 8, { mesh, ...on });
      const x = sg.randn([2, 3, 8], { ...on, requiresGrad: true });
      const hidden = up.forward(x);
      expect(at(hidden)).toBe('Shard(2)');
      const heads = sg.relu(hidden).reshape([2, 3, 3, 2]).permute([0, 2, 1, 3]);
      expect(at(heads)).toBe('Shard(1)');
      expect(at(heads.slice(0, 0, 1))).toBe('Shard(1)');
      expect(at(heads.sum(0))).toBe('Shard(0)');
      expect(at(heads.sum(1))).toBe('Partial(sum)');
      expect(at(heads.mean())).toBe('Partial(avg)');
      expect(at(sg.scaledDotProductAttention(heads, heads, heads))).toBe('Shard(1)');
      const y = down.forward(heads.permute([0, 2, 1, 3]).reshape([2, 3, 6]));
      expect(at(y)).toBe('Replicate');
      const piece = scatterToSequence(y, mesh.group('tp'));
      expect(at(piece)).toBe('Shard(1)');
      expect(at(new nn.LayerNorm(8, on).forward(piece).mul(2).add(piece))).toBe('Shard(1)');
      expect(at(gatherFromSequence(piece, mesh.group('tp')))).toBe('Replicate');
      expect(at(sg.ones([2], on))).toBe('null');
      const product = sg.matmul(hidden, down.weight.t());
      expect(at(product)).toBe('Partial(sum)');
      expect(at(product.mul(0.5).neg().add(product))).toBe('Partial(sum)');
      expect(at(reduceFromTensorParallel(product, mesh.group('tp')))).toBe('Replicate');
      product.sum().add(sg.sort(product, 0)[0].sum()).backward(); // of sorting nothing is known, and nothing is said
    }));
});

const all = Replicate();
const [sum, last, first, sequence] = [Partial(), Shard(2), Shard(0), Shard(1)];
const cases: [string, RegExp, (t: (p: Placement, shape?: number[]) => sg.Tensor, m: DeviceMesh) => unknown][] = [
  ['bias before the sum', /^add: inputs with Partial\(sum\) and Replicate over the ranks.*counted once for every rank/, (t) => t(sum).add(t(all, [8]))],
  ['a number before the sum', /^add: inputs with Partial\(sum\) over.*counted once for every rank/, (t) => t(sum).add(1)],
  ['GELU of a part', /^gelu: inputs with Partial\(sum\) over.*the sum has to be made before gelu/, (t) => sg.gelu(t(sum))],
  ['a product of sums', /^mul: inputs with Partial\(sum\) and Partial\(sum\)/, (t) => t(sum).mul(t(sum))],
  ['division by a part', /^div: .*before one divides by it/, (t) => t(all).div(t(sum))],
  ['a piece with all of it', /^add: inputs with Shard\(2\) and Replicate.*has a piece of a dimension of which the other has all/, (t) => t(last).add(t(all))],
  ['pieces along two dimensions', /^mul: inputs with Shard\(2\) and Shard\(1\).*different dimensions/, (t) => t(last).mul(t(sequence))],
  ['a norm over some features', /^layerNorm: inputs with Shard\(2\).*needs all of the last dimension/, (t) => sg.layerNorm(t(last), 8)],
  ['a softmax over some classes', /^softmax: inputs with Shard\(2\)/, (t) => sg.softmax(t(last), -1)],
  ['a contraction of a piece', /^matmul: inputs with Shard\(1\) and Replicate.*summed over/, (t) => t(last).matmul(t(all, [8, 4]))],
  ['rows by columns', /^matmul: inputs with Shard\(0\) and Shard\(1\).*each rank would multiply/, (t) => t(first, [4, 8]).matmul(t(Shard(1), [8, 4]))],
  ['joined', /^cat: inputs with Shard\(2\) and Replicate.*lie differently/, (t) => sg.cat([t(last), t(all)], 0)],
  [
    'attention on a piece of the sequence',
    /^attention: .*needs the whole sequence/,
    (t) => ((x) => sg.scaledDotProductAttention(x, x, x))(t(Shard(2), [2, 2, 4, 4])),
  ],
  [
    'cross-entropy of some classes',
    /^crossEntropy: .*vocabParallelCrossEntropy/,
    (t) => sg.crossEntropy(t(Shard(1), [4, 8]), sg.zeros([4], { dtype: 'int64', device: t(all).device })),
  ],
  [
    'a column layer of pieces',
    /^ColumnParallelLinear.*: expected an input with Replicate over.*got Shard\(2\)/,
    (t, mesh) => new ColumnParallelLinear(8, 4, { mesh, device: t(all).device }).forward(t(last)),
  ],
  [
    'a row layer of the whole',
    /^RowParallelLinear.*: expected an input with Shard\(2\) over.*got Replicate/,
    (t, mesh) => new RowParallelLinear(16, 4, { mesh, device: t(all).device }).forward(t(all)),
  ],
  [
    'a sum of what is whole',
    /^reduceFromTensorParallel: expected an input with Partial\(sum\).*got Replicate/,
    (t, mesh) => reduceFromTensorParallel(t(all), mesh.group('tp')),
  ],
  [
    'a gather of what is whole',
    /^gatherFromSequence: expected an input with Shard\(1\).*got Replicate/,
    (t, mesh) => gatherFromSequence(t(all), mesh.group('tp')),
  ],
];
test.each(cases)('%s is named', (_, text, run) =>
  onTwo((mesh, device) => {
    const given = (p: Placement, shape: number[] = [2, 4, 8]): sg.Tensor =>
      declarePlacement(sg.randn(shape, { device, requiresGrad: true }).mul(1), p, mesh.group('tp'));
    expect(() => run(given, mesh)).toThrow(text);
    expect(() => run(given, mesh)).toThrow(sg.ValueError);
  }),
);
