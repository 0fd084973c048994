// Named ranges on JavaScript's thread, for profiles and for the profilers of NVIDIA alike.
import { nvtxMode } from '../debug.js';
import { describe, ValueError } from '../errors.js';
import { range as nvtxRange } from '../nvtx.js';
import type { SpanEvent } from './events.js';
import { recording } from './recording.js';

/** Whether ranges of modules are wanted. */
export function modulesAreRanges(): boolean {
  return recording !== null || nvtxMode;
}

export function spanning<T>(kind: SpanEvent['kind'], name: string, fn: () => T): T {
  const recorded = recording;
  if (!recorded) return fn();
  const begin = recorded.now();
  let result: T;
  try {
    result = fn();
  } catch (error) {
    recorded.span(kind, name, begin);
    throw error;
  }
  if (result instanceof Promise) return result.finally(() => recorded.span(kind, name, begin)) as T;
  recorded.span(kind, name, begin);
  return result;
}

/** A module's forward. */
export function moduleRange<T>(label: string, fn: () => T): T {
  return spanning('module', label, nvtxMode ? () => nvtxRange(label, fn) : fn);
}

/**
 * Runs `fn` in a range of the profile and returns what it returns; the range of an asynchronous function ends when its promise is settled.
 * Ranges may lie in each other, and those of functions that run interleaved each have their own times. It is a range of NVTX too
 * (`cuda.nvtx.range`). Where nothing is recorded it only calls `fn`.
 */
export function range<T>(name: string, fn: () => T): T {
  if (typeof name !== 'string' || name === '') throw new ValueError(`profiler.range: the name must be a text that is not empty, got ${describe(name)}`);
  return spanning('range', name, () => nvtxRange(name, fn));
}
