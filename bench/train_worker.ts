// Our side of bench/train.ts, bench/ddp.ts and bench/sharding.ts: a setup line, then one answer for each round asked for. As a rank of several
// it trains on its rows of every batch, or on its part of the model.
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import * as dist from '../lib/distributed/index.js';
import * as sg from '../lib/index.js';
import { amp, io, nn, optim } from '../lib/index.js';
import type { Setup, Spread } from './sides.js';

const job = await dist.init();
let trainer: { step(): Promise<number> } | null = null;

async function prepare(setup: Setup): Promise<{ step(): Promise<number> }> {
  const model = new nn.GPT(setup.model);
  model.loadStateDict(await io.loadSafetensors(setup.weights));
  model.to(setup.dtype);
  const { data, trained, update } = await spread(model, setup.spread ?? 'ddp');
  const file = readFileSync(setup.tokens);
  const ids = new Int32Array(file.buffer, file.byteOffset, file.byteLength / 4);
  const [rows, width] = [setup.batch / data.size, setup.model.context + 1];
  let count = 0;
  const step = async (): Promise<number> => {
    const at = ((count++ % (ids.length / (setup.batch * width))) * setup.batch + data.rank * rows) * width;
    const loss = sg.scope(() => {
      const part = sg.fromTypedArray(ids.subarray(at, at + rows * width), [rows, width]);
      const loss = amp.autocast(setup.autocast ? 'bfloat16' : null, () => trained.forward(part.narrow(1, 0, width - 1), part.narrow(1, 1, width - 1)));
      loss.backward();
      update();
      return loss.detach();
    });
    const value = await loss.item();
    loss.dispose();
    return value;
  };
  return { step };
}

interface Trained {
  /** This rank's share of every batch. */
  readonly data: { readonly rank: number; readonly size: number };
  readonly trained: { forward(x: sg.Tensor, y: sg.Tensor): sg.Tensor };
  /** Clips, steps, and drops the gradients. */
  readonly update: () => void;
}

/** The model over the ranks. */
async function spread(model: nn.GPT, how: Spread): Promise<Trained> {
  const make = (parameters: Iterable<sg.Tensor>): optim.AdamW => new optim.AdamW(parameters, { lr: 1e-3, betas: [0.9, 0.95], weightDecay: 0.1 });
  const plain = (): (() => void) => {
    const optimizer = make(model.parameters());
    return () => {
      optim.clipGradNorm(model.parameters(), 1);
      optimizer.step();
      optimizer.zeroGrad();
    };
  };
  const { world } = job;
  if (world.size === 1) return { data: world, trained: model, update: plain() };
  if (how === 'tp' || how === 'tp+sp') {
    const mesh = await dist.initDeviceMesh({ tp: world.size }, { group: world });
    dist.parallelize(model, mesh, dist.gptPlan(model, { sequenceParallel: how === 'tp+sp' }));
    return { data: { rank: 0, size: 1 }, trained: model, update: plain() };
  }
  if (how === 'zero3') {
    const mesh = await dist.initDeviceMesh({ dpShard: world.size }, { group: world });
    for (const block of model.transformer.h) dist.fullyShard(block, { mesh });
    dist.fullyShard(model, { mesh });
    return { data: world, trained: model, update: plain() };
  }
  const trained = new dist.DistributedDataParallel(model, { group: world });
  if (how === 'ddp') return { data: world, trained, update: plain() };
  const mesh = await dist.initDeviceMesh({ dpReplicate: world.size }, { group: world });
  const zero = new dist.ZeroRedundancyOptimizer(model.parameters(), make, { mesh });
  const update = (): void => {
    zero.step({ maxNorm: 1 });
    zero.zeroGrad();
  };
  return { data: world, trained, update };
}

for await (const line of createInterface({ input: process.stdin })) {
  const message = JSON.parse(line) as Setup | { steps: number };
  if (!('steps' in message)) {
    trainer = await prepare(message);
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
