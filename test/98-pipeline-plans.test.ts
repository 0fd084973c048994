// Plans from files, and what is wrong with a pipeline: said before anything is computed, on every rank.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { initDeviceMesh } from '../lib/distributed/device_mesh.js';
import { lowerSchedule } from '../lib/distributed/pipeline/lower.js';
import { makeSchedule } from '../lib/distributed/pipeline/make_schedule.js';
import { Pipeline, type PipelineOptions } from '../lib/distributed/pipeline/pipeline.js';
import { parseSchedule, readSchedule, writeSchedule } from '../lib/distributed/pipeline/schedule.js';
import { simulate } from '../lib/distributed/simulate.js';
import * as sg from '../lib/index.js';
import { expectClose } from './helpers/metric.js';
import { alone, cutsOf, expectSame, onMesh, read, train } from './helpers/pipelines.js';

const { nn } = sg;
const folder = await mkdtemp(join(tmpdir(), 'shardgrad-plans-'));
afterAll(() => rm(folder, { recursive: true, force: true }));

describe("a plan of one's own", () => {
  const run = async (schedule: PipelineOptions['schedule'], ranks: number, microBatches: number): Promise<void> => {
    const setting = { layers: 4, rows: 7, steps: 2, options: { schedule } };
    expectSame(await onMesh({ pp: ranks }, (mesh, device) => train(device, mesh, setting)), await alone(4, cutsOf(7, microBatches), 2));
  };

  test.each([['gaps', true] as const, ['no gaps', false] as const])('with its SENDs and RECVs, from a file with %s', async (_, gaps) => {
    const path = join(folder, `interleaved-${gaps}.csv`);
    await writeSchedule(path, lowerSchedule(makeSchedule('interleaved', { ranks: 2, microBatches: 4 })), { gaps });
    // without gaps, messages that were parted become one step; a plan for which that is wrong is refused when it is read
    const schedule = await readSchedule(path);
    expect(schedule.communicates).toBe(true);
    await run(schedule, 2, 4);
  });

  test('made by hand: two stages one after the other on a rank, backwards in another order than forwards, split and whole', async () => {
    const text = `
0F0,0F1,3F0,3F1,3I1,3B0,3W1,0I1,0B0,0W1
1F0,2F0,1F1,2F1,2B1,2I0,1B1,1B0,2W0`.trim();
    await run(parseSchedule(text, 'by hand'), 2, 2);
  });

  test('whose gradients of weights need what the stage behind has sent', async () => {
    const steps = async (ranks: number, schedule: 'zb-h1' | '1f1b'): Promise<number[]> => {
      const found = await onMesh({ pp: ranks }, async (mesh, device) => {
        const model = linears(device, 3, 3, 3, 3, 3);
        const pipeline = new Pipeline(model, { mesh, schedule, loss, microBatches: 4 });
        await pipeline.step(sg.linspace(-1, 1, 24, { device }).reshape([8, 3]));
        return { names: [...pipeline.namedParameters()], mesh };
      });
      const all: number[] = [];
      for (const [name, p] of found.flatMap(({ names }) => names).sort(([a], [b]) => (a < b ? -1 : 1))) all.push(name.length, ...(await read(p.grad!)));
      return all;
    };
    const one = await steps(1, '1f1b');
    expectClose(await steps(3, 'zb-h1'), one, 1e-6, 'gradients');
    expectClose(await steps(4, 'zb-h1'), one, 1e-6, 'gradients');
  });

  test('made by hand, with messages of single tensors and their own order', async () => {
    const text = `
0F0,0SEND_F0,0F1,0SEND_F1,,0RECV_B0,0B0,0RECV_B1,0B1
1RECV_F0,1F0,1B0,1SEND_B0,,1RECV_F1,1F1,1B1,1SEND_B1`.trim();
    // rank 0 sends 1 before it takes the gradient of 0, rank 1 the other way round: each waits for the other, unless both go at once
    await expect(run(parseSchedule(text, 'by hand'), 2, 2)).rejects.toThrow(
      'schedule by hand would never end: rank 0 waits in 0SEND_F1 for rank 1, which waits in 1SEND_B0 for rank 0',
    );
    await run(parseSchedule(text.replace('0SEND_F1,,0RECV_B0', '0SEND_F1,0RECV_B0').replace('1SEND_B0,,1RECV_F1', '1SEND_B0,1RECV_F1'), 'by hand'), 2, 2);
    await run(parseSchedule(text.replace('1B0,1SEND_B0,,1RECV_F1,1F1', '1RECV_F1,1B0,1SEND_B0,1F1'), 'by hand'), 2, 2);
  });
});

