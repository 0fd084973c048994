// Values of tensors on device meta, which has none: what filled them is remembered, and repeated on memory when there is some. A fill of the
// whole makes earlier ones void; random ones keep their keys, so the numbers are those that the tensor would have had.
import { sameShape } from './shape.js';
import type { Storage } from './storage.js';
import { Tensor } from './tensor.js';

type Fill = (t: Tensor) => unknown;

interface Deferred {
  /** Views of the storage, and what was done to them. */
  fills: { readonly view: Tensor; readonly fill: Fill }[];
  /** The storage's version behind the last of them: writes that were not remembered make another. */
  version: number;
}

const deferred = new WeakMap<Storage, Deferred>();
const wholes = new WeakMap<Storage, Tensor>();

/** Remembers what has just been written to a tensor on device meta. */
export function deferFill(t: Tensor, fill: Fill): void {
  const { storage } = t;
  const view = t.detach();
  const old = deferred.get(storage);
  const all = t.offset === 0 && t.isContiguous && t.nbytes === storage.bytes;
  if (all || !old) deferred.set(storage, { fills: [{ view, fill }], version: all || storage.version === 1 ? storage.version : -1 });
  else if (old.version === storage.version - 1) Object.assign(old, { fills: [...old.fills, { view, fill }], version: storage.version });
}

/** Says that a piece on device meta was cut from a whole one. */
export function cutFrom(piece: Tensor, whole: Tensor): void {
  wholes.set(piece.storage, wholeOf(whole));
}

/** What a piece was cut from; the tensor itself when it was not. */
export function wholeOf(t: Tensor): Tensor {
  return wholes.get(t.storage) ?? t.detach();
}

/** Repeats on `real` what was done to `meta`, of the same shape; false where that is not known. */
export function repeatFills(meta: Tensor, real: Tensor): boolean {
  const found = deferred.get(meta.storage);
  if (found?.version !== meta.storage.version || !sameShape(meta.shape, real.shape) || !meta.isContiguous) return false;
  for (const { view, fill } of found.fills) fill(new Tensor(real.storage, view.shape, view.strides, view.offset - meta.offset, real.dtype));
  return true;
}
