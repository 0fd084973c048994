// Tensor parallelism on ranks with GPUs, whose collectives run on streams of their own, beside the products of backward: losses, gradients and
// steps are those of one rank of the CPU.
import { describe, expect, test, vi } from 'vitest';

// read when the device is first asked for
vi.hoisted(() => {
  process.env['SHARDGRAD_EMULATED_GPUS'] ??= '4';
  process.env['SHARDGRAD_SHARE_GPUS'] ??= '1';
});

import { initDeviceMesh } from '../lib/distributed/device_mesh.js';
import { fullTensor, layoutOf, setLayout } from '../lib/distributed/distribute.js';
import { simulate } from '../lib/distributed/simulate.js';
import { gptPlan } from '../lib/distributed/tensor_parallel/gpt_plan.js';
import { parallelize } from '../lib/distributed/tensor_parallel/parallelize.js';
import * as sg from '../lib/index.js';
import { expectAllClose } from './helpers/metric.js';
import { ncclRanks } from './helpers/nccl.js';

const { gpus, problem } = sg.cuda.report();
const missing = (backend: string): string => (gpus.length === 0 ? problem : backend === 'nccl' && ncclRanks < 2 ? 'NCCL cannot have 2 ranks here' : '');
const options = { vocabSize: 13, layers: 2, heads: 4, dim: 32, context: 8, dropout: 0.1 } as const;

/** Losses of three steps, the first gradients and the last weights. */
async function train(model: sg.nn.GPT, device: string, smoothing: number, low: boolean, time: number): Promise<Record<string, ArrayLike<number>>> {
  const opt = new sg.optim.SGD(model.parameters(), { lr: 0.2 });
  const found: Record<string, ArrayLike<number>> = {};
  const losses: number[] = [];
  const keep = async (kind: string, of: (p: sg.Tensor) => sg.Tensor): Promise<void> => {
    for (const [name, p] of model.namedParameters()) {
      const [value, layout] = [of(p).detach().clone(), layoutOf(p)];
      found[`${kind} ${name}`] = (await (layout ? fullTensor(setLayout(value, layout)) : value).toTypedArray()) as Float32Array;
    }
  };
  for (let step = 0; step < 3; step++) {
    const tokens = sg
      .tensor(
        Array.from({ length: 16 }, (_, i) => (5 * i + 3 * step) % 13),
        { dtype: 'int64', device },
      )
      .reshape([2, 8])
      .slice(1, 0, time)
      .contiguous();
    const run = (): sg.Tensor => model.forward(tokens, tokens, { labelSmoothing: smoothing, ignoreIndex: 4 });
    const loss = low ? sg.amp.autocast('bfloat16', run) : run();
    loss.backward();
    if (step === 0) await keep('gradient', (p) => p.grad!);
    opt.step();
    opt.zeroGrad();
    losses.push(await loss.item());
  }
  await keep('weight', (p) => p);
  return { ...found, losses };
}

const seeded = <T>(fn: () => T): T => sg.withGenerator(new sg.Generator(5), fn);

describe.each(['staged', 'nccl'] as const)('%s groups', (backend) => {
  const why = missing(backend);
  test.skipIf(why !== '').each([
    { sequenceParallel: false, smoothing: 0.1, low: false },
    { sequenceParallel: true, smoothing: 0, low: false },
    { sequenceParallel: true, smoothing: 0, low: false, time: 7 },
    { sequenceParallel: true, smoothing: 0.1, low: true },
  ])(
    `%o${why ? `, skipped: ${why}` : ''}`,
    async ({ sequenceParallel, smoothing, low, time = 8 }: { sequenceParallel: boolean; smoothing: number; low: boolean; time?: number }) => {
      const expected = await seeded(() => train(new sg.nn.GPT(options), 'cpu', smoothing, low, time));
      const run = (): Promise<Record<string, ArrayLike<number>>[]> =>
        simulate(
          2,
          async ({ world, device }) =>
            seeded(async () => {
              const mesh = await initDeviceMesh({ tp: 2 }, { group: world });
              const model = new sg.nn.GPT({ ...options, device });
              return train(parallelize(model, mesh, gptPlan(model, { sequenceParallel })), String(device), smoothing, low, time);
            }),
          { device: 'cuda', backend, timeoutMs: 60_000 },
        );
      const found = await run();
      for (const values of found) expectAllClose(values, expected, low ? 0.05 : 1e-4, 'ranks with GPUs against one process');
      expect(found[1]).toEqual(found[0]);
      // nothing depends on how streams happen to run
      expect(await run()).toEqual(found);
    },
  );
});
