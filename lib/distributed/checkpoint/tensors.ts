// Tensors alone, without a training around them: weights from Hugging Face, or what PyTorch's distributed checkpoint wrote.
import nodeFs from 'node:fs/promises';
import { describe, ValueError } from '../../errors.js';
import { checkPath, type FileSystem } from '../../io/files.js';
import { Tensor } from '../../tensor.js';
import { ShardReader } from './shards.js';

/**
 * Fills tensors from the safetensors files of a folder, whole ones or the pieces that PyTorch's HuggingFaceStorageWriter and saveCheckpoint
 * write: each rank reads what it has of a tensor, and nothing else. Values are cast to the tensors' dtypes.
 *
 * ```ts
 * await dist.loadTensors('llama-3b', model.stateDict());
 * ```
 * @param into by the names in the files; distributed tensors by their layouts
 * @throws CheckpointError for a name that is not there, or of which elements are missing; ShapeError where shapes differ
 */
export async function loadTensors(folder: string, into: Readonly<Record<string, Tensor>>, options: { fs?: FileSystem } = {}): Promise<void> {
  const where = 'loadTensors';
  if (typeof into !== 'object' || into === null || into instanceof Tensor) throw new ValueError(`${where}: expected tensors by name, got ${describe(into)}`);
  for (const [name, t] of Object.entries(into)) if (!(t instanceof Tensor)) throw new ValueError(`${where}: "${name}" must be a tensor, got ${describe(t)}`);
  const reader = await ShardReader.open(checkPath(folder, where), options?.fs ?? nodeFs);
  try {
    for (const name of Object.keys(into)) reader.pieces(name); // what is missing is found before anything changes
    for (const [name, t] of Object.entries(into)) await reader.fill(name, t);
  } finally {
    await reader.close();
  }
}
