// Copies between a GPU and the host's memory that nobody waits for, unlike transfer.ts: each device goes on when it gets to what it needs of
// the other. What is copied again and again lies in memory that the GPU's copies are fastest with.
import type { Device } from './device.js';
import { type DType, dtypeSize } from './dtype.js';
import { fromNative } from './errors.js';
import { growBlock, HEADER, native } from './native.js';
import { numel, type Shape } from './shape.js';
import { born, takeOut } from './storage.js';
import { Tensor, wrap } from './tensor.js';

/** Contiguous tensors of one shape and dtype on different devices, not both of them GPUs. */
export interface Crossing {
  readonly from: Tensor;
  readonly to: Tensor;
}
/** Numbers that describe a copy, as csrc/napi/across.cc has them. */
const ROW = 5;
/** Tensors of one storage begin at multiples of this. */
const ALIGNMENT = 64;

/** Copies in the order of both devices' compute streams. All go between the same two devices, in one direction. */
export function copyAcross(crossings: readonly Crossing[]): void {
  const m = growBlock(HEADER + ROW * crossings.length);
  crossings.forEach(({ from, to }, i) => {
    const size = dtypeSize[from.dtype];
    m.set([from.storage.handle, from.offset * size, to.storage.handle, to.offset * size, from.nbytes], HEADER + ROW * i);
  });
  try {
    native.copyAcross(crossings.length);
  } catch (error) {
    throw fromNative(error);
  }
  for (const { to } of crossings) to.storage.wrote('copy across devices');
}

/** Tensors on `host`, of undefined contents and outside of every scope, to be copied from and to `accelerator`. They share a storage. */
export function hostTensors(like: readonly { readonly shape: Shape; readonly dtype: DType }[], host: Device, accelerator: Device): Tensor[] {
  let bytes = 0;
  const places = like.map(({ shape, dtype }) => {
    const at = bytes;
    bytes += Math.ceil((numel(shape) * dtypeSize[dtype]) / ALIGNMENT) * ALIGNMENT;
    return at;
  });
  try {
    const storage = born(native.hostMemory(host.slot, accelerator.slot, bytes), host, bytes, null);
    takeOut(storage, 'optimizer state');
    return like.map(({ shape, dtype }, i) => {
      const { strides } = wrap(storage, shape, dtype);
      return Object.assign(new Tensor(storage, shape, strides, places[i]! / dtypeSize[dtype], dtype), { isView: true });
    });
  } catch (error) {
    throw fromNative(error);
  }
}
