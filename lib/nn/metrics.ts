// Metrics. Counts accumulate on the device; reading a result waits.

import { noGrad } from '../autograd/modes.js';
import { zeros } from '../create.js';
import { ShapeError, ValueError } from '../errors.js';
import { scope } from '../memory.js';
import { to } from '../ops/copy.js';
import { oneHot } from '../ops/embedding.js';
import { add_, eq, mul } from '../ops/pointwise.js';
import { argmax, sum } from '../ops/reduce.js';
import { checkInteger } from '../shape.js';
import type { Tensor } from '../tensor.js';

/** Class indices, from indices or from scores in the last dimension. */
function classes(predictions: Tensor, targets: Tensor): Tensor {
  const indices = predictions.ndim === targets.ndim + 1 ? argmax(predictions, -1) : predictions;
  if (indices.ndim !== targets.ndim || indices.shape.some((s, i) => s !== targets.shape[i])) {
    throw new ShapeError(`metrics: predictions [${predictions.shape}] do not fit targets [${targets.shape}]`);
  }
  return indices;
}

/** Share of right predictions. */
export class Accuracy {
  private right: Tensor | null = null;
  private count = 0;
  /** Counts predictions, class indices or scores `[.., classes]`, against targets (class indices). Does not wait. */
  update(predictions: Tensor, targets: Tensor): void {
    noGrad(() =>
      scope(() => {
        this.right ??= zeros([], { dtype: 'int64', device: targets.device }).keep();
        add_(this.right, sum(eq(classes(predictions, targets), targets)));
      }),
    );
    this.count += targets.numel;
  }
  /** The share so far. Waits; throws ValueError before the first update. */
  async compute(): Promise<number> {
    if (!this.right) throw new ValueError('Accuracy: no predictions yet');
    return (await this.right.item()) / this.count;
  }
  /** Starts again from nothing. */
  reset(): void {
    this.right?.dispose();
    this.right = null;
    this.count = 0;
  }
}

/** F1 score of `numClasses` classes: the mean over classes (macro), or over all decisions (micro). */
export class F1Score {
  private counts: Tensor | null = null;
  constructor(
    private readonly numClasses: number,
    private readonly average: 'macro' | 'micro' = 'macro',
  ) {
    checkInteger(numClasses, 'numClasses', 'F1Score', 1);
    if (average !== 'macro' && average !== 'micro') throw new ValueError(`F1Score: average must be macro or micro, got ${String(average)}`);
  }
  /** Counts predictions, class indices or scores `[.., classes]`, against targets (class indices). Does not wait. */
  update(predictions: Tensor, targets: Tensor): void {
    noGrad(() =>
      scope(() => {
        this.counts ??= zeros([3, this.numClasses], { dtype: 'int64', device: targets.device }).keep();
        const predicted = oneHot(to(classes(predictions, targets), 'int64').flatten(), this.numClasses);
        const actual = oneHot(to(targets, 'int64').flatten(), this.numClasses);
        [mul(predicted, actual), predicted, actual].forEach((hits, i) => add_(this.counts!.select(0, i), sum(hits, 0)));
      }),
    );
  }
  /** The score so far; classes that never occur count 0. Waits; throws ValueError before the first update. */
  async compute(): Promise<number> {
    if (!this.counts) throw new ValueError('F1Score: no predictions yet');
    const [both, predicted, actual] = (await this.counts.toArray()) as [number[], number[], number[]];
    const f1 = (i: number): number => (predicted[i]! + actual[i]! === 0 ? 0 : (2 * both[i]!) / (predicted[i]! + actual[i]!));
    if (this.average === 'macro') return both.reduce((s, _, i) => s + f1(i), 0) / this.numClasses;
    const total = (xs: number[]): number => xs.reduce((a, b) => a + b, 0);
    return (2 * total(both)) / (total(predicted) + total(actual));
  }
  /** Starts again from nothing. */
  reset(): void {
    this.counts?.dispose();
    this.counts = null;
  }
}

/** exp of the mean loss a token. */
export class Perplexity {
  private total = 0;
  private tokens = 0;
  /** A mean loss over `tokens` tokens. */
  update(meanLoss: number, tokens: number): void {
    this.total += meanLoss * checkInteger(tokens, 'tokens', 'Perplexity', 0);
    this.tokens += tokens;
  }
  /** The perplexity so far. Throws ValueError before the first token. */
  compute(): number {
    if (this.tokens === 0) throw new ValueError('Perplexity: no losses yet');
    return Math.exp(this.total / this.tokens);
  }
  /** Starts again from nothing. */
  reset(): void {
    this.total = 0;
    this.tokens = 0;
  }
}
