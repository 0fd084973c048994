// Linear layers.
import { empty } from '../create.js';
import type { DeviceLike } from '../device.js';
import type { DType } from '../dtype.js';
import { describe, ValueError } from '../errors.js';
import { linear } from '../ops/matmul.js';
import { type Every, withOptions } from '../options.js';
import type { Tensor } from '../tensor.js';
import * as init from './init.js';
import { Module, Parameter } from './module.js';

/** Where and in what type a layer makes its parameters. */
export interface FactoryOptions {
  /** Element type of the parameters. Default float32. */
  dtype?: DType;
  /** Where they are made; `meta` gives shapes without memory. Default `cpu`. */
  device?: DeviceLike;
}

/** The names of `FactoryOptions`. */
export const FACTORY: Every<FactoryOptions> = { dtype: undefined, device: undefined };

/** An uninitialised parameter. */
export function parameter(shape: readonly number[], options: FactoryOptions): Parameter {
  return new Parameter(empty(shape, { dtype: options.dtype, device: options.device }));
}

export function checkSize(value: unknown, name: string, where: string): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 1) {
    throw new ValueError(`${where}: ${name} must be a whole number from 1, got ${describe(value)}`);
  }
  return value;
}

/** Options of `Linear`. */
export interface LinearOptions extends FactoryOptions {
  /** Learn a bias. Default true. */
  bias?: boolean;
}

const LINEAR: Every<LinearOptions> = { bias: true, ...FACTORY };

/** y = x·Wᵀ + b. Weight and bias start uniform in ±1/√inFeatures, as PyTorch's. */
export class Linear extends Module {
  /** [outFeatures, inFeatures]. */
  weight: Parameter;
  /** [outFeatures], or null. */
  bias: Parameter | null;
  constructor(
    /** Features of the input. */
    readonly inFeatures: number,
    /** Features of the result. */
    readonly outFeatures: number,
    options: LinearOptions = {},
  ) {
    super();
    checkSize(inFeatures, 'inFeatures', 'Linear');
    checkSize(outFeatures, 'outFeatures', 'Linear');
    const o = withOptions('Linear', LINEAR, options);
    this.weight = parameter([outFeatures, inFeatures], o);
    init.kaimingUniform_(this.weight, { a: Math.sqrt(5) });
    this.bias = o.bias === false ? null : parameter([outFeatures], o);
    if (this.bias) init.uniform_(this.bias, -1 / Math.sqrt(inFeatures), 1 / Math.sqrt(inFeatures));
  }
  /** x `[.., inFeatures]` to `[.., outFeatures]`. `residual`, of the output's shape, is added in the same pass over memory. */
  override forward(x: Tensor, residual?: Tensor): Tensor {
    return linear(x, this.weight, this.bias, { residual });
  }
}
