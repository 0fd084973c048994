// Activations as modules.

import { full } from '../create.js';
import { describe, ShapeError, ValueError } from '../errors.js';
import { celu, glu, hardshrink, prelu, softmin, softshrink, softsign, tanhshrink, threshold } from '../ops/activation.js';
import { checkFinite, checkFloat } from '../ops/arguments.js';
import { elu, gelu, leakyRelu } from '../ops/blend.js';
import { split } from '../ops/joining.js';
import { hardsigmoid, hardswish, hardtanh, logSigmoid, mish, mul, relu, relu6, selu, sigmoid, silu, softplus, tanh } from '../ops/pointwise.js';
import { logSoftmax, softmax } from '../ops/softmax.js';
import { type Every, withOptions } from '../options.js';
import { checkNumber } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { checkSize, FACTORY, type FactoryOptions, Linear, type LinearOptions } from './linear.js';
import { Module, Parameter } from './module.js';

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
/** `softsign` as a module. */
export class Softsign extends activation(softsign) {}
/** `tanhshrink` as a module. */
export class Tanhshrink extends activation(tanhshrink) {}

/** Gaussian error linear unit: exact, or GPT-2's tanh form. */
export class GELU extends Module {
  /** `none` for the exact function, `tanh` for GPT-2's form. */
  readonly approximate: 'none' | 'tanh';
  constructor(options: { approximate?: 'none' | 'tanh' } = {}) {
    super();
    this.approximate = withOptions<{ approximate?: 'none' | 'tanh' }>('GELU', { approximate: 'none' }, options).approximate ?? 'none';
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

/** `celu` as a module. */
export class CELU extends Module {
  /** @param alpha how far below 0 it goes. Default 1 */
  constructor(readonly alpha = 1) {
    super();
    checkFinite(alpha, 'alpha', 'CELU', 0);
  }
  /** x of any shape, which the result has. */
  override forward(x: Tensor): Tensor {
    return celu(x, this.alpha);
  }
}

/** `hardshrink` as a module. */
export class Hardshrink extends Module {
  /** @param lambda what becomes 0: up to there on both sides. Default 0.5 */
  constructor(readonly lambda = 0.5) {
    super();
    checkNumber(lambda, 'lambda', 'Hardshrink');
  }
  /** x of any shape, which the result has. */
  override forward(x: Tensor): Tensor {
    return hardshrink(x, this.lambda);
  }
}

/** `softshrink` as a module. */
export class Softshrink extends Module {
  /** @param lambda how far x is moved towards 0. Default 0.5 */
  constructor(readonly lambda = 0.5) {
    super();
    checkFinite(lambda, 'lambda', 'Softshrink', 0);
  }
  /** x of any shape, which the result has. */
  override forward(x: Tensor): Tensor {
    return softshrink(x, this.lambda);
  }
}

/** `threshold` as a module. */
export class Threshold extends Module {
  constructor(
    /** What is replaced: up to there. */
    readonly threshold: number,
    /** What it is replaced by. */
    readonly value: number,
  ) {
    super();
    checkNumber(threshold, 'the threshold', 'Threshold');
    checkNumber(value, 'the value', 'Threshold');
  }
  /** x of any shape, which the result has. */
  override forward(x: Tensor): Tensor {
    return threshold(x, this.threshold, this.value);
  }
}

/** `prelu` as a module: slopes below 0 that are learned, one for all channels or one each (He et al., 2015). */
export class PReLU extends Module {
  /** [numParameters], starts at `init`. */
  weight: Parameter;
  /**
   * @param numParameters 1, or the channels of the input. Default 1
   * @param init the slope to start with. Default 0.25
   */
  constructor(numParameters = 1, init = 0.25, options: FactoryOptions = {}) {
    super();
    checkSize(numParameters, 'numParameters', 'PReLU');
    checkNumber(init, 'init', 'PReLU');
    const { dtype = 'float32', device } = withOptions('PReLU', FACTORY, options);
    this.weight = new Parameter(full([numParameters], init, { dtype, device }));
  }
  /** x `[N, C, …]` of any shape, which the result has. */
  override forward(x: Tensor): Tensor {
    return prelu(x, this.weight);
  }
}

/** `glu` as a module. */
export class GLU extends Module {
  /** @param dim the dimension that is halved. Default −1, the last */
  constructor(readonly dim = -1) {
    super();
  }
  /** x with an even size of `dim`, which the result has half of. */
  override forward(x: Tensor): Tensor {
    return glu(x, this.dim);
  }
}

/** `softmin` along one dimension as a module, the last one by default. */
export class Softmin extends Module {
  /** @param dim the dimension that sums to 1. Default −1, the last */
  constructor(readonly dim = -1) {
    super();
  }
  /** x of any shape, which the result has. */
  override forward(x: Tensor): Tensor {
    return softmin(x, this.dim);
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
    const o = withOptions<Every<LinearOptions>>('SwiGLU', { bias: false, ...FACTORY }, options);
    this.gate_proj = new Linear(dim, hidden, o);
    this.up_proj = new Linear(dim, hidden, o);
    this.down_proj = new Linear(hidden, dim, o);
  }
  /** x `[.., dim]` to `[.., dim]`. */
  override forward(x: Tensor): Tensor {
    return this.down_proj.forward(mul(silu(this.gate_proj.forward(x)), this.up_proj.forward(x)));
  }
}
