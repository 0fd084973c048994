// The bubble of a pipeline whose stages cost time, and nothing but time, is the one that the simulator says: a rank is never late for another
// reason than the plan.
import { expect, test } from 'vitest';
import { makeSchedule, type ScheduleName } from '../lib/distributed/pipeline/make_schedule.js';
import { Pipeline } from '../lib/distributed/pipeline/pipeline.js';
import { simulateSchedule } from '../lib/distributed/pipeline/simulate_schedule.js';
import { COMPUTE } from '../lib/distributed/work.js';
import * as sg from '../lib/index.js';
import { native } from '../lib/native.js';
import { Pauses } from './helpers/pauses.js';
import { onMesh, seeded } from './helpers/pipelines.js';

const { nn } = sg;
/** Of a forward, of the gradient of the input, and of the gradients of the weights: long beside what another test on the machine delays a timer. */
const MILLISECONDS = 80;
const WIDE = 4;
const ATTEMPTS = 6;

/** Begins and ends of what a rank does, on its compute stream. */
class Times {
  readonly marks: sg.Tensor;
  private used = 0;
  constructor(
    device: string,
    private readonly pauses: Pauses,
  ) {
    this.marks = sg.zeros([512], { dtype: 'float64', device }).keep();
  }
  mark(): void {
    native.markTime(this.marks.storage.handle, 8 * this.used++, COMPUTE);
  }
  spend(milliseconds: number): void {
    this.mark();
    this.pauses.pause(milliseconds);
    this.mark();
  }
  /** Pairs of seconds. */
  async read(): Promise<[number, number][]> {
    const all = (await this.marks.toTypedArray()) as Float64Array;
    return Array.from({ length: this.used / 2 }, (_, i) => [all[2 * i]!, all[2 * i + 1]!]);
  }
}

const spending = sg.defineFunction({
  forward: (ctx, x: sg.Tensor, times: Times) => {
    ctx['times'] = times;
    times.spend(MILLISECONDS);
    return x.clone();
  },
  backward: (ctx, g) => {
    (ctx['times'] as Times).spend(MILLISECONDS);
    return [g, null];
  },
});

class Stage extends nn.Module {
  layer = new nn.Linear(WIDE, WIDE);
  times: Times | null = null;
  override forward(x: sg.Tensor): sg.Tensor {
    const y = this.layer.forward(x);
    return this.training && this.times ? spending(y, this.times) : y;
  }
}

async function measure(schedule: ScheduleName, ranks: number, microBatches: number, stagesPerRank: number): Promise<number> {
  const found = await onMesh({ pp: ranks }, async (mesh, device) => {
    const stages = seeded(() => Array.from({ length: ranks * stagesPerRank }, () => new Stage()));
    const model = new nn.Sequential(...stages).to(device);
    const pipeline = new Pipeline(model, { mesh, schedule, microBatches, stagesPerRank, loss: (y) => y.square().mean() });
    const x = sg.ones([2 * microBatches, WIDE], { device });
    await (await pipeline.step(x)).loss.item();
    const pauses = new Pauses(mesh.device, mesh.rank('pp'));
    const times = new Times(device, pauses);
    for (const stage of stages) {
      stage.times = times;
      // with B the gradient of a weight follows that of the input, with I and W it comes later
      if (!stage.layer.weight.isMeta) stage.layer.weight.registerPostAccumulateGradHook(() => times.spend(MILLISECONDS));
    }
    // nobody begins before all have put everything on their streams, which one thread does for all ranks
    pauses.pause(150);
    await mesh.world.barrier();
    pauses.pause(150);
    const { loss } = await pipeline.step(x);
    await loss.item();
    await pauses.close();
    return times.read();
  });
  const all = found.flat();
  const span = Math.max(...all.map(([, end]) => end)) - Math.min(...all.map(([begin]) => begin));
  return 1 - all.reduce((sum, [begin, end]) => sum + end - begin, 0) / (ranks * span);
}

test.each<[ScheduleName, number, number, number]>([
  ['gpipe', 2, 4, 1],
  ['1f1b', 2, 4, 1],
  ['interleaved', 2, 4, 2],
  ['zb-h1', 2, 4, 1],
  ['gpipe', 4, 8, 1],
  ['1f1b', 4, 8, 1],
  ['interleaved', 4, 8, 2],
  ['zb-h1', 4, 8, 1],
  ['zbv', 4, 8, 2],
])('%s on %i ranks, %i micro-batches, %i stages a rank', async (schedule, ranks, microBatches, stagesPerRank) => {
  const { bubble } = simulateSchedule(makeSchedule(schedule, { ranks, microBatches, stagesPerRank }));
  const measured: number[] = [];
  // what else the machine does can only add
  while (measured.length < ATTEMPTS && !(Math.abs(measured.at(-1)! - bubble) <= 0.02))
    measured.push(await measure(schedule, ranks, microBatches, stagesPerRank));
  console.log(`${schedule} on ${ranks} ranks: measured ${measured.map((b) => b.toFixed(3))}, simulated ${bubble.toFixed(3)}`);
  expect(Math.abs(measured.at(-1)! - bubble)).toBeLessThanOrEqual(0.02);
});
