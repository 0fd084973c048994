// How something is named so that a worker thread can make it too: functions and objects with methods cannot cross between threads,
// but the file they come from can be imported on both sides.
import { isAbsolute } from 'node:path';
import { pathToFileURL } from 'node:url';
import { DataError, describe, ValueError } from '../errors.js';

/**
 * An export of a module, with arguments for it.
 *
 * ```ts
 * // my_dataset.js
 * export class MyDataset {
 *   constructor(folder) { … }
 *   get length() { … }
 *   get(index) { return { inputs: new Float32Array(…), targets: new Int32Array(…) }; }
 * }
 * // train.js
 * new DataLoader({ module: new URL('./my_dataset.js', import.meta.url), export: 'MyDataset', args: ['data/'] }, { workers: 4 });
 * ```
 *
 * A class is called with `new`, a function is called and may be async; arguments must be values that `structuredClone` copies.
 * SharedArrayBuffers among them are shared, not copied.
 */
export interface ModuleRef {
  /** `new URL('./file.js', import.meta.url)`, what `import.meta.resolve('package')` returns, or an absolute path. */
  module: string | URL;
  /** Name of the export; `default` unless given. */
  export?: string;
  /** Arguments of the class or function; none unless given. */
  args?: readonly unknown[];
}

/** Names the module of this package's own datasets, wherever a bundler has put it. */
export const OWN_MODULE = 'shardgrad:data';

export function isModuleRef(value: unknown): value is ModuleRef {
  const module = (value as ModuleRef | null)?.module;
  return typeof value === 'object' && (typeof module === 'string' || module instanceof URL);
}

/** The form that can be sent to a worker, with the module as the text of a URL. */
export function portable(ref: ModuleRef, where: string): ModuleRef {
  let url = ref.module instanceof URL ? ref.module.href : ref.module;
  if (isAbsolute(url)) url = pathToFileURL(url).href;
  if (!/^(file|data|node|shardgrad):/.test(url)) {
    throw new ValueError(
      `${where}: module ${describe(url)} must be a URL or an absolute path; use new URL('./file.js', import.meta.url) or import.meta.resolve('package')`,
    );
  }
  return { module: url, export: ref.export ?? 'default', args: ref.args ?? [] };
}

async function load(ref: ModuleRef, where: string): Promise<{ value: unknown; name: string }> {
  const { module, export: name } = portable(ref, where) as { module: string; export: string };
  const label = `${name} of ${module}`;
  let exports: Record<string, unknown>;
  try {
    exports = (await (module === OWN_MODULE ? import('./makers.js') : import(module))) as Record<string, unknown>;
  } catch (cause) {
    throw new DataError(`${where}: cannot import ${module}: ${(cause as Error)?.message ?? cause}`, { cause });
  }
  if (!(name in exports)) throw new DataError(`${where}: ${module} has no export "${name}"; it has ${Object.keys(exports).join(', ') || 'none'}`);
  return { value: exports[name], name: label };
}

function isClass(f: unknown): f is new (...args: unknown[]) => unknown {
  return typeof f === 'function' && /^class\b/.test(Function.prototype.toString.call(f));
}

/** Makes the object a reference names: `new` of a class, the result of a function, or the exported object itself. */
export async function construct(ref: ModuleRef, where: string): Promise<unknown> {
  const { value, name } = await load(ref, where);
  if (typeof value !== 'function') return value;
  try {
    return isClass(value) ? new value(...(ref.args ?? [])) : await value(...(ref.args ?? []));
  } catch (cause) {
    throw new DataError(`${where}: ${name} failed: ${(cause as Error)?.message ?? cause}`, { cause });
  }
}

/** The function a reference names: the export itself, or what it returns for `args` when those are given. */
export async function resolveFunction(ref: ModuleRef, where: string): Promise<(...args: never[]) => unknown> {
  const value = ref.args === undefined || ref.args.length === 0 ? (await load(ref, where)).value : await construct(ref, where);
  if (typeof value !== 'function') throw new DataError(`${where}: expected a function, got ${describe(value)}`);
  return value as (...args: never[]) => unknown;
}
