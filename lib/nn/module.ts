// Module: parameters, buffers and submodules found by assignment, as in PyTorch. Surprising decision: the constructor wraps the
// subclass's `forward` on the instance, so that a plain `model.forward(x)` runs hooks, knows its path (for error texts and
// dropout keys) and owns a scope: what forward makes and neither returns nor stores on `this` lives only as long as backward needs it.

import type { AutocastDType } from '../amp/policy.js';
import { checkpointed } from '../autograd/checkpoint.js';
import { noGrad } from '../autograd/modes.js';
import type { CheckpointPolicy } from '../autograd/selective.js';
import { context, withContext } from '../context.js';
import { describe, ValueError } from '../errors.js';
import { eachTensor, endScope } from '../memory.js';
import { moduleRange, modulesAreRanges } from '../profiler/range.js';
import { Scope, takeOut } from '../storage.js';
import { Tensor } from '../tensor.js';
import { type BackwardHook, BackwardWatch } from './backward_hooks.js';
import { type ForwardHook, type ForwardPreHook, hide, plainForwards } from './forward_hooks.js';
import { located } from './located.js';
import { checkPath } from './module_paths.js';
import { type MoveTarget, moved, moveParameter } from './move.js';
import { Parameter } from './parameter.js';
import { type LoadResult, loadInto, type StateDict } from './state_dict.js';
import { summarize } from './summary.js';

export { type BackwardHook, type ForwardHook, type ForwardPreHook, type LoadResult, type MoveTarget, Parameter, type StateDict };

type AnyFunction = (...args: never[]) => unknown;

/** Base class of all networks and layers: define `forward` as a method. */
export abstract class Module {
  /** Whether layers such as dropout and batch norm behave as in training. */
  training = true;
  /** The dtype autocast computes in during this module's forward, in place of the surrounding region's: `null` for none, undefined for the region's own. Outside of regions nothing is cast. */
  autocast: AutocastDType | null | undefined = undefined;
  /** Path in the model whose forward ran last, for example `transformer.h.0.attn`; empty for the model itself. */
  path = '';
  private readonly buffers_ = new Map<string, { tensor: Tensor | null; persistent: boolean }>();
  /** What checkpointModules has said: backward runs forward again, but for what the policy keeps. @internal */
  checkpointing: CheckpointPolicy | null = null;
  private preHooks: ForwardPreHook[] | null = null;
  private forwardHooks: ForwardHook[] | null = null;
  private backwardHooks: BackwardHook[] | null = null;

  /** What the module computes. Called as written, it runs hooks and gives what it makes and does not return back at its end. */
  abstract forward(...args: never[]): unknown;

  constructor() {
    const body = this.forward as AnyFunction;
    if (typeof body !== 'function') throw new ValueError(`${new.target.name}: define forward as a method of the class`);
    for (const name of ['path', 'checkpointing', 'buffers_', 'preHooks', 'forwardHooks', 'backwardHooks'] as const) hide(this, name, this[name]);
    const forward: AnyFunction = (...args) => this.run(body, args);
    plainForwards.add(forward);
    hide(this, 'forward', forward);
  }

  private run(body: AnyFunction, given: unknown[]): unknown {
    const outer = context();
    if (outer.module === '') this.setPaths('');
    let args = given;
    for (const hook of this.preHooks ?? []) args = (hook(this, args) as unknown[] | undefined) ?? args;
    const watch = this.backwardHooks?.length && outer.gradEnabled ? new BackwardWatch(this, this.backwardHooks, args) : null;
    if (watch) args = watch.args;
    const scope = new Scope();
    let output: unknown;
    try {
      const { autocast } = outer;
      const patch = { scope, module: this.label, autocast: autocast === null || this.autocast === undefined ? autocast : this.autocast };
      const segment = (...inputs: unknown[]): unknown => {
        const made = body.apply(this, inputs as never[]);
        this.adopt(context().scope); // that of the checkpoint
        return made;
      };
      const call = (): unknown =>
        this.checkpointing && outer.gradEnabled ? checkpointed(this.checkpointing, segment, args) : body.apply(this, args as never[]);
      output = withContext(patch, modulesAreRanges() ? () => moduleRange(this.label, call) : call);
    } catch (error) {
      scope.end(outer.scope);
      throw located(error, this.label);
    }
    const finish = (value: unknown): unknown => {
      this.adopt(scope);
      endScope(scope, outer.scope, value);
      let result = value;
      for (const hook of this.forwardHooks ?? []) result = hook(this, args, result) ?? result;
      return watch ? watch.leave(result) : result;
    };
    if (output instanceof Promise) {
      return output.then(finish, (error) => {
        scope.end(outer.scope);
        throw located(error, this.label);
      });
    }
    return finish(output);
  }

