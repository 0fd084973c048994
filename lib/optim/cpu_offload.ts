// Optimizer state on the host (Ren et al., "ZeRO-Offload: Democratizing Billion-Scale Model Training", 2021): the optimizer sees copies of the
// parameters there, in their own dtype, so its state dict is what it is without offloading, masters of 16-bit parameters included.
// Whether a step is skipped, and by what gradients are divided, is still decided on the GPU; the host's kernel reads it.
import { type Crossing, copyAcross, hostTensors } from '../across.js';
import { noGrad } from '../autograd/modes.js';
import { empty, zeros } from '../create.js';
import { type Device, device as deviceNamed } from '../device.js';
import { layoutOf, layouts } from '../distributed/layout_of.js';
import { DeviceError, describe, ShapeError, ValueError } from '../errors.js';
import { scope } from '../memory.js';
import { contiguous, copy_ } from '../ops/copy.js';
import { sameShape, showShape } from '../shape.js';
import { META, type Storage } from '../storage.js';
import { Tensor } from '../tensor.js';
import { clipGradNorm } from './clip.js';
import { isSpread } from './global_norm.js';
import { Optimizer } from './optimizer.js';
import { checkMaxNorm } from './options.js';
import { originals } from './original.js';
import { gradientOf } from './state.js';
import { StepBuffer } from './step_buffer.js';
import type { Preparation, StepOptions } from './step_options.js';

/** Any optimizer. @inline */
// biome-ignore lint/suspicious/noExplicitAny: an optimizer of any options
type AnyOptimizer = Optimizer<any>;
const WHERE = 'CPUOffloadOptimizer';

/** A parameter and what stands for it on the host. */
interface Part {
  readonly parameter: Tensor;
  /** What the optimizer sees; a parameter that is on the host stands for itself. */
  readonly copy: Tensor;
  gradient: Tensor | null;
  /** Where the parameter was when the copy had its values, and how often that had been written to. */
  source: Storage | null;
  version: number;
}

/**
 * Keeps the state of an optimizer, and its work, on the host: the GPU has parameters and gradients alone, and with fullyShard a rank's
 * share of them.
 *
 * ```ts
 * for (const block of model.transformer.h) fullyShard(block, { mesh });
 * fullyShard(model, { mesh });
 * const offload = new optim.CPUOffloadOptimizer(model.parameters(), (copies) => new optim.AdamW(copies, { lr: 1e-3 }));
 * const schedule = new optim.CosineWithWarmup(offload.optimizer, { warmup: 100, total: 2000 });
 * ```
 *
 * A step copies the gradients to the host, steps there and copies the parameters back; nothing waits on JavaScript's thread, and each device
 * waits for the other where it needs its values. With N bytes of parameters the host has N for copies, N for gradients and the state.
 * The state of a GPU `cuda:N` is on `cpu:N`. Parameters on the CPU are stepped as without this class.
 *
 * `offload.optimizer` is the optimizer of the copies: for schedules and checkpoints, which are those of the optimizer without offloading.
 */
export class CPUOffloadOptimizer<O extends AnyOptimizer = AnyOptimizer> {
  private readonly inner: O;
  private readonly parts = new Map<Tensor, Part>();
  /** On the GPU: what is decided there about a step. */
  private readonly decisions = new StepBuffer();
  private decided = 0;

