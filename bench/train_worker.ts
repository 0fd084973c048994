// Our side of bench/train.ts: a setup line, then one answer for each round asked for.
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import * as sg from '../lib/index.js';
import { io, nn, optim } from '../lib/index.js';

interface Setup {
  model: nn.GPTOptions;
  batch: number;
  weights: string;
  tokens: string;
  dtype: sg.DType;
  threads: number;
}

let trainer: { step(): Promise<number> } | null = null;

async function prepare(setup: Setup): Promise<{ step(): Promise<number> }> {
  sg.setNumThreads(setup.threads);
  const model = new nn.GPT(setup.model);
  model.loadStateDict(await io.loadSafetensors(setup.weights));
  model.to(setup.dtype);
  const file = readFileSync(setup.tokens);
  const ids = new Int32Array(file.buffer, file.byteOffset, file.byteLength / 4);
  const [rows, width] = [setup.batch, setup.model.context + 1];
  const optimizer = new optim.AdamW(model.parameters(), { lr: 1e-3, betas: [0.9, 0.95], weightDecay: 0.1 });
  let count = 0;
  const step = async (): Promise<number> => {
    const at = (count++ % (ids.length / (rows * width))) * rows * width;
    const loss = sg.scope(() => {
      const part = sg.fromTypedArray(ids.subarray(at, at + rows * width), [rows, width]);
      const loss = model.forward(part.narrow(1, 0, width - 1), part.narrow(1, 1, width - 1));
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
  for (let i = 0; i < message.steps; i++) {
    const start = performance.now();
    losses.push(await trainer!.step());
    ms.push(performance.now() - start);
  }
  console.log(JSON.stringify({ ms, losses, peakMiB: process.resourceUsage().maxRSS / 1024 }));
}