  /** Runs a part of what forward does: modules that it calls have the paths that they have within this one. @internal */
  during<T>(part: () => T): T {
    this.setPaths('');
    return withContext({ module: this.label }, part);
  }

  /** Class and path for error texts: `Linear "encoder.fc1"`. */
  get label(): string {
    return this.path ? `${this.constructor.name} "${this.path}"` : this.constructor.name;
  }

  /** Tensors stored on `this` during forward are the module's state and stay. */
  private adopt(scope: Scope | null): void {
    for (const value of Object.values(this)) {
      eachTensor(value, (t) => {
        if (t.storage.scope === scope) takeOut(t.storage);
      });
    }
  }

  private setPaths(path: string): void {
    this.path = path;
    for (const [name, child] of this.namedChildren()) child.setPaths(checkPath(this.pathOf(name)));
  }
  /** The path of a submodule in error texts and keys of random numbers; a wrapper gives its module its own. */
  protected pathOf(name: string): string {
    return this.path ? `${this.path}.${name}` : name;
  }

  // ---- structure

  /**
   * A tensor that is state but not trained: moved and saved with the module.
   * @param options.persistent false leaves it out of state dicts. Default true
   */
  registerBuffer(name: string, tensor: Tensor | null, options: { persistent?: boolean } = {}): void {
    const entry = { tensor: null as Tensor | null, persistent: options?.persistent ?? true };
    const set = (t: Tensor | null): void => {
      if (t !== null && !(t instanceof Tensor)) throw new ValueError(`${this.constructor.name}: buffer "${name}" must be a tensor or null, got ${describe(t)}`);
      if (t) takeOut(t.storage, 'buffer');
      entry.tensor = t;
    };
    set(tensor);
    this.buffers_.set(name, entry);
    Object.defineProperty(this, name, {
      get: () => entry.tensor,
      set,
      configurable: true,
      enumerable: false,
    });
  }

  /** Direct submodules with their names. */
  *namedChildren(): Generator<[string, Module]> {
    for (const [name, value] of Object.entries(this)) if (value instanceof Module) yield [name, value];
  }
  /** Direct submodules. */
  children(): Module[] {
    return [...this.namedChildren()].map(([, m]) => m);
  }
  /** This module and all below it, each once, with paths. */
  *namedModules(prefix = '', seen: Set<Module> = new Set()): Generator<[string, Module]> {
    if (seen.has(this)) return;
    seen.add(this);
    yield [prefix, this];
    for (const [name, child] of this.namedChildren()) yield* child.namedModules(prefix ? `${prefix}.${name}` : name, seen);
  }
  /** This module and all below it, each once. */
  modules(): Module[] {
    return [...this.namedModules()].map(([, m]) => m);
  }
  /** The module's own parameters. */
  *ownParameters(): Generator<[string, Parameter]> {
    for (const [name, value] of Object.entries(this)) if (value instanceof Parameter) yield [name, value];
  }
  /** All parameters with their paths; a shared one appears once, under its first path. */
  *namedParameters(): Generator<[string, Parameter]> {
    const seen = new Set<Parameter>();
    for (const [path, module] of this.namedModules()) {
      for (const [name, p] of module.ownParameters()) {
        if (seen.has(p)) continue;
        seen.add(p);
        yield [path ? `${path}.${name}` : name, p];
      }
    }
  }
  /** All parameters, each once: what optimizers take. */
  parameters(): Parameter[] {
    return [...this.namedParameters()].map(([, p]) => p);
  }
  /** All buffers with their paths; those that are saved alone with `persistentOnly`. */
  *namedBuffers(persistentOnly = false): Generator<[string, Tensor]> {
    for (const [path, module] of this.namedModules()) {
      for (const [name, { tensor, persistent }] of module.buffers_) {
        if (tensor !== null && (persistent || !persistentOnly)) yield [path ? `${path}.${name}` : name, tensor];
      }
    }
  }
  /** The tree of modules as text: classes, own parameters with their shapes, and how many they are. */
  summary(): string {
    return summarize(this);
  }
  /** All buffers. */
  buffers(): Tensor[] {
    return [...this.namedBuffers()].map(([, b]) => b);
  }

