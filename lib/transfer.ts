// Moving a tensor's bytes from one device to another. Between CPU devices the bytes pass through the host, in stream order
// on the receiving side.
import { context } from './context.js';
import type { Device } from './device.js';
import { dtypeSize } from './dtype.js';
import { DisposedError, fromNative } from './errors.js';
import { native } from './native.js';
import { contiguous } from './ops/copy.js';
import { born, META } from './storage.js';
import { type Tensor, wrap } from './tensor.js';

/** A contiguous copy on `target`, outside any graph. Waits until the source's device has computed it. */
export function transfer(x: Tensor, target: Device): Tensor {
  if (!x.storage.alive) throw new DisposedError('to: the tensor was disposed');
  const { scope } = context();
  if (target.type === 'meta') return wrap(born(META, target, x.nbytes, scope), x.shape, x.dtype);
  const source = contiguous(x.detach());
  const bytes = new Uint8Array(x.nbytes);
  try {
    native.read(source.storage.handle, source.offset * dtypeSize[x.dtype], bytes);
    const handle = native.upload(target.slot, bytes);
    return wrap(born(handle, target, bytes.byteLength, scope), x.shape, x.dtype);
  } catch (error) {
    throw fromNative(error);
  } finally {
    if (source.storage !== x.storage) source.dispose();
  }
}
