// State dicts: loading values into a module's tensors. Nothing is written before every key and shape has been checked.
import { noGrad } from '../autograd/modes.js';
import { describe, ShapeError, ValueError } from '../errors.js';
import { copy_ } from '../ops/copy.js';
import { type Shape, sameShape, showShape } from '../shape.js';
import type { Storage } from '../storage.js';
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
  const shapeOf = (key: string): Shape => {
    const source = dict[key];
    if (!(source instanceof Tensor)) throw new ValueError(`loadStateDict: "${key}" must be a tensor, got ${describe(source)}`);
    return source.shape;
  };
  const { matching, ...result } = matchKeys('loadStateDict', name, own, Object.keys(dict), shapeOf, strict);
  noGrad(() => {
    for (const key of matching) copy_(own[key]!, dict[key]!);
  });
  return result;
}

/**
 * What of a module's state is among `keys`. Of tensors that are one, such as an embedding that is also the head, one is enough if `shared`.
 * @throws ValueError for keys that do not fit (if strict); ShapeError for another shape
 */
export function matchKeys(
  op: string,
  name: string,
  own: StateDict,
  keys: readonly string[],
  shapeOf: (key: string) => Shape,
  strict: boolean,
  shared = false,
): LoadResult & { matching: string[] } {
  const there = new Set(keys);
  const matching = Object.keys(own).filter((k) => there.has(k));
  const filled = new Set(shared ? matching.map((k) => placeOf(own[k]!)) : []);
  const missing = Object.keys(own).filter((k) => !there.has(k) && !filled.has(placeOf(own[k]!)));
  const unexpected = keys.filter((k) => !Object.hasOwn(own, k));
  if (strict && missing.length + unexpected.length > 0) {
    const list = (names: string[]): string => names.slice(0, 5).join(', ') + (names.length > 5 ? `, … (${names.length})` : '') || 'none';
    throw new ValueError(`${op}: keys do not match ${name}: missing ${list(missing)}; unexpected ${list(unexpected)}${prefixHint(missing, unexpected)}`);
  }
  for (const key of matching) {
    const shape = shapeOf(key);
    if (!sameShape(shape, own[key]!.shape))
      throw new ShapeError(`${op}: "${key}" has shape ${showShape(shape)}, the module's is ${showShape(own[key]!.shape)}`);
  }
  return { missing, unexpected, matching };
}

/** Equal for tensors that are views of the same elements. */
export function placeOf({ storage, offset, strides, isMeta }: Tensor): string | Storage {
  return isMeta ? storage : `${storage.handle} ${offset} ${strides}`;
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
