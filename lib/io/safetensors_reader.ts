// A safetensors file being read. Reading is lazy: opening checks the whole header and reads no tensor. Tensors that are wanted together are read
// together, on several threads.
import nodeFs from 'node:fs/promises';
import { empty } from '../create.js';
import type { DeviceLike } from '../device.js';
import { checkDType, type DType, isFloating } from '../dtype.js';
import { CheckpointError } from '../errors.js';
import type { Tensor } from '../tensor.js';
import type { FileSystem } from './file_system.js';
import { RangeReader } from './range_reader.js';
import { type Header, MAX_HEADER, parseHeader, show, type TensorEntry, type TensorInfo } from './safetensors_header.js';

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

/** A tensor to be loaded. */
export interface Wanted {
  readonly name: string;
  readonly options?: LoadOptions;
}
/** What a reader does beside what is public. */
export interface TensorReader extends SafetensorsReader {
  /** Reads tensors at once, which takes less time than one after another. They belong to the scope of the caller. */
  loadMany(wanted: readonly Wanted[]): Promise<Tensor[]>;
  /** Fills contiguous tensors of the stored dtypes, each with what is stored of a tensor from byte `from` on. */
  fill(targets: readonly Target[]): Promise<void>;
}
/** A tensor to be filled. */
export interface Target {
  readonly name: string;
  readonly tensor: Tensor;
  readonly from?: number;
}

/** So much is read before it is cast: not all of a model needs to be there twice. */
export const BATCH_BYTES: number = 256 * 2 ** 20;

export class SafetensorsFile implements TensorReader {
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
    return (await this.loadMany([{ name, options }]))[0]!;
  }

  async loadMany(wanted: readonly Wanted[]): Promise<Tensor[]> {
    const loaded: Tensor[] = [];
    try {
      for (let at = 0; at < wanted.length; at = loaded.length) {
        let bytes = 0;
        while (loaded.length < wanted.length && bytes < BATCH_BYTES) {
          const tensor = this.make(wanted[loaded.length]!);
          bytes += tensor.nbytes;
          loaded.push(tensor);
        }
        await this.fill(loaded.slice(at).map((tensor, i) => ({ name: wanted[at + i]!.name, tensor })));
        for (let i = at; i < loaded.length; i++) loaded[i] = castTo(loaded[i]!, wanted[i]!.options?.dtype);
      }
    } catch (error) {
      for (const tensor of loaded) tensor.dispose();
      throw error;
    }
    return loaded;
  }

  /** A tensor of the stored dtype and shape, to be filled. */
  private make({ name, options = {} }: Wanted): Tensor {
    const { dtype, shape, stored } = this.info(name);
    const where = this.where(name);
    if (options.dtype !== undefined) checkDType(options.dtype, where);
    if (dtype === null) throw new CheckpointError(`${where}: dtype ${stored} has no counterpart here`);
    if (shape.length > 8) throw new CheckpointError(`${where}: ${shape.length} dimensions, at most 8 are supported`);
    return empty(shape, { dtype, device: options.device ?? 'cpu' });
  }

  async fill(targets: readonly Target[]): Promise<void> {
    await this.file.fill(
      targets.map(({ name, tensor, from = 0 }) => {
        const { start, stored } = this.info(name);
        return { tensor, position: this.dataStart + start + from, check: checkOf(stored, this.where(name)) };
      }),
    );
  }

  /** The checksum of the file; what has been loaded is not read again. */
  async sum(): Promise<number> {
    return this.file.sum();
  }

  private where(name: string): string {
    return `load: "${this.file.path}": tensor ${show(name)}`;
  }

  async close(): Promise<void> {
    await this.file.close();
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** The tensor in another dtype, of which it takes the place. */
function castTo(tensor: Tensor, dtype: DType = tensor.dtype): Tensor {
  if (dtype === tensor.dtype) return tensor;
  const cast = tensor.to(dtype);
  tensor.dispose();
  return cast;
}

/** A bool is 0 or 1 to every kernel, whatever byte a file holds; an unsigned 64-bit value must fit into int64. */
function checkOf(stored: string, where: string): ((bytes: Uint8Array) => void) | null {
  if (stored === 'BOOL')
    return (bytes) => {
      for (let i = 0; i < bytes.length; i++) bytes[i] = bytes[i] ? 1 : 0;
    };
  if (stored !== 'U64') return null;
  return (bytes) => {
    for (let i = 7; i < bytes.length; i += 8) {
      if (bytes[i]! >= 128) throw new CheckpointError(`${where}: a U64 value from 2^63 on does not fit into int64`);
    }
  };
}

/**
 * Opens and checks one file. Use openSafetensors unless the path is known to be a single file.
 * @param sums whether sum() will be asked for
 */
export async function openSafetensorsFile(path: string, fs: FileSystem = nodeFs, sums = false): Promise<SafetensorsFile> {
  const where = `openSafetensors: "${path}"`;
  const file = await RangeReader.open(path, 'openSafetensors', fs, sums);
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

/**
 * Reads all tensors of an opened file into a record. `dtype` casts the floating-point ones and leaves integers and bools alone.
 */
export async function loadAll(reader: TensorReader, options: LoadOptions = {}): Promise<Record<string, Tensor>> {
  const { dtype, ...rest } = options;
  const wanted = reader.names.map((name) => {
    const own = reader.info(name).dtype;
    return { name, options: dtype && own && isFloating(own) ? { ...rest, dtype } : rest };
  });
  const loaded = await reader.loadMany(wanted);
  // fromEntries defines properties: a tensor called "__proto__" stays a tensor
  return Object.fromEntries(reader.names.map((name, i) => [name, loaded[i]!]));
}
