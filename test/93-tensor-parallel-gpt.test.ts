// nn.GPT over ranks is nn.GPT in one process: loss, every gradient and ten steps, with and without sequence parallelism, with dropout, for
// vocabularies and heads that do not divide; and together with data parallelism, autocast and recomputation.
import { describe, expect, test, vi } from 'vitest';
import { DistributedDataParallel } from '../lib/distributed/ddp.js';
import { type DeviceMesh, initDeviceMesh, type MeshSizes } from '../lib/distributed/device_mesh.js';
import { fullyShard } from '../lib/distributed/fully_shard.js';
import { type SimulateOptions, simulate } from '../lib/distributed/simulate.js';
import { gptPlan } from '../lib/distributed/tensor_parallel/gpt_plan.js';
import { parallelize } from '../lib/distributed/tensor_parallel/parallelize.js';
import * as sg from '../lib/index.js';
import { block, native } from '../lib/native.js';
import { expectAllClose } from './helpers/metric.js';
import { type Values, whole } from './helpers/whole.js';

const { nn, optim } = sg;
const [BATCH, TIME, VOCAB] = [4, 12, 13];

interface Setting {
  readonly dtype?: sg.DType;
  readonly heads?: number;
  readonly dropout?: number;
  readonly sequenceParallel?: boolean;
  readonly autocast?: boolean;
  readonly bias?: boolean;
  /** Micro-batches of a step. */
  readonly micro?: number;
  readonly steps?: number;
}

const sequence = (seed: number): number[] => Array.from({ length: BATCH * TIME }, (_, i) => Math.floor(Math.abs(Math.sin((i + 1) * seed) * 1000)) % VOCAB);
/** Rows [from, to) of the tokens of a step. */
function rows(device: string, seed: number, from: number, to: number): sg.Tensor {
  return sg.tensor(sequence(seed).slice(from * TIME, to * TIME), { dtype: 'int64', device }).reshape([to - from, TIME]);
}

function model({ dtype = 'float64', heads = 12, dropout = 0, bias = true }: Setting, device: string): sg.nn.GPT {
  return new nn.GPT({ vocabSize: VOCAB, layers: 2, heads, dim: 2 * heads, context: 16, dropout, bias, dtype, device });
}

/** Loss and gradients of the first step; loss and parameters after ten. */
async function train(device: string, setting: Setting, mesh: DeviceMesh | null): Promise<Values[]> {
  const { dropout, sequenceParallel, autocast, micro = 1, steps = 10 } = setting;
  const data = ['dpReplicate', 'dpShard'] as const;
  const [ranks, rank] = mesh ? [mesh.size(...data), mesh.rank(...data)] : [1, 0];
  // one stream of numbers a rank, although all ranks are one process
  return sg.withGenerator(new sg.Generator(11), async () => {
    const gpt = model(setting, device);
    if (mesh) parallelize(gpt, mesh, gptPlan(gpt, { sequenceParallel }));
    const sharded = mesh !== null && mesh.size('dpShard') > 1;
    if (sharded) for (const part of [...gpt.transformer.h, gpt]) fullyShard(part, { mesh });
    const wrapped = ranks > 1 && !sharded ? new DistributedDataParallel(gpt, { group: mesh!.group('dpReplicate') }) : null;
    const outer = wrapped ?? gpt;
    const opt = new optim.SGD(gpt.parameters(), { lr: 0.5 });
    gpt.train(dropout !== undefined);
    const found: Values[] = [];
    for (let step = 0; step < steps; step++) {
      let loss = 0;
      const each = BATCH / ranks / micro;
      for (let m = 0; m < micro; m++) {
        const from = rank * (BATCH / ranks) + m * each;
        const [x, y] = [rows(device, step + 2, from, from + each), rows(device, step + 3, from, from + each)];
        const run = (): sg.Tensor => outer.forward(x, y).div(micro);
        const backward = (): sg.Tensor => {
          const made = autocast ? sg.amp.autocast('bfloat16', run) : run();
          made.backward();
          return made;
        };
        const made = wrapped && m < micro - 1 ? wrapped.noSync(backward) : backward();
        loss += await (mesh
          ? mesh
              .group(...data)
              .allReduce(made.detach().clone(), { op: 'avg' })
              .wait()
          : made
        ).item();
      }
      if (step === 0) found.push({ loss: [loss] }, await whole(gpt, (p) => p.grad!));
      opt.step();
      opt.zeroGrad();
      if (step === steps - 1) found.push({ loss: [loss] }, await whole(gpt, (p) => p));
    }
    return found;
  });
}

async function parallel(sizes: MeshSizes, setting: Setting, options?: SimulateOptions): Promise<Values[][]> {
  const ranks = Object.values(sizes).reduce((a, b) => a! * b!, 1)!;
  return simulate(ranks, async ({ world, device }) => train(String(device), setting, await initDeviceMesh(sizes, { group: world })), options);
}

