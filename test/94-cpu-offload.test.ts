// Optimizer state on the host: the same bits as without, on the host and on a GPU, for every optimizer, with clipping, scaling, parameters
// that are not used, 16-bit parameters, sharded ones, and checkpoints that go both ways.
import { join } from 'node:path';
import { describe, expect, test, vi } from 'vitest';

// read when the device is first asked for
vi.hoisted(() => {
  process.env['SHARDGRAD_EMULATED_GPUS'] ??= '4';
  process.env['SHARDGRAD_SHARE_GPUS'] ??= '1';
});

import { loadCheckpoint } from '../lib/distributed/checkpoint/load.js';
import { saveCheckpoint } from '../lib/distributed/checkpoint/save.js';
import { DistributedDataParallel } from '../lib/distributed/ddp.js';
import { initDeviceMesh } from '../lib/distributed/device_mesh.js';
import { fullTensor } from '../lib/distributed/distribute.js';
import { fullyShard } from '../lib/distributed/fully_shard.js';
import { materialize } from '../lib/distributed/materialize.js';
import { type SimulatedRank, type SimulateOptions, simulate } from '../lib/distributed/simulate.js';
import * as sg from '../lib/index.js';
import { block, HEADER, native } from '../lib/native.js';
import { devices } from './helpers/devices.js';
import { scratchFolder } from './helpers/files.js';
import { expectClose } from './helpers/metric.js';
import { flatten, WIDTH } from './helpers/ranks.js';

const { amp, nn, optim } = sg;
const folder = scratchFolder();
type Make = (p: sg.Tensor[]) => sg.optim.Optimizer<any>;
/** An optimizer with its state where the parameters are, or on the host. */
interface Way {
  readonly stepper: Pick<sg.optim.Optimizer<any>, 'step' | 'zeroGrad' | 'takeStep' | 'gradients' | 'isSharded'>;
  readonly optimizer: sg.optim.Optimizer<any>;
}
const plain = (parameters: sg.Tensor[], make: Make): Way => {
  const optimizer = make(parameters);
  return { stepper: optimizer, optimizer };
};
const offloaded = (parameters: sg.Tensor[], make: Make): Way => {
  const offload = new optim.CPUOffloadOptimizer(parameters, make);
  return { stepper: offload, optimizer: offload.optimizer };
};
const ways = { plain, offloaded };
const kinds = ['cpu', ...(devices.length > 1 ? (['cuda'] as const) : [])] as NonNullable<SimulateOptions['device']>[];

const makers: Record<string, Make> = {
  SGD: (p) => new optim.SGD(p, { lr: 0.1, momentum: 0.9, nesterov: true }),
  Adam: (p) => new optim.Adam(p, { lr: 0.01, amsgrad: true }),
  AdamW: (p) => new optim.AdamW(p, { lr: 0.01, weightDecay: 0.1 }),
  Adagrad: (p) => new optim.Adagrad(p, { lr: 0.05 }),
  RMSprop: (p) => new optim.RMSprop(p, { lr: 0.01, momentum: 0.5, centered: true }),
  LAMB: (p) => new optim.LAMB(p, { lr: 0.01 }),
  Lion: (p) => new optim.Lion(p, { lr: 0.001 }),
  groups: ([a, ...rest]) => new optim.AdamW([{ params: rest, weightDecay: 0 }, { params: [a!] }], { lr: 0.02 }),
};

/** Three parameters of which the last one is used in some steps alone. */
function parametersOn(device: string, dtype: sg.DType): sg.nn.Parameter[] {
  const shapes = [[5, 7], [], [3, 2, 4]];
  return shapes.map((shape, k) => {
    const n = shape.reduce((a, b) => a * b, 1);
    return new nn.Parameter(
      sg.fromTypedArray(
        Float32Array.from({ length: n }, (_, i) => Math.sin(3 * i + k)),
        shape,
        { device, dtype },
      ),
    );
  });
}

