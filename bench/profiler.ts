// What recording a profile costs: blocks of training steps with and without, in turn; wall time and processor time of all threads.
//
//   node dist/bench/profiler.js
import { synchronizeSync } from '../lib/device.js';
import * as sg from '../lib/index.js';
import { Capture } from '../lib/profiler/profiler.js';

const ROUNDS = 31;
const models = {
  'GPT 2 x 64, 4 x 64 tokens': { layers: 2, dim: 64, context: 64, batch: 4, steps: 40 },
  'GPT 4 x 128, 16 x 128 tokens': { layers: 4, dim: 128, context: 128, batch: 16, steps: 4 },
};

type Cost = readonly [wall: number, processor: number];
const median = (list: readonly number[]): number => [...list].sort((a, b) => a - b)[list.length >> 1]!;

for (const [name, { layers, dim, context, batch, steps }] of Object.entries(models)) {
  const model = new sg.nn.GPT({ vocabSize: 256, layers, heads: 4, dim, context });
  const optimizer = new sg.optim.AdamW(model.parameters(), { lr: 1e-3 });
  const tokens = sg.randint(0, 256, [batch, context]);
  const block = (): Cost => {
    synchronizeSync();
    const [start, used] = [performance.now(), process.cpuUsage()];
    for (let i = 0; i < steps; i++) {
      sg.scope(() => {
        model.forward(tokens, tokens).backward();
        optimizer.step();
        optimizer.zeroGrad();
      });
      synchronizeSync();
    }
    const { user, system } = process.cpuUsage(used);
    return [(1000 * (performance.now() - start)) / steps, (user + system) / steps];
  };
  const recorded = (): Cost => {
    const capture = new Capture(0);
    const cost = block();
    const profile = capture.finish();
    ops = profile.ops.length / steps;
    return cost;
  };
  let ops = 0;
  for (let i = 0; i < 5; i++) {
    block();
    recorded();
  }
  const pairs: (readonly [without: Cost, recorded: Cost])[] = [];
  for (let i = 0; i < ROUNDS; i++) {
    // either may come first
    if (i % 2 === 0) pairs.push([block(), recorded()]);
    else {
      const second = recorded();
      pairs.push([block(), second]);
    }
  }
  const part = (i: 0 | 1): string => {
    const more = median(pairs.map(([without, with_]) => with_[i] / without[i] - 1));
    return `${(median(pairs.map(([without]) => without[i])) / 1000).toFixed(2)} ms, recorded ${more < 0 ? '' : '+'}${(100 * more).toFixed(1)}%`;
  };
  console.log(`${name}: ${ops} ops a step; wall ${part(0)}; processor ${part(1)}`);
}
