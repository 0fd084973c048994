// What a step takes and gives: micro-batches of any shape and number of valid targets, several tensors between stages, layers that keep
// statistics or are frozen, losses and metrics on every rank, evaluation, accumulation.
import { describe, expect, test } from 'vitest';
import type { DeviceMesh } from '../lib/distributed/device_mesh.js';
import { materialize } from '../lib/distributed/materialize.js';
import type { ScheduleName } from '../lib/distributed/pipeline/make_schedule.js';
import type { GivenMicroBatch } from '../lib/distributed/pipeline/micro_batches.js';
import { Pipeline, type PipelineOptions } from '../lib/distributed/pipeline/pipeline.js';
import * as sg from '../lib/index.js';
import { expectAllClose, expectClose } from './helpers/metric.js';
import { makeGPT, onMesh, seeded, tokens, type Values, VOCAB, values } from './helpers/pipelines.js';

const { nn } = sg;
type Layered = sg.nn.Module & { pipelineLayers(): sg.nn.PipelineLayer[] };

/** What one process and a rank have alike; parameters and buffers by name. */
interface Found {
  readonly loss: number;
  readonly gradients: Values;
  readonly buffers: Values;
}

const on = { dtype: 'float64' } as const;
const x = (device: string, rows: number, wide: number, from = 0): sg.Tensor =>
  sg.fromTypedArray(
    Float64Array.from({ length: rows * wide }, (_, i) => Math.sin((from + i) * 1.3)),
    [rows, wide],
    { device },
  );

/** Gradients of what `batches` add up to, without a pipeline. */
function alone<M extends Layered>(
  make: (device: string) => M,
  batches: (device: string) => GivenMicroBatch[],
  lossOf: PipelineOptions['loss'],
): Promise<Found> {
  return seeded(async () => {
    const model = make('cpu');
    const rows = batches('cpu').map(({ inputs }) => (Array.isArray(inputs) ? inputs[0] : inputs).shape[0]);
    const total = rows.reduce((a, b) => a + b);
    let sum = 0;
    batches('cpu').forEach(({ inputs, targets }, i) => {
      let tensors: sg.Tensor[] = Array.isArray(inputs) ? [...inputs] : [inputs as sg.Tensor];
      for (const { forward } of model.pipelineLayers()) tensors = [forward(...tensors)].flat();
      const loss = lossOf!(tensors[0]!, targets!, {}).mul(rows[i] / total);
      if (loss.requiresGrad) loss.backward();
      sum += loss.itemSync();
    });
    return { loss: sum, gradients: await values(model.namedParameters(), (p) => p.grad), buffers: await values(model.namedBuffers(), (b) => b) };
  });
}

async function inStages<M extends Layered>(
  ranks: number,
  make: (device: string) => M,
  batches: (device: string) => GivenMicroBatch[],
  options: Omit<PipelineOptions, 'mesh'>,
): Promise<Found[]> {
  return onMesh({ pp: ranks }, async (mesh, device) => {
    const pipeline = new Pipeline(make(device), { mesh, ...options });
    const { loss } = await pipeline.step(batches(device));
    return {
      loss: await loss.item(),
      gradients: await values(pipeline.namedParameters(), (p) => p.grad),
      buffers: await values(pipeline.namedBuffers(), (b) => b),
    };
  });
}

function expectAlike(ranks: readonly Found[], one: Found, bound = 1e-12): void {
  for (const { loss } of ranks) expectClose([loss], [one.loss], bound, 'loss');
  expectAllClose(Object.assign({}, ...ranks.map((r) => r.gradients)), one.gradients, bound, 'gradient');
  expectAllClose(Object.assign({}, ...ranks.map((r) => r.buffers)), one.buffers, bound, 'buffer');
}

const square: PipelineOptions['loss'] = (y) => y.square().mean();
const perStage: [ScheduleName, number][] = [
  ['1f1b', 1],
  ['zb-h1', 1],
  ['interleaved', 2],
  ['zbv', 2],
];

