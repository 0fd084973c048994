// Debug mode (SHARDGRAD_DEBUG=1): tensors remember where they were made, and every op is waited for, so that one that fails on the
// device throws at its own line and not at the next wait.
import type { Device } from './device.js';
import { fromNative } from './errors.js';
import { native } from './native.js';

export const debugMode = process.env['SHARDGRAD_DEBUG'] === '1';
/** Whether every module's forward is a range in NVIDIA's profilers, `Linear "encoder.fc1"`. */
export const nvtxMode = process.env['SHARDGRAD_NVTX'] === '1';

/** The folder of this package's code: lib/, or all of the bundle's chunks. */
const own = new URL('.', import.meta.url).href;

/** The present stack, deep enough to reach from an op through nested modules to the user's line. */
export function callStack(): string {
  const limit = Error.stackTraceLimit;
  Error.stackTraceLimit = 200;
  const { stack } = new Error('made');
  Error.stackTraceLimit = limit;
  return stack ?? '';
}

/** The first place of a stack that lies outside this package. */
export function firstFrame(stack: string): string {
  const frames = stack.split('\n').filter((line) => /^\s*at /.test(line));
  return (frames.find((f) => !f.includes(own) && !f.includes('node:')) ?? frames.at(-1) ?? '').trim().replace(/^at /, '');
}

/** Enqueues and waits; a failure names the line that enqueued. */
export function enqueueAndWait(device: Device, enqueue: () => void): void {
  try {
    enqueue();
    native.synchronize(device.slot);
  } catch (cause) {
    const error = fromNative(cause) as Error;
    error.message += ` (enqueued at ${firstFrame(callStack())})`;
    throw error;
  }
}
