// What losses of an input and a target ask of both. Unlike PyTorch's, they refuse to broadcast: a prediction [N, 1] against targets [N] would
// otherwise average N² differences without a word.
import { ShapeError } from '../errors.js';
import { sameShape, showShape } from '../shape.js';
import { checkFloat, checkTensor, optionsOf } from './arguments.js';
import { checkReduction, type Reduction } from './cross_entropy.js';
import { deviceOf } from './door.js';

/** What becomes of the losses of all elements. */
export interface LossOptions {
  /** `mean` (default), `sum`, or `none`: one loss an element. */
  reduction?: Reduction;
}

export function checkPair(x: unknown, target: unknown, op: string, names = 'input and target'): void {
  const [first, second] = names.split(' and ') as [string, string];
  checkFloat(x, op, `the ${first}`);
  checkTensor(target, op, `the ${second}`);
  deviceOf(op, [x, target]);
  if (!sameShape(x.shape, target.shape))
    throw new ShapeError(`${op}: ${first} ${showShape(x.shape)} and ${second} ${showShape(target.shape)} must have one shape`);
}

export function reductionOf(options: LossOptions | undefined, op: string): Reduction {
  return checkReduction(optionsOf(options, op).reduction ?? 'mean', op);
}
