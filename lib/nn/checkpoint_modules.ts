// Activation checkpointing by module. The module keeps its class, name and hooks: its own forward, between the hooks, becomes a checkpointed
// segment (Module.checkpointing), so the order of this call and of parallelize, fullyShard and other wrappers does not matter.
import { type CheckpointOptions, CheckpointPolicy } from '../autograd/selective.js';
import { describe, ValueError } from '../errors.js';
import { checkInteger } from '../shape.js';
import { ModuleDict, ModuleList } from './containers.js';
import { Module } from './module.js';
import { type ModuleAt, modulesAt } from './module_paths.js';

/** @inline */
type ModuleClass = abstract new (...args: never[]) => Module;
/** Modules of a model: paths, in which `*` stands for one part (`transformer.h.*`), a class, or a function that says which. */
export type ModuleChoice = string | readonly string[] | ModuleClass | ((module: Module, path: string) => boolean);

/** As CheckpointOptions, for several modules. */
export interface CheckpointModulesOptions extends CheckpointOptions {
  /** Of the modules found, every n-th alone; 1 (all) unless given. */
  readonly every?: number;
}

const isClass = (which: unknown): which is ModuleClass => typeof which === 'function' && (which as { prototype?: unknown }).prototype instanceof Module;

/** The modules that are meant, in the order of the model. */
export function chosenModules(model: Module, which: ModuleChoice, where: string): ModuleAt[] {
  if (!(model instanceof Module)) throw new ValueError(`${where}: expected a module, got ${describe(model)}`);
  let found: ModuleAt[];
  if (typeof which === 'string' || (Array.isArray(which) && which.every((path) => typeof path === 'string'))) {
    found = modulesAt(model, [which].flat(), where);
    const list = found.find(({ module }) => module instanceof ModuleList || module instanceof ModuleDict);
    if (list) throw new ValueError(`${where}: "${list.path}" is a ${list.module.constructor.name}, which is never called; its modules are "${list.path}.*"`);
  } else if (typeof which === 'function') {
    const means = isClass(which) ? (m: Module): boolean => m instanceof which : (which as (module: Module, path: string) => boolean);
    found = [...model.namedModules()].flatMap(([path, module]) => (means(module, path) ? [{ path, module }] : []));
  } else throw new ValueError(`${where}: which modules must be paths, a class or a function of a module and its path, got ${describe(which)}`);
  if (found.length === 0)
    throw new ValueError(`${where}: ${model.constructor.name} has no module ${isClass(which) ? `of class ${which.name}` : 'that is meant'}`);
  return found;
}

/**
 * Lets backward run the forwards of these modules again in place of keeping what they make, wherever gradients are recorded:
 *
 * ```ts
 * sg.checkpointModules(model, 'transformer.h.*');                                    // every block
 * sg.checkpointModules(model, nn.GPTBlock, { every: 2 });                            // every second one
 * sg.checkpointModules(model, 'transformer.h.*', { keep: 'expensive' });             // but for products, attention and collectives
 * sg.checkpointModules(model, 'transformer.h.*.attn', { recompute: 'attention' });   // attention alone
 * ```
 *
 * Names, state dicts and results are as before, to the bit. Options as of `checkpoint`; may be called before or after `parallelize`, `fullyShard` and
 * other wrappers. Inside of a wrapped module the parameters that its wrapper has gathered serve both runs. Fused blocks that take weights out of
 * a layer instead of calling it pass over the checkpoint of that layer alone. `dist.checkpointWithin` chooses modules by a budget of memory.
 * @returns what undoes it
 * @throws ValueError for paths that match nothing, with what may have been meant, and for modules that are checkpointed already
 */
export function checkpointModules(model: Module, which: ModuleChoice, options: CheckpointModulesOptions = {}): () => void {
  const where = 'checkpointModules';
  const policy = CheckpointPolicy.of(options, where);
  const every = checkInteger(options.every ?? 1, 'every', where, 1);
  const chosen = chosenModules(model, which, where).filter((_, i) => (i + 1) % every === 0);
  if (chosen.length === 0) throw new ValueError(`${where}: there are fewer than ${every} such modules in ${model.constructor.name}`);
  const twice = chosen.find(({ module }) => module.checkpointing);
  if (twice) throw new ValueError(`${where}: "${twice.path}" is checkpointed already; undo that first`);
  for (const { module } of chosen) module.checkpointing = policy;
  return () => {
    // parallelize may have put others in their places
    for (const module of model.modules()) if (module.checkpointing === policy) module.checkpointing = null;
  };
}
