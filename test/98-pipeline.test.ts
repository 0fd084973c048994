// A pipeline is one process that goes through the same micro-batches: loss, gradients, their norm and the parameters after some steps, for every
// schedule.
import { describe, test } from 'vitest';
import type { ScheduleName } from '../lib/distributed/pipeline/make_schedule.js';
import { alone, cutsOf, expectSame, onMesh, type Run, train } from './helpers/pipelines.js';

const STEPS = 2;
const schedules: [ScheduleName, number][] = [
  ['gpipe', 1],
  ['1f1b', 1],
  ['zb-h1', 1],
  ['interleaved', 2],
  ['interleaved', 3],
  ['zbv', 2],
];

const known = new Map<string, Promise<Run>>();
function one(layers: number, cuts: readonly number[]): Promise<Run> {
  const key = `${layers} ${cuts}`;
  if (!known.has(key)) known.set(key, alone(layers, cuts, STEPS));
  return known.get(key)!;
}

describe.each(schedules)('%s, %i stages a rank', (schedule, stagesPerRank) => {
  describe.each([1, 2, 3, 4])('%i ranks', (ranks) => {
    test.each([...new Set([ranks, 2 * ranks, ranks === 1 ? 3 : 2 * ranks - 1])])('%i micro-batches', async (microBatches) => {
      // a layer a stage where there are many, uneven stages where there are few; the embedding and the head are layers too
      const layers = ranks * stagesPerRank > 7 ? ranks * stagesPerRank - 2 : 5;
      const rows = microBatches * 2 + 1; // uneven ones
      const setting = { layers, rows, steps: STEPS, options: { schedule, microBatches, stagesPerRank } };
      const found = await onMesh({ pp: ranks }, (mesh, device) => train(device, mesh, setting));
      expectSame(found, await one(layers, cutsOf(rows, microBatches)));
    });
  });
});
