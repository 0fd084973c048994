// Optimizers of pieces: state sharded by itself (ZeRO-1), and gradient norms and clipping from layouts alone, over every combination of axes.
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { loadCheckpoint } from '../lib/distributed/checkpoint/load.js';
import { saveCheckpoint } from '../lib/distributed/checkpoint/save.js';
import { DistributedDataParallel } from '../lib/distributed/ddp.js';
import { type DeviceMesh, initDeviceMesh, type MeshSizes } from '../lib/distributed/device_mesh.js';
import { distributeTensor, fullTensor, layoutOf, setLayout } from '../lib/distributed/distribute.js';
import { fullyShard } from '../lib/distributed/fully_shard.js';
import type { Placements } from '../lib/distributed/layout.js';
import { Shard } from '../lib/distributed/placement.js';
import { simulate } from '../lib/distributed/simulate.js';
import { ZeroRedundancyOptimizer } from '../lib/distributed/zero_redundancy_optimizer.js';
import * as sg from '../lib/index.js';
import { scratchFolder } from './helpers/files.js';
import { expectClose } from './helpers/metric.js';
import { flatten, part, rows, WIDTH } from './helpers/ranks.js';

const { nn, optim } = sg;
type MakeOptimizer = (p: sg.Tensor[]) => sg.optim.Optimizer;

const makers: Record<string, MakeOptimizer> = {
  SGD: (p) => new optim.SGD(p, { lr: 0.1, momentum: 0.9 }),
  AdamW: (p) => new optim.AdamW(p, { lr: 0.01, weightDecay: 0.1 }),
  Lion: (p) => new optim.Lion(p, { lr: 0.001 }),
};

/** A scale that is one number, a bias of fewer rows than ranks. */
class Model extends nn.Module {
  up: sg.nn.Linear;
  down: sg.nn.Linear;
  narrow: sg.nn.Linear;
  wide: sg.nn.Linear;
  scale: sg.nn.Parameter;
  constructor(on: sg.nn.FactoryOptions) {
    super();
    this.up = new nn.Linear(WIDTH, 7, on);
    this.down = new nn.Linear(7, WIDTH, on);
    this.narrow = new nn.Linear(WIDTH, 2, on);
    this.wide = new nn.Linear(2, WIDTH, on);
    this.scale = new nn.Parameter(sg.tensor(1.5, on));
  }
  override forward(x: sg.Tensor): sg.Tensor {
    return this.wide.forward(this.narrow.forward(this.down.forward(this.up.forward(x).tanh())).mul(this.scale));
  }
}
const make = (device: sg.Device | string, dtype: sg.DType): Model => sg.withGenerator(new sg.Generator(3), () => new Model({ device, dtype }));
const lossOf = (model: sg.nn.Module, x: sg.Tensor): sg.Tensor => sg.mseLoss((model as Model).forward(x), x);

describe.each([1, 2, 3, 4])('ZeRO-1 over %i ranks', (size) => {
  test.each(Object.entries(makers))('%s', async (_, makeOptimizer) => {
    for (const clip of [undefined, 0.05]) {
      const one = make('cpu', 'float64');
      const reference = makeOptimizer(one.parameters());
      const norms: number[] = [];
      for (let s = 0; s < 10; s++) {
        lossOf(one, rows('cpu')).backward();
        if (clip) norms.push(await optim.clipGradNorm(one.parameters(), clip).item());
        reference.step();
        reference.zeroGrad();
      }
      const expected = await flatten(one.parameters());
      const made = await simulate(size, async (of) => {
        const mesh = await initDeviceMesh({ dpReplicate: size }, { group: of.world });
        const ddp = new DistributedDataParallel(make(of.device, 'float64'), { group: of.world });
        const zero = new ZeroRedundancyOptimizer(ddp.parameters(), makeOptimizer, { mesh, bucketBytes: 200 });
        const seen: number[] = [];
        for (let s = 0; s < 10; s++) {
          lossOf(ddp, part(of)).backward();
          const norm = zero.step({ maxNorm: clip });
          if (norm) seen.push(await norm.item());
          zero.zeroGrad();
        }
        return { weights: await flatten(ddp.parameters()), seen };
      });
      for (const { weights, seen } of made) {
        expect(weights).toEqual(made[0]!.weights);
        expectClose(weights, expected, 1e-10, 'parameters');
        expectClose(seen, norms, 1e-10, 'norms');
      }
    }
  });
});

