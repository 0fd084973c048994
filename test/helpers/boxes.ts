// The smallest things with a state, for the tests of checkpoints.
import { fromTypedArray, type Tensor } from '../../lib/index.js';

export class Box {
  constructor(public state: unknown) {}
  stateDict(): unknown {
    return this.state;
  }
  loadStateDict(state: unknown): void {
    this.state = state;
    (state as { w?: Tensor }).w?.keep();
  }
}

export const vector = (...values: number[]): Tensor => fromTypedArray(Float32Array.from(values));
/** A box whose state is the tensor { w }. */
export const box = (...values: number[]): Box => new Box({ w: vector(...values) });
export const valuesOf = async (b: Box): Promise<number[]> => Array.from((await (b.state as { w: Tensor }).w.toTypedArray()) as Float32Array);
