// Tensors alone, without a training around them: weights from Hugging Face, or what PyTorch's distributed checkpoint wrote.
import nodeFs from 'node:fs/promises';
import { describe, ValueError } from '../../errors.js';
import { checkPath, type FileSystem } from '../../io/files.js';
import { Module } from '../../nn/module.js';
import { Tensor } from '../../tensor.js';
import { ShardReader } from './shards.js';
import { tensorsOf } from './states.js';

/**
 * Fills tensors from the safetensors files of a folder, whole ones or the pieces that PyTorch's HuggingFaceStorageWriter and saveCheckpoint
 * write: each rank reads what it has of a tensor, and nothing else. Values are cast to the tensors' dtypes.
 *
 * ```ts
 * await dist.loadTensors('llama-3b', model);
 * ```
 * @param into tensors by the names in the files, or a module (a Pipeline too), whose parameters and buffers they are; distributed ones by their
 * layouts. A shared parameter may be there under its first name alone.
 * @throws CheckpointError for a name that is not there, or of which elements are missing; ShapeError where shapes differ
 */
export async function loadTensors(folder: string, into: Module | Readonly<Record<string, Tensor>>, options: { fs?: FileSystem } = {}): Promise<void> {
  const where = 'loadTensors';
  if (typeof into !== 'object' || into === null || into instanceof Tensor) throw new ValueError(`${where}: expected tensors by name, got ${describe(into)}`);
  if (!(into instanceof Module))
    for (const [name, t] of Object.entries(into)) if (!(t instanceof Tensor)) throw new ValueError(`${where}: "${name}" must be a tensor, got ${describe(t)}`);
  const reader = await ShardReader.open(checkPath(folder, where), options?.fs ?? nodeFs);
  try {
    const all = into instanceof Module ? storedAs(into, new Set(reader.names)) : Object.entries(into);
    for (const [name] of all) reader.pieces(name); // what is missing is found before anything changes
    await reader.fillAll(all);
  } finally {
    await reader.close();
  }
}

/** A module's tensors, each under one of its names, which is there if any is. */
function storedAs(module: Module, there: ReadonlySet<string>): [string, Tensor][] {
  const found = new Map<string, [string, Tensor]>();
  for (const [key, { name, tensor }] of tensorsOf(module, 'loadTensors')) {
    const stored = [name, key].find((n) => there.has(n)) ?? name;
    if (!there.has(found.get(name)?.[0] ?? '')) found.set(name, [stored, tensor]);
  }
  return [...found.values()];
}
