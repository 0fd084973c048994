// Pipelines on ranks with GPUs, whose messages run on streams of their own: what is sent, received and freed from one stream to the other has to
// be what one process of the CPU has.
import { describe, expect, test, vi } from 'vitest';

// read when the device is first asked for
vi.hoisted(() => {
  process.env['SHARDGRAD_EMULATED_GPUS'] ??= '4';
  process.env['SHARDGRAD_SHARE_GPUS'] ??= '1';
});

import type { MeshSizes } from '../lib/distributed/device_mesh.js';
import { fullyShard } from '../lib/distributed/fully_shard.js';
import { materialize } from '../lib/distributed/materialize.js';
import type { ScheduleName } from '../lib/distributed/pipeline/make_schedule.js';
import { Pipeline } from '../lib/distributed/pipeline/pipeline.js';
import * as sg from '../lib/index.js';
import { ncclRanks } from './helpers/nccl.js';
import { alone, cutsOf, expectSame, makeGPT, onMesh, tokens, train } from './helpers/pipelines.js';

const { gpus, problem } = sg.cuda.report();
const missing = (backend: string, ranks: number): string =>
  gpus.length === 0 ? problem : backend === 'nccl' && ncclRanks < ranks ? `NCCL cannot have ${ranks} ranks here` : '';
const settings: [ScheduleName, number, number, MeshSizes][] = [
  ['1f1b', 4, 1, { pp: 4 }],
  ['gpipe', 2, 1, { pp: 2 }],
  ['interleaved', 2, 2, { pp: 2 }],
  ['zb-h1', 3, 1, { pp: 3 }],
  ['zbv', 2, 2, { pp: 2 }],
];

describe.each(['staged', 'nccl'] as const)('%s groups', (backend) => {
  describe.each(settings)('%s on %i ranks', (schedule, ranks, stagesPerRank, sizes) => {
    const why = missing(backend, ranks);
    test.skipIf(why !== '')(`three steps${why ? `, skipped: ${why}` : ''}`, async () => {
      const setting = { layers: 4, rows: 9, steps: 3, options: { schedule, stagesPerRank, microBatches: 4 } };
      const run = (): ReturnType<typeof onMesh<Awaited<ReturnType<typeof train>>>> =>
        onMesh(sizes, (mesh, device) => train(device, mesh, setting), { device: 'cuda', backend, timeoutMs: 60_000 });
      const found = await run();
      expectSame(found, await alone(4, cutsOf(9, 4), 3));
      // nothing depends on how streams happen to run
      expect(await run()).toEqual(found);
    });
  });

  const why = missing(backend, 4);
  test.skipIf(why !== '')(`sharded stages, autocast, and nothing left over${why ? `, skipped: ${why}` : ''}`, async () => {
    await onMesh(
      { pp: 2, dpShard: 2 },
      async (mesh, device) => {
        const model = makeGPT('meta', 4);
        const pipeline = new Pipeline(model, { mesh, microBatches: 4 });
        for (const block of model.transformer.h) if (pipeline.children().includes(block)) fullyShard(block, { mesh, gradientReduction: 'sum' });
        materialize(pipeline);
        const optimizer = new sg.optim.AdamW(pipeline.parameters(), { lr: 0.02 });
        const [losses, counts]: number[][] = [[], []];
        for (let step = 0; step < 4; step++) {
          await sg.scope(async () => {
            const { inputs, targets } = tokens(device, 0, 8 * mesh.rank('dpShard'), 8 * (mesh.rank('dpShard') + 1));
            const { loss } = await sg.amp.autocast('bfloat16', () => pipeline.step(inputs, targets));
            losses!.push(await loss.item());
            optimizer.step();
            optimizer.zeroGrad();
          });
          counts!.push(sg.memory(device).count);
        }
        expect(losses!.at(-1)).toBeLessThan(losses![0]!);
        expect(counts!.slice(2)).toEqual([counts![1], counts![1]]);
      },
      { device: 'cuda', backend, timeoutMs: 60_000 },
    );
  });
});
