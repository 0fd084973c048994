// Floating-point operations of the native call that lies in the block, for dry runs: 2 for each multiplication with its addition in products,
// convolutions and attention, else one for each element of the largest tensor.
import { ABSENT, block, HEADER, RECORD, Rec, SCALAR } from './native.js';

const at = (record: number): number => HEADER + RECORD * record;

function elements(record: number): number {
  const handle = block[at(record)]!;
  if (handle === ABSENT || handle === SCALAR) return 0;
  let n = 1;
  for (let d = 0; d < block[at(record) + Rec.Dims]!; d++) n *= block[at(record) + Rec.Shape + d]!;
  return n;
}
/** Size of a dimension, counted from the last. */
const size = (record: number, fromLast: number): number => block[at(record) + Rec.Shape + block[at(record) + Rec.Dims]! - fromLast]!;
const first = (record: number): number => block[at(record) + Rec.Shape]!;

/** Elements of a convolution's result times what one of them is the sum of: a filter, weight without its outputs. */
const convolution = (result: number, weight: number): number => 2 * elements(result) * (elements(weight) / Math.max(1, first(weight)));

/** Of [.., M, K] · [.., K, N]; queries, keys: [B, H, T, D]. */
const counts: Record<string, (causal: boolean) => number> = {
  matmul: () => 2 * elements(0) * size(1, 1),
  attention: (causal) => (4 * elements(0) * size(1, 2)) / (causal ? 2 : 1),
  // with the scores made again
  attentionBackward: (causal) => (10 * elements(1) * size(2, 2)) / (causal ? 2 : 1),
  conv2d: () => convolution(3, 1),
  conv2dBackwardInput: () => convolution(0, 1),
  conv2dBackwardWeight: () => convolution(0, 2),
};

const GELU = 1; // the epilogue of csrc/core/device.h

/** The kernel in the block, by its name; `matmul with gelu` where that rides on it. */
export function kernelInBlock(op: string): string {
  return op === 'matmul' && block[at(block[2]!)] === GELU ? 'matmul with gelu' : op;
}

/** Those of products, which are what the peak of a device is stated in; 0 for all other ops. */
export function productsInBlock(op: string): number {
  return Object.hasOwn(counts, op) ? counts[op]!(block[at(block[2]!)] === 1) : 0;
}

export function operationsInBlock(op: string): number {
  const records = block[2]!;
  if (Object.hasOwn(counts, op)) return productsInBlock(op);
  let most = 0;
  for (let i = 0; i < records; i++) most = Math.max(most, elements(i));
  return most;
}