  /** @param make makes the optimizer of the copies, which come in the order of the parameters */
  constructor(parameters: Iterable<Tensor>, make: (copies: Tensor[]) => O) {
    if (parameters instanceof Tensor || typeof parameters?.[Symbol.iterator] !== 'function')
      throw new ValueError(`${WHERE}: expected a list of parameters, got ${describe(parameters)}`);
    if (typeof make !== 'function') throw new ValueError(`${WHERE}: expected a function that makes the optimizer of the copies, got ${describe(make)}`);
    const list = [...new Set(parameters)];
    for (const p of list) {
      if (!(p instanceof Tensor)) throw new ValueError(`${WHERE}: parameters must be tensors, got ${describe(p)}`);
      if (!p.isLeaf) throw new ValueError(`${WHERE}: a parameter of shape ${showShape(p.shape)} is not a leaf`);
      if (p.device !== list[0]!.device) throw new DeviceError(`${WHERE}: parameters are on ${list[0]!.device} and ${p.device}`);
      const copy = p.detach();
      const layout = layoutOf(p);
      if (layout) layouts.set(copy, layout);
      originals.set(copy, p);
      this.parts.set(copy, { parameter: p, copy, gradient: null, source: null, version: 0 });
    }
    this.follow();
    this.inner = make([...this.parts.keys()]);
    if (!(this.inner instanceof Optimizer)) throw new ValueError(`${WHERE}: the function must return an optimizer, got ${describe(this.inner)}`);
    this.inOrder();
  }

  /** The optimizer of the copies. */
  get optimizer(): O {
    this.follow();
    return this.inner;
  }
  /** Whether ranks have different pieces of some parameter. */
  get isSharded(): boolean {
    return this.inOrder().some(({ parameter }) => isSpread(parameter));
  }
  /** Gradients there are, for what is done to all of them at once. */
  gradients(): Tensor[] {
    return this.inOrder().flatMap(({ parameter }) => (parameter.grad ? [gradientOf(parameter)] : []));
  }

  /**
   * Updates every parameter that has a gradient, as Optimizer.step; `.grad` stays. With `maxNorm`, gradients of which ranks have pieces are
   * clipped before, in place, by the norm of all.
   * @returns with maxNorm the norm before clipping (and after unscaling), on the parameters' device
   */
  step(options: StepOptions & { maxNorm: number }): Tensor;
  step(options?: StepOptions): Tensor | undefined;
  step(options: StepOptions = {}): Tensor | undefined {
    const { maxNorm, scaler } = options ?? {};
    if (maxNorm !== undefined && this.isSharded) {
      if (scaler) scaler.unscale_(this);
      const norm = clipGradNorm(
        this.inOrder().map((p) => p.parameter),
        maxNorm,
      );
      this.step({ scaler });
      return norm;
    }
    if (maxNorm !== undefined) checkMaxNorm(maxNorm, this, `${WHERE}.step`);
    if (scaler) return scaler.step(this, { maxNorm });
    if (maxNorm === undefined) return this.takeStep(null) ?? undefined;
    return this.takeStep((buffer, gradients) => buffer.prepare(gradients, null, maxNorm)) ?? zeros([]);
  }

  /** Drops the gradients and frees them. */
  zeroGrad(): void {
    for (const { parameter } of this.parts.values()) {
      // a view of a larger buffer is not ours to free
      if (parameter.grad && !parameter.grad.isView) parameter.grad.dispose();
      parameter.grad = null;
    }
  }

  /** A step that something else prepares; null without gradients. For GradScaler. @internal */
  takeStep<T>(preparation: Preparation<T> | null): T | null {
    this.follow();
    const parts = this.inOrder();
    const used = parts.filter(({ parameter }) => parameter.grad !== null);
    const across = used.some((part) => !sharesMemory(part));
    try {
      if (across) return noGrad(() => scope(() => this.stepAcross(parts, used, preparation)));
      for (const { copy, parameter } of used) copy.grad = parameter.grad;
      return this.inner.takeStep(preparation);
    } finally {
      for (const { copy } of used) copy.grad = null;
    }
  }

