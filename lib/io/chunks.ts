// Bytes between tensors and files. What the addon cannot read or write itself (rows.ts) goes in chunks: a tensor of any size passes through a
// buffer of a fixed size, since one typed array cannot hold more than 2^32 elements and a checkpoint should not need the memory of its
// model twice.
import { dtypeSize } from '../dtype.js';
import { fromNative } from '../errors.js';
import { native } from '../native.js';
import { requireAlive } from '../storage.js';
import type { Tensor } from '../tensor.js';
import type { FileSink } from './files.js';
import { isDirect } from './rows.js';

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

/** Fills a contiguous tensor from a source that delivers bytes from `offset` into a buffer. One on device meta has none. */
export async function fillFrom(target: Tensor, read: (into: Uint8Array, offset: number) => Promise<void>): Promise<void> {
  if (target.isMeta) return;
  const total = target.nbytes;
  const start = target.offset * dtypeSize[target.dtype];
  const buffer = takeBuffer();
  try {
    for (let at = 0; at < total; at += CHUNK_BYTES) {
      const chunk = buffer.subarray(0, Math.min(CHUNK_BYTES, total - at));
      await read(chunk, at);
      native.write(target.storage.handle, start + at, chunk);
    }
  } catch (error) {
    throw fromNative(error);
  } finally {
    giveBack(buffer);
  }
}

/** Writes the bytes of tensors in row-major order, one tensor after another. */
export async function writeTensors(sink: FileSink, tensors: Iterable<Tensor>, op: string): Promise<void> {
  const { descriptor } = sink;
  const direct: Tensor[] = [];
  const writeDirect = async (): Promise<void> => {
    if (descriptor !== null) await sink.writeFrom(direct.splice(0), descriptor);
  };
  for (const tensor of tensors) {
    requireAlive(tensor.storage, op, 'a tensor to be saved');
    if (descriptor !== null && isDirect(tensor)) {
      direct.push(tensor);
      continue;
    }
    await writeDirect();
    const source = tensor.isContiguous ? tensor : tensor.detach().contiguous();
    try {
      if (descriptor !== null && isDirect(source)) await sink.writeFrom([source], descriptor);
      else for await (const chunk of chunksOf(source)) await sink.write(chunk);
    } finally {
      if (source !== tensor) source.dispose();
    }
  }
  await writeDirect();
}

/** The bytes of a contiguous tensor, piece by piece. A piece is valid until the next one is asked for. */
async function* chunksOf(source: Tensor): AsyncGenerator<Uint8Array, void, void> {
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
  }
}
