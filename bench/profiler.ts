// What recording a profile costs: blocks of training steps with and without, in turn; processor time of all threads, and the time in which JavaScript
// enqueues a step. Of each the fastest eighth's last, as other work on a machine only adds.
//
//   node dist/bench/profiler.js
import { synchronizeSync } from '../lib/device.js';
import * as sg from '../lib/index.js';
import { Capture } from '../lib/profiler/profiler.js';

const ROUNDS = 80;
const models = {
  'GPT 2 x 64, 4 x 64 tokens': { layers: 2, dim: 64, context: 64, batch: 4, steps: 10 },
  'GPT 4 x 128, 16 x 128 tokens': { layers: 4, dim: 128, context: 128, batch: 16, steps: 1 },
};

/** Microseconds a step. */
type Cost = readonly [host: number, processor: number];
const fast = (list: readonly number[]): number => [...list].sort((a, b) => a - b)[list.length >> 3]!;

for (const [name, { layers, dim, context, batch, steps }] of Object.entries(models)) {
  const model = new sg.nn.GPT({ vocabSize: 256, layers, heads: 4, dim, context });
  const optimizer = new sg.optim.AdamW(model.parameters(), { lr: 1e-3 });
  const tokens = sg.randint(0, 256, [batch, context]);
  const block = (): Cost => {
    synchronizeSync();
    const used = process.cpuUsage();
    let host = 0;
    for (let i = 0; i < steps; i++) {
      const start = performance.now();
      sg.scope(() => {
        model.forward(tokens, tokens).backward();
        optimizer.step();
        optimizer.zeroGrad();
      });
      host += 1000 * (performance.now() - start);
      synchronizeSync();
    }
    const { user, system } = process.cpuUsage(used);
    return [host / steps, (user + system) / steps];
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
    const [without, more] = [fast(pairs.map((p) => p[0][i])), fast(pairs.map((p) => p[1][i]))];
    return `${(without / 1000).toFixed(2)} ms, recorded ${(more / 1000).toFixed(2)} ms (${(100 * (more / without - 1)).toFixed(1)}%)`;
  };
  console.log(`${name}: ${ops} ops a step; JavaScript ${part(0)}; processor ${part(1)}`);
}
