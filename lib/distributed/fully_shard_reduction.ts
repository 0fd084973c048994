// What becomes of the gradients of a sharded module: one buffer, reduce-scattered over the ranks that share the parameters, then reduced over
// the copies of the model, and added to `.grad` of this rank's pieces. Behind the gradients the buffer has a flag for each parameter: one
// that no rank has used gets no gradient of zeros, but one that optimizers skip.
import { accumulated, sumDType } from '../autograd/accumulate.js';
import { lossIsNormalized } from '../autograd/current.js';
import { empty } from '../create.js';
import { type DType, dtypeSize } from '../dtype.js';
import { AutogradError } from '../errors.js';
import { clone, copy_, fill_, to, zero_ } from '../ops/copy.js';
import { eq, mul } from '../ops/pointwise.js';
import { narrow, reshape } from '../ops/view.js';
import { numel } from '../shape.js';
import { takeOut } from '../storage.js';
import type { Tensor } from '../tensor.js';
import { eachBlock, lasting, type ShardedParameter, type ShardGroup, temporarily } from './fully_shard_group.js';
import { halfDivision } from './hooks/plain.js';
import type { Work } from './work.js';

/** Gradients that wait, whole, for the reduction of another call or backward. */
const held = new WeakMap<ShardedParameter, Tensor>();

export type Gradients = readonly (Tensor | null)[];

function reduceDType({ settings }: ShardGroup, { parameter }: ShardedParameter): DType {
  return settings.reduceDType ?? sumDType(parameter.dtype);
}

/** Adds the gradients of a call to those that wait. */
export function hold(of: ShardGroup, gradients: Gradients): void {
  temporarily(() => {
    of.parameters.forEach((p, i) => {
      const g = gradients[i];
      if (!g) return;
      const old = held.get(p);
      const dtype = reduceDType(of, p);
      const sum = old ? accumulated(old, g, dtype, false) : g.dtype === dtype ? clone(g) : to(g, dtype);
      takeOut(sum.storage, 'gradient');
      held.set(p, sum);
    });
  });
}

/** A reduction under way. */
export class Reduction {
  private work: Work<Tensor>;
  private next: 'copies' | 'gradients' = 'copies';
  /** Parameters that this rank has not used. */
  private readonly missing = new Set<ShardedParameter>();
  private readonly dtype: DType;
  /** Of the mean of a float16 sum: before it and after it. */
  private readonly divisors: readonly [number, number];
  private readonly buffer: Tensor;

  /** Starts with the gradients of a call and those that wait. */
  constructor(
    private readonly of: ShardGroup,
    private readonly trained: readonly ShardedParameter[],
    gradients: Gradients,
  ) {
    const { mean } = of.settings;
    if (mean && lossIsNormalized()) {
      const text =
        `fullyShard: ${of.label}: the loss has a normalizer, which counts over all ranks, and the mean over the ranks would divide again; ` +
        "pass gradientReduction: 'sum'";
      of.group.abort(text);
      throw new AutogradError(text);
    }
    this.dtype = reduceDType(of, trained[0]!);
    const half = mean && this.dtype === 'float16';
    this.divisors = half ? halfDivision(of.group.size * (of.copies?.size ?? 1)) : [1, 1];
    this.buffer = temporarily(() => this.packed(gradients).keep());
    const op = !mean ? 'sum' : half ? { premulSum: 1 / this.divisors[0] } : 'avg';
    this.work = lasting(() => of.group.reduceScatter(this.buffer, { op, label: `of the gradients of ${of.label}` }));
  }

  /** A row for each rank: its part of every gradient, a flag for each, and what tells groups apart. */
  private packed(gradients: Gradients): Tensor {
    const { of, trained } = this;
    const ranks = of.group.size;
    const chunks = trained.reduce((n, p) => n + p.chunk, 0);
    const buffer = empty([ranks, chunks + trained.length + of.index], { dtype: this.dtype, device: of.settings.mesh.device });
    if (trained.some((p) => p.chunk * ranks !== numel(p.shape))) zero_(buffer);
    fill_(narrow(buffer, 1, chunks, trained.length + of.index), 1);
    let at = 0;
    trained.forEach((p, k) => {
      const g = gradients[of.parameters.indexOf(p)] ?? null;
      const waiting = held.get(p);
      held.delete(p);
      const sum = waiting && g ? accumulated(waiting, g, this.dtype, false) : (waiting ?? g);
      if (sum) {
        const flat = reshape(sum.detach(), [sum.numel]);
        eachBlock(flat.numel, p.chunk, (rank, count, length) => {
          const rows = reshape(narrow(flat, 0, rank * p.chunk, count * length), [count, length]);
          copy_(narrow(narrow(buffer, 0, rank, count), 1, at, length), rows);
        });
      } else {
        this.missing.add(p);
        zero_(narrow(buffer, 1, at, p.chunk));
        zero_(narrow(buffer, 1, chunks + k, 1));
      }
      waiting?.dispose();
      at += p.chunk;
    });
    return buffer;
  }

  /** Goes on behind the collective that was started; false when the gradients are where they belong. */
  advance(): boolean {
    const part = this.work.wait();
    this.buffer.dispose();
    if (this.next === 'copies') {
      this.next = 'gradients';
      const { copies, settings } = this.of;
      if (copies) {
        const op = settings.mean && this.dtype !== 'float16' ? 'avg' : 'sum';
        this.work = copies.allReduce(part, { op, label: `of the gradients of ${this.of.label} over the copies` });
        return true;
      }
    }
    temporarily(() => this.deliver(reshape(part, [part.numel])));
    part.dispose();
    for (const { parameter } of this.trained) for (const hook of parameter.accumulateHooks ?? []) hook(parameter);
    return false;
  }

  /** Lets the result go. */
  drop(): void {
    this.work.wait().dispose();
    this.buffer.dispose();
  }

  private deliver(part: Tensor): void {
    const { trained } = this;
    if (this.divisors[1] !== 1) copy_(part, mul(part, 1 / this.divisors[1]));
    const flags = trained.reduce((n, p) => n + p.chunk, 0);
    let at = 0;
    trained.forEach((p, k) => {
      const { parameter } = p;
      const piece = reshape(narrow(part, 0, at, parameter.numel), parameter.shape);
      const dtype = parameter.gradDType ?? (dtypeSize[parameter.dtype] < 4 ? this.dtype : parameter.dtype);
      let g = piece.dtype === dtype ? clone(piece) : to(piece, dtype);
      for (const hook of parameter.hooks ?? []) g = hook(g) ?? g;
      const old = parameter.grad;
      const sum = old ? accumulated(old, g, parameter.gradDType, false) : g;
      takeOut(sum.storage, 'gradient');
      const absent = this.missing.has(p) ? to(eq(narrow(part, 0, flags + k, 1), 0), 'float64') : null;
      // a rank that has used it knows that the flag is 0
      if (!old) sum.absent = absent;
      else sum.absent = old.absent && absent ? mul(old.absent, absent) : null;
      sum.absent?.keep();
      parameter.grad = sum;
      at += p.chunk;
    });
  }
}
