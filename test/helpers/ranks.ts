// What the tests of data parallelism share: data that every rank cuts its part from, and the metric of equality.
import { expect } from 'vitest';
import type { SimulatedRank } from '../../lib/distributed/simulate.js';
import * as sg from '../../lib/index.js';
import { expectClose } from './metric.js';

export const BATCH = 24;
export const WIDTH = 6;

/** Rows of the one batch, on a device. */
export function rows(device: string | sg.Device, from = 0, to = BATCH, dtype: sg.DType = 'float64'): sg.Tensor {
  const all = Float64Array.from({ length: BATCH * WIDTH }, (_, i) => Math.sin(i * 1.7));
  return sg.fromTypedArray(all.slice(from * WIDTH, to * WIDTH), [to - from, WIDTH], { device: device.toString(), dtype });
}

/** A rank's part of the batch. */
export function part({ rank, device, world }: SimulatedRank, dtype: sg.DType = 'float64'): sg.Tensor {
  return rows(device, (BATCH / world.size) * rank, (BATCH / world.size) * (rank + 1), dtype);
}

export async function flatten(tensors: readonly sg.Tensor[]): Promise<number[]> {
  if (tensors.length === 0) return [];
  return Array.from((await sg.cat(tensors.map((t) => t.detach().reshape([-1]).to('float64'))).toTypedArray()) as Float64Array);
}

/** Equal to the bit between ranks, and to one process within the bound. */
export function expectEqual(results: readonly (readonly number[])[], expected: readonly number[], bound = 1e-12): void {
  for (const result of results) expect(result).toEqual(results[0]);
  expectClose(results[0]!, expected, bound, 'ranks against one process');
}
