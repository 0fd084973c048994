// PowerSGD (Vogels, Karimireddy, Jaggi, 2019): a gradient matrix M travels as a product of two thin ones. P = M·Q is summed over the ranks and
// made orthonormal, then Q = Mᵀ·P is summed, and P·Qᵀ stands for M: one step of power iteration, which goes on from step to step
// as Q is kept. Two small collectives in place of a large one; what they miss is fed back.
import { createHash } from 'node:crypto';
import { noGrad } from '../../autograd/modes.js';
import { ValueError } from '../../errors.js';
import type { Stateful } from '../../io/checkpoint.js';
import { copy_, to } from '../../ops/copy.js';
import { wideType } from '../../ops/matmul.js';
import { reshape } from '../../ops/view.js';
import { Generator as RandomGenerator, randn } from '../../random.js';
import { checkInteger, checkNumber } from '../../shape.js';
import type { Tensor } from '../../tensor.js';
import type { Work } from '../work.js';
import { FeedbackHook, Packed } from './feedback.js';
import type { GradientBucket, NamedGradient, ReductionContext } from './hook.js';
import { plainReduction } from './plain.js';

/** Options of PowerSGD. */
export interface PowerSGDOptions {
  /** Columns of the thin matrices; 1. More follow the gradient better, 2 to 4 are common, up to 32 for language models. */
  rank?: number;
  /** Steps that are reduced in full at first, while gradients change fast; 10. A tenth of the training is good advice. */
  startStep?: number;
  /** A matrix is compressed if that makes it at least so many times smaller; 2. */
  minCompressionRate?: number;
  /** Keep Q from step to step; on by default. Otherwise each step draws it anew. */
  warmStart?: boolean;
  /** Add what was left out to the next gradient; on by default. */
  errorFeedback?: boolean;
  /** Added to the norm of a column that is made orthonormal; 1e-30, for columns of zeros. */
  epsilon?: number;
  /** Of the random matrices, the same on every rank; 0. */
  seed?: number;
}

/** A gradient as a matrix, its thin factors, and what it and earlier ones have left out. */
interface Factors {
  readonly name: string;
  readonly gradient: Tensor;
  readonly matrix: Tensor;
  readonly p: Tensor;
  readonly q: Tensor;
}

/**
 * PowerSGD (Vogels, Karimireddy & Jaggi, 2019): a gradient matrix travels as a product of two thin ones, and what that misses is added to
 * the next gradient.
 */
export class PowerSGD extends FeedbackHook {
  /** For errors. */
  readonly name = 'PowerSGD';
  private readonly options: Required<PowerSGDOptions>;
  private steps = 0;
  private readonly queries = new Map<string, Tensor>();

  /** The count of steps and, by parameter, the matrix that the next step begins with. */
  readonly shared: Stateful = {
    stateDict: () => ({ steps: this.steps, queries: Object.fromEntries(this.queries) }),
    loadStateDict: ({ steps, queries }: { steps: number; queries: Record<string, Tensor> }) => {
      this.steps = checkInteger(steps, 'steps', this.name, 0);
      for (const q of this.queries.values()) q.dispose();
      this.queries.clear();
      for (const [name, q] of Object.entries(queries)) this.queries.set(name, to(q, this.parameterOf(name).device).clone().keep());
    },
  };

  constructor(options: PowerSGDOptions = {}) {
    super();
    const { rank = 1, startStep = 10, minCompressionRate = 2, warmStart = true, errorFeedback = true, epsilon = 1e-30, seed = 0 } = options;
    checkInteger(rank, 'rank', 'PowerSGD', 1);
    checkInteger(startStep, 'startStep', 'PowerSGD', 0);
    checkNumber(minCompressionRate, 'minCompressionRate', 'PowerSGD', 0);
    checkNumber(epsilon, 'epsilon', 'PowerSGD', 0);
    if (!Number.isSafeInteger(seed)) throw new ValueError(`PowerSGD: seed must be a whole number, got ${seed}`);
    this.options = { rank, startStep, minCompressionRate, warmStart, errorFeedback, epsilon, seed };
  }

