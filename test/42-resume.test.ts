// A resumed training run equals the uninterrupted one, bit for bit.
import { join } from 'node:path';
import { beforeEach, describe, expect, test } from 'vitest';
import { type DType, data, io, manualSeed, nn, optim, rand, scope, type Tensor } from '../lib/index.js';
import { scratchFolder } from './helpers/files.js';

const dir = scratchFolder();
let root = '';
let roots = 0;
beforeEach(() => {
  root = join(dir, `run${roots++}`);
});

describe('a resumed run', () => {
  /** A small training run with every kind of state: dropout, momentum, schedule, shuffled loader, noise from the generator. */
  class Run {
    readonly model: nn.Module & { forward(x: Tensor): Tensor };
    readonly optimizer: optim.AdamW;
    readonly schedule: optim.CosineWithWarmup;
    readonly loader = new data.DataLoader(new data.TensorDataset({ x: { data: Float32Array.from({ length: 400 }, (_, i) => Math.sin(i)), shape: [100, 4] } }), {
      batchSize: 7,
      shuffle: true,
      seed: 5,
    });
    step = 0;
    readonly losses: number[] = [];

    constructor(private readonly dtype: DType) {
      this.model = new nn.Sequential(new nn.Linear(4, 16), new nn.GELU(), new nn.Dropout(0.2), new nn.Linear(16, 1)).to(dtype) as typeof this.model;
      this.optimizer = new optim.AdamW(this.model.parameters(), { lr: 1e-2 });
      this.schedule = new optim.CosineWithWarmup(this.optimizer, { warmup: 5, total: 60, minLr: 1e-4 });
    }

    async train(until: number): Promise<void> {
      while (this.step < until) {
        for await (const { x } of this.loader) {
          const loss = scope(() => {
            const target = x.sum([1], true).add(rand([x.shape[0]!, 1]).mul(0.1));
            const l = this.model.forward(x.to(this.dtype)).float().sub(target).square().mean();
            l.backward();
            this.optimizer.step();
            this.optimizer.zeroGrad();
            this.schedule.step();
            return l.detach();
          });
          this.losses.push(await loss.item());
          loss.dispose();
          if (++this.step === until) break;
        }
      }
    }
    get states(): Record<string, io.Stateful> {
      return { model: this.model, optimizer: this.optimizer, schedule: this.schedule, loader: this.loader };
    }
  }

  test.each<[number, DType]>([
    [1, 'float32'],
    [14, 'float32'],
    [15, 'float32'],
    [37, 'float32'],
    [20, 'bfloat16'],
  ])('equals the uninterrupted one bit for bit from step %i on, in %s', async (at, dtype) => {
    manualSeed(3);
    const whole = new Run(dtype);
    await whole.train(45);

    manualSeed(3);
    const first = new Run(dtype);
    await first.train(at);
    await io.saveCheckpoint(root, { ...first.states, step: first.step });

    manualSeed(999);
    const second = new Run(dtype);
    rand([17]);
    second.step = (await io.loadCheckpoint(root, second.states)).step;
    expect(second.step).toBe(at);
    await second.train(45);
    expect([...first.losses, ...second.losses]).toEqual(whole.losses);
    for (const [name, t] of Object.entries(whole.model.stateDict())) {
      expect(await (second.model.stateDict()[name] as Tensor).toTypedArray()).toEqual(await (t as Tensor).toTypedArray());
    }
  });
});
