// Which parameters no rank has used, known to the device alone: the map of each rank is reduced to that of all, and its elements become
// flags of the gradients, by which optimizers skip those parameters. Nothing waits for the map on the host.
import { noGrad } from '../autograd/modes.js';
import { fromTypedArray, ones } from '../create.js';
import { scope } from '../memory.js';
import { copy_ } from '../ops/copy.js';
import { add, minimum } from '../ops/pointwise.js';
import { narrow } from '../ops/view.js';
import type { Tensor } from '../tensor.js';
import type { Ensemble } from './ensemble.js';

/** What a rank knows of a parameter's gradient. */
export enum Presence {
  /** Made since the last reduction. */
  Made,
  /** None. */
  None,
  /** What earlier reductions left: there or not, as they found. */
  Carried,
}

export class AbsentMap {
  /** 1 where no rank has a gradient. */
  private readonly map: Tensor;
  readonly flags: readonly Tensor[];

  constructor(
    private readonly ensemble: Ensemble,
    count: number,
  ) {
    this.map = ones([count], { dtype: 'float64', device: ensemble.device }).keep();
    this.flags = Array.from({ length: count }, (_, i) => narrow(this.map, 0, i, 1));
  }

  /** From what this rank has to what all ranks have, in stream order. */
  reduce(presence: readonly Presence[]): void {
    const upload = (f: (p: Presence) => boolean): Tensor =>
      fromTypedArray(
        Float64Array.from(presence, (p) => Number(f(p))),
        undefined,
        { device: this.ensemble.device },
      );
    noGrad(() =>
      scope(() => {
        // the old flag counts where nothing else is known
        const old = add(
          this.map,
          upload((p) => p !== Presence.Carried),
        );
        copy_(
          this.map,
          minimum(
            old,
            upload((p) => p !== Presence.Made),
          ),
        );
        this.ensemble.allReduce(this.map, { op: 'min', label: 'of the used parameters' }).wait();
      }),
    );
  }
}