/** Takes and makes several tensors: one that goes on as it is, one that needs no gradient, one of whole numbers, one used by nobody. */
class Wide extends nn.Module {
  first = new nn.Linear(4, 4, on);
  middle = new nn.ModuleList(Array.from({ length: 4 }, () => new nn.Linear(4, 4, on)));
  last = new nn.Linear(4, 2, on);
  override forward(): never {
    throw new Error('nobody calls it');
  }
  pipelineLayers(): sg.nn.PipelineLayer[] {
    return [
      { modules: [this.first], forward: (a, b) => [this.first.forward(a!), a!, b!, a!.detach(), b!.gt(0).to('int64')] },
      ...[...this.middle].map((m) => ({
        modules: [m],
        forward: (h: sg.Tensor, a: sg.Tensor, b: sg.Tensor, fixed: sg.Tensor, mask: sg.Tensor) => [
          m.forward(h).add(fixed).mul(mask.to('float64').add(1)).tanh(),
          h,
          b,
          fixed.view(fixed.shape),
          mask,
          a,
        ],
      })),
      { modules: [this.last], forward: (h, a, b) => this.last.forward(h!.add(a!)).add(b!.mean()) },
    ];
  }
}

describe.each(perStage)('%s', (schedule, stagesPerRank) => {
  test('several tensors between stages', async () => {
    const make = (device: string): Wide => new Wide().to(device);
    const batches = (device: string): GivenMicroBatch[] => [0, 1, 2, 3].map((i) => ({ inputs: [x(device, 2, 4, i), x(device, 2, 4, 50 + i)] }));
    const options = { schedule, stagesPerRank, microBatches: 4, loss: square };
    expectAlike(await inStages(2, make, batches, options), await alone(make, batches, square));
  });

  test('micro-batches of other shapes; batch norm; a first stage that is frozen', async () => {
    const make = (device: string): sg.nn.Sequential => {
      const layers = [0, 1, 2, 3].flatMap(() => [new nn.Linear(4, 4, on), new nn.BatchNorm1d(4, on)]);
      for (const p of [...layers[0]!.parameters(), ...layers[1]!.parameters()]) p.requiresGrad = false;
      return new nn.Sequential(...layers).to(device);
    };
    const batches = (device: string): GivenMicroBatch[] => [5, 2, 3, 2].map((rows, i) => ({ inputs: x(device, rows, 4, 9 * i) }));
    const options = { schedule, stagesPerRank, microBatches: 4, loss: square };
    expectAlike(await inStages(2, make, batches, options), await alone(make, batches, square));
  });
});

