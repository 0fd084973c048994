// The last layer of a language model, with its classes spread over the ranks: logits for whoever reads them are gathered, those of the loss are not.
import { describe, ValueError } from '../../errors.js';
import { Linear } from '../../nn/linear.js';
import type { CrossEntropyOptions } from '../../ops/cross_entropy.js';
import type { Tensor } from '../../tensor.js';
import { ColumnParallelLinear } from './column_linear.js';
import { vocabParallelCrossEntropy } from './vocab_cross_entropy.js';
import type { VocabParallelOptions } from './vocab_embedding.js';

/** A Linear to logits. `forward(x)` gives every rank all logits; `loss(x, targets)` their cross-entropy, without any rank having them all. */
export class VocabParallelHead extends ColumnParallelLinear {
  /** Spreads a whole layer: its parameters stay the same objects. */
  static override from(whole: Linear, options: VocabParallelOptions): VocabParallelHead {
    if (!(whole instanceof Linear)) throw new ValueError(`VocabParallelHead.from: expected a Linear, got ${describe(whole)}`);
    return new VocabParallelHead(whole.inFeatures, whole.outFeatures, { ...options, gatherOutput: true }, whole);
  }

  /**
   * The cross-entropy of logits that no rank has all of, as `vocabParallelCrossEntropy`.
   * @param targets of the whole sequence, also where x is this rank's piece of it
   */
  loss(x: Tensor, targets: Tensor, options: Omit<CrossEntropyOptions, 'dim'> = {}): Tensor {
    return vocabParallelCrossEntropy(this.part(x), targets, { ...options, mesh: this.mesh, vocabSize: this.outFeatures });
  }
}
