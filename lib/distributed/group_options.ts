// What groups and their operations are given.
import type { Device } from '../device.js';
import type { ReduceOp } from './reduce_op.js';
import type { Backend, Transport } from './transport.js';

/** What every operation takes. */
export interface CallOptions {
  /** After this long a rank that does not come is an error; the group's timeout unless given. */
  timeoutMs?: number;
  /** Named in errors and in the flight recorder in place of the caller's line: `of gradient bucket 2`. */
  label?: string;
}
/** What reductions take. */
export interface ReduceOptions extends CallOptions {
  /** `sum` unless given. */
  op?: ReduceOp;
}

/** What a group is made of; `dist.init`, `simulate` and `split` know it. @internal */
export interface GroupOptions {
  readonly name: string;
  readonly rank: number;
  readonly size: number;
  readonly device: Device;
  readonly timeoutMs: number;
  readonly backend: Backend;
  /** The native half, which a transport has made. */
  readonly id: number;
  readonly transport: Transport;
  /** Each rank's place in the world; empty for the world. */
  readonly worldRanks: Int32Array;
}