async function valuesOf(parameters: readonly sg.Tensor[], optimizer: sg.optim.Optimizer<any>): Promise<unknown[]> {
  const { state, paramGroups } = optimizer.stateDict();
  const states: unknown[] = [];
  for (const [i, entry] of Object.entries(state)) {
    for (const [name, value] of Object.entries(entry)) states.push([i, name, value instanceof sg.Tensor ? await flatten([value]) : value]);
  }
  return [await flatten(parameters), states, paramGroups];
}

describe.each(devices)('on %s', (device) => {
  describe.each(['float32', 'bfloat16', 'float16'] as const)('%s', (dtype) => {
    test.each(Object.entries(makers))('%s: the bits of the optimizer alone', async (name, make) => {
      const results: unknown[][] = [];
      for (const way of [plain, offloaded]) {
        const parameters = parametersOn(device, dtype);
        const { stepper, optimizer } = way(parameters, make);
        const schedule = new optim.CosineWithWarmup(optimizer, { warmup: 2, total: 8 });
        const scaler = new amp.GradScaler({ initScale: 128, device });
        const norms: number[] = [];
        for (let step = 0; step < 6; step++) {
          parameters.forEach((p, i) => {
            if (i === 2 && step % 2 === 1) return;
            const bad = step === 3 && i === 1 ? Number.POSITIVE_INFINITY : 0;
            const g = sg.ones(p.shape, { dtype: 'float32', device }).mul(Math.sin(1 + i + 1.7 * step) + bad);
            const loss = p.to('float32').sin().mul(g).sum();
            (step >= 2 ? scaler.scale(loss) : loss).backward();
          });
          const options = step % 2 === 0 ? { maxNorm: 0.5 } : {};
          const norm = step < 2 ? stepper.step(options) : stepper.step({ ...options, scaler });
          if (step >= 2) scaler.update();
          if (norm) norms.push(await norm.item());
          stepper.zeroGrad();
          schedule.step();
        }
        results.push([...(await valuesOf(parameters, optimizer)), norms, await scaler.getScale(), optimizer.steps]);
      }
      // the norms of LAMB are added in another order on a GPU
      if (name === 'LAMB' && device !== 'cpu') expectClose(results[1]![0] as number[], results[0]![0] as number[], 1e-6, 'parameters');
      else expect(results[1]).toEqual(results[0]);
    });
  });
});

class Model extends nn.Module {
  up: sg.nn.Linear;
  down: sg.nn.Linear;
  unused: sg.nn.Linear;
  frozen: sg.nn.Parameter;
  constructor(on: sg.nn.FactoryOptions) {
    super();
    this.up = new nn.Linear(WIDTH, 7, on);
    this.down = new nn.Linear(7, WIDTH, on);
    this.unused = new nn.Linear(2, 3, on);
    this.frozen = new nn.Parameter(sg.full([3], 2, on), false);
  }
  override forward(x: sg.Tensor): sg.Tensor {
    return this.down.forward(this.up.forward(x).tanh()).mul(this.frozen.sum());
  }
}

interface Job {
  readonly way: keyof typeof ways;
  readonly model: 'fullyShard' | 'DDP' | 'meta';
  readonly dtype?: sg.DType;
  readonly scaled?: boolean;
  readonly load?: string;
  readonly save?: string;
  readonly steps?: number;
}

