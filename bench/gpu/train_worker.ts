// Our side of bench/gpu/train.ts: bfloat16 parameters with float32 masters. Between rounds it keeps nothing but the weights, so that four
// sides fit one GPU; a captured graph is therefore captured anew in every round, within its warm-up.
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import * as sg from '../../lib/index.js';
import { graph, io, nn, optim, type Tensor } from '../../lib/index.js';
import { median } from '../rows.js';
import type { Round, RoundAnswer, Setup } from './train_sides.js';

class Trainer {
  private count = 0;
  private constructor(
    private readonly setup: Setup,
    private readonly model: nn.GPT,
    private readonly optimizer: optim.AdamW,
    private readonly ids: Int32Array,
  ) {}

  static async make(setup: Setup): Promise<Trainer> {
    const model = new nn.GPT(setup.model);
    model.loadStateDict(await io.loadSafetensors(setup.weights));
    model.to('bfloat16').to(setup.device);
    const optimizer = new optim.AdamW(model.parameters(), { lr: 1e-4, betas: [0.9, 0.95], weightDecay: 0.1 });
    const file = readFileSync(setup.tokens);
    return new Trainer(setup, model, optimizer, new Int32Array(file.buffer, file.byteOffset, file.byteLength / 4));
  }

  /** The next batch, on the host: rows of context + 1 tokens. */
  private batch(rows: number): Tensor {
    const size = rows * (this.setup.model.context + 1);
    const at = (this.count++ * size) % (this.ids.length - size + 1);
    return sg.fromTypedArray(this.ids.subarray(at, at + size), [rows, this.setup.model.context + 1]);
  }

  private train(part: Tensor): Tensor {
    const { context } = this.setup.model;
    const loss = this.model.forward(part.narrow(1, 0, context), part.narrow(1, 1, context));
    loss.backward();
    optim.clipGradNorm(this.model.parameters(), 1);
    this.optimizer.step();
    this.optimizer.zeroGrad();
    return loss.detach();
  }

  async round({ batch, warmup, steps, hostSteps }: Round): Promise<RoundAnswer> {
    const { device, mode } = this.setup;
    sg.resetPeakMemory(device);
    let captured: graph.CapturedGraph<Tensor> | null = null;
    const last = sg.zeros([], { device });
    const step = (): void => {
      sg.scope(() => {
        const part = this.batch(batch);
        if (captured) captured.replay([part]);
        else if (mode === 'eager') last.copy_(this.train(part.to(device)));
        else {
          const input = part.to(device).keep();
          captured = graph.capture((x) => last.copy_(this.train(x)), [input], { warmup: 1 }); // the first step, for real
        }
      });
    };
    for (let i = 0; i < warmup; i++) step();
    await sg.synchronize(device);
    const start = performance.now();
    for (let i = 0; i < steps; i++) step();
    await sg.synchronize(device);
    const ms = (performance.now() - start) / steps;
    const host: number[] = [];
    for (let i = 0; i < hostSteps; i++) {
      const begun = performance.now();
      step();
      host.push(performance.now() - begun);
      await sg.synchronize(device);
    }
    const answer = { ms, hostMs: median(host), peakMiB: sg.memory(device).peak / 2 ** 20, loss: await last.item() };
    const made = captured as graph.CapturedGraph<Tensor> | null;
    made?.dispose();
    for (const input of made?.inputs ?? []) input.dispose();
    last.dispose();
    sg.collectGarbage();
    sg.emptyCache(device);
    return answer;
  }
}

let trainer: Trainer | null = null;
for await (const line of createInterface({ input: process.stdin })) {
  try {
    const message = JSON.parse(line) as Setup | Round;
    if ('model' in message) {
      trainer = await Trainer.make(message);
      console.log(JSON.stringify({ name: `shardgrad ${message.mode}` }));
    } else console.log(JSON.stringify(await trainer!.round(message)));
  } catch (error) {
    console.log(JSON.stringify({ error: (error as Error).message }));
  }
}
