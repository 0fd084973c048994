// Reading a tensor: the only places that wait for a device.
import { constants } from 'node:buffer';
import { dtypeCode, dtypeSize } from './dtype.js';
import { DTypeError, fromNative, OutOfMemoryError, ShapeError } from './errors.js';
import { native } from './native.js';
import { showShape } from './shape.js';
import { DRY, requireAlive } from './storage.js';
import type { Tensor } from './tensor.js';

const placeOf = (t: Tensor): number => t.offset * dtypeSize[t.dtype];

/** The one element, without blocking the event loop. */
export async function readItem(t: Tensor): Promise<number> {
  checkItem(t, 'item');
  try {
    return checkExact(t, await native.item(t.storage.handle, placeOf(t), dtypeCode[t.dtype]), 'item');
  } catch (error) {
    throw fromNative(error);
  }
}
/** The one element; blocks. */
export function readItemSync(t: Tensor): number {
  checkItem(t, 'itemSync');
  try {
    return checkExact(t, native.itemSync(t.storage.handle, placeOf(t), dtypeCode[t.dtype]), 'itemSync');
  } catch (error) {
    throw fromNative(error);
  }
}

/** The bytes of the elements in row-major order, without blocking the event loop. */
export async function readBytes(t: Tensor, op: string): Promise<Uint8Array> {
  const [source, bytes] = readBuffer(t, op);
  try {
    await native.readAsync(source.storage.handle, placeOf(source), bytes);
  } catch (error) {
    throw fromNative(error);
  } finally {
    if (source !== t) source.dispose();
  }
  return bytes;
}
/** The bytes of the elements in row-major order; blocks. */
export function readBytesSync(t: Tensor, op: string): Uint8Array {
  const [source, bytes] = readBuffer(t, op);
  try {
    native.read(source.storage.handle, placeOf(source), bytes);
  } catch (error) {
    throw fromNative(error);
  } finally {
    if (source !== t) source.dispose();
  }
  return bytes;
}

function checkItem(t: Tensor, op: string): void {
  requireAlive(t.storage, op, 'the tensor');
  if (t.numel !== 1) throw new ShapeError(`${op}: expected one element, the tensor is ${showShape(t.shape)}`);
  checkReadable(t, op);
}
function checkReadable(t: Tensor, op: string): void {
  if (t.isMeta) throw new DTypeError(`${op}: a tensor on device meta has no values`);
  if (t.storage.handle >= DRY) throw new DTypeError(`${op}: tensors have no values while memory is estimated`);
}
function checkExact(t: Tensor, value: number, op: string): number {
  if (t.dtype === 'int64' && !Number.isSafeInteger(value)) {
    throw new DTypeError(`${op}: the int64 value is beyond 2^53; read it with toTypedArray()`);
  }
  return value;
}
/** A contiguous source (the tensor, or a temporary copy) and a buffer for its bytes. */
function readBuffer(t: Tensor, op: string): [Tensor, Uint8Array] {
  requireAlive(t.storage, op, 'the tensor');
  checkReadable(t, op);
  if (t.nbytes > constants.MAX_LENGTH) {
    throw new ShapeError(`${op}: ${t.nbytes} bytes are more than one typed array of this Node version holds (${constants.MAX_LENGTH}); read slices`);
  }
  let bytes: Uint8Array;
  try {
    bytes = new Uint8Array(t.nbytes);
  } catch (cause) {
    throw new OutOfMemoryError(`${op}: the system has no room for ${t.nbytes} bytes`, { cause });
  }
  return [t.isContiguous ? t : t.detach().contiguous(), bytes];
}
