// Activations as modules.

import { describe, ShapeError, ValueError } from '../errors.js';
import { checkFloat } from '../ops/arguments.js';
import { elu, gelu, leakyRelu } from '../ops/blend.js';
import { split } from '../ops/joining.js';
import { hardsigmoid, hardswish, hardtanh, logSigmoid, mish, mul, relu, relu6, selu, sigmoid, silu, softplus, tanh } from '../ops/pointwise.js';
import { logSoftmax, softmax } from '../ops/softmax.js';
import { checkNumber } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { checkSize, type FactoryOptions, Linear } from './linear.js';
import { Module } from './module.js';

/** A module without parameters around a function of one tensor. */
function activation(fn: (x: Tensor) => Tensor): new () => Module & {
  /** x of any shape, which the result has. */
  forward(x: Tensor): Tensor;
} {
  return class extends Module {
    override forward(x: Tensor): Tensor {
      return fn(x);
    }
  };
}

/** Gives back what it is given: what stands in for a layer that is left out. */
export class Identity extends activation((x) => x) {}
/** `relu` as a module. */
export class ReLU extends activation(relu) {}
/** `relu6` as a module. */
export class ReLU6 extends activation(relu6) {}
/** `silu` as a module. */
export class SiLU extends activation(silu) {}
/** `tanh` as a module. */
export class Tanh extends activation(tanh) {}
/** `sigmoid` as a module. */
export class Sigmoid extends activation(sigmoid) {}
/** `logSigmoid` as a module. */
export class LogSigmoid extends activation(logSigmoid) {}
/** `softplus` as a module. */
export class Softplus extends activation(softplus) {}
/** `mish` as a module. */
export class Mish extends activation(mish) {}
/** `selu` as a module. */
export class SELU extends activation(selu) {}
/** `hardtanh` as a module. */
export class Hardtanh extends activation(hardtanh) {}
/** `hardswish` as a module. */
export class Hardswish extends activation(hardswish) {}
/** `hardsigmoid` as a module. */
export class Hardsigmoid extends activation(hardsigmoid) {}

/** Gaussian error linear unit: exact, or GPT-2's tanh form. */
export class GELU extends Module {
  /** `none` for the exact function, `tanh` for GPT-2's form. */
  readonly approximate: 'none' | 'tanh';
  constructor(options: { approximate?: 'none' | 'tanh' } = {}) {
    super();
    this.approximate = options?.approximate ?? 'none';
    if (this.approximate !== 'none' && this.approximate !== 'tanh')
      throw new ValueError(`GELU: approximate must be none or tanh, got ${describe(this.approximate)}`);
  }
  /** x of any shape, which the result has. */
  override forward(x: Tensor): Tensor {
    return gelu(x, { approximate: this.approximate });
  }
}

/** `leakyRelu` as a module. */
export class LeakyReLU extends Module {
  /**
   * `negativeSlope` is the slope below 0.
   * @param negativeSlope the slope below 0. Default 0.01
   */
  constructor(readonly negativeSlope = 0.01) {
    super();
    checkNumber(negativeSlope, 'negativeSlope', 'LeakyReLU');
  }
  /** x of any shape, which the result has. */
  override forward(x: Tensor): Tensor {
    return leakyRelu(x, this.negativeSlope);
  }
}

/** `elu` as a module. */
export class ELU extends Module {
  /**
   * `alpha` is how far below 0 it goes.
   * @param alpha how far below 0 it goes. Default 1
   */
  constructor(readonly alpha = 1) {
    super();
    checkNumber(alpha, 'alpha', 'ELU');
  }
  /** x of any shape, which the result has. */
  override forward(x: Tensor): Tensor {
    return elu(x, this.alpha);
  }
}

/** `softmax` along one dimension as a module, the last one by default (PyTorch guesses one). */
export class Softmax extends Module {
  /**
   * Along `dim`.
   * @param dim the dimension that sums to 1. Default −1, the last
   */
  constructor(readonly dim = -1) {
    super();
  }
  /** x of any shape, which the result has. */
  override forward(x: Tensor): Tensor {
    return softmax(x, this.dim);
  }
}

/** `logSoftmax` along one dimension as a module, the last one by default. */
export class LogSoftmax extends Module {
  /**
   * Along `dim`.
   * @param dim the dimension whose exponentials sum to 1. Default −1, the last
   */
  constructor(readonly dim = -1) {
    super();
  }
  /** x of any shape, which the result has. */
  override forward(x: Tensor): Tensor {
    return logSoftmax(x, this.dim);
  }
}

/** silu(a)·b of the two halves of the last dimension. */
export function swiglu(x: Tensor): Tensor {
  checkFloat(x, 'swiglu');
  const features = x.shape[x.ndim - 1] ?? 0;
  if (features === 0 || features % 2 !== 0) throw new ShapeError(`swiglu: the last dimension must be even, got [${x.shape}]`);
  const [a, b] = split(x, features / 2, -1);
  return mul(silu(a!), b!);
}

/** The gated feed-forward block of Llama (Shazeer, 2020): down(silu(gate(x))·up(x)). */
export class SwiGLU extends Module {
  /** hidden × dim, whose result goes through silu. */
  gate_proj: Linear;
  /** hidden × dim, whose result is multiplied by the gate's. */
  up_proj: Linear;
  /** dim × hidden, back to the width of the input. */
  down_proj: Linear;
  constructor(dim: number, hidden: number, options: FactoryOptions & { bias?: boolean } = {}) {
    super();
    checkSize(dim, 'dim', 'SwiGLU');
    checkSize(hidden, 'hidden', 'SwiGLU');
    const o = { bias: false, ...options };
    this.gate_proj = new Linear(dim, hidden, o);
    this.up_proj = new Linear(dim, hidden, o);
    this.down_proj = new Linear(hidden, dim, o);
  }
  /** x `[.., dim]` to `[.., dim]`. */
  override forward(x: Tensor): Tensor {
    return this.down_proj.forward(mul(silu(this.gate_proj.forward(x)), this.up_proj.forward(x)));
  }
}
