// Ranges for the profilers of NVIDIA (Nsight Systems). Operations are ranges by themselves, on the thread that launches them. Ranges
// of this module stand on the timeline of JavaScript and, in the order of the operations, around the launches, so that a
// profiler shows which kernels belong to them. Without a profiler, or without a GPU in use, nothing happens.
import { describe, fromNative, ValueError } from './errors.js';
import { native } from './native.js';

function tell(call: () => void): void {
  try {
    call();
  } catch (error) {
    throw fromNative(error);
  }
}

function checkName(op: string, name: unknown): asserts name is string {
  if (typeof name !== 'string' || name === '') throw new ValueError(`nvtx.${op}: the name must be a text that is not empty, got ${describe(name)}`);
}

/** Begins a range, which lasts until the `rangePop()` that belongs to it, as brackets do. */
export function rangePush(name: string): void {
  checkName('rangePush', name);
  tell(() => native.rangePush(name));
}

/** Ends the range that was begun last. */
export function rangePop(): void {
  tell(native.rangePop);
}

/** Marks a moment. */
export function mark(name: string): void {
  checkName('mark', name);
  tell(() => native.rangeMark(name));
}

/**
 * Runs `fn` in a range and returns what it returns; the range of an asynchronous function ends when its promise is settled. Ranges are
 * brackets: of functions that run interleaved, they do not tell what belongs to which.
 */
export function range<T>(name: string, fn: () => T): T {
  rangePush(name);
  let result: T;
  try {
    result = fn();
  } catch (error) {
    rangePop();
    throw error;
  }
  if (result instanceof Promise) return result.finally(rangePop) as T;
  rangePop();
  return result;
}
