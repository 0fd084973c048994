// What a pipeline holds: a rank its own stages alone, of activations as many as the plan says, and nothing when a step is over.
import { describe, expect, test } from 'vitest';
import { materialize } from '../lib/distributed/materialize.js';
import { makeSchedule, type ScheduleName } from '../lib/distributed/pipeline/make_schedule.js';
import { Pipeline } from '../lib/distributed/pipeline/pipeline.js';
import { simulateSchedule } from '../lib/distributed/pipeline/simulate_schedule.js';
import * as sg from '../lib/index.js';
import { makeGPT, onMesh, tokens } from './helpers/pipelines.js';

const { nn } = sg;
const bytesOf = (tensors: readonly sg.Tensor[]): number => tensors.reduce((n, t) => n + t.nbytes, 0);

describe('parameters', () => {
  const options = { vocabSize: 512, layers: 6, heads: 2, dim: 32, context: 8 };

  test('of other stages are given back', async () => {
    await onMesh({ pp: 3 }, (mesh, device) => {
      const before = sg.memory(device).live;
      const model = new nn.GPT({ ...options, device });
      const all = bytesOf(model.parameters());
      const others = sg.memory(device).live - before - all; // of constructors
      const pipeline = new Pipeline(model, { mesh, microBatches: 3 });
      const own = bytesOf([...pipeline.parameters(), ...pipeline.buffers()]);
      expect(sg.memory(device).live - before - others).toBe(own);
      expect(own).toBeLessThan(0.6 * all);
      expect(model.parameters().filter((p) => p.isMeta)).toHaveLength(model.parameters().length - pipeline.parameters().length);
    });
  });

  test('of other stages are never made of a model on meta', async () => {
    await onMesh({ pp: 3 }, (mesh, device) => {
      const before = sg.memory(device).live;
      sg.resetPeakMemory(device);
      const pipeline = new Pipeline(new nn.GPT({ ...options, device: 'meta' }), { mesh, microBatches: 3, split: 'parameters' });
      expect(sg.memory(device).peak).toBe(before);
      materialize(pipeline);
      const own = bytesOf([...pipeline.parameters(), ...pipeline.buffers()]);
      expect(sg.memory(device).live - before).toBe(own);
      expect(sg.memory(device).peak - before).toBe(own);
    });
  });
});

test.each<ScheduleName>(['gpipe', '1f1b', 'interleaved', 'zb-h1', 'zbv'])('%s leaves nothing over', async (schedule) => {
  await onMesh({ pp: 2, dpReplicate: 2 }, async (mesh, device) => {
    const pipeline = materialize(new Pipeline(makeGPT('meta', 4), { mesh, microBatches: 4, schedule, metrics: { mean: (y) => y.mean() } }));
    const optimizer = new sg.optim.AdamW(pipeline.parameters(), { lr: 0.01 });
    const counts: number[][] = [];
    for (let step = 0; step < 5; step++) {
      await sg.scope(async () => {
        const { inputs, targets } = tokens(device, step, 0, 8);
        await pipeline.step(inputs, targets);
        if (step === 3) await pipeline.step(inputs, targets); // gradients that there are
        await pipeline.evaluate(inputs, targets);
        optimizer.step();
      });
      const { count, live } = sg.memory(device);
      optimizer.zeroGrad();
      counts.push([count, live, sg.memory(device).count]);
    }
    for (const each of counts.slice(2)) expect(each).toEqual(counts[1]);
  });
});

describe('activations', () => {
  const [ROWS, WIDE] = [64, 32];
  /** A tensor between stages. */
  const unit = ROWS * WIDE * 4;

  /** The high-water mark of each rank in a step, above what it has between steps with gradients. */
  function peaks(schedule: ScheduleName, ranks: number, microBatches: number): Promise<number[]> {
    return onMesh({ pp: ranks }, async (mesh, device) => {
      const stage = (): sg.nn.Module[] => [new nn.Tanh(), new nn.Linear(WIDE, WIDE, { device: 'meta' })];
      const model = new nn.Sequential(...Array.from({ length: ranks }, stage).flat());
      const pipeline = materialize(new Pipeline(model, { mesh, schedule, microBatches, split: Array(ranks).fill(2), loss: (y) => y.square().mean() }));
      const x = sg.ones([ROWS * microBatches, WIDE], { device });
      await (await pipeline.step(x)).loss.item();
      const before = sg.memory(device).live;
      sg.resetPeakMemory(device);
      await (await pipeline.step(x)).loss.item();
      return sg.memory(device).peak - before;
    });
  }

  test.each<ScheduleName>(['gpipe', '1f1b', 'zb-h1'])('%s keeps as many as its plan says', async (schedule) => {
    const ranks = 4;
    // of a micro-batch: what came, which the rank keeps until the backward, and what the Linear needs; later this and the gradient of its output; on the last one the output and the loss too
    const bytes = { activations: Array.from({ length: ranks }, (_, stage) => ({ 0: unit, 3: 3 * unit + 4 })[stage] ?? 2 * unit), deferred: 2 * unit };
    const rest: number[][] = [];
    for (const microBatches of [8, 12, 16]) {
      const plan = simulateSchedule(makeSchedule(schedule, { ranks, microBatches }), { bytes });
      const found = await peaks(schedule, ranks, microBatches);
      rest.push(found.map((peak, rank) => (peak - plan.ranks[rank]!.peakBytes!) / unit));
    }
    // what an action needs while it runs, and what is on its way
    for (const each of rest) for (const tensors of each) expect(tensors).toBeLessThan(5);
    for (const each of rest) expect(each).toEqual(rest[0]);
  });
});
