// What a collective returns: the promise of a result that a stream is making.

import type { Device } from '../device.js';
import { fromNative, ValueError } from '../errors.js';
import { native } from '../native.js';

/** Streams of a device: kernels run on the one, collectives on the other. */
export const COMPUTE = 0;
export const COMMUNICATION = 1;

/**
 * A collective under way. `wait()` makes the ops that follow on this device wait for it, without holding JavaScript up, and gives
 * the result; `await work` waits until it has happened. Until one of the two, the tensors must not be read or written.
 */
export class Work<T> implements PromiseLike<T> {
  /** Null: inside `coalesce`, which has not launched it yet. */
  private event: number | null = null;
  private result: T | undefined;

  /** @internal */
  constructor(private readonly device: Device) {}

  /** It was enqueued on the communication stream just now. @internal */
  launched(result: T): this {
    this.event = native.recordEvent(this.device.slot, COMMUNICATION);
    this.result = result;
    return this;
  }

  /** Makes the ops that follow on this device wait for the collective, without holding JavaScript up, and gives its result. */
  wait(): T {
    if (this.event === null) throw new ValueError('wait: the collective starts when coalesce ends; wait for what coalesce returns');
    native.waitEvent(this.device.slot, COMPUTE, this.device.slot, COMMUNICATION, this.event);
    return this.result as T;
  }

  /** What `await` calls: resolves when the collective has happened, rejects with its fault. */
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
