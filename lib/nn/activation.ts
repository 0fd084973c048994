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
function activation(fn: (x: Tensor) => Tensor): new () => Module & { forward(x: Tensor): Tensor } {
  return class extends Module {
    override forward(x: Tensor): Tensor {
      return fn(x);
    }
  };
}

export class Identity extends activation((x) => x) {}
export class ReLU extends activation(relu) {}
export class ReLU6 extends activation(relu6) {}
export class SiLU extends activation(silu) {}
export class Tanh extends activation(tanh) {}
export class Sigmoid extends activation(sigmoid) {}
export class LogSigmoid extends activation(logSigmoid) {}
export class Softplus extends activation(softplus) {}
export class Mish extends activation(mish) {}
export class SELU extends activation(selu) {}
export class Hardtanh extends activation(hardtanh) {}
export class Hardswish extends activation(hardswish) {}
export class Hardsigmoid extends activation(hardsigmoid) {}

/** Gaussian error linear unit: exact, or GPT-2's tanh form. */
export class GELU extends Module {
  readonly approximate: 'none' | 'tanh';
  constructor(options: { approximate?: 'none' | 'tanh' } = {}) {
    super();
    this.approximate = options?.approximate ?? 'none';
    if (this.approximate !== 'none' && this.approximate !== 'tanh')
      throw new ValueError(`GELU: approximate must be none or tanh, got ${describe(this.approximate)}`);
  }
  override forward(x: Tensor): Tensor {
    return gelu(x, { approximate: this.approximate });
  }
}

export class LeakyReLU extends Module {
  constructor(readonly negativeSlope = 0.01) {
    super();
    checkNumber(negativeSlope, 'negativeSlope', 'LeakyReLU');
  }
  override forward(x: Tensor): Tensor {
    return leakyRelu(x, this.negativeSlope);
  }
}

export class ELU extends Module {
  constructor(readonly alpha = 1) {
    super();
    checkNumber(alpha, 'alpha', 'ELU');
  }
  override forward(x: Tensor): Tensor {
    return elu(x, this.alpha);
  }
}

export class Softmax extends Module {
  constructor(readonly dim = -1) {
    super();
  }
  override forward(x: Tensor): Tensor {
    return softmax(x, this.dim);
  }
}

export class LogSoftmax extends Module {
  constructor(readonly dim = -1) {
    super();
  }
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
  gate_proj: Linear;
  up_proj: Linear;
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
  override forward(x: Tensor): Tensor {
    return this.down_proj.forward(mul(silu(this.gate_proj.forward(x)), this.up_proj.forward(x)));
  }
}