function expectSame(found: readonly Values[][], expected: readonly Values[], bounds: readonly [number, number]): void {
  const names = ['loss', 'gradient of', 'last loss', 'parameter'];
  for (const rank of found) rank.forEach((values, i) => expectAllClose(values, expected[i]!, bounds[i < 2 ? 0 : 1]!, names[i]!));
  for (const rank of found) rank.slice(1).forEach((values, i) => expect(values, `${names[i + 1]} on all ranks`).toEqual(found[0]![i + 1]));
}

const DOUBLE = [1e-12, 1e-10] as const;
const SINGLE = [1e-5, 1e-4] as const;

describe.each([1, 2, 3, 4])('%i ranks', (tp) => {
  test.each<Setting>([
    {},
    { sequenceParallel: true },
    { dropout: 0.2 },
    { dropout: 0.2, sequenceParallel: true },
    { sequenceParallel: true, bias: false, micro: 2 },
  ])('float64 %o', async (setting) => expectSame(await parallel({ tp }, setting), await train('cpu', setting, null), DOUBLE));
  test.each<Setting>([{ dropout: 0.1 }, { dropout: 0.1, sequenceParallel: true }])('float32 %o', async (given) => {
    const setting: Setting = { ...given, dtype: 'float32' };
    expectSame(await parallel({ tp }, setting), await train('cpu', setting, null), SINGLE);
  });
});

test.each([false, true])('heads that do not divide, sequence parallel %s', async (sequenceParallel) => {
  const setting = { heads: 5, sequenceParallel };
  expectSame(await parallel({ tp: 3 }, setting), await train('cpu', setting, null), DOUBLE);
});

test.each<[MeshSizes, Setting]>([
  [{ dpReplicate: 2, tp: 2 }, {}],
  [
    { dpReplicate: 2, tp: 2 },
    { sequenceParallel: true, micro: 2 },
  ],
  [{ dpReplicate: 2, tp: 2 }, { dropout: 0.2 }],
  [
    { dpReplicate: 2, tp: 3 },
    { sequenceParallel: true, dropout: 0.2 },
  ],
])('with data parallelism on %o: %o', async (sizes, setting) => {
  expectSame(await parallel(sizes, setting), await train('cpu', setting, null), DOUBLE);
});

test('over TCP as through shared memory, to the bit', async () => {
  const setting: Setting = { sequenceParallel: true, dropout: 0.1, steps: 2, dtype: 'float32' };
  expect(await parallel({ tp: 2 }, setting, { transport: 'tcp' })).toEqual(await parallel({ tp: 2 }, setting));
});

test.each([false, true])('autocast, sequence parallel %s: as close to float32 as one process is', async (sequenceParallel) => {
  const exact = await train('cpu', { dtype: 'float32', steps: 1 }, null);
  const setting: Setting = { dtype: 'float32', autocast: true, steps: 1, sequenceParallel };
  const error = (values: readonly Values[]): number => {
    const differences = Object.entries(values[1]!).map(([name, v]) => Math.hypot(...Array.from(v, (x, i) => x - exact[1]![name]![i]!)));
    return Math.hypot(...differences) / Math.hypot(...Object.values(exact[1]!).flatMap((v) => Array.from(v)));
  };
  const alone = error(await train('cpu', setting, null));
  for (const values of await parallel({ tp: 2 }, setting)) {
    expect(Math.abs(Number(values[0]!['loss']![0]) - Number(exact[0]!['loss']![0]))).toBeLessThan(0.02);
    expect(error(values)).toBeLessThan(2 * alone);
    expect(alone).toBeLessThan(0.05);
  }
});

test.each([false, true])('GELU rides on the products, sequence parallel %s; not where a hook wants to see what lies between', async (sequenceParallel) => {
  const names = native.ops.map((op) => op.name);
  const { run } = native;
  await simulate(2, async ({ world, device, rank }) => {
    const mesh = await initDeviceMesh({ tp: 2 }, { group: world });
    const setting: Setting = { sequenceParallel };
    const gpt = model(setting, String(device));
    parallelize(gpt, mesh, gptPlan(gpt, { sequenceParallel }));
    const [x, y] = [rows(String(device), 2, 0, 4), rows(String(device), 3, 0, 4)];
    const gelus = (): number => {
      const calls: string[] = [];
      if (rank === 0)
        vi.spyOn(native, 'run').mockImplementation(() => {
          calls.push(names[block[0]!]!);
          run.call(native);
        });
      gpt.forward(x, y).backward();
      vi.restoreAllMocks();
      return calls.filter((name) => name.startsWith('gelu')).length;
    };
    expect(gelus()).toBe(0);
    const first = await whole(gpt, (p) => p.grad!);
    for (const p of gpt.parameters()) p.grad = null;
    for (const part of gpt.transformer.h) part.mlp.c_proj.registerForwardHook(() => undefined);
    expect(gelus()).toBe(rank === 0 ? 4 : 0);
    expectAllClose(await whole(gpt, (p) => p.grad!), first, 1e-12, 'gradient of');
  });
});
