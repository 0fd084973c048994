// Tensors in files of the safetensors format, the one that Hugging Face and PyTorch tools share. Reading is lazy: opening checks the
// whole header and reads no tensor. Files are written beside their target and renamed, in chunks, largest alignment first.
import nodeFs from 'node:fs/promises';
import { empty } from '../create.js';
import type { DeviceLike } from '../device.js';
import { checkDType, type DType, dtypeSize, isFloating } from '../dtype.js';
import { CheckpointError, DTypeError, describe, ValueError } from '../errors.js';
import { Tensor } from '../tensor.js';
import { chunksOf, fillFrom } from './chunks.js';
import { type FileSink, type FileSystem, RangeReader, writeAtomically } from './files.js';
import { encodeHeader, type Header, MAX_HEADER, parseHeader, show, type TensorEntry, type TensorInfo } from './safetensors_header.js';

/** How tensors are loaded. */
export interface LoadOptions {
  /** Cast to this dtype; the file's own by default. */
  dtype?: DType;
  /** Where the tensor lives; `cpu` by default. */
  device?: DeviceLike;
}

/** An opened file, or set of files: names and shapes now, tensors when asked for. Close it, or declare it with `await using`. */
export interface SafetensorsReader extends AsyncDisposable {
  /** The tensors' names in the order of the data. */
  readonly names: readonly string[];
  /** The header's texts by name, as the writer gave them. */
  readonly metadata: Readonly<Record<string, string>>;
  /** Whether there is a tensor of this name. */
  has(name: string): boolean;
  /** Dtype, shape and size of a tensor. Throws CheckpointError for a name that is not there. */
  info(name: string): TensorInfo;
  /** Reads one tensor. It belongs to the scope of the caller. */
  load(name: string, options?: LoadOptions): Promise<Tensor>;
  /** Closes the files; tensors that were loaded stay. */
  close(): Promise<void>;
}

export class SafetensorsFile implements SafetensorsReader {
  readonly names: readonly string[];
  readonly metadata: Readonly<Record<string, string>>;

  constructor(
    private readonly file: RangeReader,
    private readonly header: Header,
    private readonly dataStart: number,
  ) {
    this.names = [...header.entries].sort(([, a], [, b]) => a.start - b.start).map(([name]) => name);
    this.metadata = header.metadata;
  }

  has(name: string): boolean {
    return this.header.entries.has(name);
  }

  info(name: string): TensorEntry {
    const entry = this.header.entries.get(name);
    if (entry) return entry;
    const some = this.names.slice(0, 3).map(show).join(', ');
    throw new CheckpointError(`load: "${this.file.path}" has no tensor ${show(String(name))}; it has ${this.names.length}${some && `, such as ${some}`}`);
  }

  async load(name: string, options: LoadOptions = {}): Promise<Tensor> {
    const entry = this.info(name);
    const where = `load: "${this.file.path}": tensor ${show(name)}`;
    if (options.dtype !== undefined) checkDType(options.dtype, where);
    if (entry.dtype === null) throw new CheckpointError(`${where}: dtype ${entry.stored} has no counterpart here`);
    if (entry.shape.length > 8) throw new CheckpointError(`${where}: ${entry.shape.length} dimensions, at most 8 are supported`);
    const tensor = empty(entry.shape, { dtype: entry.dtype, device: options.device ?? 'cpu' });
    try {
      await fillFrom(tensor, (into, offset) => this.read(name, into, offset));
    } catch (error) {
      tensor.dispose();
      throw error;
    }
    if (options.dtype === undefined || options.dtype === entry.dtype) return tensor;
    const cast = tensor.to(options.dtype);
    tensor.dispose();
    return cast;
  }

  /** Bytes of a tensor from `offset` on, in row-major order. */
  async read(name: string, into: Uint8Array, offset: number): Promise<void> {
    const { start, stored } = this.info(name);
    await this.file.read(into, this.dataStart + start + offset);
    sanitize(into, stored, `load: "${this.file.path}": tensor ${show(name)}`);
  }

  async close(): Promise<void> {
    await this.file.close();
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** A bool is 0 or 1 to every kernel, whatever byte a file holds; an unsigned 64-bit value must fit into int64. */
function sanitize(bytes: Uint8Array, stored: string, where: string): void {
  if (stored === 'BOOL') for (let i = 0; i < bytes.length; i++) bytes[i] = bytes[i] ? 1 : 0;
  if (stored !== 'U64') return;
  for (let i = 7; i < bytes.length; i += 8) {
    if (bytes[i]! >= 128) throw new CheckpointError(`${where}: a U64 value from 2^63 on does not fit into int64`);
  }
}

/** Opens and checks one file. Use openSafetensors unless the path is known to be a single file. */
export async function openSafetensorsFile(path: string, fs: FileSystem = nodeFs): Promise<SafetensorsFile> {
  const where = `openSafetensors: "${path}"`;
  const file = await RangeReader.open(path, 'openSafetensors', fs);
  try {
    if (file.size < 8) throw new CheckpointError(`${where} is truncated: ${file.size} bytes, a safetensors file has at least 8`);
    const prefix = new Uint8Array(8);
    await file.read(prefix, 0);
    const length = new DataView(prefix.buffer).getBigUint64(0, true);
    if (length > MAX_HEADER)
      throw new CheckpointError(`${where}: a header of ${length} bytes is over the limit of ${MAX_HEADER}; this is not a safetensors file`);
    const dataStart = 8 + Number(length);
    if (dataStart > file.size) throw new CheckpointError(`${where} is truncated: the header ends at byte ${dataStart}, the file at ${file.size}`);
    const text = new Uint8Array(Number(length));
    await file.read(text, 8);
    return new SafetensorsFile(file, parseHeader(text, file.size - dataStart, where), dataStart);
  } catch (error) {
    await file.close();
    throw error;
  }
}

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
  for (const [, tensor] of entries) for await (const chunk of chunksOf(tensor, where)) await sink.write(chunk);
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

/**
 * Reads all tensors of an opened file into a record. `dtype` casts the floating-point ones and leaves integers and bools alone.
 */
export async function loadAll(reader: SafetensorsReader, options: LoadOptions = {}): Promise<Record<string, Tensor>> {
  const { dtype, ...rest } = options;
  const loaded: [string, Tensor][] = [];
  try {
    for (const name of reader.names) {
      const own = reader.info(name).dtype;
      loaded.push([name, await reader.load(name, dtype && own && isFloating(own) ? { ...rest, dtype } : rest)]);
    }
  } catch (error) {
    for (const [, tensor] of loaded) tensor.dispose();
    throw error;
  }
  // fromEntries defines properties: a tensor called "__proto__" stays a tensor
  return Object.fromEntries(loaded);
}