async function train({ world, device, rank }: SimulatedRank, { way, model: kind, dtype = 'float32', scaled, load, save, steps = 4 }: Job): Promise<unknown[]> {
  return sg.withGenerator(new sg.Generator(load ? 9 : 5), async () => {
    const ddp = kind === 'DDP';
    const mesh = await initDeviceMesh(ddp ? { dpReplicate: world.size } : { dpShard: world.size }, { group: world });
    let model: sg.nn.Module = new Model({ device: kind === 'meta' ? 'meta' : device, dtype });
    if (ddp) model = new DistributedDataParallel(model, { group: world, findUnusedParameters: true });
    else for (const layer of [(model as Model).up, (model as Model).down]) fullyShard(layer, { mesh });
    if (!ddp) fullyShard(model, { mesh });
    const inner = ddp ? (model as DistributedDataParallel<Model>).module : model;
    const { stepper, optimizer } = ways[way](inner.parameters(), makers['AdamW']!);
    if (kind === 'meta') materialize(model);
    await world.barrier();
    if (load) await loadCheckpoint(load, { model: inner, optimizer }, { group: world });
    const scaler = new amp.GradScaler({ initScale: 64, group: world });
    const norms: number[] = [];
    for (let step = 0; step < steps; step++) {
      const x = sg.randn([4, WIDTH], { device, dtype, generator: new sg.Generator(step + 10 * rank) });
      const loss = (model.forward as (x: sg.Tensor) => sg.Tensor)(x).square().mean();
      (scaled ? scaler.scale(loss) : loss).backward();
      if (scaled) {
        // inf in what one rank has
        if (step === 1 && rank === 0) sg.noGrad(() => inner.parameters()[1]!.grad!.fill_(Number.POSITIVE_INFINITY));
        stepper.step({ scaler });
        scaler.update();
      } else {
        norms.push(await optim.clipGradNorm(inner.parameters(), 0.5).item());
        stepper.step();
      }
      stepper.zeroGrad();
    }
    await world.barrier();
    if (save) await saveCheckpoint(save, { step: steps, model: inner, optimizer }, { group: world });
    const weights = await flatten(sg.noGrad(() => inner.parameters().map((p) => (ddp ? p : fullTensor(p)))));
    await world.barrier(); // the dict waits for the device, and the ranks share a thread
    return [weights, norms, await valuesOf(inner.parameters(), optimizer)];
  });
}

describe.each(kinds)('ranks on %s', (kind) => {
  const run = (job: Job, size = 2): Promise<unknown[][]> => simulate(size, (rank) => train(rank, job), { device: kind, timeoutMs: 60_000 });

  test.each<[Job['model'], sg.DType, boolean]>([
    ['fullyShard', 'float32', false],
    ['fullyShard', 'float32', true],
    ['fullyShard', 'bfloat16', false],
    ['DDP', 'float32', false],
    ['DDP', 'bfloat16', true],
    ['meta', 'float32', false],
  ])('%s of %s, scaled: %s: the bits of the optimizer alone', async (model, dtype, scaled) => {
    const job = { model, dtype, scaled };
    const expected = await run({ ...job, way: 'plain' });
    expect(await run({ ...job, way: 'offloaded' })).toEqual(expected);
    expect(expected[0]![0]).toEqual(expected[1]![0]);
  });

  describe.each(['float32', 'bfloat16'] as const)('checkpoints of %s', (dtype) => {
    test.each<[Job['way'], Job['way'], number]>([
      ['plain', 'offloaded', 2],
      ['offloaded', 'plain', 2],
      ['offloaded', 'offloaded', 3],
    ])('saved %s, loaded %s on %i ranks', async (saved, loaded, size) => {
      const path = join(folder, `${saved}-${loaded}-${kind}-${dtype}`);
      const job: Job = { way: 'plain', model: 'fullyShard', dtype };
      await run({ ...job, way: saved, save: path, steps: 2 });
      const expected = await run({ ...job, load: path }, size);
      expect(await run({ ...job, way: loaded, load: path }, size)).toEqual(expected);
    });
  });
});

