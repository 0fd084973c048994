// A pipeline is one process that goes through the same micro-batches: loss, gradients, their norm and the parameters after some steps, for every
// schedule.
import { describe, expect, test } from 'vitest';
import { type DeviceMesh, initDeviceMesh, type MeshSizes } from '../lib/distributed/device_mesh.js';
import { materialize } from '../lib/distributed/materialize.js';
import type { ScheduleName } from '../lib/distributed/pipeline/make_schedule.js';
import { Pipeline, type PipelineOptions } from '../lib/distributed/pipeline/pipeline.js';
import { simulate } from '../lib/distributed/simulate.js';
import * as sg from '../lib/index.js';
import { expectAllClose } from './helpers/metric.js';

const { nn, optim } = sg;
type Values = Record<string, ArrayLike<number>>;
const [VOCAB, TIME, STEPS] = [11, 6, 3];

const read = async (t: sg.Tensor): Promise<Float64Array> => (await t.detach().to('float64').toTypedArray()) as Float64Array;

function makeModel(device: string, layers: number): sg.nn.GPT {
  return new nn.GPT({ vocabSize: VOCAB, layers, heads: 2, dim: 8, context: TIME, dropout: 0.1, dtype: 'float64', device });
}

/** Rows [from, to) of a step's batch; some targets do not count, of some rows none does. */
function data(device: string, step: number, from: number, to: number): { inputs: sg.Tensor; targets: sg.Tensor } {
  const token = (row: number, t: number): number => (step * 7 + row * 5 + t * 3 + (row * t) ** 2) % VOCAB;
  const grid = (f: (row: number, t: number) => number): sg.Tensor =>
    sg.tensor(
      Array.from({ length: to - from }, (_, i) => Array.from({ length: TIME }, (_, t) => f(from + i, t))),
      { dtype: 'int64', device },
    );
  return { inputs: grid(token), targets: grid((row, t) => (row % 4 === 3 || t < row % 3 ? -100 : token(row, t + 1))) };
}

interface Run {
  losses: number[];
  norms: number[];
  gradients: Values;
  parameters: Values;
}

async function values(parameters: Iterable<[string, sg.Tensor]>, of: (p: sg.Tensor) => sg.Tensor | null): Promise<Values> {
  const found: Values = {};
  for (const [name, p] of parameters) {
    const t = of(p);
    if (t) found[name] = await read(t);
  }
  return found;
}

const seeded = <T>(fn: () => T): T => sg.withGenerator(new sg.Generator(3), fn);

/** One process; `cuts`: where the batch of all ranks is cut. */
function alone(layers: number, cuts: readonly number[]): Promise<Run> {
  return seeded(async () => {
    const model = makeModel('cpu', layers);
    const opt = new optim.SGD(model.parameters(), { lr: 0.5, momentum: 0.9 });
    const run: Run = { losses: [], norms: [], gradients: {}, parameters: {} };
    for (let s = 0; s < STEPS; s++) {
      const all = data('cpu', s, 0, cuts.at(-1)!);
      const normalizer = all.targets.ne(-100).sum();
      let loss = 0;
      for (let i = 0; i + 1 < cuts.length; i++) {
        const { inputs, targets } = data('cpu', s, cuts[i]!, cuts[i + 1]!);
        const part = model.forward(inputs, targets, { normalizer });
        part.backward();
        loss += part.itemSync();
      }
      run.losses.push(loss);
      if (s === 0) run.gradients = await values(model.namedParameters(), (p) => p.grad);
      run.norms.push(optim.clipGradNorm(model.parameters(), 0.3).itemSync());
      opt.step();
      opt.zeroGrad();
    }
    run.parameters = await values(model.namedParameters(), (p) => p);
    return run;
  });
}

interface Setting {
  readonly layers: number;
  readonly rows: number;
  readonly options: Omit<PipelineOptions, 'mesh'>;
}

async function train(device: string, mesh: DeviceMesh, { layers, rows, options }: Setting): Promise<Run> {
  const pipeline = materialize(new Pipeline(makeModel('meta', layers), { mesh, ...options }));
  const opt = new optim.SGD(pipeline.parameters(), { lr: 0.5, momentum: 0.9 });
  const run: Run = { losses: [], norms: [], gradients: {}, parameters: {} };
  for (let s = 0; s < STEPS; s++) {
    const { inputs, targets } = data(device, s, 0, rows);
    const { loss } = await pipeline.step(inputs, targets);
    run.losses.push(await loss.item());
    if (s === 0) run.gradients = await values(pipeline.namedParameters(), (p) => p.grad);
    run.norms.push(await optim.clipGradNorm(pipeline.parameters(), 0.3).item());
    opt.step();
    opt.zeroGrad();
  }
  run.parameters = await values(pipeline.namedParameters(), (p) => p);
  return run;
}

function expectSame(ranks: readonly Run[], one: Run): void {
  const names = new Set<string>();
  for (const { losses, norms, gradients, parameters } of ranks) {
    expectAllClose({ losses, norms }, { losses: one.losses, norms: one.norms }, 1e-10, 'step');
    for (const name of Object.keys(parameters)) names.add(name);
    const own = (all: Values): Values => Object.fromEntries(Object.keys(parameters).map((name) => [name, all[name]!]));
    expectAllClose(gradients, own(one.gradients), 1e-12, 'gradient');
    expectAllClose(parameters, own(one.parameters), 1e-10, 'parameter');
  }
  expect([...names].sort()).toEqual(Object.keys(one.parameters).sort());
}

const schedules: [ScheduleName, number, number?][] = [
  ['gpipe', 2],
  ['1f1b', 2],
  ['1f1b', 3],
  ['1f1b', 4],
  ['interleaved', 2, 2],
  ['interleaved', 3, 2],
  ['zb-h1', 2],
  ['zb-h1', 4],
  ['zbv', 2],
  ['zbv', 3],
];

describe.each(schedules)('%s on %i ranks', (schedule, ranks, stagesPerRank) => {
  test.each([ranks, 2 * ranks])('%i micro-batches', async (microBatches) => {
    const layers = 6;
    const rows = microBatches * 2 + 1; // uneven ones
    const cuts = Array.from({ length: microBatches + 1 }, (_, i) => Math.floor((i * rows) / microBatches));
    const one = await alone(layers, cuts);
    const sizes: MeshSizes = { pp: ranks };
    const setting: Setting = { layers, rows, options: { schedule, microBatches, stagesPerRank } };
    const found = await simulate(ranks, ({ world, device }) =>
      seeded(async () => train(String(device), await initDeviceMesh(sizes, { group: world }), setting)),
    );
    expectSame(found, one);
  });
});
