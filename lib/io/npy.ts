// NumPy's .npy files, one array each. Every plain dtype of NumPy loads: big-endian data is turned around, Fortran order is transposed
// into row-major order, uint64 becomes int64 where it fits. Object arrays hold Python pickles and are refused.
import nodeFs from 'node:fs/promises';
import { empty } from '../create.js';
import type { DeviceLike } from '../device.js';
import { CheckpointError, DTypeError, describe, ValueError } from '../errors.js';
import { numel, showShape } from '../shape.js';
import { Tensor } from '../tensor.js';
import { writeTensors } from './chunks.js';
import { type FileSystem, writeAtomically } from './files.js';
import { encodeNpyHeader, MAGIC, MAX_NPY_HEADER, type NpyHeader, npyDescr, parseNpyHeader } from './npy_header.js';
import { RangeReader } from './range_reader.js';

/** Turns elements around, and refuses or repairs values that no tensor here may hold. */
function toNative(bytes: Uint8Array, header: NpyHeader, where: string): void {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (header.bigEndian) {
    if (header.itemSize === 2) buffer.swap16();
    else if (header.itemSize === 4) buffer.swap32();
    else if (header.itemSize === 8) buffer.swap64();
  }
  if (header.dtype === 'bool') for (let i = 0; i < bytes.length; i++) bytes[i] = bytes[i] ? 1 : 0;
  if (!header.unsigned64) return;
  for (let i = 7; i < bytes.length; i += 8) {
    if (bytes[i]! >= 128) throw new CheckpointError(`${where}: a uint64 value from 2^63 on does not fit into int64`);
  }
}

/**
 * Reads one array, in the shape that NumPy shows, on `device` (`cpu` by default). It belongs to the scope of the caller.
 * @throws CheckpointError for a file that is missing, malformed, truncated or of a dtype without a counterpart
 */
export async function loadNpy(path: string, options: { device?: DeviceLike; fs?: FileSystem } = {}): Promise<Tensor> {
  const where = `loadNpy: "${path}"`;
  const file = await RangeReader.open(path, 'loadNpy', options?.fs ?? nodeFs);
  try {
    const prefix = Buffer.alloc(Math.min(12, file.size));
    await file.read(prefix, 0);
    if (prefix.length < 10 || prefix.toString('latin1', 0, 6) !== MAGIC) throw new CheckpointError(`${where} is not a .npy file`);
    const version = prefix[6]!;
    if (version < 1 || version > 3) throw new CheckpointError(`${where}: version ${version}.${prefix[7]} of the format is unknown`);
    const wide = version > 1;
    if (wide && prefix.length < 12) throw new CheckpointError(`${where} is truncated after ${prefix.length} bytes`);
    const length = wide ? prefix.readUInt32LE(8) : prefix.readUInt16LE(8);
    if (length > MAX_NPY_HEADER) throw new CheckpointError(`${where}: a header of ${length} bytes is over the limit of ${MAX_NPY_HEADER}`);
    const text = Buffer.alloc(length);
    await file.read(text, wide ? 12 : 10);
    const header = parseNpyHeader(text.toString(version === 3 ? 'utf8' : 'latin1'), where);

    const { dtype, shape, itemSize } = header;
    const dataStart = (wide ? 12 : 10) + length;
    const bytes = shape.includes(0) ? 0 : numel(shape) * itemSize;
    if (bytes !== file.size - dataStart) {
      throw new CheckpointError(`${where}: ${dtype} ${showShape(shape)} needs ${bytes} bytes, the file holds ${file.size - dataStart}`);
    }
    if (shape.length > 8) throw new CheckpointError(`${where}: ${shape.length} dimensions, at most 8 are supported`);
    const tensor = empty(header.fortranOrder ? shape.toReversed() : shape, { dtype, device: options?.device ?? 'cpu' });
    try {
      const asStored = !header.bigEndian && header.dtype !== 'bool' && !header.unsigned64;
      await file.fill([{ tensor, position: dataStart, check: asStored ? null : (bytes) => toNative(bytes, header, where) }]);
    } catch (error) {
      tensor.dispose();
      throw error;
    }
    if (!header.fortranOrder || shape.length < 2) return tensor;
    const rowMajor = tensor.permute(shape.map((_, i) => shape.length - 1 - i)).contiguous();
    // with sizes of 1 the transpose may already be in row-major order, and is then the same memory
    if (rowMajor.storage !== tensor.storage) tensor.dispose();
    return rowMajor;
  } finally {
    await file.close();
  }
}

/**
 * Writes a tensor as a .npy file in row-major order, atomically.
 * @param tensor any shape and strides; bfloat16 and float8 have no name in NumPy: cast them first
 * @throws DTypeError for those, CheckpointError when the file cannot be written
 */
export async function saveNpy(path: string, tensor: Tensor, options: { fs?: FileSystem } = {}): Promise<void> {
  if (!(tensor instanceof Tensor)) throw new ValueError(`saveNpy: expected a tensor, got ${describe(tensor)}`);
  const descr = npyDescr(tensor.dtype);
  if (descr === null) throw new DTypeError(`saveNpy: NumPy has no ${tensor.dtype}; cast to float32 first`);
  if (tensor.isMeta) throw new DTypeError('saveNpy: a tensor on device meta has no values');
  await writeAtomically(
    path,
    'saveNpy',
    async (sink) => {
      await sink.write(encodeNpyHeader(descr, tensor.shape));
      await writeTensors(sink, [tensor], 'saveNpy');
    },
    options?.fs ?? nodeFs,
  );
}
