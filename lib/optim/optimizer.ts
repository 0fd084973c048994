// Optimizer: parameter groups, state, and the one native call a step. What changes from step to step lies in a device buffer
// (step_buffer.ts), so nothing here waits for the device.

import { noGrad } from '../autograd/modes.js';
import type { StructuredName } from '../autograd/rules/types.js';
import { everyStep } from '../capture.js';
import { full, zeros } from '../create.js';
import { dtypeSize } from '../dtype.js';
import { DeviceError, DTypeError, describe, ValueError } from '../errors.js';
import { to } from '../ops/copy.js';
import { invoke } from '../ops/door.js';
import { definedOnly, withOptions } from '../options.js';
import { defaultGenerator } from '../random.js';
import { Tensor } from '../tensor.js';
import { isSpread } from './global_norm.js';
import { checkMaxNorm, checkRange, type GivenGroup, type GroupOptions, type ParamGroup, type Params } from './options.js';
import { pushPlaces } from './rounding.js';
import { gradientOf, restore, stateTensor, stateType } from './state.js';
import { StepBuffer } from './step_buffer.js';
import type { OptimizerState, Preparation, RateSource, StepOptions } from './step_options.js';

/** Base of all optimizers: groups of parameters with options, and state by parameter. One native call takes a step of all of them. */
export abstract class Optimizer<O extends GroupOptions = GroupOptions> {
  /** Parameters and options. Options may be changed between steps. */
  readonly groups: ParamGroup<O>[] = [];
  /** State tensors by parameter and name; names come as groups with further options do. */
  protected readonly state = new Map<Tensor, Map<string, Tensor>>();
  private readonly masters = new Map<Tensor, Tensor>();
  private readonly defaults: O;
  private readonly buffer = new StepBuffer();
  private readonly order: Tensor[] = [];
  private readonly position = new Map<Tensor, number>();
  /** Of stochastic rounding. */
  private seed = defaultGenerator().seed;
  private source: RateSource | null = null;
  /** Steps taken by calls of step(), but for skipped ones that the host knows of. */
  steps = 0;

