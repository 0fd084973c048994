// The state of a whole from those of the stages of a pipeline, as JSON: each stage names its own tensors and parameters, what all have is the same.
import { CheckpointError } from '../../errors.js';
import { entriesOf, objectForm } from '../../io/state_tree.js';

/** Not a tensor or another form that JSON has none of its own for. */
function isObject(x: unknown): x is object {
  return typeof x === 'object' && x !== null && !Array.isArray(x) && (!Object.keys(x)[0]?.startsWith('$') || '$object' in x);
}
const areNames = (x: readonly unknown[]): boolean => x.every((item) => typeof item === 'string');

/**
 * Objects have the keys of both, lists of names (the parameters of a group) those of both, other lists are united item by item.
 * @param path for error texts
 */
export function union(a: unknown, b: unknown, path: string): unknown {
  if (Array.isArray(a) && Array.isArray(b)) {
    if (areNames(a) && areNames(b)) return [...new Set([...a, ...b])];
    if (a.length !== b.length)
      throw new CheckpointError(`saveCheckpoint: ${path} has ${a.length} items on one stage and ${b.length} on another; make them alike, empty groups too`);
    return a.map((item, i) => union(item, b[i], `${path}.${i}`));
  }
  if (!isObject(a) || !isObject(b)) return a;
  const all = new Map(entriesOf(a));
  for (const [key, value] of entriesOf(b)) all.set(key, all.has(key) ? union(all.get(key), value, `${path}.${key}`) : value);
  return objectForm([...all]);
}
