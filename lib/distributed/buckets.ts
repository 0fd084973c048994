// Gradients in buckets: parameters are packed in the order in which backward makes their gradients, so that one all-reduce moves
// many and the first can run while backward makes the next. A bucket lies in shared memory and the gradients are views of it:
// the reduction copies nothing.
import { noGrad } from '../autograd/modes.js';
import { dtypeSize } from '../dtype.js';
import { copy_, zero_ } from '../ops/copy.js';
import { narrow, reshape } from '../ops/view.js';
import type { Tensor } from '../tensor.js';
import type { ProcessGroup } from './process_group.js';
import type { ReduceOp } from './reduce_op.js';
import type { Work } from './work.js';

export interface NamedParameter {
  readonly name: string;
  readonly parameter: Tensor;
}

/** Packs parameters of one dtype after another into ranges of at most `first`, then `cap` bytes. A larger one is alone. */
export function assign(parameters: readonly NamedParameter[], first: number, cap: number): NamedParameter[][] {
  const buckets: NamedParameter[][] = [];
  const open = new Map<string, { list: NamedParameter[]; bytes: number }>();
  for (const p of parameters) {
    const { dtype, nbytes } = p.parameter;
    let bucket = open.get(dtype);
    if (!bucket) {
      bucket = { list: [], bytes: 0 };
      open.set(dtype, bucket);
      buckets.push(bucket.list);
    }
    bucket.list.push(p);
    bucket.bytes += nbytes;
    // the first one is small: it goes out while most of backward is still to come
    if (bucket.bytes >= (bucket.list === buckets[0] ? first : cap)) open.delete(dtype);
  }
  return buckets;
}

export class Bucket {
  readonly buffer: Tensor;
  /** Where each parameter's gradient lies. */
  private readonly views = new Map<Tensor, Tensor>();
  private readonly missing: Set<Tensor>;
  private work: Work<Tensor> | null = null;

  constructor(
    readonly parameters: readonly NamedParameter[],
    private readonly group: ProcessGroup,
  ) {
    const { dtype } = parameters[0]!.parameter;
    // each gradient begins at a cache line
    const room = (p: NamedParameter): number => Math.ceil(p.parameter.nbytes / 64) * (64 / dtypeSize[dtype]);
    this.buffer = group.sharedZeros([parameters.reduce((n, p) => n + room(p), 0)], { dtype }).keep();
    this.buffer.storage.kind = 'gradient';
    let at = 0;
    for (const p of parameters) {
      this.views.set(p.parameter, reshape(narrow(this.buffer, 0, at, p.parameter.numel), p.parameter.shape));
      at += room(p);
    }
    this.missing = new Set(this.views.keys());
  }

  /** Moves a complete gradient into the bucket; true when it was the last one missing. */
  fill(parameter: Tensor): boolean {
    this.adopt(parameter);
    this.missing.delete(parameter);
    return this.missing.size === 0;
  }

  /** The parameter's `.grad` becomes the view of the bucket, with the same values, zeros without any. */
  adopt(parameter: Tensor): void {
    const view = this.views.get(parameter)!;
    const { grad } = parameter;
    if (grad?.storage === view.storage) return;
    noGrad(() => {
      if (grad) copy_(view, grad);
      else zero_(view);
    });
    if (grad && !grad.isView) grad.dispose();
    parameter.grad = view;
  }

  get unfilled(): readonly NamedParameter[] {
    return this.parameters.filter((p) => this.missing.has(p.parameter));
  }

  launch(op: ReduceOp): void {
    this.work = this.group.allReduce(this.buffer, { op });
  }

  /** The following ops see the reduced gradients. */
  finish(): void {
    this.work?.wait();
    this.work = null;
    for (const p of this.parameters) this.missing.add(p.parameter);
  }

  dispose(): void {
    for (const { parameter } of this.parameters) {
      if (parameter.grad?.storage === this.buffer.storage) parameter.grad = parameter.grad.clone().keep();
    }
    this.buffer.dispose();
  }
}