  private stepAcross<T>(parts: readonly Part[], used: readonly Part[], preparation: Preparation<T> | null): T | null {
    const gradients = used.map(({ parameter }) => gradientOf(parameter));
    if (this.decided !== parts.length) this.decisions.reset(new Float64Array(parts.length), parts.length);
    this.decided = parts.length;
    this.decisions.ready(
      () => 0,
      0,
      parts.map((p) => p.parameter),
      preparation !== null,
    );
    const result = preparation?.(this.decisions, gradients) ?? null;
    receive(used, gradients);
    this.inner.takeStep((buffer) => {
      const to = buffer.decisions;
      const decided = this.decisions.decisions.map((from, i) => ({ from, to: to[i]! }));
      copyAcross([...decided, ...used.map(({ copy }, i) => ({ from: contiguous(gradients[i]!.detach()), to: copy.grad! }))]);
    });
    sendBack(used);
    return result;
  }

  /** The parts in the order of the optimizer's groups. */
  private inOrder(): Part[] {
    return this.inner.groups.flatMap((g) =>
      g.params.map((copy: Tensor) => {
        const part = this.parts.get(copy);
        if (!part) throw new ValueError(`${WHERE}: the optimizer has a parameter of shape ${showShape(copy.shape)} that is none of the copies it was given`);
        return part;
      }),
    );
  }

  /** Copies get the values of parameters that something else has written to, or moved, and memory when the parameter has got some. */
  private follow(): void {
    const stale = [...this.parts.values()].filter(({ parameter: p, source, version }) => !p.isMeta && (p.storage !== source || p.storage.version !== version));
    if (stale.length === 0) return;
    for (const { parameter, copy } of stale) {
      if (!sameShape(parameter.shape, copy.shape))
        throw new ShapeError(`${WHERE}: a parameter of shape ${showShape(copy.shape)} has become ${showShape(parameter.shape)}; shard the model before`);
    }
    const { device } = stale[0]!.parameter;
    const onHost = device.type === 'cpu';
    const fresh = stale.filter((part) => onHost || part.copy.device !== hostOf(device) || part.copy.storage.handle === META);
    if (onHost) for (const { parameter, copy } of fresh) place(copy, parameter);
    else {
      const made =
        fresh.length > 0
          ? hostTensors(
              fresh.map((f) => f.parameter),
              hostOf(device),
              device,
            )
          : [];
      fresh.forEach(({ copy }, i) => place(copy, made[i]!));
      noGrad(() => scope(() => copyAcross(stale.map(({ parameter, copy }) => ({ from: contiguous(parameter.detach()), to: copy })))));
    }
    for (const part of stale) remember(part);
  }
}

/** The device of a GPU's state: ranks that share a process must not wait in one queue. */
function hostOf(device: Device): Device {
  return deviceNamed(`cpu:${device.index}`);
}

function sharesMemory({ parameter, copy }: Part): boolean {
  return parameter.storage === copy.storage || parameter.isMeta;
}

function place(copy: Tensor, { storage, strides, offset }: Tensor): void {
  Object.assign(copy, { storage, strides, offset, isView: true });
}

function remember(part: Part): void {
  part.source = part.parameter.storage;
  part.version = part.source.version;
}

/** Places on the host for gradients, which stay for further steps. */
function receive(used: readonly Part[], gradients: readonly Tensor[]): void {
  const missing = used.flatMap((part, i) => (part.gradient?.dtype === gradients[i]!.dtype ? [] : [{ part, like: gradients[i]! }]));
  if (missing.length > 0) {
    const { parameter, copy } = missing[0]!.part;
    const made = hostTensors(
      missing.map((m) => m.like),
      copy.device,
      parameter.device,
    );
    missing.forEach(({ part }, i) => {
      part.gradient = made[i]!;
    });
  }
  for (const part of used) part.copy.grad = part.gradient;
}

function sendBack(used: readonly Part[]): void {
  const late: Crossing[] = [];
  const crossings = used.map(({ parameter, copy }) => {
    if (parameter.isContiguous) return { from: copy, to: parameter };
    late.push({ from: empty(parameter.shape, { dtype: parameter.dtype, device: parameter.device }), to: parameter });
    return { from: copy, to: late.at(-1)!.from };
  });
  copyAcross(crossings);
  for (const { from, to } of late) copy_(to, from);
  for (const part of used) remember(part);
}
