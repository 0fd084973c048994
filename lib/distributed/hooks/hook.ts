// The seam for other ways to reduce gradients. A hook is a generator: it starts one collective after another and yields each; it is
// resumed when that one's result may be used. So compression runs where backward is, the first collective of a bucket overlaps
// with the rest of backward, and the further ones of all buckets with each other. State belongs to parameters, by name, and not to
// buckets, which are laid out anew after the first step.
import type { Stateful } from '../../io/checkpoint.js';
import type { Tensor } from '../../tensor.js';
import type { Ensemble } from '../ensemble.js';
import type { Work } from '../work.js';

/** The gradient of one parameter, a view of its bucket. */
export interface NamedGradient {
  /** Path of the parameter. */
  readonly name: string;
  /** What backward made of it. */
  readonly gradient: Tensor;
}

/** Gradients that are reduced together: local ones before, those of all ranks after. */
export interface GradientBucket {
  /** For collectives, which errors and the flight recorder name by it. */
  readonly label: string;
  /** The gradients, by parameter. */
  readonly gradients: readonly NamedGradient[];
  /** All of them, and gaps of zeros between, in one dimension. */
  readonly buffer: Tensor;
  /** Memory of this bucket for a hook, shared between the ranks: the same tensor whenever the name and the number of elements are the same. */
  scratch(name: string, numel: number, dtype: Tensor['dtype']): Tensor;
}

/** What a hook needs to know of the ranks. */
export interface ReductionContext {
  /** The collectives to use. Not the group's own: these also work while `join` has ranks without data. */
  readonly ensemble: Ensemble;
  /** What the sum over ranks is divided by: their number for a mean, 1 for a sum. */
  readonly divisor: number;
}

/**
 * Another way to reduce gradients: `hook` of DistributedDataParallel. Its state belongs to parameters and not to buckets, which are laid
 * out anew after the first step.
 */
export interface CommunicationHook {
  /** For errors. */
  readonly name: string;
  /** Keeps what it did not send for later: then every rank must take part in every step, and gradients must not be skipped. */
  readonly keepsErrors?: boolean;
  /** The part of its state that is the same on all ranks: one whose data ended early takes it over. */
  readonly shared?: Stateful;
  /** Called once, when DistributedDataParallel is made, with all parameters that it reduces. */
  attach?(ensemble: Ensemble, parameters: readonly { readonly name: string; readonly parameter: Tensor }[]): void;
  /**
   * Makes the bucket's gradients those of all ranks. Every rank must yield the same collectives in the same order, and nothing may
   * wait on the host. What it makes lives until the reduction is done, unless kept.
   */
  reduce(bucket: GradientBucket, context: ReductionContext): Generator<Work<unknown>, void, void>;
  /** Called when backward has made its first gradient. */
  backwardBegins?(): void;
  /** Called when backward has made its last gradient. */
  backwardEnds?(): void;
  /** Called when all buckets of a step are done. */
  endStep?(): void;
}
