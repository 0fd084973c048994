// Optimizer: parameter groups, state, and the one native call a step. What changes from step to step lies in a device buffer
// (step_buffer.ts), so nothing here waits for the device.

import { noGrad } from '../autograd/modes.js';
import type { StructuredName } from '../autograd/rules/types.js';
import { everyStep } from '../capture.js';
import { full } from '../create.js';
import { type DType, dtypeSize } from '../dtype.js';
import { DeviceError, describe, ShapeError, ValueError } from '../errors.js';
import { copy_, to } from '../ops/copy.js';
import { invoke } from '../ops/door.js';
import { defaultGenerator } from '../random.js';
import { takeOut } from '../storage.js';
import { Tensor } from '../tensor.js';
import { StepBuffer } from './step_buffer.js';

/** Options every optimizer has, per group. */
export interface GroupOptions {
  /** Learning rate. */
  lr: number;
  weightDecay: number;
  /** Ascend instead of descend. */
  maximize: boolean;
}
export type ParamGroup<O extends GroupOptions> = O & { params: Tensor[] };
/** Parameters alone, or groups that override some of the options. */
export type Params<O extends GroupOptions> = Iterable<Tensor> | readonly (Partial<O> & { params: Iterable<Tensor> })[];

export interface OptimizerState {
  state: Record<string, Record<string, Tensor | number>>;
  paramGroups: Record<string, unknown>[];
}

export abstract class Optimizer<O extends GroupOptions = GroupOptions> {
  readonly groups: ParamGroup<O>[] = [];
  /** State tensors by parameter and name; names come as groups with further options do. */
  protected readonly state = new Map<Tensor, Map<string, Tensor>>();
  private readonly masters = new Map<Tensor, Tensor>();
  private readonly defaults: O;
  private readonly buffer = new StepBuffer();
  private readonly order: Tensor[] = [];
  private readonly position = new Map<Tensor, number>();
  /** Steps taken by calls of step(); a schedule reads it. */
  steps = 0;

  protected abstract readonly op: StructuredName;
  /** Names of the state lists as in PyTorch's state dicts. */
  protected abstract stateNames(): readonly string[];
  /** The option row of a group after weightDecay and maximize. */
  protected abstract fields(group: ParamGroup<O>): number[];
  protected abstract checkOptions(options: O, where: string): void;
  /** What a state list starts with. */
  protected startOf(_name: string, _group: ParamGroup<O>): number {
    return 0;
  }

  protected constructor(params: Params<O>, defaults: O, options?: Partial<O>) {
    this.defaults = { ...defaults, ...definedOnly(options ?? {}) };
    if (params === null || params === undefined || typeof (params as Iterable<unknown>)[Symbol.iterator] !== 'function') {
      throw new ValueError(`${this.constructor.name}: expected parameters or groups of them, got ${describe(params)}`);
    }
    const list = [...(params as Iterable<Tensor | (Partial<O> & { params: Iterable<Tensor> })>)];
    if (list.length === 0) throw new ValueError(`${this.constructor.name}: got no parameters`);
    if (list.every((p) => p instanceof Tensor)) this.addGroup({ params: list } as Partial<O> & { params: Tensor[] });
    else for (const group of list) this.addGroup(group as Partial<O> & { params: Iterable<Tensor> });
  }

  /** Adds a group; options it lacks are the optimizer's. */
  addGroup(group: Partial<O> & { params: Iterable<Tensor> }): void {
    const where = this.constructor.name;
    if (typeof group !== 'object' || group === null || typeof group.params?.[Symbol.iterator] !== 'function') {
      throw new ValueError(`${where}: a group is an object with params, got ${describe(group)}`);
    }
    const params = [...group.params];
    params.forEach((p, i) => {
      if (!(p instanceof Tensor)) throw new ValueError(`${where}: parameters must be tensors, got ${describe(p)}`);
      if (!p.isLeaf) throw new ValueError(`${where}: a parameter of shape [${p.shape}] is not a leaf`);
      if (this.position.has(p) || params.indexOf(p) !== i) throw new ValueError(`${where}: a parameter of shape [${p.shape}] appears twice`);
      const first = this.order[0] ?? params[0]!;
      if (first.device !== p.device) throw new DeviceError(`${where}: parameters are on ${first.device} and ${p.device}`);
    });
    const full = { ...this.defaults, ...definedOnly(group), params } as ParamGroup<O>;
    this.checkGroup(full, where);
    const counts = this.buffer.counts(); // the buffer is laid out for the groups that there are
    for (const p of params) this.position.set(p, this.order.push(p) - 1);
    this.groups.push(full);
    this.buffer.reset(counts, this.order.length);
  }

