// `pad` as modules, by mode and number of dimensions.

import { describe, ShapeError, ValueError } from '../errors.js';
import { checkTensor } from '../ops/arguments.js';
import { type PadMode, pad } from '../ops/joining.js';
import { checkInteger, checkNumber, showShape } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { Module } from './module.js';

abstract class Pad extends Module {
  /** [before, after] of the last dimension, then of the one before it. */
  readonly padding: readonly number[];
  constructor(
    private readonly dims: number,
    padding: number | readonly number[],
    private readonly mode: PadMode,
    private readonly fill = 0,
  ) {
    super();
    const where = this.constructor.name;
    const list = Array.isArray(padding) ? [...padding] : new Array<unknown>(2 * dims).fill(padding);
    if (list.length !== 2 * dims) throw new ValueError(`${where}: padding must be one number or ${2 * dims}, got ${describe(padding)}`);
    this.padding = list.map((p) => checkInteger(p, 'padding', where, -(2 ** 31), 2 ** 31));
  }
  /** x `[N, C, …]` or `[C, …]`. */
  override forward(x: Tensor): Tensor {
    checkTensor(x, this.constructor.name);
    if (x.ndim !== this.dims + 1 && x.ndim !== this.dims + 2)
      throw new ShapeError(`${this.constructor.name}: expected ${this.dims + 2} dimensions, or no batch, got ${showShape(x.shape)}`);
    return pad(x, this.padding, this.mode === 'constant' ? { value: this.fill } : { mode: this.mode });
  }
}

/** Modules of one mode, whose only argument is the padding: a number for all sides, or two a dimension, from the last dimension on. */
function padding(dims: number, mode: PadMode): new (padding: number | readonly number[]) => Pad {
  return class extends Pad {
    constructor(padding: number | readonly number[]) {
      super(dims, padding, mode);
    }
  };
}

/** Zeros on both sides of [N, C, L]. */
export class ZeroPad1d extends padding(1, 'constant') {}
/** Zeros around images [N, C, H, W]: `[left, right, top, bottom]`, or one number. */
export class ZeroPad2d extends padding(2, 'constant') {}
/** [N, C, L] mirrored at its first and last element. */
export class ReflectionPad1d extends padding(1, 'reflect') {}
/** Images [N, C, H, W] mirrored at the elements of their border: `[left, right, top, bottom]`, or one number. */
export class ReflectionPad2d extends padding(2, 'reflect') {}
/** The first and last element of [N, C, L], again and again. */
export class ReplicationPad1d extends padding(1, 'replicate') {}
/** The border of images [N, C, H, W], again and again: `[left, right, top, bottom]`, or one number. */
export class ReplicationPad2d extends padding(2, 'replicate') {}
/** What lies at the other end of [N, C, L]. */
export class CircularPad1d extends padding(1, 'circular') {}
/** What lies at the other side of images [N, C, H, W]: `[left, right, top, bottom]`, or one number. */
export class CircularPad2d extends padding(2, 'circular') {}

/** One value on both sides of [N, C, L]. */
export class ConstantPad1d extends Pad {
  constructor(padding: number | readonly number[], value: number) {
    super(1, padding, 'constant', checkNumber(value, 'value', 'ConstantPad1d'));
  }
}
/** One value around images [N, C, H, W]: `[left, right, top, bottom]`, or one number. */
export class ConstantPad2d extends Pad {
  constructor(padding: number | readonly number[], value: number) {
    super(2, padding, 'constant', checkNumber(value, 'value', 'ConstantPad2d'));
  }
}
