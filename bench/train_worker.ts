// Our side of the training benches (sides.ts): an answer to the setup, then one for each round asked for. As a rank of several it trains on its
// rows of every batch, or on its part of the model.
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import * as dist from '../lib/distributed/index.js';
import * as sg from '../lib/index.js';
import { amp, io, nn, optim } from '../lib/index.js';
import type { Setup, Spreading, Stages } from './sides.js';

const job = await dist.init();
let trainer: { step(): Promise<number> } | null = null;

async function prepare(setup: Setup): Promise<{ step(): Promise<number> }> {
  const model = new nn.GPT(setup.model);
  model.loadStateDict(await io.loadSafetensors(setup.weights));
  model.to(setup.dtype);
  const how = setup.spread ?? 'ddp';
  const { data, run } = typeof how === 'string' ? await spread(model, how, setup.autocast) : await staged(model, how);
  const file = readFileSync(setup.tokens);
  const ids = new Int32Array(file.buffer, file.byteOffset, file.byteLength / 4);
  const [rows, width] = [setup.batch / data.size, setup.model.context + 1];
  let count = 0;
  const step = async (): Promise<number> => {
    const at = ((count++ % (ids.length / (setup.batch * width))) * setup.batch + data.rank * rows) * width;
    const part = sg.fromTypedArray(ids.subarray(at, at + rows * width), [rows, width]);
    const loss = await run(part.narrow(1, 0, width - 1), part.narrow(1, 1, width - 1));
    const value = await loss.item();
    for (const t of [loss, part]) t.dispose();
    return value;
  };
  return { step };
}

interface Trained {
  /** This rank's share of every batch. */
  readonly data: { readonly rank: number; readonly size: number };
  /** A step: loss, gradients, clipping, update. */
  readonly run: (x: sg.Tensor, y: sg.Tensor) => Promise<sg.Tensor>;
}

const make = (parameters: Iterable<sg.Tensor>): optim.AdamW => new optim.AdamW(parameters, { lr: 1e-3, betas: [0.9, 0.95], weightDecay: 0.1 });

/** Clips, steps, and drops the gradients. */
function updating(model: nn.Module): () => void {
  const optimizer = make(model.parameters());
  return () => {
    optim.clipGradNorm(model.parameters(), 1);
    optimizer.step();
    optimizer.zeroGrad();
  };
}

/** The model over the ranks. */
async function spread(model: nn.GPT, how: Exclude<Spreading, Stages>, autocast: boolean): Promise<Trained> {
  const training = (data: Trained['data'], trained: { forward(x: sg.Tensor, y: sg.Tensor): sg.Tensor }, update: () => void): Trained => ({
    data,
    run: async (x, y) =>
      sg.scope(() => {
        const loss = amp.autocast(autocast ? 'bfloat16' : null, () => trained.forward(x, y));
        loss.backward();
        update();
        return loss.detach();
      }),
  });
  const { world } = job;
  if (world.size === 1) return training(world, model, updating(model));
  if (how === 'tp' || how === 'tp+sp') {
    const mesh = await dist.initDeviceMesh({ tp: world.size }, { group: world });
    dist.parallelize(model, mesh, dist.gptPlan(model, { sequenceParallel: how === 'tp+sp' }));
    return training({ rank: 0, size: 1 }, model, updating(model));
  }
  if (how === 'zero3') {
    const mesh = await dist.initDeviceMesh({ dpShard: world.size }, { group: world });
    for (const block of model.transformer.h) dist.fullyShard(block, { mesh });
    dist.fullyShard(model, { mesh });
    return training(world, model, updating(model));
  }
  const trained = new dist.DistributedDataParallel(model, { group: world });
  if (how === 'ddp') return training(world, trained, updating(model));
  const mesh = await dist.initDeviceMesh({ dpReplicate: world.size }, { group: world });
  const zero = new dist.ZeroRedundancyOptimizer(model.parameters(), make, { mesh });
  return training(world, trained, () => {
    zero.step({ maxNorm: 1 });
    zero.zeroGrad();
  });
}

/** A stage of it on each rank, or all of it through the same micro-batches. */
async function staged(model: nn.GPT, { schedule, microBatches }: Stages): Promise<Trained> {
  const { world } = job;
  const data = { rank: 0, size: 1 };
  if (world.size === 1) {
    const update = updating(model);
    const run: Trained['run'] = async (x, y) =>
      sg.scope(() => {
        const rows = x.shape[0]! / microBatches;
        const losses = Array.from({ length: microBatches }, (_, i) => {
          const loss = model.forward(x.narrow(0, i * rows, rows), y.narrow(0, i * rows, rows)).div(microBatches);
          loss.backward();
          return loss.detach();
        });
        update();
        return losses.reduce((a, b) => a.add(b));
      });
    return { data, run };
  }
  const mesh = await dist.initDeviceMesh({ pp: world.size }, { group: world });
  const pipeline = new dist.Pipeline(model, { mesh, schedule, microBatches });
  const update = updating(pipeline);
  return {
    data,
    run: async (x, y) => {
      const { loss } = await pipeline.step(x, y);
      update();
      return loss;
    },
  };
}

for await (const line of createInterface({ input: process.stdin })) {
  const message = JSON.parse(line) as Setup | { steps: number };
  if (!('steps' in message)) {
    trainer = await prepare(message);
    console.log('{}');
    continue;
  }
  const ms: number[] = [];
  const losses: number[] = [];
  const [begin, waited] = [performance.now(), dist.waitedForCollectives()];
  for (let i = 0; i < message.steps; i++) {
    const start = performance.now();
    losses.push(await trainer!.step());
    ms.push(performance.now() - start);
  }
  const share = (1000 * (dist.waitedForCollectives() - waited)) / (performance.now() - begin);
  console.log(JSON.stringify({ ms, losses, peakMiB: process.resourceUsage().maxRSS / 1024, waited: share }));
}
await job.close();