  private checkGroup(group: ParamGroup<O>, where: string): void {
    checkRange(where, 'lr', group.lr, 0);
    checkRange(where, 'weightDecay', group.weightDecay, 0);
    this.checkOptions(group, where);
  }

  /** Updates every parameter that has a gradient; one that is marked `absent` counts as none, on the device. Enqueues one native call; nothing waits. */
  step(): void {
    this.groups.forEach((g, i) => this.checkGroup(g, `${this.constructor.name}: group ${i}`));
    const used: Tensor[][] = this.groups.map((g) => g.params.filter((p) => p.grad !== null));
    const params = used.flat();
    const generator = defaultGenerator();
    everyStep(() => {
      this.steps++;
      generator.step++;
      for (const p of params) p.storage.wrote('step');
    });
    if (params.length === 0) return;
    noGrad(() => {
      const names = this.stateNames();
      const rates = (): Float64Array => Float64Array.from(this.groups, (g) => g.lr);
      const buffer = this.buffer.ready(rates, this.order);
      const states = this.groups.flatMap((g, i) => used[i]!.map((p) => this.stateOf(p, g)));
      const withMasters = this.masters.size > 0;
      const lists: Tensor[][] = [params, params.map((p) => checkGrad(p))];
      for (const name of names) lists.push(states.map((s) => s.get(name)!));
      if (withMasters) lists.push(params.map((p) => this.masters.get(p) ?? p));
      const numbers = [lists.length, this.groups.length, Number(withMasters)];
      this.groups.forEach((g, i) => numbers.push(used[i]!.length, g.weightDecay, Number(g.maximize), ...this.fields(g)));
      for (const p of params) numbers.push(this.position.get(p)!);
      invoke(
        this.op as 'adamStep',
        buffer.device,
        [buffer, ...lists.flat()].map((t) => t.detach()),
        numbers,
      );
    });
  }

  /** Drops the gradients and frees them. */
  zeroGrad(): void {
    for (const p of this.order) {
      // a view of a larger buffer is not ours to free
      if (p.grad && !p.grad.isView) p.grad.dispose();
      p.grad = null;
    }
  }

  /** State by the parameter's position, as torch.optim's state dicts; tensors are not copied. */
  stateDict(): OptimizerState {
    const counts = this.buffer.counts();
    const state: OptimizerState['state'] = {};
    this.order.forEach((p, i) => {
      const tensors = this.state.get(p);
      if (!tensors) return;
      const entry: Record<string, Tensor | number> = { step: counts[i]! };
      for (const [name, t] of tensors) entry[name] = t;
      const master = this.masters.get(p);
      if (master) entry['master'] = master;
      state[i] = entry;
    });
    let at = 0;
    const paramGroups = this.groups.map(({ params, ...options }) => ({ ...options, params: params.map(() => at++) }));
    return { state, paramGroups };
  }

