// Sharded training on ranks with GPUs, whose kernels and collectives run on streams of their own: what is freed, filled again and handed from one
// stream to the other has to be what the CPU's ranks have.
import { describe, expect, test, vi } from 'vitest';

// read when the device is first asked for
vi.hoisted(() => {
  process.env['SHARDGRAD_EMULATED_GPUS'] ??= '4';
  process.env['SHARDGRAD_SHARE_GPUS'] ??= '1';
});

import { initDeviceMesh } from '../lib/distributed/device_mesh.js';
import { fullTensor } from '../lib/distributed/distribute.js';
import { fullyShard } from '../lib/distributed/fully_shard.js';
import { materialize } from '../lib/distributed/materialize.js';
import { type SimulatedRank, type SimulateOptions, simulate } from '../lib/distributed/simulate.js';
import { ZeroRedundancyOptimizer } from '../lib/distributed/zero_redundancy_optimizer.js';
import * as sg from '../lib/index.js';
import { expectClose } from './helpers/metric.js';
import { ncclRanks } from './helpers/nccl.js';
import { flatten } from './helpers/ranks.js';

const { gpus, problem } = sg.cuda.report();
const missing = (backend: string): string => (gpus.length === 0 ? problem : backend === 'nccl' && ncclRanks < 2 ? 'NCCL cannot have 2 ranks here' : '');

interface Result {
  readonly losses: number[];
  readonly norms: number[];
  readonly weights: number[];
}

/** Three steps with blocks gathered again in backward, 16-bit parameters, a checkpoint, clipping, and state that is sharded once more. */
async function train({ world, device, rank }: SimulatedRank): Promise<Result> {
  return sg.withGenerator(new sg.Generator(5), async () => {
    const mesh = await initDeviceMesh({ dpReplicate: world.size / 2, dpShard: 2 }, { group: world });
    const model = new sg.nn.GPT({ vocabSize: 37, layers: 3, heads: 2, dim: 16, context: 16, dropout: 0.1, device: 'meta' });
    const [first] = [...model.transformer.h];
    for (const block of model.transformer.h) {
      fullyShard(block, { mesh, reshardAfterForward: block !== first, mixedPrecision: block === first ? {} : { paramDType: 'bfloat16' } });
    }
    materialize(fullyShard(model, { mesh, reshardAfterForward: true }));
    const zero = new ZeroRedundancyOptimizer(model.parameters(), (p) => new sg.optim.AdamW(p, { lr: 0.01 }), { mesh });
    const [losses, norms]: number[][] = [[], []];
    for (let step = 0; step < 3; step++) {
      const tokens = sg.tensor([Array.from({ length: 16 }, (_, i) => (5 * i + 3 * step + rank) % 37)], { dtype: 'int64', device });
      const loss = sg.amp.autocast('bfloat16', () => sg.checkpoint((t: sg.Tensor) => model.forward(t, t), tokens));
      loss.backward();
      const norm = zero.step({ maxNorm: 0.5 });
      zero.zeroGrad();
      losses!.push(await loss.item());
      norms!.push(await norm!.item());
    }
    const weights = await flatten(sg.noGrad(() => model.parameters().map((p) => fullTensor(p))));
    return { losses: losses!, norms: norms!, weights };
  });
}

describe.each(['staged', 'nccl'] as const)('%s groups', (backend) => {
  const why = missing(backend);
  test.skipIf(why !== '')(`three steps${why ? `, skipped: ${why}` : ''}`, () => compare(backend));
});

async function compare(backend: 'staged' | 'nccl'): Promise<void> {
  const options: SimulateOptions = { device: 'cuda', backend, timeoutMs: 60_000 };
  const size = backend === 'nccl' && ncclRanks < 4 ? 2 : 4;
  const [made, again, expected] = [await simulate(size, train, options), await simulate(size, train, options), await simulate(size, train)];
  expect(again).toEqual(made);
  for (const [r, { losses, norms, weights }] of made.entries()) {
    expect(weights).toEqual(made[0]!.weights);
    expectClose(losses, expected[r]!.losses, 0.02, 'losses');
    expectClose(norms, expected[r]!.norms, 0.05, 'norms');
    expectClose(weights, expected[r]!.weights, 0.05, 'weights');
  }
}
