// Top-k sparsification (Stich, Cordonnier, Jaggi, 2018; Lin et al., "Deep Gradient Compression", 2018): of each gradient and what earlier ones
// left out, only the elements of largest magnitude travel, as values and places; the others wait. Ranks choose different elements, so these
// are gathered and added in rank order.
import { zeros } from '../../create.js';
import { ValueError } from '../../errors.js';
import type { Stateful } from '../../io/checkpoint.js';
import { copy_, to } from '../../ops/copy.js';
import { wideType } from '../../ops/matmul.js';
import { topk } from '../../ops/sort.js';
import { reshape } from '../../ops/view.js';
import { checkInteger, checkNumber } from '../../shape.js';
import type { Tensor } from '../../tensor.js';
import type { Work } from '../work.js';
import { FeedbackHook, Packed } from './feedback.js';
import type { GradientBucket, NamedGradient, ReductionContext } from './hook.js';

/** Options of TopK. */
export interface TopKOptions {
  /** Share of a gradient's elements that travels in a step; 0.01. At least one does. */
  ratio?: number;
  /** Gradients with fewer elements travel whole; 1024. */
  minElements?: number;
}

/**
 * Only the largest elements of each gradient travel, as values and places; the others are added to the next gradient (Stich, Cordonnier &
 * Jaggi, 2018).
 */
export class TopK extends FeedbackHook {
  /** For errors. */
  readonly name: string = 'TopK';
  /** The share in force. */
  ratio: number;
  /** Gradients with fewer elements travel whole. */
  protected readonly minElements: number;
  /** The share. */
  readonly shared: Stateful = { stateDict: () => ({ ratio: this.ratio }), loadStateDict: (s: { ratio: number }) => this.setRatio(s.ratio) };

  constructor({ ratio = 0.01, minElements = 1024 }: TopKOptions = {}) {
    super();
    this.ratio = 1;
    this.setRatio(ratio);
    this.minElements = checkInteger(minElements, 'minElements', 'TopK', 0);
  }

  /** Sets the share, which must be above 0 and at most 1. */
  protected setRatio(ratio: number): void {
    if (!(checkNumber(ratio, 'ratio', 'TopK', 0, 1) > 0)) throw new ValueError('TopK: ratio must be above 0');
    this.ratio = ratio;
  }

  *reduce(bucket: GradientBucket, context: ReductionContext): Generator<Work<unknown>, void, void> {
    const { ensemble, divisor } = context;
    const { buffer, label, gradients } = bucket;
    const sparse = gradients.filter((g) => g.gradient.numel >= this.minElements);
    const packed = new Packed(
      gradients.flatMap((g) => (sparse.includes(g) ? [] : [g.gradient])),
      bucket,
    );
    if (sparse.length === 0) {
      this.sends(packed.bytes);
      yield packed.start(context, label)!;
      packed.finish(context);
      return;
    }
    const [values, places] = this.choose(sparse, bucket);
    this.sends(packed.bytes, values.nbytes + places.nbytes);
    packed.start(context, label);
    const allValues = ensemble.allGather(values, { label });
    const allPlaces = ensemble.allGather(places, { label });
    yield allPlaces; // and the rest is there as well
    packed.finish(context);
    const total = zeros([buffer.numel], { dtype: values.dtype, device: buffer.device });
    total.indexAdd_(0, allPlaces.wait(), allValues.wait());
    total.mul_(1 / divisor);
    for (const { gradient } of sparse) copy_(gradient, reshape(total.slice(0, gradient.offset, gradient.offset + gradient.numel), gradient.shape));
  }

  /** Called before the collectives of a bucket: what it sends to be summed, and to be gathered. */
  protected sends(_summed: number, _gathered = 0): void {}

  /** The largest elements of all gradients of a bucket, and where in it they belong. What stays is the new error. */
  private choose(sparse: readonly NamedGradient[], { buffer }: GradientBucket): [values: Tensor, places: Tensor] {
    const counts = sparse.map(({ gradient }) => Math.max(1, Math.ceil(this.ratio * gradient.numel)));
    const sum = counts.reduce((a, b) => a + b);
    const dtype = wideType(buffer.dtype);
    const values = zeros([sum], { dtype, device: buffer.device });
    const places = zeros([sum], { dtype: buffer.numel < 2 ** 31 ? 'int32' : 'int64', device: buffer.device });
    let at = 0;
    sparse.forEach(({ name, gradient }, i) => {
      const error = this.errorOf(name).add_(to(reshape(gradient, [gradient.numel]), dtype));
      const [, chosen] = topk(error.abs(), counts[i]!);
      copy_(values.slice(0, at, at + counts[i]!), error.indexSelect(0, chosen));
      copy_(places.slice(0, at, at + counts[i]!), chosen.add(gradient.offset));
      error.scatter_(0, chosen, 0);
      at += counts[i]!;
    });
    return [values, places];
  }
}