test('ZeRO-1: 8 bytes a parameter and a share of the state; a scaler skips on all ranks; pieces continue from a state dict', async () => {
  await simulate(4, async ({ world, device, rank }) => {
    const mesh = await initDeviceMesh({ dpReplicate: 4 }, { group: world });
    const model = new nn.Sequential(new nn.Linear(64, 128, { device }), new nn.Linear(128, 64, { device }));
    const psi = model.parameters().reduce((n, p) => n + p.numel, 0);
    const zero = new ZeroRedundancyOptimizer(model.parameters(), (p) => new optim.AdamW(p, { lr: 0.1 }), { mesh });
    const scaler = new sg.amp.GradScaler({ initScale: 4, group: world });
    const step = (bad: boolean): void =>
      sg.scope(() => {
        const x = sg.ones([2, 64], { device });
        scaler.scale(model.forward(x).sum()).backward();
        // inf in the rows of one rank alone
        if (bad) sg.noGrad(() => model.parameters()[0]!.grad!.slice(0, 0, 1).fill_(Number.POSITIVE_INFINITY));
        zero.step({ scaler, maxNorm: 1 });
        scaler.update();
      });
    step(false);
    zero.zeroGrad();
    sg.collectGarbage();
    const before = sg.memory(device).live;
    for (const p of zero.optimizer.groups[0]!.params) expect(layoutOf(p)).not.toBeNull();
    await world.barrier(); // the dict waits for the device, and the ranks share a thread
    const state = zero.optimizer.stateDict();
    const bytes = Object.values(state.state).reduce((n, s) => n + (s['exp_avg'] as sg.Tensor).nbytes + (s['exp_avg_sq'] as sg.Tensor).nbytes, 0);
    expect(bytes / ((8 * psi) / 4)).toBeCloseTo(1, 2);
    step(false);
    const weights = await flatten(model.parameters());
    zero.zeroGrad();
    step(true);
    expect(await flatten(model.parameters())).toEqual(weights);
    expect(await scaler.getScale()).toBe(2);
    zero.zeroGrad();
    sg.collectGarbage();
    expect(sg.memory(device).live).toBe(before);
    const again = new ZeroRedundancyOptimizer(model.parameters(), (p) => new optim.AdamW(p, { lr: 0.1 }), { mesh });
    await world.barrier();
    again.optimizer.loadStateDict(zero.optimizer.stateDict());
    expect(again.optimizer.stateDict().state[0]!['step']).toBe(2);
    expect(rank).toBe(mesh.rank('dpReplicate'));
  });
});

/** Gradients of all placements, with their wholes. */
function given(mesh: DeviceMesh, device: sg.Device, dtype: sg.DType): { parameters: sg.nn.Parameter[]; wholes: sg.Tensor[] } {
  const packed = Shard(0, { blocks: [{ size: 4 }, { size: 2, repeat: 2 }] });
  const all: [number[], Placements][] = [
    [[5, 3], {}],
    [[7, 4], { dpShard: Shard(0) }],
    [[6, 5], { tp: Shard(1) }],
    [[3], { tp: Shard(0), dpShard: Shard(0) }],
    [[5, 6], { tp: Shard(1), dpShard: Shard(0) }],
    [[6, 2], { tp: packed }],
    [[6, 2], { tp: packed, dpShard: Shard(0) }],
  ];
  const parameters: sg.nn.Parameter[] = [];
  const wholes = all.map(([shape, placements], i) => {
    const whole = sg.fromTypedArray(
      Float64Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, k) => Math.sin(k + 10 * i)),
      shape,
      { device, dtype },
    );
    const piece = distributeTensor(whole, mesh, placements);
    const p = new nn.Parameter(sg.zerosLike(piece));
    setLayout(p, layoutOf(piece)!);
    p.grad = piece;
    parameters.push(p);
    return whole;
  });
  const unused = new nn.Parameter(sg.zeros(layoutOf(parameters[1]!)!.localShape, { device, dtype }));
  parameters.push(setLayout(unused, layoutOf(parameters[1]!)!));
  return { parameters, wholes };
}

