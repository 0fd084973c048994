// Options of optimizers and modules, as they come from JavaScript: a name that nothing reads is refused, as it would be left at its default without a
// word. The defaults are the list of names.
import { describe, ValueError } from './errors.js';

/** A value for every option, also for those that are optional where they are given. */
export type Every<O> = { readonly [K in keyof Required<O>]: O[K] };

/** The names of all options, where some have no default: the compiler says which one is missing. */
export type Names<O> = { readonly [K in keyof Required<O>]: true };

/** An option given as undefined means the default. */
export function definedOnly<T extends object>(options: T): T {
  return Object.fromEntries(Object.entries(options).filter(([, v]) => v !== undefined)) as T;
}

/**
 * The defaults with what was given in their place.
 * @throws ValueError for what is no object, and for a name that is not among the defaults'
 */
export function withOptions<T extends object>(where: string, defaults: T, given: Partial<T> | null | undefined): T {
  if (given === undefined || given === null) return { ...defaults };
  checkNames(where, defaults, given);
  return { ...defaults, ...definedOnly(given) };
}

/** @throws ValueError for what is no object, and for a name that is not among those of `names` */
export function checkNames(where: string, names: object, given: object): void {
  if (typeof given !== 'object' || given === null || Array.isArray(given)) throw new ValueError(`${where}: options must be an object, got ${describe(given)}`);
  const unknown = Object.keys(given).find((name) => !Object.hasOwn(names, name));
  if (unknown !== undefined) throw new ValueError(`${where}: there is no option ${unknown}; there are ${Object.keys(names).join(', ')}`);
}
