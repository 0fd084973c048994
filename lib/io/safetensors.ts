// Tensors written to files of the safetensors format, the one that Hugging Face and PyTorch tools share: beside their target, and renamed, largest
// alignment first.
import { dtypeSize } from '../dtype.js';
import { DTypeError, describe, ValueError } from '../errors.js';
import { Tensor } from '../tensor.js';
import { writeTensors } from './chunks.js';
import { type FileSink, type FileSystem, writeAtomically } from './files.js';
import { encodeHeader, MAX_HEADER, show } from './safetensors_header.js';

/** Tensors by name, in an object or a map. */
export type NamedTensors = Readonly<Record<string, Tensor>> | ReadonlyMap<string, Tensor>;

/** The tensors in the order of the file: by size of the element, so that all stay aligned, then by name. */
export function inFileOrder(tensors: NamedTensors, where: string): [string, Tensor][] {
  if (typeof tensors !== 'object' || tensors === null || tensors instanceof Tensor) {
    throw new ValueError(`${where}: expected tensors by name, got ${describe(tensors)}`);
  }
  const entries: [string, Tensor][] = tensors instanceof Map ? [...tensors] : Object.entries(tensors);
  for (const [name, tensor] of entries) {
    if (!(tensor instanceof Tensor)) throw new ValueError(`${where}: ${show(name)} must be a tensor, got ${describe(tensor)}`);
    if (tensor.isMeta) throw new DTypeError(`${where}: tensor ${show(name)} is on device meta and has no values`);
    if (name === '__metadata__') throw new ValueError(`${where}: no tensor can be called "__metadata__", the format reserves the name`);
  }
  return entries.sort(([a, x], [b, y]) => dtypeSize[y.dtype] - dtypeSize[x.dtype] || (a < b ? -1 : a > b ? 1 : 0));
}

function checkMetadata(metadata: Readonly<Record<string, string>>, where: string): Record<string, string> {
  for (const [key, value] of Object.entries(metadata ?? {})) {
    if (typeof value !== 'string') throw new ValueError(`${where}: metadata ${show(key)} must be a string, got ${describe(value)}`);
  }
  // transformers refuses files without it
  return { format: 'pt', ...metadata };
}

/** Writes header and data of one file into a sink. */
export async function writeSafetensors(sink: FileSink, tensors: NamedTensors, metadata: Readonly<Record<string, string>>, where: string): Promise<void> {
  const entries = inFileOrder(tensors, where);
  const described = entries.map(([name, t]) => [name, { dtype: t.dtype, shape: t.shape, bytes: t.nbytes }] as const);
  const header = encodeHeader(described, checkMetadata(metadata, where));
  if (header.length - 8 > MAX_HEADER) throw new ValueError(`${where}: the header would have ${header.length - 8} bytes, the format allows ${MAX_HEADER}`);
  await sink.write(header);
  await writeTensors(
    sink,
    entries.map(([, tensor]) => tensor),
    where,
  );
}

/**
 * Writes tensors to one file, atomically: when it throws, `path` is what it was before.
 * @param tensors by name; any device, any strides
 * @param metadata strings for the header; `format: "pt"` is added, as other readers ask for it
 * @throws CheckpointError for a full disk or any other failure to write
 */
export async function saveSafetensors(
  path: string,
  tensors: NamedTensors,
  metadata: Readonly<Record<string, string>> = {},
  options: { fs?: FileSystem } = {},
): Promise<void> {
  await writeAtomically(path, 'saveSafetensors', (sink) => writeSafetensors(sink, tensors, metadata, 'saveSafetensors'), options?.fs);
}