describe.each<[MeshSizes]>([[{ dpShard: 2, tp: 2 }], [{ dpReplicate: 2, dpShard: 2, tp: 2 }], [{ dpShard: 3, tp: 2 }], [{ dpShard: 4, dpReplicate: 2 }]])(
  'on %o',
  (sizes) => {
    test.each([1, 2, 3, Number.POSITIVE_INFINITY])('the norm of order %d is that of the gathered gradients', async (order) => {
      const total = Object.values(sizes).reduce((a, b) => a * b, 1);
      for (const dtype of ['float64', 'float32'] as const) {
        const made = await simulate(total, async ({ world, device }) => {
          const mesh = await initDeviceMesh(sizes, { group: world });
          const { parameters, wholes } = given(mesh, device, dtype);
          const expected = await sg.norm(sg.cat(wholes.map((w) => w.reshape([-1]).to('float64'))), order).item();
          const norm = optim.clipGradNorm(parameters, 0.5, { normType: order });
          expect(norm.dtype).toBe(dtype);
          const clipped: number[] = [];
          for (const [i, p] of parameters.slice(0, -1).entries()) {
            const all = await fullTensor(setLayout(p.grad!.detach(), layoutOf(p)!)).toTypedArray();
            const factor = Math.min(1, 0.5 / (expected + 1e-6));
            expectClose(Array.from(all as Float64Array), Array.from((await wholes[i]!.mul(factor).toTypedArray()) as Float64Array), 1e-6, `gradient ${i}`);
            clipped.push((all as Float64Array)[0]!);
          }
          return { norm: await norm.item(), expected, clipped };
        });
        for (const { norm, expected, clipped } of made) {
          expect(norm).toBe(made[0]!.norm);
          expect(clipped).toEqual(made[0]!.clipped);
          expectClose([norm], [expected], dtype === 'float64' ? 1e-12 : 1e-6, 'norm');
        }
      }
    });
  },
);

test('a norm whose square is beyond float32', async () => {
  await simulate(2, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ dpShard: 2 }, { group: world });
    const p = new nn.Parameter(sg.zeros([1, 4], { device }));
    setLayout(p, layoutOf(distributeTensor(sg.zeros([2, 4], { device }), mesh, { dpShard: Shard(0) }))!);
    p.grad = sg.full([1, 4], 1e25, { device });
    expectClose([await optim.gradNorm([p]).item()], [Math.sqrt(8) * 1e25], 1e-6, 'norm');
  });
});

test('sharded modules are clipped as one process is', async () => {
  const one = make('cpu', 'float64');
  const reference = new optim.AdamW(one.parameters(), { lr: 0.01 });
  for (let s = 0; s < 5; s++) {
    lossOf(one, rows('cpu')).backward();
    optim.clipGradNorm(one.parameters(), 0.05);
    reference.step();
    reference.zeroGrad();
  }
  const expected = await flatten(one.parameters());
  const made = await simulate(4, async (of) => {
    const mesh = await initDeviceMesh({ dpShard: 2, dpReplicate: 2 }, { group: of.world });
    const model = make(of.device, 'float64');
    model.scale = new nn.Parameter(model.scale.detach().reshape([1]));
    for (const layer of [model.up, model.down]) fullyShard(layer, { mesh });
    fullyShard(model, { mesh });
    // what is left of the state goes over the copies
    const zero = new ZeroRedundancyOptimizer(model.parameters(), (p) => new optim.AdamW(p, { lr: 0.01 }), { mesh });
    for (let s = 0; s < 5; s++) {
      lossOf(model, part(of)).backward();
      zero.step({ maxNorm: 0.05 });
      zero.zeroGrad();
    }
    return flatten(sg.noGrad(() => model.parameters().map((p) => fullTensor(p))));
  });
  for (const weights of made) expectClose(weights, expected, 1e-10, 'parameters');
});