describe('losses divided by valid targets', () => {
  const gpt = (device: string): sg.nn.GPT => makeGPT(device, 2);
  /** Rows and tokens differ; `masked` says which targets count, by micro-batch. */
  const batches = (device: string, masked: (micro: number, row: number, t: number) => boolean): GivenMicroBatch[] =>
    [
      [2, 6],
      [1, 4],
      [3, 5],
    ].map(([rows, time], micro) => {
      const make = (f: (row: number, t: number) => number): sg.Tensor =>
        sg.tensor(
          Array.from({ length: rows! }, (_, row) => Array.from({ length: time! }, (_, t) => f(row, t))),
          { dtype: 'int64', device },
        );
      return {
        inputs: make((row, t) => (micro + 3 * row + t * t) % VOCAB),
        targets: make((row, t) => (masked(micro, row, t) ? -100 : (micro + row + t) % VOCAB)),
      };
    });
  const one = (masked: Parameters<typeof batches>[1]): Promise<Found> =>
    seeded(async () => {
      const model = gpt('cpu');
      const all = batches('cpu', masked);
      const normalizer = all.reduce((n, b) => n + b.targets!.ne(-100).sum().itemSync(), 0);
      let loss = 0;
      for (const { inputs, targets } of all) {
        const part = model.forward(inputs as sg.Tensor, targets!, { normalizer: Math.max(normalizer, 1) });
        part.backward();
        loss += part.itemSync();
      }
      return { loss, gradients: await values(model.namedParameters(), (p) => p.grad), buffers: {} };
    });

  test.each<[string, Parameters<typeof batches>[1]]>([
    ['none masked', () => false],
    ['some masked', (micro, row, t) => (micro + row + t) % 3 === 0],
    ['one micro-batch masked', (micro) => micro === 1],
    ['all but one target masked', (micro, row, t) => micro !== 2 || row !== 1 || t !== 3],
  ])('%s', async (_, masked) => {
    expectAlike(await inStages(2, gpt, (device) => batches(device, masked), { microBatches: 3 }), await one(masked));
  });

  test('all masked: loss 0, gradients 0', async () => {
    for (const { loss, gradients } of await inStages(3, gpt, (device) => batches(device, () => true), { microBatches: 3 })) {
      expect(loss).toBe(0);
      for (const g of Object.values(gradients)) for (const v of Array.from(g)) expect(v).toBe(0);
    }
  });

  test("another ignoreIndex, given or by a loss of one's own", async () => {
    const masked = (micro: number, row: number, t: number): boolean => (micro + row + t) % 3 === 0;
    const sevens = (device: string): GivenMicroBatch[] =>
      batches(device, masked).map(({ inputs, targets }) => ({
        inputs,
        targets: sg.where(targets!.eq(-100), sg.full([], 7, { dtype: 'int64', device }), targets!),
      }));
    const expected = await one((micro, row, t) => masked(micro, row, t) || (micro + row + t) % VOCAB === 7);
    const options: Omit<PipelineOptions, 'mesh'> = {
      microBatches: 3,
      ignoreIndex: 7,
      normalizer: 'validTargets',
      loss: (y, targets, { normalizer }) => sg.crossEntropy(y.reshape([-1, VOCAB]), targets.reshape([-1]), { ignoreIndex: 7, normalizer }),
    };
    expectAlike(await inStages(2, gpt, sevens, options), expected);
  });
});

describe('metrics', () => {
  const run = async (mesh: DeviceMesh, device: string, metrics: PipelineOptions['metrics']): Promise<{ all: Record<string, number>[]; weights: Values }> => {
    const pipeline = materialize(new Pipeline(makeGPT('meta', 4), { mesh, microBatches: 3, metrics }));
    const optimizer = new sg.optim.SGD(pipeline.parameters(), { lr: 0.5 });
    const all: Record<string, number>[] = [];
    for (let step = 0; step < 2; step++) {
      const rank = mesh.axes.includes('dpReplicate') ? mesh.rank('dpReplicate') : 0;
      const { inputs, targets } = tokens(device, step, 7 * rank, 7 * rank + 7);
      const found = await pipeline.step(inputs, targets);
      const evaluated = await pipeline.evaluate(inputs, targets);
      for (const { loss, metrics: m } of [found, evaluated]) {
        const read = Object.fromEntries(await Promise.all(Object.entries(m).map(async ([name, t]) => [name, await t.item()] as const)));
        all.push({ loss: await loss.item(), ...read });
      }
      optimizer.step();
      optimizer.zeroGrad();
    }
    return { all, weights: await values(pipeline.namedParameters(), (p) => p) };
  };
  const metrics: PipelineOptions['metrics'] = {
    mean: (y) => y.mean(),
    right: (y, targets) => y.argmax(-1).eq(targets).to('float64').mean(),
  };

  test('are the same on all ranks, and change nothing', async () => {
    const plain = await onMesh({ pp: 2 }, (mesh, device) => run(mesh, device, undefined));
    const found = await onMesh({ pp: 2 }, (mesh, device) => run(mesh, device, metrics));
    found.forEach(({ all, weights }, rank) => {
      expect(all).toEqual(found[0]!.all);
      expect(all.map(({ loss }) => loss)).toEqual(plain[rank]!.all.map(({ loss }) => loss));
      expect(weights).toEqual(plain[rank]!.weights);
      for (const each of all) expect(Object.keys(each)).toEqual(['loss', 'mean', 'right']);
    });
  });

  test('are means over the rows of all micro-batches and copies', async () => {
    const found = await onMesh({ pp: 2, dpReplicate: 2 }, (mesh, device) => run(mesh, device, metrics));
    for (const { all } of found) expect(all).toEqual(found[0]!.all);
    const expected = await seeded(async () => {
      const model = makeGPT('cpu', 4).eval();
      return sg.noGrad(() => {
        const all = [tokens('cpu', 0, 0, 7), tokens('cpu', 0, 7, 14)];
        const outputs = all.map(({ inputs }) => model.forward(inputs));
        return {
          mean: sg.stack(outputs).mean().itemSync(),
          right: sg
            .stack(outputs.map((y, i) => metrics.right!(y, all[i]!.targets)))
            .mean()
            .itemSync(),
          loss: model.forward(sg.cat(all.map((b) => b.inputs)), sg.cat(all.map((b) => b.targets))).itemSync(),
        };
      });
    });
    const evaluated = await onMesh({ pp: 2, dpReplicate: 2 }, async (mesh, device) => {
      const pipeline = materialize(new Pipeline(makeGPT('meta', 4), { mesh, microBatches: 3, metrics }));
      pipeline.eval();
      const rank = mesh.rank('dpReplicate');
      const { inputs, targets } = tokens(device, 0, 7 * rank, 7 * rank + 7);
      const result = await pipeline.evaluate(inputs, targets);
      expect([...pipeline.namedParameters()].every(([, p]) => p.grad === null)).toBe(true);
      return { loss: await result.loss.item(), mean: await result.metrics['mean']!.item(), right: await result.metrics['right']!.item() };
    });
    for (const e of evaluated) expectClose([e.loss, e.mean, e.right], [expected.loss, expected.mean, expected.right], 1e-12, 'evaluation');
  });
});

