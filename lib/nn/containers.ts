// Containers: modules in order, by index or by name.
import { describe, ValueError } from '../errors.js';
import type { Tensor } from '../tensor.js';
import type { LayeredModel, PipelineLayer } from './layered.js';
import { Module } from './module.js';

function checkModule(m: unknown, where: string): asserts m is Module {
  if (!(m instanceof Module)) throw new ValueError(`${where}: expected modules, got ${describe(m)}`);
}

/** Indexed children are own properties "0", "1", …, which gives state-dict keys as in PyTorch. */
abstract class Indexed<M extends Module> extends Module {
  protected count = 0;
  constructor(modules: Iterable<M>) {
    super();
    Object.defineProperty(this, 'count', { enumerable: false, writable: true, value: 0 });
    if (typeof modules?.[Symbol.iterator] !== 'function') throw new ValueError(`${new.target.name}: expected modules, got ${describe(modules)}`);
    for (const m of modules) this.append(m);
  }
  /** How many modules it has. */
  get length(): number {
    return this.count;
  }
  /** Adds a module at the end. */
  append(module: M): this {
    checkModule(module, this.constructor.name);
    (this as unknown as Record<string, M>)[this.count++] = module;
    return this;
  }
  /** The module at a position, negative counting from the end. */
  get(i: number): M {
    const found = (this as unknown as Record<string, M>)[i < 0 ? i + this.count : i];
    if (!found) throw new ValueError(`${this.constructor.name}: position ${describe(i)} is out of range of ${this.count} modules`);
    return found;
  }
  /** The modules in order. */
  *[Symbol.iterator](): Iterator<M> {
    for (let i = 0; i < this.count; i++) yield this.get(i);
  }
}

/** Runs modules one after another. */
export class Sequential extends Indexed<Module> implements LayeredModel {
  constructor(...modules: Module[]) {
    super(modules);
  }
  /** The last module's result, each module getting that of the one before. */
  override forward(x: Tensor): Tensor {
    let y = x;
    for (const m of this) y = (m as unknown as { forward(x: Tensor): Tensor }).forward(y);
    return y;
  }
  /** A layer for each module: what a pipeline cuts. */
  pipelineLayers(): PipelineLayer[] {
    return Array.from(this, (m) => ({ modules: [m], forward: (...x) => (m as unknown as { forward(...x: Tensor[]): Tensor }).forward(...x) }));
  }
}

/** A list of modules; the owner decides how they run. */
export class ModuleList<M extends Module = Module> extends Indexed<M> {
  constructor(modules: Iterable<M> = []) {
    super(modules);
  }
  /** Throws ValueError: a list has no forward of its own. */
  override forward(): never {
    throw new ValueError('ModuleList has no forward: call its modules');
  }
}

/** Modules by name. */
export class ModuleDict<M extends Module = Module> extends Module {
  constructor(modules: Record<string, M> = {}) {
    super();
    if (typeof modules !== 'object' || modules === null) throw new ValueError(`ModuleDict: expected an object of modules, got ${describe(modules)}`);
    for (const [name, m] of Object.entries(modules)) this.set(name, m);
  }
  /** Adds a module, or replaces the one of that name. Throws ValueError for a name that is empty, has a dot, or is that of a method. */
  set(name: string, module: M): this {
    checkModule(module, 'ModuleDict');
    if (name === '' || name.includes('.') || name in Module.prototype) throw new ValueError(`ModuleDict: ${JSON.stringify(name)} cannot be a name`);
    (this as unknown as Record<string, M>)[name] = module;
    return this;
  }
  /** The module of a name. Throws ValueError where there is none. */
  get(name: string): M {
    const found = Object.hasOwn(this, name) ? (this as unknown as Record<string, M>)[name] : undefined;
    if (!(found instanceof Module)) throw new ValueError(`ModuleDict: no module ${JSON.stringify(name)}; it has ${this.keys().join(', ') || 'none'}`);
    return found;
  }
  /** The names, in the order they were added. */
  keys(): string[] {
    return [...this.namedChildren()].map(([name]) => name);
  }
  /** Throws ValueError: a dictionary has no forward of its own. */
  override forward(): never {
    throw new ValueError('ModuleDict has no forward: call its modules');
  }
}
