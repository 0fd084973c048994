// Weights read straight into a model: neither the memory of a second copy nor the time to make one.
import { noGrad } from '../autograd/modes.js';
import { CheckpointError, describe, ValueError } from '../errors.js';
import { scope } from '../memory.js';
import { Module } from '../nn/module.js';
import { type LoadResult, matchKeys, placeOf } from '../nn/state_dict.js';
import { copy_ } from '../ops/copy.js';
import type { Tensor } from '../tensor.js';
import type { FileSystem } from './files.js';
import { show } from './safetensors_header.js';
import { BATCH_BYTES, loadAll, type TensorReader } from './safetensors_reader.js';
import { openReader } from './sharded.js';

/**
 * Reads weights into a model's parameters and buffers, where they are, as `model.loadStateDict(await loadSafetensors(path))` does with a copy
 * in between. Of tensors that are one, such as an embedding that is also the head, a file needs to have one.
 *
 * ```ts
 * await io.loadModel(model, 'model.safetensors');
 * ```
 *
 * Nothing is written before all keys and shapes fit. A disk that fails later leaves a model that is partly changed.
 * @param path a safetensors file, an index of several, or a folder: see openSafetensors
 * @param options.strict whether missing or unexpected keys throw. Default true
 * @throws ValueError for keys that do not fit (if strict), ShapeError for another shape, CheckpointError for what cannot be read
 */
export async function loadModel(model: Module, path: string, options: { strict?: boolean; fs?: FileSystem } = {}): Promise<LoadResult> {
  if (!(model instanceof Module)) throw new ValueError(`loadModel: expected a module, got ${describe(model)}`);
  const reader = await openReader(path, options?.fs);
  try {
    return await readInto(model, reader, { op: 'loadModel', strict: options?.strict ?? true, shared: true });
  } finally {
    await reader.close();
  }
}

/** Whether reading into the tensors of its state dict is all that a module does to load. */
function isPlain(module: Module): boolean {
  return module.stateDict === Module.prototype.stateDict && module.loadStateDict === Module.prototype.loadStateDict;
}

/** @param how.shared of tensors that are one, a file needs to have one */
export async function readInto(module: Module, reader: TensorReader, how: { op: string; strict: boolean; shared: boolean }): Promise<LoadResult> {
  const { op, strict, shared } = how;
  if (!isPlain(module)) return scope(async () => module.loadStateDict(await loadAll(reader), { strict }));
  const own = module.stateDict();
  const { matching, ...result } = matchKeys(op, module.constructor.name, own, reader.names, (key) => reader.info(key).shape, strict, shared);
  const direct = new Map<unknown, { name: string; tensor: Tensor }>();
  const converted: string[] = [];
  for (const name of matching) {
    const tensor = own[name]!;
    const { dtype, stored } = reader.info(name);
    if (dtype === null) throw new CheckpointError(`${op}: tensor ${show(name)}: dtype ${stored} has no counterpart here`);
    if (dtype !== tensor.dtype || !tensor.isContiguous || tensor.isMeta) converted.push(name);
    else direct.set(placeOf(tensor), { name, tensor });
  }
  await reader.fill([...direct.values()]);
  for (const { tensor } of direct.values()) tensor.storage.wrote(op);
  for (const batch of batches(converted, (name) => reader.info(name).bytes)) {
    await scope(async () => {
      const loaded = await reader.loadMany(batch.map((name) => ({ name })));
      noGrad(() => batch.forEach((name, i) => copy_(own[name]!, loaded[i]!)));
    });
  }
  return result;
}

/** Not all of what is converted needs to be there twice. */
function* batches(names: readonly string[], bytesOf: (name: string) => number): Generator<string[], void, void> {
  let batch: string[] = [];
  let bytes = 0;
  for (const name of names) {
    batch.push(name);
    bytes += bytesOf(name);
    if (bytes < BATCH_BYTES) continue;
    yield batch;
    [batch, bytes] = [[], 0];
  }
  if (batch.length > 0) yield batch;
}
