// Parameters: the tensors that training changes.
import { isFloating } from '../dtype.js';
import { describe, ValueError } from '../errors.js';
import { takeOut } from '../storage.js';
import { Tensor } from '../tensor.js';

/** A tensor that modules list as trainable and optimizers update. Assigning one to a module registers it. */
export class Parameter extends Tensor {
  constructor(data: Tensor, requiresGrad = true) {
    if (!(data instanceof Tensor)) throw new ValueError(`Parameter: expected a tensor, got ${describe(data)}`);
    super(data.storage, data.shape, data.strides, data.offset, data.dtype);
    takeOut(this.storage, 'parameter');
    this.requiresGrad = requiresGrad && isFloating(data.dtype);
  }
}