  /** Steps that were skipped because gradients were not finite, as far as the host knows: it hears of one some steps later. */
  get skipped(): number {
    return this.buffer.knownSkips;
  }

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
    this.defaults = withOptions(this.constructor.name, { ...defaults, stochasticRounding: false }, options);
    if (params === null || params === undefined || typeof (params as Iterable<unknown>)[Symbol.iterator] !== 'function') {
      throw new ValueError(`${this.constructor.name}: expected parameters or groups of them, got ${describe(params)}`);
    }
    const list = [...(params as Iterable<Tensor | GivenGroup<O>>)];
    if (list.length === 0) throw new ValueError(`${this.constructor.name}: got no parameters`);
    if (list.every((p) => p instanceof Tensor)) this.addGroup({ params: list } as Partial<O> & { params: Tensor[] });
    else for (const group of list) this.addGroup(group as GivenGroup<O>);
  }

  /** Adds a group; options it lacks are the optimizer's. */
  addGroup(group: GivenGroup<O>): void {
    const where = this.constructor.name;
    if (typeof group !== 'object' || group === null || typeof group.params?.[Symbol.iterator] !== 'function') {
      throw new ValueError(`${where}: a group is an object with params, got ${describe(group)}`);
    }
    const { params: given, ...options } = group;
    const params = [...given];
    params.forEach((p, i) => {
      if (!(p instanceof Tensor)) throw new ValueError(`${where}: parameters must be tensors, got ${describe(p)}`);
      if (!p.isLeaf) throw new ValueError(`${where}: a parameter of shape [${p.shape}] is not a leaf`);
      if (this.position.has(p) || params.indexOf(p) !== i) throw new ValueError(`${where}: a parameter of shape [${p.shape}] appears twice`);
      const first = this.order[0] ?? params[0]!;
      if (first.device !== p.device) throw new DeviceError(`${where}: parameters are on ${first.device} and ${p.device}`);
    });
    const full = { ...withOptions<O>(where, this.defaults, options as unknown as Partial<O>), params } as ParamGroup<O>;
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
    if (typeof group.stochasticRounding !== 'boolean')
      throw new ValueError(`${where}: stochasticRounding must be true or false, got ${describe(group.stochasticRounding)}`);
    if (group.stochasticRounding && group.params.some((p) => p.dtype === 'float16'))
      throw new DTypeError(`${where}: stochasticRounding is for bfloat16 parameters; float16 ones need masters, since their range is too small for sums`);
  }

  /**
   * Updates every parameter that has a gradient; one that is marked `absent` counts as none, on the device. Nothing waits.
   *
   * With `maxNorm`, gradients are clipped as by clipGradNorm, but within the step: `.grad` stays as it is. A look at all gradients comes
   * before the step then, and the whole step is skipped, on the device, if one of them is not finite.
   *
   * @returns with maxNorm the norm before clipping (and after unscaling), a device tensor
   */
  step(options: StepOptions & { maxNorm: number }): Tensor;
  step(options?: StepOptions): Tensor | undefined;
  step(options: StepOptions = {}): Tensor | undefined {
    const { maxNorm, scaler } = options ?? {};
    if (maxNorm !== undefined) checkMaxNorm(maxNorm, this, `${this.constructor.name}.step`);
    if (scaler) return scaler.step(this, { maxNorm });
    if (maxNorm === undefined) return this.takeStep(null) ?? undefined;
    return this.takeStep((buffer, gradients) => buffer.prepare(gradients, null, maxNorm)) ?? zeros([]);
  }

  /** A step that something else prepares; null without gradients. For GradScaler. @internal */
  takeStep<T>(preparation: Preparation<T> | null): T | null {
    this.groups.forEach((g, i) => this.checkGroup(g, `${this.constructor.name}: group ${i}`));
    const used: Tensor[][] = this.groups.map((g) => g.params.filter((p) => p.grad !== null));
    const params = used.flat();
    const generator = defaultGenerator();
    everyStep(() => {
      this.noticeSkips();
      this.steps++;
      generator.step++;
      for (const p of params) p.storage.wrote('step');
    });
    if (params.length === 0) return null;
    return noGrad(() => {
      const names = this.stateNames();
      const gradients = params.map((p) => gradientOf(p));
      const rate = (g: number, skips: number): number => (skips > 0 && this.source ? this.source.rateAfterSkips(g, skips) : this.groups[g]!.lr);
      const buffer = this.buffer.ready(rate, this.groups.length, this.order, preparation !== null);
      const result = preparation?.(this.buffer, gradients) ?? null;
      const states = this.groups.flatMap((g, i) => used[i]!.map((p) => this.stateOf(p, g)));
      const withMasters = this.masters.size > 0;
      const lists: Tensor[][] = [params, gradients];
      for (const name of names) lists.push(states.map((s) => s.get(name)!));
      if (withMasters) lists.push(params.map((p) => this.masters.get(p) ?? p));
      const numbers = [this.groups.length, Number(withMasters), Number(this.seed & 0xffffffffn), Number(this.seed >> 32n)];
      this.groups.forEach((g, i) => numbers.push(used[i]!.length, g.weightDecay, Number(g.maximize), Number(g.stochasticRounding), ...this.fields(g)));
      const rounded = this.groups.flatMap((g, i) => used[i]!.map((p) => (g.stochasticRounding ? p : null)));
      const positions = params.map((p) => this.position.get(p)!);
      pushPlaces(numbers, positions, rounded);
      invoke(
        this.op as 'adamStep',
        buffer.device,
        [buffer, ...lists.flat()].map((t) => t.detach()),
        [lists.length, ...numbers],
      );
      if (preparation) this.buffer.ask();
      return result;
    });
  }

  /** Whether ranks have different pieces, or different parameters. @internal */
  get isSharded(): boolean {
    return this.order.some(isSpread);
  }

  /** Gradients there are, for what is done to all of them at once. @internal */
  gradients(): Tensor[] {
    return this.order.filter((p) => p.grad !== null).map((p) => gradientOf(p));
  }

  /** Called by a schedule that sets the rates. @internal */
  follow(source: RateSource): void {
    this.source = source;
  }
  /** Waits for the true number of skipped steps, if any can have been skipped, and takes notice of them. */
  settleSkips(): void {
    this.buffer.hear();
    this.noticeSkips();
  }
  private noticeSkips(): void {
    const late = this.buffer.notice();
    if (late === 0) return;
    this.steps -= late;
    this.source?.noticeSkips();
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
    this.settleSkips();
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
    if (!this.groups.some((g) => g.stochasticRounding)) return { state, paramGroups };
    return { state, paramGroups, seed: this.seed.toString() };
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
    if (dict.seed !== undefined && !/^\d{1,20}$/.test(String(dict.seed)))
      throw new ValueError(`${where}: seed must be a whole number as text, got ${describe(dict.seed)}`);
    this.settleSkips();
    if (dict.seed !== undefined) this.seed = BigInt.asUintN(64, BigInt(dict.seed));
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
    }
    const master = this.masters.get(p);
    if (dtypeSize[p.dtype] >= 4 || group.stochasticRounding) {
      master?.dispose();
      this.masters.delete(p);
    } else if (!master) this.masters.set(p, stateTensor(to(p.detach(), 'float32')));
    for (const name of this.stateNames()) {
      if (!tensors.has(name)) tensors.set(name, stateTensor(full(p.shape, this.startOf(name, group), { dtype: stateType(p.dtype), device: p.device })));
    }
    return tensors;
  }
}
