// A copy of a model, for what would change the original. Parameters and submodules that are shared are shared in the copy. Functions are what
// cannot be copied, as they may refer to the original: a module that keeps some is refused.
import { describe, ValueError } from '../errors.js';
import type { Storage } from '../storage.js';
import { Tensor } from '../tensor.js';
import { plainForwards } from './forward_hooks.js';
import { Module } from './module.js';

/** What a copy needs of a module's insides. */
interface Insides {
  readonly buffers_: ReadonlyMap<string, { readonly tensor: Tensor | null; readonly persistent: boolean }>;
}

/**
 * @param copyStorage memory for a copy; called once for each storage
 * @throws ValueError for a module that keeps functions: hooks, a forward of its own, closures
 */
export function copyModule<M extends Module>(model: M, copyStorage: (s: Storage) => Storage, where: string): M {
  if (!(model instanceof Module)) throw new ValueError(`${where}: expected a module, got ${describe(model)}`);
  return new Copy(copyStorage, where).of(model, '') as M;
}

class Copy {
  private readonly copies = new Map<object, object>();
  private readonly storages = new Map<Storage, Storage>();

  constructor(
    private readonly copyStorage: (s: Storage) => Storage,
    private readonly where: string,
  ) {}

  /** Each thing once. What is neither module, tensor nor container (generators, devices) is shared. */
  of(value: unknown, path: string): unknown {
    if (typeof value === 'function') {
      throw new ValueError(
        `${this.where}: the model keeps a function in "${path}", which may refer to the model and not to its copy; in place of the model pass a function that makes it`,
      );
    }
    if (typeof value !== 'object' || value === null) return value;
    const known = this.copies.get(value);
    if (known) return known;
    const made = emptyLike(value);
    if (!made) return value;
    this.copies.set(value, made);
    if (value instanceof Module) this.fillModule(made as Module, value, path);
    else if (value instanceof Tensor) this.fillTensor(made, value);
    else if (value instanceof Map) for (const [k, v] of value) (made as Map<unknown, unknown>).set(k, this.of(v, `${path}.${k}`));
    else if (value instanceof Set) for (const v of value) (made as Set<unknown>).add(this.of(v, path));
    else for (const [k, v] of Object.entries(value)) (made as Record<string, unknown>)[k] = this.of(v, `${path}.${k}`);
    return made;
  }

  private fillTensor(made: object, t: Tensor): void {
    const storage = this.storages.get(t.storage) ?? this.copyStorage(t.storage);
    this.storages.set(t.storage, storage);
    Object.assign(made, t, { storage, grad: null, absent: null, gradFn: null, hooks: null, accumulateHooks: null });
  }

  private fillModule(made: Module, m: Module, path: string): void {
    for (const [key, property] of Object.entries(Object.getOwnPropertyDescriptors(m))) {
      // buffers have accessors, and are registered below
      if (property.get || key === 'buffers_' || (key === 'forward' && plainForwards.has(property.value as object))) continue;
      Object.defineProperty(made, key, { ...property, value: this.of(property.value, path ? `${path}.${key}` : key) });
    }
    for (const [name, { tensor, persistent }] of (m as unknown as Insides).buffers_) {
      made.registerBuffer(name, this.of(tensor, name) as Tensor | null, { persistent });
    }
  }
}

function emptyLike(value: object): object | null {
  const prototype: unknown = Object.getPrototypeOf(value);
  // Module's own constructor alone
  if (value instanceof Module) return Reflect.construct(Module as unknown as () => void, [], value.constructor) as Module;
  if (value instanceof Tensor) return Object.create(prototype as object) as Tensor;
  if (Array.isArray(value)) return [];
  if (value instanceof Map) return new Map();
  if (value instanceof Set) return new Set();
  return prototype === Object.prototype || prototype === null ? {} : null;
}