describe.each(['ZeRO-1', 'ZeRO-3'] as const)('%s goes on from a checkpoint', (kind) => {
  const folder = scratchFolder();
  const run = (size: number, seed: number, task: 'through' | 'save' | 'resume'): Promise<number[][]> =>
    simulate(size, async ({ world, device, rank }) => {
      const mesh = await initDeviceMesh(kind === 'ZeRO-1' ? { dpReplicate: size } : { dpShard: size }, { group: world });
      const model = sg.withGenerator(new sg.Generator(seed), () => new nn.Linear(WIDTH, 7, { device, dtype: 'float64' }));
      const ddp = kind === 'ZeRO-1' ? new DistributedDataParallel(model, { group: world }) : null;
      if (!ddp) fullyShard(model, { mesh });
      const zero = ddp && new ZeroRedundancyOptimizer(model.parameters(), makers['AdamW']!, { mesh });
      const optimizer = zero?.optimizer ?? makers['AdamW']!(model.parameters());
      const path = join(folder, kind);
      await world.barrier();
      if (task === 'resume') await loadCheckpoint(path, { model, optimizer }, { group: world });
      for (let s = 0; s < (task === 'through' ? 4 : 2); s++) {
        const x = rows(device, (12 / size) * rank, (12 / size) * (rank + 1));
        (ddp ?? model).forward(x).square().sum().div(x.shape[0]!).backward();
        (zero ?? optimizer).step();
        (zero ?? optimizer).zeroGrad();
      }
      await world.barrier();
      if (task === 'save') await saveCheckpoint(path, { step: 2, model, optimizer }, { group: world });
      return flatten(ddp ? model.parameters() : sg.noGrad(() => model.parameters().map((p) => fullTensor(p))));
    });
  test.each([1, 2, 3])('of 2 ranks on %i', async (size) => {
    const [through] = await run(2, 1, 'through');
    await run(2, 1, 'save');
    for (const weights of await run(size, 9, 'resume')) expectClose(weights, through!, 1e-12, 'parameters');
  });
});

test('misuse is named', async () => {
  await simulate(2, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ dpShard: 2 }, { group: world });
    const model = fullyShard(new nn.Linear(4, 4, { device }), { mesh });
    const opt = new optim.AdamW(model.parameters(), { lr: 0.1 });
    expect(() => opt.step({ maxNorm: 1 })).toThrow(/AdamW.step: ranks have pieces of the gradients; clip them before the step with clipGradNorm/);
    const scaler = new sg.amp.GradScaler({ device });
    scaler.scale(sg.tensor(1, { device }));
    expect(() => scaler.step(opt)).toThrow(/GradScaler.step: ranks have pieces of the gradients.*\{ group \}/);
    expect(() => new optim.LAMB(model.parameters())).toThrow(/LAMB needs the norms of whole parameters/);
    expect(() => optim.gradNorm(model.parameters(), 0)).toThrow(/the norm type of sharded parameters must be above 0/);
    const adam: MakeOptimizer = (p) => new optim.Adam(p, {});
    expect(() => new ZeroRedundancyOptimizer(model.parameters(), adam, { mesh, axis: 'dpShard' })).toThrow(/have different pieces of a parameter already/);
    expect(() => new ZeroRedundancyOptimizer([3 as never], adam, { mesh })).toThrow(/parameters must be tensors, got 3/);
    expect(() => new ZeroRedundancyOptimizer([], (() => 3) as never, { mesh })).toThrow(/must return an optimizer, got 3/);
    expect(() => new ZeroRedundancyOptimizer([], adam, {} as never)).toThrow(/give the mesh/);
  });
});
