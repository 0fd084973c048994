// State dicts: loading values into a module's tensors. Nothing is written before every key and shape has been checked.

import { noGrad } from '../autograd/modes.js';
import { describe, ShapeError, ValueError } from '../errors.js';
import { copy_ } from '../ops/copy.js';
import { sameShape, showShape } from '../shape.js';
import { Tensor } from '../tensor.js';

/** Tensors by path, as `stateDict` gives and `loadStateDict` takes them. */
export type StateDict = Record<string, Tensor>;
/** What did not match where a state dict was loaded. */
export interface LoadResult {
  /** Keys the module has and the dict lacks. */
  missing: string[];
  /** Keys the dict has and the module lacks. */
  unexpected: string[];
}

/** Copies the values of `dict` into the tensors of `own`, converting dtype and device. */
export function loadInto(name: string, own: StateDict, dict: StateDict, strict: boolean): LoadResult {
  if (typeof dict !== 'object' || dict === null) throw new ValueError(`loadStateDict: expected an object of tensors, got ${describe(dict)}`);
  const missing = Object.keys(own).filter((k) => !Object.hasOwn(dict, k));
  const unexpected = Object.keys(dict).filter((k) => !Object.hasOwn(own, k));
  if (strict && missing.length + unexpected.length > 0) {
    const list = (names: string[]): string => names.slice(0, 5).join(', ') + (names.length > 5 ? `, … (${names.length})` : '') || 'none';
    throw new ValueError(
      `loadStateDict: keys do not match ${name}: missing ${list(missing)}; unexpected ${list(unexpected)}${prefixHint(missing, unexpected)}`,
    );
  }
  const matching = Object.keys(own).filter((k) => Object.hasOwn(dict, k));
  for (const key of matching) {
    const source = dict[key];
    if (!(source instanceof Tensor)) throw new ValueError(`loadStateDict: "${key}" must be a tensor, got ${describe(source)}`);
    if (!sameShape(source.shape, own[key]!.shape)) {
      throw new ShapeError(`loadStateDict: "${key}" has shape ${showShape(source.shape)}, the module's is ${showShape(own[key]!.shape)}`);
    }
  }
  noGrad(() => {
    for (const key of matching) copy_(own[key]!, dict[key]!);
  });
  return { missing, unexpected };
}

/** Wrappers for data parallelism, here and in PyTorch, put a prefix before the keys of their module. */
function prefixHint(missing: readonly string[], unexpected: readonly string[]): string {
  const wrapped = (keys: readonly string[], others: readonly string[]): boolean => {
    const plain = new Set(others.map((key) => `module.${key}`));
    return keys.length > 0 && keys.every((key) => plain.has(key));
  };
  if (wrapped(unexpected, missing)) return '; the dict is that of a wrapper: take "module." off its keys, or load it into the wrapper';
  return wrapped(missing, unexpected) ? '; the dict is that of the wrapped module: load it into its .module' : '';
}
