// Models in several safetensors files with an index beside them (`model.safetensors.index.json`), the layout of Hugging Face
// repositories. An index is as hostile as a header: file names in it may not leave its folder, and every tensor it promises must be
// in the file it names.
import nodeFs from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { CheckpointError, describe } from '../errors.js';
import { checkInteger } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { checkPath, type FileSystem, fileError, makeFolder, writeAtomically } from './files.js';
import { inFileOrder, type NamedTensors, saveSafetensors } from './safetensors.js';
import { MAX_HEADER, repeatedKey, show, type TensorInfo } from './safetensors_header.js';
import { type LoadOptions, loadAll, openSafetensorsFile, type SafetensorsReader, type Target, type TensorReader, type Wanted } from './safetensors_reader.js';

const SINGLE = 'model.safetensors';
const INDEX_SUFFIX = '.index.json';

class ShardedSafetensors implements TensorReader {
  readonly names: readonly string[];
  constructor(
    private readonly path: string,
    private readonly shardOf: ReadonlyMap<string, TensorReader>,
    private readonly shards: readonly TensorReader[],
    readonly metadata: Readonly<Record<string, string>>,
  ) {
    this.names = [...shardOf.keys()];
  }
  has(name: string): boolean {
    return this.shardOf.has(name);
  }
  private shard(name: string): TensorReader {
    const shard = this.shardOf.get(name);
    if (!shard) throw new CheckpointError(`load: "${this.path}" has no tensor ${show(String(name))}; it has ${this.names.length}`);
    return shard;
  }
  info(name: string): TensorInfo {
    return this.shard(name).info(name);
  }
  async load(name: string, options: LoadOptions = {}): Promise<Tensor> {
    return this.shard(name).load(name, options);
  }
  /** Places of `wanted` by the file that has them. */
  private byShard(wanted: readonly { readonly name: string }[]): Map<TensorReader, number[]> {
    const places = new Map<TensorReader, number[]>();
    wanted.forEach(({ name }, i) => {
      const shard = this.shard(name);
      if (!places.get(shard)?.push(i)) places.set(shard, [i]);
    });
    return places;
  }
  async fill(targets: readonly Target[]): Promise<void> {
    for (const [shard, places] of this.byShard(targets)) await shard.fill(places.map((i) => targets[i]!));
  }
  async loadMany(wanted: readonly Wanted[]): Promise<Tensor[]> {
    const loaded: Tensor[] = [];
    try {
      for (const [shard, places] of this.byShard(wanted)) {
        const part = await shard.loadMany(places.map((i) => wanted[i]!));
        places.forEach((place, i) => {
          loaded[place] = part[i]!;
        });
      }
    } catch (error) {
      for (const tensor of Object.values(loaded)) tensor.dispose();
      throw error;
    }
    return loaded;
  }
  async close(): Promise<void> {
    await Promise.all(this.shards.map((shard) => shard.close()));
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

async function readIndex(path: string, fs: FileSystem): Promise<Map<string, string>> {
  const where = `openSafetensors: "${path}"`;
  let text: string;
  let index: { weight_map?: unknown };
  try {
    if ((await fs.stat(path)).size > MAX_HEADER) throw new CheckpointError(`${where}: an index over ${MAX_HEADER} bytes is refused`);
    text = await fs.readFile(path, 'utf8');
    index = JSON.parse(text) as { weight_map?: unknown };
  } catch (error) {
    throw fileError(error, `${where}: cannot read the index`);
  }
  const map = index?.weight_map;
  if (typeof map !== 'object' || map === null || Array.isArray(map))
    throw new CheckpointError(`${where}: weight_map must map tensors to files, got ${describe(map)}`);
  const repeated = repeatedKey(text);
  if (repeated !== null) throw new CheckpointError(`${where}: the index has ${show(repeated)} twice`);
  for (const [name, file] of Object.entries(map)) {
    if (typeof file !== 'string' || file !== basename(file) || !file.endsWith('.safetensors')) {
      throw new CheckpointError(`${where}: tensor ${show(name)}: expected the name of a .safetensors file in the same folder, got ${describe(file)}`);
    }
  }
  return new Map(Object.entries(map as Record<string, string>));
}

async function openIndex(path: string, fs: FileSystem): Promise<TensorReader> {
  const weights = await readIndex(path, fs);
  const files = new Map<string, TensorReader>();
  try {
    for (const file of new Set(weights.values())) files.set(file, await openSafetensorsFile(join(dirname(path), file), fs));
    const shardOf = new Map<string, TensorReader>();
    for (const [name, file] of weights) {
      const shard = files.get(file)!;
      if (!shard.has(name)) throw new CheckpointError(`openSafetensors: "${path}" says tensor ${show(name)} is in "${file}", which does not have it`);
      shardOf.set(name, shard);
    }
    const shards = [...files.values()];
    return new ShardedSafetensors(path, shardOf, shards, Object.assign({}, ...shards.map((shard) => shard.metadata)));
  } catch (error) {
    await Promise.all([...files.values()].map((shard) => shard.close()));
    throw error;
  }
}

/**
 * Opens a safetensors file, an index of several (`….index.json`), or a folder that holds `model.safetensors` or its index.
 * Checks everything but the values; tensors are read by `load`.
 * @throws CheckpointError naming the file and, where there is one, the tensor
 */
export async function openSafetensors(path: string, options: { fs?: FileSystem } = {}): Promise<SafetensorsReader> {
  return openReader(path, options?.fs);
}

/** openSafetensors, for this package's own use. */
export async function openReader(path: string, fs: FileSystem = nodeFs): Promise<TensorReader> {
  let file = checkPath(path, 'openSafetensors');
  try {
    if ((await fs.stat(path)).isDirectory()) {
      const names = await fs.readdir(path);
      file = join(path, names.includes(SINGLE + INDEX_SUFFIX) ? SINGLE + INDEX_SUFFIX : SINGLE);
    }
  } catch (error) {
    throw fileError(error, `openSafetensors: cannot open "${path}"`);
  }
  return file.endsWith(INDEX_SUFFIX) ? openIndex(file, fs) : openSafetensorsFile(file, fs);
}

/**
 * Reads all tensors of a file, an index or a folder: see openSafetensors.
 * @param options.dtype casts the floating-point tensors, leaving integers and bools alone
 */
export async function loadSafetensors(path: string, options: LoadOptions & { fs?: FileSystem } = {}): Promise<Record<string, Tensor>> {
  const { fs, ...load } = options ?? {};
  const reader = await openReader(path, fs);
  try {
    return await loadAll(reader, load);
  } finally {
    await reader.close();
  }
}

/**
 * Writes tensors as `model-00001-of-0000N.safetensors` files of at most `maxShardBytes` (one tensor may be larger) and an index,
 * which is written last: until then readers of the folder see the model that was there before, if its files have other names.
 * A model that fits one shard becomes a plain `model.safetensors`. Returns the path to open.
 */
export async function saveShardedSafetensors(
  folder: string,
  tensors: NamedTensors,
  options: { maxShardBytes?: number; metadata?: Readonly<Record<string, string>>; fs?: FileSystem } = {},
): Promise<string> {
  const op = 'saveShardedSafetensors';
  const limit = checkInteger(options?.maxShardBytes ?? 5e9, 'maxShardBytes', op, 1);
  const fs = options?.fs ?? nodeFs;
  checkPath(folder, op);
  const shards: Map<string, Tensor>[] = [];
  let room = 0;
  for (const [name, tensor] of inFileOrder(tensors, op)) {
    if (shards.length === 0 || tensor.nbytes > room) {
      shards.push(new Map());
      room = limit;
    }
    shards.at(-1)!.set(name, tensor);
    room -= tensor.nbytes;
  }
  try {
    await makeFolder(folder, fs);
  } catch (error) {
    throw fileError(error, `${op}: cannot make "${folder}"`);
  }
  const index = join(folder, SINGLE + INDEX_SUFFIX);
  if (shards.length <= 1) {
    const path = join(folder, SINGLE);
    await saveSafetensors(path, shards[0] ?? new Map(), options?.metadata, { fs });
    // an index of an earlier, larger model would win over the file
    await fs.rm(index, { force: true });
    return path;
  }
  const digits = (n: number): string => String(n).padStart(5, '0');
  const weights: Record<string, string> = {};
  let bytes = 0;
  let elements = 0;
  for (const [i, shard] of shards.entries()) {
    const file = `model-${digits(i + 1)}-of-${digits(shards.length)}.safetensors`;
    await saveSafetensors(join(folder, file), shard, options?.metadata, { fs });
    for (const [name, tensor] of shard) {
      weights[name] = file;
      bytes += tensor.nbytes;
      elements += tensor.numel;
    }
  }
  const json = JSON.stringify({ metadata: { total_size: bytes, total_parameters: elements }, weight_map: weights }, null, 2);
  await writeAtomically(index, op, (sink) => sink.write(Buffer.from(`${json}\n`)), fs);
  return index;
}
