// Batch normalisation under fullyShard: SyncBatchNorm is that of one process with all batches, over whatever axes the data are spread; other buffers
// are the first rank's at every training forward, as with DistributedDataParallel.
import { expect, test, vi } from 'vitest';
import { DistributedDataParallel } from '../lib/distributed/ddp.js';
import { type DeviceMesh, initDeviceMesh, type MeshSizes } from '../lib/distributed/device_mesh.js';
import { fullTensor, layoutOf } from '../lib/distributed/distribute.js';
import { type FullyShardOptions, fullyShard, setRequiresGradientSync } from '../lib/distributed/fully_shard.js';
import { simulate } from '../lib/distributed/simulate.js';
import { SyncBatchNorm } from '../lib/distributed/sync_batch_norm.js';
import * as sg from '../lib/index.js';
import { expectAllClose } from './helpers/metric.js';

const { nn, optim } = sg;
type Values = Record<string, Float64Array>;
const BATCH = 8;
const read = async (t: sg.Tensor): Promise<Float64Array> => (await t.detach().to('float64').toTypedArray()) as Float64Array;
const data = ['dpReplicate', 'dpShard'] as const;

class Model extends nn.Module {
  first: sg.nn.Conv2d;
  norm: sg.nn.BatchNorm2d;
  block: sg.nn.Sequential;
  last: sg.nn.Linear;
  constructor(
    device: string,
    private readonly recompute = false,
  ) {
    super();
    const on = { dtype: 'float64', device } as const;
    this.first = new nn.Conv2d(1, 3, 2, on);
    this.norm = new nn.BatchNorm2d(3, on);
    this.block = new nn.Sequential(new nn.Linear(12, 5, on), new nn.BatchNorm1d(5, { momentum: 0.4, ...on }), new nn.Tanh());
    this.last = new nn.Linear(5, 2, on);
  }
  override forward(x: sg.Tensor): sg.Tensor {
    const y = this.norm.forward(this.first.forward(x)).relu().reshape([x.shape[0]!, 12]);
    const z = this.recompute ? sg.checkpoint((t: sg.Tensor) => this.block.forward(t), y) : this.block.forward(y);
    return this.last.forward(z).square().mean();
  }
}

const images = (device: string, step: number, from: number, to: number): sg.Tensor =>
  sg
    .fromTypedArray(
      Float64Array.from({ length: BATCH * 9 }, (_, i) => Math.sin(i * 1.7 + step)),
      [BATCH, 1, 3, 3],
      { device },
    )
    .slice(0, from, to)
    .contiguous();

async function stateOf(model: sg.nn.Module): Promise<Values> {
  const found: Values = {};
  for (const [name, p] of model.namedParameters()) found[name] = await read(layoutOf(p) ? fullTensor(p) : p);
  for (const [name, b] of model.namedBuffers()) found[name] = await read(b);
  return found;
}

type Spread = (model: Model, mesh: DeviceMesh) => sg.nn.Module;
const sharded =
  (options: Partial<FullyShardOptions> = {}): Spread =>
  (model, mesh) => {
    for (const part of [model.block, model]) fullyShard(part, { mesh, ...options });
    return model;
  };
const replicated: Spread = (model, mesh) => new DistributedDataParallel(model, { group: mesh.group(...data) });
const converted =
  (spread: Spread): Spread =>
  (model, mesh) =>
    spread(SyncBatchNorm.convert(model, mesh) as Model, mesh);

/** Parameters and buffers after four steps. */
async function train(device: string, mesh: DeviceMesh | null, spread?: Spread): Promise<Values> {
  sg.manualSeed(4);
  const model = new Model(device);
  const outer = (mesh && spread ? spread(model, mesh) : model) as { forward(x: sg.Tensor): sg.Tensor };
  const opt = new optim.SGD(model.parameters(), { lr: 0.2 });
  const [rank, each] = mesh ? [mesh.rank(...data), BATCH / mesh.size(...data)] : [0, BATCH];
  for (let step = 0; step < 4; step++) {
    outer.forward(images(device, step, rank * each, (rank + 1) * each)).backward();
    opt.step();
    opt.zeroGrad();
  }
  return stateOf(model);
}

async function everywhere(sizes: MeshSizes, spread: Spread): Promise<Values[]> {
  const ranks = Object.values(sizes).reduce((a, b) => a! * b!, 1)!;
  return simulate(ranks, async ({ world, device }) => train(String(device), await initDeviceMesh(sizes, { group: world }), spread));
}

const meshes: MeshSizes[] = [{ dpShard: 2 }, { dpReplicate: 2, dpShard: 2 }, { dpShard: 2, tp: 2 }];

test.each(meshes.flatMap((sizes) => [sharded(), sharded({ reshardAfterForward: false })].map((spread, i) => [sizes, i === 0, spread] as const)))(
  'SyncBatchNorm on %o, resharded %s: parameters and statistics of one process',
  async (sizes, _, spread) => {
    const expected = await train('cpu', null);
    for (const found of await everywhere(sizes, converted(spread))) expectAllClose(found, expected, 1e-11, 'value of');
  },
);

test.each(meshes)('BatchNorm on %o: as with DistributedDataParallel', async (sizes) => {
  const expected = await everywhere({ ...sizes, dpShard: 1, dpReplicate: (sizes.dpReplicate ?? 1) * sizes.dpShard! }, replicated);
  const found = await everywhere(sizes, sharded());
  found.forEach((values, rank) => expectAllClose(values, expected[rank]!, 1e-12, 'value of'));
  const own = await everywhere(sizes, sharded({ broadcastBuffers: false }));
  expect(own.at(-1)!['norm.running_mean']).not.toEqual(found.at(-1)!['norm.running_mean']);
});

test('one broadcast a training forward; none in evaluation, recomputation, or where nothing is reduced', async () => {
  await simulate(2, async ({ world, device, rank }) => {
    const mesh = await initDeviceMesh({ dpShard: 2 }, { group: world });
    const model = new Model(String(device), true);
    for (const part of [model.block, model]) fullyShard(part, { mesh });
    const group = mesh.group('dpShard');
    const x = images(String(device), 0, 4 * rank, 4 * rank + 4);
    const broadcasts = (work: () => void): number => {
      const spy = vi.spyOn(group, 'broadcast');
      work();
      const { length } = spy.mock.calls;
      spy.mockRestore();
      return length;
    };
    const buffers = model.buffers().length;
    expect(buffers).toBe(6);
    expect(broadcasts(() => model.forward(x).backward())).toBe(buffers);
    expect(broadcasts(() => sg.noGrad(() => model.forward(x)))).toBe(0);
    setRequiresGradientSync(model, false);
    expect(broadcasts(() => model.forward(x).backward())).toBe(0);
    setRequiresGradientSync(model, true);
    model.eval();
    expect(broadcasts(() => model.forward(x).backward())).toBe(0);
  });
});

test('misuse is named', async () => {
  await simulate(2, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ dpShard: 2 }, { group: world });
    const model = new Model(String(device));
    expect(() => fullyShard(model, { mesh, broadcastBuffers: 3 as never })).toThrow(/fullyShard: broadcastBuffers must be true or false, got/);
    fullyShard(model, { mesh });
    expect(() => SyncBatchNorm.convert(model, mesh)).toThrow(/SyncBatchNorm.convert: fullyShard has taken the parameters already; convert before it/);
    expect(() => SyncBatchNorm.convert(new Model(String(device)), 3 as never)).toThrow(/give the process group as \{ group \}/);
  });
});
