// Gradients in buckets: parameters are packed in the order in which backward makes their gradients, so that one all-reduce moves
// many and the first can run while backward makes the next. A bucket lies in shared memory and the gradients are views of it:
// the reduction copies nothing.
import { noGrad } from '../autograd/modes.js';
import { context, withContext } from '../context.js';
import { type DType, dtypeSize } from '../dtype.js';
import { copy_, zero_ } from '../ops/copy.js';
import { narrow, reshape } from '../ops/view.js';
import { Scope } from '../storage.js';
import type { Tensor } from '../tensor.js';
import type { Ensemble } from './ensemble.js';
import type { CommunicationHook, GradientBucket, NamedGradient, ReductionContext } from './hooks/hook.js';
import type { Work } from './work.js';

export interface NamedParameter {
  readonly name: string;
  readonly parameter: Tensor;
}

/** Packs parameters whose gradients have one dtype after another into ranges that end when they reach `first`, then `cap` bytes. */
export function assign<P extends NamedParameter>(parameters: readonly P[], dtypeOf: (p: P) => DType, first: number, cap: number): P[][] {
  const buckets: P[][] = [];
  const open = new Map<string, { list: P[]; bytes: number }>();
  for (const p of parameters) {
    const dtype = dtypeOf(p);
    let bucket = open.get(dtype);
    if (!bucket) {
      bucket = { list: [], bytes: 0 };
      open.set(dtype, bucket);
      buckets.push(bucket.list);
    }
    bucket.list.push(p);
    bucket.bytes += p.parameter.numel * dtypeSize[dtype];
    // the first one is small: it goes out while most of backward is still to come
    if (bucket.bytes >= (bucket.list === buckets[0] ? first : cap)) open.delete(dtype);
  }
  return buckets;
}

export class Bucket<P extends NamedParameter = NamedParameter> implements GradientBucket {
  readonly label: string;
  readonly buffer: Tensor;
  readonly gradients: readonly NamedGradient[];
  private readonly views = new Map<P, Tensor>();
  private readonly missing: Set<P>;
  private readonly scratches = new Map<string, Tensor>();
  /** The reduction under way: the hook, the collective it waits for, and what it has made. */
  private steps: Generator<Work<unknown>, void, void> | null = null;
  private work: Work<unknown> | null = null;
  private scope = new Scope();

  constructor(
    readonly parameters: readonly P[],
    dtype: DType,
    private readonly ensemble: Ensemble,
    index: number,
  ) {
    this.label = `of gradient bucket ${index}`;
    // each gradient begins at a cache line
    const line = 64 / dtypeSize[dtype];
    const room = (p: P): number => Math.ceil(p.parameter.numel / line) * line;
    this.buffer = ensemble.sharedZeros([parameters.reduce((n, p) => n + room(p), 0)], dtype).keep();
    Object.assign(this.buffer.storage, { kind: 'gradient', divided: true });
    let at = 0;
    for (const p of parameters) {
      this.views.set(p, reshape(narrow(this.buffer, 0, at, p.parameter.numel), p.parameter.shape));
      at += room(p);
    }
    this.gradients = parameters.map((p) => ({ name: p.name, gradient: this.views.get(p)! }));
    this.missing = new Set(parameters);
  }

  get launched(): boolean {
    return this.steps !== null;
  }
  get full(): boolean {
    return this.missing.size === 0;
  }
  /** Parameters whose gradient is not in yet. */
  get unfilled(): readonly P[] {
    return [...this.missing];
  }

  scratch(name: string, elements: number, dtype: DType): Tensor {
    const key = `${name} ${elements} ${dtype}`;
    let made = this.scratches.get(key);
    if (!made) {
      made = this.ensemble.sharedZeros([elements], dtype).keep();
      this.scratches.set(key, made);
    }
    return made;
  }

  /** Moves a complete gradient into the bucket, zeros where there is none: the parameter's `.grad` becomes the view. */
  fill(p: P): void {
    this.missing.delete(p);
    const view = this.views.get(p)!;
    const { grad } = p.parameter;
    if (grad?.storage === view.storage) return;
    noGrad(() => {
      if (grad) copy_(view, grad);
      else zero_(view);
    });
    if (grad && !grad.isView) grad.dispose();
    // a tensor of its own, which may be disposed of
    p.parameter.grad = view.detach();
  }

  /** Starts the reduction. */
  launch(hook: CommunicationHook, reduction: ReductionContext): void {
    this.scope = new Scope();
    this.steps = hook.reduce(this, reduction);
    this.advance();
  }

  /** Lets the hook go on behind the collective it has started; false when it has done its last. */
  advance(): boolean {
    this.work?.wait();
    this.work = null;
    // what a hook makes lives from one collective to the next, and not in whatever scope runs now
    const next = this.steps && withContext({ scope: this.scope, gradEnabled: false, autocast: null }, () => this.steps!.next());
    if (next?.done === false) this.work = next.value;
    return this.work !== null;
  }

  /** The reduction is done, in stream order. */
  finish(): void {
    this.steps = null;
    this.scope.end(context().scope);
    for (const p of this.parameters) this.missing.add(p);
  }
}
