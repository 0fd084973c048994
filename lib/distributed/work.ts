// What a collective returns: the promise of a result that a stream is making.

import type { Device } from '../device.js';
import { fromNative } from '../errors.js';
import { native } from '../native.js';

/** Streams of a device: kernels run on the one, collectives on the other. */
export const COMPUTE = 0;
export const COMMUNICATION = 1;

/**
 * A collective under way. `wait()` makes the ops that follow on this device wait for it, without holding JavaScript up, and gives
 * the result; `await work` waits until it has happened. Until one of the two, the tensors must not be read or written.
 */
export class Work<T> implements PromiseLike<T> {
  constructor(
    private readonly device: Device,
    private readonly event: number,
    private readonly result: T,
  ) {}

  wait(): T {
    native.waitEvent(this.device.slot, COMPUTE, this.device.slot, COMMUNICATION, this.event);
    return this.result;
  }

  // biome-ignore lint/suspicious/noThenProperty: awaiting a collective is its natural use
  then<A = T, B = never>(resolved?: ((value: T) => A | PromiseLike<A>) | null, rejected?: ((reason: unknown) => B | PromiseLike<B>) | null): Promise<A | B> {
    return native
      .streamDone(this.device.slot, COMMUNICATION)
      .then(
        () => this.wait(),
        (error) => {
          throw fromNative(error);
        },
      )
      .then(resolved, rejected);
  }
}
