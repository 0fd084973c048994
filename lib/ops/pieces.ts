// Joining tensors and cutting them into pieces. Cuts are views; a join copies each element once.

import { record, recording } from '../autograd/node.js';
import { resultType } from '../dtype.js';
import { ShapeError, ValueError } from '../errors.js';
import { checkDim, checkInteger, checkShape, sameShape, showShape } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { checkTensor, checkTensors } from './arguments.js';
import { to } from './copy.js';
import { deviceOf, fresh, invoke } from './door.js';
import { narrow, select, unsqueeze } from './view.js';

/** Tensors one after another along `dim`, equal in all other sizes. Dtypes are promoted; tensors of shape [0] are skipped. */
export function cat(tensors: readonly Tensor[], dim = 0): Tensor {
  checkTensors(tensors, 'cat');
  if (tensors.length === 0) throw new ValueError('cat: expected at least one tensor');
  const present = tensors.filter((x) => !sameShape(x.shape, [0]));
  const first = present[0] ?? tensors[0]!;
  if (first.ndim === 0) throw new ShapeError('cat: tensors without dimensions cannot be joined; use stack()');
  const d = checkDim(dim, first.ndim, 'cat');
  for (const x of present) {
    if (x.ndim !== first.ndim || x.shape.some((s, i) => i !== d && s !== first.shape[i])) {
      throw new ShapeError(`cat: sizes differ outside dimension ${d}: ${showShape(first.shape)} and ${showShape(x.shape)}`);
    }
  }
  const dtype = resultType(tensors);
  const parts = (present.length ? present : [first]).map((x) => to(x, dtype));
  const sizes = parts.map((x) => x.shape[d]!);
  const shape = checkShape(
    first.shape.map((s, i) => (i === d ? sizes.reduce((a, b) => a + b, 0) : s)),
    'cat',
  );
  const y = invoke('cat', deviceOf('cat', parts), [fresh(shape, dtype), ...parts], [d])[0]!;
  if (recording(parts)) record('cat', parts, [y], { dim: d, sizes });
  return y;
}

/** Tensors of one shape along a new dimension. */
export function stack(tensors: readonly Tensor[], dim = 0): Tensor {
  checkTensors(tensors, 'stack');
  if (tensors.length === 0) throw new ValueError('stack: expected at least one tensor');
  const { shape } = tensors[0]!;
  for (const x of tensors) if (!sameShape(x.shape, shape)) throw new ShapeError(`stack: shapes differ: ${showShape(shape)} and ${showShape(x.shape)}`);
  const d = checkDim(dim, shape.length + 1, 'stack');
  return cat(
    tensors.map((x) => unsqueeze(x, d)),
    d,
  );
}

/** A tensor with a dimension to cut: it, the dimension and its size. */
export function checkCut(x: unknown, dim: number, op: string): [Tensor, number, number] {
  checkTensor(x, op);
  const d = checkDim(dim, x.ndim, op);
  if (x.ndim === 0) throw new ShapeError(`${op}: the tensor has no dimensions`);
  return [x, d, x.shape[d]!];
}

/** Each piece is a JavaScript object: more than a million of them is a mistake. */
function checkPieces(count: number, x: Tensor, d: number, op: string): number {
  if (count > 2 ** 20) throw new ShapeError(`${op}: dimension ${d} of ${showShape(x.shape)} would make ${count} tensors, at most ${2 ** 20} are possible`);
  return count;
}

function cut(x: Tensor, d: number, sizes: readonly number[]): Tensor[] {
  let start = 0;
  return sizes.map((size) => {
    start += size;
    return narrow(x, d, start - size, size);
  });
}

/** Views of `size` elements of `dim` each, the last with what is left; or of the sizes given. */
export function split(x: Tensor, size: number | readonly number[], dim = 0): Tensor[] {
  const [t, d, length] = checkCut(x, dim, 'split');
  if (Array.isArray(size)) {
    const sizes = size.map((s) => checkInteger(s, 'a size', 'split', 0));
    const total = sizes.reduce((a, b) => a + b, 0);
    if (total !== length) throw new ShapeError(`split: sizes ${showShape(sizes)} sum to ${total}, dimension ${d} of ${showShape(t.shape)} has ${length}`);
    return cut(t, d, sizes);
  }
  const each = checkInteger(size, 'the size', 'split', 1);
  const sizes = Array.from({ length: checkPieces(Math.max(1, Math.ceil(length / each)), t, d, 'split') }, (_, i) => Math.min(each, length - i * each));
  return cut(t, d, sizes);
}

/** At most `chunks` views of equal size along `dim`, the last perhaps smaller. */
export function chunk(x: Tensor, chunks: number, dim = 0): Tensor[] {
  const [t, d, length] = checkCut(x, dim, 'chunk');
  checkInteger(chunks, 'the number of chunks', 'chunk', 1);
  if (length === 0) return cut(t, d, new Array<number>(checkPieces(chunks, t, d, 'chunk')).fill(0));
  return split(t, Math.ceil(length / chunks), d);
}

/** One view for each position of `dim`, without that dimension. */
export function unbind(x: Tensor, dim = 0): Tensor[] {
  const [t, d, length] = checkCut(x, dim, 'unbind');
  return Array.from({ length: checkPieces(length, t, d, 'unbind') }, (_, i) => select(t, d, i));
}