/** Each rank's error. */
async function errors(ranks: number, fn: (device: string, mesh: Awaited<ReturnType<typeof initDeviceMesh>>) => unknown): Promise<Error[]> {
  const found = await simulate(ranks, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ pp: ranks }, { group: world });
    try {
      await fn(String(device), mesh);
      return null;
    } catch (error) {
      return error as Error;
    }
  }).catch((error) => [error]);
  return found.map((error) => error ?? new Error('none'));
}

const linears = (device: string, ...sizes: number[]): sg.nn.Sequential =>
  new nn.Sequential(...sizes.slice(1).map((size, i) => new nn.Linear(sizes[i]!, size, { device })));
const loss = (y: sg.Tensor): sg.Tensor => y.square().mean();

describe('is said on all ranks before anything is computed', () => {
  test.each<[string, number, (device: string) => sg.nn.Module, Partial<PipelineOptions>, RegExp]>([
    [
      'fewer micro-batches than stages',
      3,
      (d) => linears(d, 2, 2, 2, 2),
      { microBatches: 2 },
      /^schedule 1f1b: 2 micro-batches are fewer than the 3 stages, which would never all have work at a time; cut the batch into 3 or more micro-batches, or make fewer stages$/,
    ],
    ['no number of micro-batches', 2, (d) => linears(d, 2, 2, 2), {}, /^Pipeline: give microBatches, the number that each batch is cut into$/],
    [
      'a stage without parameters',
      2,
      (d) => new nn.Sequential(new nn.Linear(2, 2, { device: d }), new nn.ReLU()),
      { microBatches: 2 },
      /^Pipeline: stage 1 \(layers 1 to 1 of 2\) has no parameter; join it with another by split$/,
    ],
    [
      'more stages than layers',
      3,
      (d) => linears(d, 2, 2, 2),
      { microBatches: 3 },
      /^Pipeline: 2 layers cannot make 3 stages; take fewer ranks or stages a rank$/,
    ],
    [
      'a split that does not fit',
      2,
      (d) => linears(d, 2, 2, 2),
      { microBatches: 2, split: [1, 2] },
      /^Pipeline: split: \[1,2\] is not a number of layers from 1 for each of 2 stages, 2 in all$/,
    ],
    [
      'a model that cannot be cut',
      2,
      (d) => new nn.Linear(2, 2, { device: d }),
      { microBatches: 2 },
      /^Pipeline: a Linear does not say where it can be cut: give it pipelineLayers\(\), which returns its layers, or use nn.Sequential$/,
    ],
    [
      'a plan for other ranks',
      2,
      (d) => linears(d, 2, 2, 2),
      { schedule: makeSchedule('1f1b', { ranks: 3, microBatches: 3 }) },
      /^Pipeline: schedule 1f1b is for 3 ranks, the mesh has 2 along pp$/,
    ],
    [
      'a plan with other micro-batches',
      2,
      (d) => linears(d, 2, 2, 2),
      { schedule: makeSchedule('1f1b', { ranks: 2, microBatches: 3 }), microBatches: 4 },
      /^Pipeline: schedule 1f1b has 3 micro-batches, microBatches is 4$/,
    ],
    ['a plan without a forward', 2, (d) => linears(d, 2, 2, 2), { schedule: parseSchedule('0F0,0B0\n1B0,1F1', 'ring') }, /^schedule ring: rank 0 has no 0F1$/],
    [
      'parameters on another device',
      2,
      () => linears('cpu:7', 2, 2, 2),
      { microBatches: 2 },
      /^Pipeline: a parameter is on cpu:7, the mesh on cpu:\d; move the model with to\(\), or make it on meta$/,
    ],
  ])('%s', async (_, ranks, make, options, text) => {
    const found = await errors(ranks, (device, mesh) => new Pipeline(make(device), { mesh, loss, ...options }));
    expect(found).toHaveLength(ranks);
    for (const { message } of found) expect(message).toMatch(text);
  });

  test('a cycle in a file', async () => {
    const path = join(folder, 'cycle.csv');
    await writeSchedule(path, parseSchedule('0F0,2F0,2B0,0B0\n1B0,1F0', 'x'));
    const found = await errors(2, async (device, mesh) => new Pipeline(linears(device, 2, 2, 2, 2), { mesh, loss, schedule: await readSchedule(path) }));
    for (const { message } of found) expect(message).toBe('schedule cycle.csv: rank 1 has 1B0 before 1F0, which it needs');
    const ring = join(folder, 'ring.csv');
    await writeSchedule(ring, parseSchedule('2F0,0F0,2B0,0B0\n1F0,1B0', 'x'));
    const waiting = await errors(2, async (device, mesh) => new Pipeline(linears(device, 2, 2, 2, 2), { mesh, loss, schedule: await readSchedule(ring) }));
    for (const { message } of waiting) {
      expect(message).toBe('schedule ring.csv would never end: rank 0 waits in 2F0 for rank 1, which waits in 1F0 for rank 0');
    }
  });

  test('stages whose shapes disagree', async () => {
    const kernels: number[] = [];
    const found = await errors(3, async (device, mesh) => {
      const model = new nn.Sequential(new nn.Linear(4, 6, { device }), new nn.Linear(5, 4, { device }), new nn.Linear(4, 4, { device }));
      const pipeline = new Pipeline(model, { mesh, loss, microBatches: 3 });
      const before = sg.memory(device).count;
      try {
        await pipeline.step(sg.ones([6, 4], { device }).keep());
      } finally {
        kernels.push(sg.memory(device).count - before);
      }
    });
    expect(found).toHaveLength(3);
    for (const error of found) {
      expect(error).toBeInstanceOf(sg.ShapeError);
      expect(error.message).toMatch(/^Pipeline: stage 1 \(rank 1 along pp\) cannot take float32 \[2,6\]: .*\[2,6\]/);
    }
  });

  test("a mistake of a stage's own", async () => {
    class Wrong extends nn.Linear {
      override forward(x: sg.Tensor): sg.Tensor {
        return (x as unknown as { greater(n: number): sg.Tensor }).greater(0);
      }
    }
    const found = await errors(3, async (device, mesh) => {
      const [first, , last] = linears(device, 2, 2, 2, 2);
      const pipeline = new Pipeline(new nn.Sequential(first!, new Wrong(2, 2, { device }), last!), { mesh, loss, microBatches: 3 });
      await pipeline.step(sg.ones([6, 2], { device }));
    });
    expect(found.map(({ name, message }) => `${name}: ${message}`)).toEqual([
      'ShapeError: Pipeline: stage 1 (rank 1 along pp) cannot take float32 [2,2]: x.greater is not a function',
      'TypeError: x.greater is not a function',
      'ShapeError: Pipeline: stage 1 (rank 1 along pp) cannot take float32 [2,2]: x.greater is not a function',
    ]);
  });

  test('a batch with too few rows, targets that are missing, other numbers of micro-batches', async () => {
    const found = await errors(2, async (device, mesh) => {
      const pipeline = new Pipeline(linears(device, 2, 2, 2), { mesh, loss, microBatches: 3 });
      const texts: string[] = [];
      const x = sg.ones([2, 2], { device });
      for (const batch of [x, [{ inputs: x }], [{ inputs: x }, { inputs: [] }, { inputs: x }], 4])
        await pipeline.step(batch as never).catch((error: Error) => texts.push(error.message));
      await pipeline.step(sg.ones([3, 2], { device }), sg.ones([4], { device })).catch((error: Error) => texts.push(error.message));
      // and it goes on
      await pipeline.step(sg.ones([3, 2], { device }));
      throw new Error(texts.join('\n'));
    });
    for (const { message } of found) {
      expect(message.split('\n')).toEqual([
        'Pipeline: a batch of 2 rows cannot be cut into 3 micro-batches',
        'Pipeline: the schedule has 3 micro-batches, got 1',
        'Pipeline: micro-batch 1 must be { inputs, targets }, got an array of 0',
        'Pipeline: expected a batch or a list of micro-batches, got 4',
        'Pipeline: the batch has 3 rows, its targets 4',
      ]);
    }
  });
});