  *reduce(bucket: GradientBucket, context: ReductionContext): Generator<Work<unknown>, void, void> {
    if (this.steps < this.options.startStep) {
      yield* plainReduction.reduce(bucket, context);
      return;
    }
    const { ensemble, divisor } = context;
    const { label } = bucket;
    const small = bucket.gradients.filter((g) => this.rankOf(g.gradient) === 0);
    const packed = new Packed(
      small.map((g) => g.gradient),
      bucket,
    );
    const rest = packed.start(context, label);
    const [ps, qs, all] = this.factorize(
      bucket,
      bucket.gradients.filter((g) => this.rankOf(g.gradient) > 0),
    );
    for (const { matrix, p, q } of all) {
      this.orthonormalize(q);
      copy_(p, matrix.matmul(q));
    }
    // behind the product, the rest is there as well
    const first = all.length > 0 ? ensemble.allReduce(ps, { op: 'sum', label }) : rest;
    if (first) yield first;
    packed.finish(context);
    for (const { matrix, p, q } of all) {
      this.orthonormalize(p);
      copy_(q, matrix.transpose(0, 1).matmul(p));
      // What P misses of this rank's own matrix. Over all ranks that is as much as what the mean misses, but nothing when P misses nothing,
      // so a rank that ends early takes nothing along that the others would need.
      if (this.options.errorFeedback) matrix.sub_(p.matmul(q.transpose(0, 1)));
    }
    if (all.length > 0) yield ensemble.allReduce(qs, { op: 'sum', label });
    for (const { name, gradient, p, q } of all) {
      copy_(gradient, reshape(p.matmul(q.transpose(0, 1)).mul(1 / divisor), gradient.shape));
      if (this.options.warmStart) this.keepQuery(name, q);
    }
  }

  /** Counts the step. */
  endStep(): void {
    this.steps++;
  }

  /** The rank a gradient is compressed to; 0: it is not. */
  private rankOf(gradient: Tensor): number {
    if (gradient.ndim < 2 || gradient.numel === 0) return 0;
    const [n, m] = [gradient.shape[0]!, gradient.numel / gradient.shape[0]!];
    const rank = Math.min(n, m, this.options.rank);
    return (n + m) * rank * this.options.minCompressionRate < n * m ? rank : 0;
  }

  /** All P in one tensor, all Q in another, and each gradient's views of them; Q is as the last step left it. */
  private factorize(bucket: GradientBucket, compressed: readonly NamedGradient[]): [ps: Tensor, qs: Tensor, Factors[]] {
    const sizes = compressed.map(({ gradient }) => [gradient.shape[0]!, gradient.numel / gradient.shape[0]!, this.rankOf(gradient)] as const);
    const dtype = wideType(bucket.buffer.dtype);
    const ps = bucket.scratch(
      'p',
      sizes.reduce((sum, [n, , r]) => sum + n * r, 0),
      dtype,
    );
    const qs = bucket.scratch(
      'q',
      sizes.reduce((sum, [, m, r]) => sum + m * r, 0),
      dtype,
    );
    let [atP, atQ] = [0, 0];
    const all = compressed.map(({ name, gradient }, i) => {
      const [n, m, rank] = sizes[i]!;
      const p = reshape(ps.slice(0, atP, atP + n * rank), [n, rank]);
      const q = reshape(qs.slice(0, atQ, atQ + m * rank), [m, rank]);
      [atP, atQ] = [atP + n * rank, atQ + m * rank];
      copy_(q, (this.options.warmStart && this.queries.get(name)) || this.draw(name, [m, rank], q));
      return { name, gradient, matrix: this.matrixOf(name, gradient, n, m, dtype), p, q };
    });
    return [ps, qs, all];
  }

  /** The gradient and what was left out before: from here on the errors hold it. */
  private matrixOf(name: string, gradient: Tensor, n: number, m: number, dtype: Tensor['dtype']): Tensor {
    const local = reshape(to(gradient, dtype), [n, m]);
    if (!this.options.errorFeedback) return local;
    return reshape(this.errorOf(name), [n, m]).add_(local);
  }

  private keepQuery(name: string, q: Tensor): void {
    const kept = this.queries.get(name);
    if (kept) copy_(kept, q);
    else this.queries.set(name, q.clone().keep());
  }

  /** The same numbers on every rank, others for every parameter and step. */
  private draw(name: string, shape: readonly number[], like: Tensor): Tensor {
    const digest = createHash('sha256').update(`${this.options.seed}:${this.steps}:${name}`).digest();
    const generator = new RandomGenerator(digest.readBigUInt64LE());
    return randn(shape, { generator, dtype: like.dtype, device: like.device });
  }

  /**
   * Makes the columns orthonormal, in place: Gram-Schmidt, in three passes. Where columns depend on each other, rounding errors take their
   * place, so that a later step can find a direction that this one lacks; those need the passes to be orthogonal.
   */
  private orthonormalize(x: Tensor): void {
    const unit = (v: Tensor): Tensor => v.div(v.norm().add(this.options.epsilon));
    noGrad(() => {
      for (let i = 0; i < x.shape[1]!; i++) {
        let column = unit(x.slice(1, i, i + 1));
        const before = x.slice(1, 0, i);
        for (let pass = 0; pass < 3 && i > 0; pass++) column = unit(column.sub(before.matmul(before.transpose(0, 1).matmul(column))));
        copy_(x.slice(1, i, i + 1), column);
      }
    });
  }
}