  /** Restores a state dict of an optimizer with the same groups. Values are copied. */
  loadStateDict(dict: OptimizerState): void {
    const where = `${this.constructor.name}.loadStateDict`;
    if (typeof dict?.state !== 'object' || dict.state === null || !Array.isArray(dict.paramGroups))
      throw new ValueError(`${where}: expected {state, paramGroups}, got ${describe(dict)}`);
    if (dict.paramGroups.length !== this.groups.length)
      throw new ValueError(`${where}: the dict has ${dict.paramGroups.length} groups, the optimizer ${this.groups.length}`);
    const groups = dict.paramGroups.map((g, i) => {
      const { params, ...options } = (g ?? {}) as { params?: unknown[] };
      if (params?.length !== this.groups[i]!.params.length)
        throw new ValueError(`${where}: group ${i} has ${params?.length} parameters in the dict, ${this.groups[i]!.params.length} here`);
      const full = { ...this.groups[i]!, ...definedOnly(options) };
      this.checkGroup(full, `${where}: group ${i}`);
      return full;
    });
    const counts = Float64Array.from(this.order, (_, i) => {
      const step = dict.state[i]?.['step'] ?? 0;
      if (!Number.isSafeInteger(step) || (step as number) < 0)
        throw new ValueError(`${where}: state ${i}.step must be a whole number from 0, got ${describe(step)}`);
      return step as number;
    });
    this.groups.forEach((g, i) => Object.assign(g, groups[i]));
    noGrad(() => {
      const owners = this.groups.flatMap((g) => g.params.map(() => g));
      this.order.forEach((p, i) => {
        const entry = dict.state[i];
        if (!entry) {
          this.forget(p);
          return;
        }
        const tensors = this.stateOf(p, owners[i]!);
        for (const name of this.stateNames()) restore(tensors.get(name)!, entry[name], `${where}: state ${i}.${name}`);
        const master = this.masters.get(p);
        if (master) restore(master, entry['master'], `${where}: state ${i}.master`);
      });
    });
    this.buffer.reset(counts, this.order.length);
    this.steps = Math.max(0, ...counts);
  }

  /** The parameter has taken no step. */
  private forget(p: Tensor): void {
    for (const t of this.state.get(p)?.values() ?? []) t.dispose();
    this.state.delete(p);
    this.masters.get(p)?.dispose();
    this.masters.delete(p);
  }

  /** The state tensors of a parameter, made when first needed: zeros in at least float32. */
  private stateOf(p: Tensor, group: ParamGroup<O>): Map<string, Tensor> {
    let tensors = this.state.get(p);
    if (!tensors) {
      tensors = new Map();
      this.state.set(p, tensors);
      if (dtypeSize[p.dtype] < 4) this.masters.set(p, stateTensor(to(p.detach(), 'float32')));
    }
    for (const name of this.stateNames()) {
      if (!tensors.has(name)) tensors.set(name, stateTensor(full(p.shape, this.startOf(name, group), { dtype: stateType(p.dtype), device: p.device })));
    }
    return tensors;
  }
}

function stateTensor(t: Tensor): Tensor {
  takeOut(t.storage, 'optimizer state');
  return t;
}

/** Low-precision parameters keep float32 masters and states. */
function stateType(dtype: DType): DType {
  return dtype === 'float64' ? 'float64' : 'float32';
}

function checkGrad(p: Tensor): Tensor {
  const g = p.grad!;
  if (g.shape.length !== p.shape.length || g.shape.some((s, i) => s !== p.shape[i])) {
    throw new ShapeError(`step: a gradient of shape [${g.shape}] belongs to a parameter of shape [${p.shape}]`);
  }
  return g;
}

function restore(target: Tensor, source: Tensor | number | undefined, where: string): void {
  if (!(source instanceof Tensor)) throw new ValueError(`${where} must be a tensor, got ${describe(source)}`);
  if (source.shape.length !== target.shape.length || source.shape.some((s, i) => s !== target.shape[i])) {
    throw new ShapeError(`${where} has shape [${source.shape}], expected [${target.shape}]`);
  }
  copy_(target, source);
}

/** An option given as undefined means the default. */
function definedOnly<T extends object>(options: T): T {
  return Object.fromEntries(Object.entries(options).filter(([, v]) => v !== undefined)) as T;
}

export function checkRange(where: string, name: string, value: unknown, min: number, below = Number.POSITIVE_INFINITY): void {
  if (typeof value !== 'number' || !Number.isFinite(value) || value < min || value >= below) {
    const range = below === Number.POSITIVE_INFINITY ? `a finite number from ${min}` : `in [${min}, ${below})`;
    throw new ValueError(`${where}: ${name} must be ${range}, got ${describe(value)}`);
  }
}
