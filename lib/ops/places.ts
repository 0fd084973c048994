// Reading and writing a tensor at index tensors: the recorded native calls beneath gather.ts and indexing.ts. A write is in place on its target; functional forms write to a copy.

import { record, recording } from '../autograd/node.js';
import { DTypeError } from '../errors.js';
import { checkShape, type Shape } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { clone } from './copy.js';
import { checkInPlace, deviceOf, fresh, invoke } from './door.js';

/** Sums need a dtype that can be added in. */
export function checkAddable(op: string, x: Tensor): void {
  if (x.dtype === 'bool' || x.dtype.startsWith('float8')) throw new DTypeError(`${op}: cannot add in ${x.dtype}`);
}

/** Something to copy from that no write to `target` can change. */
function apart(source: Tensor, target: Tensor): Tensor {
  return source.storage === target.storage ? clone(source) : source;
}

/** `scatter`, `scatterAdd` or `indexAdd` of checked arguments, in place on x. */
export function writeInto(op: 'scatter' | 'scatterAdd' | 'indexAdd', x: Tensor, dim: number, index: Tensor, source: Tensor): Tensor {
  checkInPlace(`${op}_`, x, [source]);
  const src = apart(source, x);
  invoke(op, deviceOf(op, [x, index, src]), [x, apart(index, x), src], [dim]);
  x.storage.wrote(`${op}_`);
  if (recording([x, src])) record(op, [x, index, src], [x], { dim }, x);
  return x;
}

/** The shape of x with the dimensions from `first` on replaced by that of the indices that stand for them. */
export function shapeAt(op: string, x: Tensor, first: number, indices: readonly Tensor[]): Shape {
  return indices.length ? checkShape([...x.shape.slice(0, first), ...indices[0]!.shape, ...x.shape.slice(first + indices.length)], op) : x.shape;
}

/** The elements at index tensors of one shape, which stand for the dimensions from `first` on. */
export function indexAt(x: Tensor, first: number, indices: readonly Tensor[]): Tensor {
  const shape = shapeAt('index', x, first, indices);
  const y = invoke('index', deviceOf('index', [x, ...indices]), [x, fresh(shape, x.dtype), ...indices], [first])[0]!;
  if (recording([x])) record('index', [x, ...indices], [y], { first, count: indices.length });
  return y;
}

/** In place: x at index tensors becomes `values`, or grows by them. */
export function putAt(x: Tensor, first: number, indices: readonly Tensor[], values: Tensor, accumulate: boolean): Tensor {
  const source = apart(values, x);
  const at = indices.map((index) => apart(index, x));
  invoke('indexPut', deviceOf('indexPut_', [x, source, ...at]), [x, source, ...at], [first, Number(accumulate)]);
  x.storage.wrote('indexPut_');
  if (recording([x, source])) record('indexPut', [x, source, ...indices], [x], { first, accumulate }, x);
  return x;
}
