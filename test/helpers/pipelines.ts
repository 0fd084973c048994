// What the tests of pipelines share: a GPT and its data, the same training by one process and in stages, and the comparison of both.
import { expect } from 'vitest';
import { type DeviceMesh, initDeviceMesh, type MeshSizes } from '../../lib/distributed/device_mesh.js';
import { materialize } from '../../lib/distributed/materialize.js';
import { Pipeline, type PipelineOptions } from '../../lib/distributed/pipeline/pipeline.js';
import { type SimulateOptions, simulate } from '../../lib/distributed/simulate.js';
import * as sg from '../../lib/index.js';
import { expectAllClose } from './metric.js';

const { nn, optim } = sg;
export type Values = Record<string, ArrayLike<number>>;
export const [VOCAB, TIME] = [11, 6];

export const read = async (t: sg.Tensor): Promise<Float64Array> => (await t.detach().to('float64').toTypedArray()) as Float64Array;

export function makeGPT(device: string, layers: number): sg.nn.GPT {
  return new nn.GPT({ vocabSize: VOCAB, layers, heads: 2, dim: 8, context: TIME, dropout: 0.1, dtype: 'float64', device });
}

/** Rows [from, to) of a step's batch; some targets do not count, of some rows none does. */
export function tokens(device: string, step: number, from: number, to: number): { inputs: sg.Tensor; targets: sg.Tensor } {
  const token = (row: number, t: number): number => (step * 7 + row * 5 + t * 3 + (row * t) ** 2) % VOCAB;
  const grid = (f: (row: number, t: number) => number): sg.Tensor =>
    sg.tensor(
      Array.from({ length: to - from }, (_, i) => Array.from({ length: TIME }, (_, t) => f(from + i, t))),
      { dtype: 'int64', device },
    );
  return { inputs: grid(token), targets: grid((row, t) => (row % 4 === 3 || t < row % 3 ? -100 : token(row, t + 1))) };
}

export interface Run {
  losses: number[];
  norms: number[];
  /** Of the first step. */
  gradients: Values;
  parameters: Values;
}

export async function values(parameters: Iterable<[string, sg.Tensor]>, of: (p: sg.Tensor) => sg.Tensor | null): Promise<Values> {
  const found: Values = {};
  for (const [name, p] of parameters) {
    const t = of(p);
    if (t) found[name] = await read(t);
  }
  return found;
}

export const seeded = <T>(fn: () => T): T => sg.withGenerator(new sg.Generator(3), fn);

/** Where `count` micro-batches of a batch begin, and where the last one ends. */
export const cutsOf = (rows: number, count: number): number[] => Array.from({ length: count + 1 }, (_, i) => Math.floor((i * rows) / count));

/** One process; `cuts`: where the batch of all ranks is cut. */
export function alone(layers: number, cuts: readonly number[], steps: number): Promise<Run> {
  return seeded(async () => {
    const model = makeGPT('cpu', layers);
    const opt = new optim.SGD(model.parameters(), { lr: 0.5, momentum: 0.9 });
    const run: Run = { losses: [], norms: [], gradients: {}, parameters: {} };
    for (let s = 0; s < steps; s++) {
      const all = tokens('cpu', s, 0, cuts.at(-1)!);
      const normalizer = all.targets.ne(-100).sum();
      let loss = 0;
      for (let i = 0; i + 1 < cuts.length; i++) {
        const { inputs, targets } = tokens('cpu', s, cuts[i]!, cuts[i + 1]!);
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

export interface Setting {
  readonly layers: number;
  /** Of the batch of all ranks. */
  readonly rows: number;
  readonly steps: number;
  readonly options: Omit<PipelineOptions, 'mesh'>;
}

/** One rank of a pipeline; `around` may wrap it before training begins. */
export async function train(
  device: string,
  mesh: DeviceMesh,
  { layers, rows, steps, options }: Setting,
  around: (pipeline: Pipeline<sg.nn.GPT>) => void = () => {},
): Promise<Run> {
  const pipeline = materialize(new Pipeline(makeGPT('meta', layers), { mesh, ...options }));
  around(pipeline);
  const opt = new optim.SGD(pipeline.parameters(), { lr: 0.5, momentum: 0.9 });
  const run: Run = { losses: [], norms: [], gradients: {}, parameters: {} };
  for (let s = 0; s < steps; s++) {
    const { inputs, targets } = tokens(device, s, 0, rows);
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

/** `fn` on every rank of a mesh, all with random numbers of the same seed. */
export function onMesh<T>(sizes: MeshSizes, fn: (mesh: DeviceMesh, device: string) => T | Promise<T>, options: SimulateOptions = {}): Promise<T[]> {
  const count = Object.values(sizes).reduce((n, k) => n * k!, 1)!;
  return simulate(count, ({ world, device }) => seeded(async () => fn(await initDeviceMesh(sizes, { group: world }), String(device))), options);
}

/** What every rank has is what one process has; together they have all of it. */
export function expectSame(ranks: readonly Run[], one: Run): void {
  const names = new Set<string>();
  for (const { losses, norms, gradients, parameters } of ranks) {
    expectAllClose({ losses }, { losses: one.losses }, 1e-12, 'step');
    expectAllClose({ norms }, { norms: one.norms }, 1e-10, 'step');
    for (const name of Object.keys(parameters)) names.add(name);
    const own = (all: Values): Values => Object.fromEntries(Object.keys(parameters).map((name) => [name, all[name]!]));
    expectAllClose(gradients, own(one.gradients), 1e-12, 'gradient');
    expectAllClose(parameters, own(one.parameters), 1e-10, 'parameter');
  }
  expect([...names].sort()).toEqual(Object.keys(one.parameters).sort());
}
