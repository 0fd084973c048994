// Dropout whose mask depends on the step, the layer's path and the call within the step, not on how the model is split.

import { defaultGenerator, dropout, type Generator, type Layout, type RandomKey } from '../random.js';
import { checkNumber, type Shape } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { Module } from './module.js';

/** Zeroes elements with probability p in training and scales the rest by 1/(1 − p) (Srivastava et al., 2014). */
export class Dropout extends Module {
  /** Where this rank's part of the activations lies, perhaps by its shape; data parallelism sets it. @internal */
  layout: Layout | ((shape: Shape) => Layout) | undefined;
  /** Where it lies in what several ranks share of that part; tensor parallelism sets it. @internal */
  inner: ((shape: Shape) => Layout) | undefined;
  private lastStep = -1;
  private calls = 0;
  /**
   * Drops with probability `p`.
   * @param p in [0, 1]. Default 0.5
   */
  constructor(readonly p = 0.5) {
    super();
    checkNumber(p, 'p', 'Dropout', 0, 1);
  }
  /** Whether forward does anything now. */
  get active(): boolean {
    return this.training && this.p > 0;
  }
  /** x of any floating-point dtype; x itself where the module is not `active`. */
  override forward(x: Tensor): Tensor {
    if (!this.active) return x;
    const generator = defaultGenerator();
    return dropout(x, this.p, { key: () => this.nextKey(generator), layout: this.place(x.shape) });
  }
  private place(shape: Shape): Layout | undefined {
    const inner = this.inner?.(shape);
    const outer = typeof this.layout === 'function' ? this.layout(inner?.globalShape ?? shape) : this.layout;
    if (!inner || !outer) return inner ?? outer;
    return { globalShape: outer.globalShape, offset: outer.offset.map((o, i) => o + inner.offset[i]!) };
  }
  private nextKey(generator: Generator): RandomKey {
    if (generator.step !== this.lastStep) {
      this.lastStep = generator.step;
      this.calls = 0;
    }
    return generator.namedKey(this.path, this.calls++);
  }
}
