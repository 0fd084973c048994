// What writers of metrics have in common.
import { describe, ValueError } from '../errors.js';
import { checkInteger } from '../numbers.js';

/** Takes numbers of a training by name and step. */
export interface MetricsWriter {
  /** One number of a step. */
  addScalar(name: string, value: number, step: number): void;
  /** Several numbers of a step, by name. */
  addScalars(values: Readonly<Record<string, number>>, step: number): void;
  /** Waits until everything so far is in the file. @throws what the file system said, once */
  flush(): Promise<void>;
  /** Flushes and closes. */
  close(): Promise<void>;
}

export function checkScalar(where: string, name: unknown, value: unknown, step: unknown): void {
  if (typeof name !== 'string' || name === '') throw new ValueError(`${where}: the name must be a text that is not empty, got ${describe(name)}`);
  // NaN and infinity are what somebody wants to see
  if (typeof value !== 'number') throw new ValueError(`${where}: the value of "${name}" must be a number, got ${describe(value)}; read a tensor with item()`);
  checkInteger(step, 'step', where, 0);
}
