// Bytes between tensors and files, in chunks: a tensor of any size passes through a buffer of a fixed size, since one typed array
// cannot hold more than 2^32 elements and a checkpoint should not need the memory of its model twice.
import { dtypeSize } from '../dtype.js';
import { fromNative } from '../errors.js';
import { native } from '../native.js';
import { requireAlive } from '../storage.js';
import type { Tensor } from '../tensor.js';

export const CHUNK_BYTES = 16 * 2 ** 20;

/** The last buffer that was given back. Fresh memory costs a page fault every 4 KiB, more than the copy through it. */
let spare: WeakRef<Uint8Array> | null = null;

function takeBuffer(): Uint8Array {
  const buffer = spare?.deref() ?? new Uint8Array(CHUNK_BYTES);
  spare = null;
  return buffer;
}
function giveBack(buffer: Uint8Array): void {
  spare = new WeakRef(buffer);
}

/** Fills a fresh tensor from a source that delivers `count` bytes from `offset` into a buffer. */
export async function fillFrom(target: Tensor, read: (into: Uint8Array, offset: number) => Promise<void>): Promise<void> {
  const total = target.nbytes;
  const buffer = takeBuffer();
  try {
    for (let at = 0; at < total; at += CHUNK_BYTES) {
      const chunk = buffer.subarray(0, Math.min(CHUNK_BYTES, total - at));
      await read(chunk, at);
      if (!target.isMeta) native.write(target.storage.handle, at, chunk);
    }
  } catch (error) {
    throw fromNative(error);
  } finally {
    giveBack(buffer);
  }
}

/** The bytes of a tensor in row-major order, piece by piece. A piece is valid until the next one is asked for. */
export async function* chunksOf(tensor: Tensor, op: string): AsyncGenerator<Uint8Array, void, void> {
  requireAlive(tensor.storage, op, 'a tensor to be saved');
  const source = tensor.isContiguous ? tensor : tensor.detach().contiguous();
  const total = source.nbytes;
  const start = source.offset * dtypeSize[source.dtype];
  const buffer = takeBuffer();
  try {
    for (let at = 0; at < total; at += CHUNK_BYTES) {
      const chunk = buffer.subarray(0, Math.min(CHUNK_BYTES, total - at));
      await native.readAsync(source.storage.handle, start + at, chunk);
      yield chunk;
    }
  } catch (error) {
    throw fromNative(error);
  } finally {
    giveBack(buffer);
    if (source !== tensor) source.dispose();
  }
}