describe.each(devices.slice(1))('on %s', (device) => {
  test('the GPU has no state, the host has it where the copies are, and the bytes are exact', async () => {
    sg.collectGarbage();
    const empty = sg.memory(device).live;
    const parameters = [new nn.Parameter(sg.ones([1000, 100], { device })), new nn.Parameter(sg.ones([5000], { device, dtype: 'bfloat16' }))];
    const offload = new optim.CPUOffloadOptimizer(parameters, makers['AdamW']!);
    const step = (): void =>
      sg.scope(() => {
        for (const p of parameters) p.to('float32').square().sum().backward();
        offload.step();
        offload.zeroGrad();
      });
    step();
    await sg.synchronize(device);
    const [before, host] = [sg.memory(device).live, sg.memory('cpu').live];
    for (let i = 0; i < 3; i++) step();
    await sg.synchronize(device);
    expect(sg.memory(device).live).toBe(before);
    expect(sg.memory('cpu').live).toBe(host);
    const { state } = offload.optimizer.stateDict();
    for (const entry of Object.values(state)) for (const t of Object.values(entry)) if (t instanceof sg.Tensor) expect(t.device.toString()).toBe('cpu:0');
    expect(Object.keys(state[1]!)).toContain('master');
    // parameters, the buffer that decides, and nothing else that grows with the parameters
    const own = parameters.reduce((n, p) => n + p.nbytes, 0);
    expect(before - empty - own).toBeLessThan(500);
  });

  test('values written to a parameter between steps count, also through views and other layouts', async () => {
    const results: number[][] = [];
    for (const way of [plain, offloaded]) {
      const whole = sg.ones([4, 6], { device });
      const parameters = [new nn.Parameter(whole.t()), new nn.Parameter(sg.ones([3], { device }))];
      const { stepper } = way(parameters, makers['AdamW']!);
      for (let i = 0; i < 4; i++) {
        for (const p of parameters) p.sin().sum().backward();
        if (i === 2) sg.noGrad(() => parameters[1]!.slice(0, 0, 2).fill_(0.25));
        stepper.step();
        stepper.zeroGrad();
      }
      results.push(await flatten(parameters));
    }
    expect(results[1]).toEqual(results[0]);
  });

  test('what cannot be copied is an error, and nothing is enqueued', async () => {
    const x = sg.ones([4], { device });
    const y = sg.ones([4]);
    for (const [numbers, count, error] of [
      [[x.storage.handle, 0, y.storage.handle, 0, 17], 1, /bytes 0 to 17 are outside a storage of 16 bytes/],
      [[x.storage.handle, 4, y.storage.handle, 0, 16], 1, /bytes 4 to 20 are outside/],
      [[x.storage.handle, 0, y.storage.handle, -1, 4], 1, /the byte offset must be a whole number/],
      [[x.storage.handle, 0, 12345, 0, 4], 1, /memory was given back/],
      [[y.storage.handle, 0, y.storage.handle, 0, 4], 1, /both tensors are on cpu:0/],
      [[x.storage.handle, 0, y.storage.handle, 0, 4, y.storage.handle, 0, x.storage.handle, 0, 4], 2, /copy 1 is between other devices/],
    ] as const) {
      block.set(numbers, HEADER);
      expect(() => native.copyAcross(count)).toThrow(error);
    }
    expect(() => native.copyAcross(1e9)).toThrow(/the number of copies must be a whole number/);
    expect(() => native.hostMemory(x.device.slot, y.device.slot, 4)).toThrow(/does not work in the host's memory/);
    expect([await flatten([x]), await flatten([y])]).toEqual(Array(2).fill([1, 1, 1, 1]));
  });
});

test('misuse is named', () => {
  const p = new nn.Parameter(sg.ones([2]));
  const make = makers['AdamW']!;
  expect(() => new optim.CPUOffloadOptimizer(p as never, make)).toThrow(/expected a list of parameters, got/);
  expect(() => new optim.CPUOffloadOptimizer([3 as never], make)).toThrow(/parameters must be tensors, got 3/);
  expect(() => new optim.CPUOffloadOptimizer([p.mul(2)], make)).toThrow(/is not a leaf/);
  expect(() => new optim.CPUOffloadOptimizer([p], new optim.AdamW([p]) as never)).toThrow(/expected a function that makes the optimizer/);
  expect(() => new optim.CPUOffloadOptimizer([p], () => 3 as never)).toThrow(/must return an optimizer, got 3/);
  expect(() => new optim.CPUOffloadOptimizer([p], () => make([p]))).toThrow(/none of the copies it was given/);
  const offload = new optim.CPUOffloadOptimizer([p], make);
  expect(() => offload.step({ maxNorm: -1 })).toThrow(/CPUOffloadOptimizer.step: maxNorm must be a number from 0/);
  expect(offload.step()).toBeUndefined();
  expect(offload.step({ maxNorm: 1 }).itemSync()).toBe(0);
});