  // ---- state

  /** Parameters and persistent buffers by path. Shared parameters appear under every path, as in PyTorch. */
  stateDict(): StateDict {
    const dict: StateDict = {};
    const visit = (module: Module, prefix: string): void => {
      for (const [name, p] of module.ownParameters()) dict[prefix + name] = p.detach();
      for (const [name, { tensor, persistent }] of module.buffers_) if (tensor !== null && persistent) dict[prefix + name] = tensor.detach();
      for (const [name, child] of module.namedChildren()) visit(child, checkPath(`${prefix}${name}.`));
    };
    visit(this, '');
    return dict;
  }

  /**
   * Copies values in, converting dtype and device. Nothing is written before all keys and shapes fit.
   * @param options.strict whether missing or unexpected keys throw. Default true
   * @throws ValueError for keys that do not fit (if strict); ShapeError for another shape
   */
  loadStateDict(dict: StateDict, options: { strict?: boolean } = {}): LoadResult {
    return loadInto(this.constructor.name, this.stateDict(), dict, options?.strict ?? true);
  }

  // ---- modes and moves

  /** Sets `training` of this module and all below it. */
  train(on = true): this {
    for (const m of this.modules()) m.training = on;
    return this;
  }
  /** `train(false)`: dropout does nothing, batch norm takes its running statistics. */
  eval(): this {
    return this.train(false);
  }
  /** Sets `requiresGrad` of all parameters. */
  requiresGrad_(on = true): this {
    for (const p of this.parameters()) p.requiresGrad = on;
    return this;
  }
  /** Drops all gradients and frees them. */
  zeroGrad(): void {
    for (const p of this.parameters()) {
      // a view of a larger buffer is not ours to free
      if (p.grad && !p.grad.isView) p.grad.dispose();
      p.grad = null;
    }
  }
  /** Calls `fn` on every module below, then on this one. */
  apply(fn: (module: Module) => void): this {
    for (const child of this.children()) child.apply(fn);
    fn(this);
    return this;
  }
  /**
   * Moves parameters and buffers to a device, floating-point ones to a dtype, or both. Parameters stay the same objects, so an
   * optimizer made before still updates them (its state does not move).
   */
  to(target: MoveTarget): this {
    noGrad(() => {
      for (const p of this.parameters()) moveParameter(p, target);
      for (const module of this.modules()) {
        for (const entry of module.buffers_.values()) {
          if (entry.tensor) entry.tensor = moved(entry.tensor, target).keep();
        }
      }
    });
    return this;
  }

  /** Whether any hook is registered on this module itself. */
  get hasHooks(): boolean {
    return [this.preHooks, this.forwardHooks, this.backwardHooks].some((hooks) => hooks?.length);
  }
  /** Runs before forward; may replace the arguments. Returns the remover. */
  registerForwardPreHook(hook: ForwardPreHook): () => void {
    this.preHooks = [...(this.preHooks ?? []), hook];
    return () => {
      this.preHooks = this.preHooks!.filter((h) => h !== hook);
    };
  }
  /** Runs after forward; a returned value replaces the output. Returns the remover. */
  registerForwardHook(hook: ForwardHook): () => void {
    this.forwardHooks = [...(this.forwardHooks ?? []), hook];
    return () => {
      this.forwardHooks = this.forwardHooks!.filter((h) => h !== hook);
    };
  }
  /**
   * Runs in backward, when the gradients of the tensor arguments that require one are known, with those of the outputs; may replace
   * the former. Without such arguments it runs with the gradients of the outputs alone. Returns the remover.
   */
  registerFullBackwardHook(hook: BackwardHook): () => void {
    this.backwardHooks = [...(this.backwardHooks ?? []), hook];
    return () => {
      this.backwardHooks = this.backwardHooks!.filter((h) => h !== hook);
    };
  }
}