test('steps add up, over copies too; zeroGrad begins anew', async () => {
  const step = async (pipeline: Pipeline, mesh: DeviceMesh, device: string, s: number): Promise<void> => {
    const rank = mesh.axes.includes('dpReplicate') ? mesh.rank('dpReplicate') : 0;
    const n = 8 / (mesh.axes.includes('dpReplicate') ? mesh.size('dpReplicate') : 1);
    const { inputs, targets } = tokens(device, s, n * rank, n * (rank + 1));
    await pipeline.step(inputs, targets);
  };
  const run = async (mesh: DeviceMesh, device: string, schedule: ScheduleName): Promise<{ both: Values; second: Values; first: Values }> => {
    const pipeline = materialize(new Pipeline(makeGPT('meta', 3), { mesh, microBatches: 2, schedule })).eval();
    const gradients = async (): Promise<Values> => values(pipeline.namedParameters(), (p) => p.grad);
    await step(pipeline, mesh, device, 0);
    const first = await gradients();
    await step(pipeline, mesh, device, 1);
    const both = await gradients();
    for (const p of pipeline.parameters()) p.grad = null;
    await step(pipeline, mesh, device, 1);
    return { first, both, second: await gradients() };
  };
  for (const schedule of ['1f1b', 'zb-h1'] as const) {
    const [one] = await onMesh({ pp: 1 }, (mesh, device) => run(mesh, device, schedule));
    for (const sizes of [{ pp: 2 }, { pp: 2, dpReplicate: 2 }]) {
      for (const { first, second, both } of await onMesh(sizes, (mesh, device) => run(mesh, device, schedule))) {
        const sum = Object.fromEntries(Object.keys(first).map((name) => [name, Float64Array.from(first[name]!, (v, i) => v + second[name]![i]!)]));
        expectAllClose(both, sum, 1e-12, 'two steps');
        expectAllClose(both, Object.fromEntries(Object.keys(both).map((name) => [name, one!.both[name]!])), 1e-12, 'one rank');
      }
    }
  }
});
