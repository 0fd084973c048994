// Rows of a table by index.
import { ShapeError, ValueError } from '../errors.js';
import { checkInteger, checkShape, showShape } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { checkIndices, checkTensor, optionsOf } from './arguments.js';
import { door, fresh, invoke } from './door.js';
import { max } from './reduce.js';

/** Options of `embedding`. */
export interface EmbeddingOptions {
  /** A row that receives no gradient; negative counts from the end. */
  paddingIdx?: number | null;
}

/** Rows of `weight` [V, D] at `index` (int32 or int64, any shape): the result is [...index.shape, D]. */
export function embedding(index: Tensor, weight: Tensor, options?: EmbeddingOptions): Tensor {
  checkIndices(index, 'embedding');
  checkTensor(weight, 'embedding', 'the weight');
  if (weight.ndim !== 2) throw new ShapeError(`embedding: the weight must be [entries, features], got ${showShape(weight.shape)}`);
  const { paddingIdx } = optionsOf(options, 'embedding');
  const [entries, features] = weight.shape as [number, number];
  const padding = paddingIdx === undefined || paddingIdx === null ? null : checkInteger(paddingIdx, 'paddingIdx', 'embedding', -entries, entries - 1);
  const paddingIndex = padding === null ? -1 : padding < 0 ? padding + entries : padding;
  const shape = checkShape([...index.shape, features], 'embedding');
  return door('embedding', [weight, index], [fresh(shape, weight.dtype)], [], { paddingIndex })[0]!;
}

/**
 * 1 at the position each index names, 0 elsewhere: [...index.shape, numClasses], int64. Without `numClasses` the largest index
 * decides, which waits for the device.
 */
export function oneHot(index: Tensor, numClasses = -1): Tensor {
  checkIndices(index, 'oneHot');
  checkInteger(numClasses, 'numClasses', 'oneHot', -1);
  if (numClasses === -1 && index.numel === 0)
    throw new ValueError(`oneHot: the number of classes cannot be told from no indices ${showShape(index.shape)}; give numClasses`);
  const classes = numClasses === -1 ? max(index).itemSync() + 1 : numClasses;
  if (classes < 1) throw new ValueError(`oneHot: the number of classes must be at least 1, got ${classes}`);
  return invoke('oneHot', index.device, [index, fresh(checkShape([...index.shape, classes], 'oneHot'), 'int64')])[0]!;
}
