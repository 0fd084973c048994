// Our side of bench/train.ts and bench/ddp.ts: a setup line, then one answer for each round asked for. As a rank of several it trains on
// its rows of every batch.
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import * as dist from '../lib/distributed/index.js';
import * as sg from '../lib/index.js';
import { amp, io, nn, optim } from '../lib/index.js';
import type { Setup } from './sides.js';

const job = await dist.init();
let trainer: { step(): Promise<number> } | null = null;

async function prepare(setup: Setup): Promise<{ step(): Promise<number> }> {
  const model = new nn.GPT(setup.model);
  model.loadStateDict(await io.loadSafetensors(setup.weights));
  model.to(setup.dtype);
  const trained = job.worldSize > 1 ? new dist.DistributedDataParallel(model, { group: job.world }) : model;
  const file = readFileSync(setup.tokens);
  const ids = new Int32Array(file.buffer, file.byteOffset, file.byteLength / 4);
  const [rows, width] = [setup.batch / job.worldSize, setup.model.context + 1];
  const optimizer = new optim.AdamW(model.parameters(), { lr: 1e-3, betas: [0.9, 0.95], weightDecay: 0.1 });
  let count = 0;
  const step = async (): Promise<number> => {
    const at = ((count++ % (ids.length / (setup.batch * width))) * setup.batch + job.rank * rows) * width;
    const loss = sg.scope(() => {
      const part = sg.fromTypedArray(ids.subarray(at, at + rows * width), [rows, width]);
      const loss = amp.autocast(setup.autocast ? 'bfloat16' : null, () => trained.forward(part.narrow(1, 0, width - 1), part.narrow(1, 1, width - 1)));
      loss.backward();
      optim.clipGradNorm(model.parameters(), 1);
      optimizer.step();
      optimizer.zeroGrad();
      return loss.detach();
    });
    const value = await loss.item();
    loss.dispose();
    return value;
  };
  return { step };
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
