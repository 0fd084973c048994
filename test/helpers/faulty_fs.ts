// A file system that fails on purpose: on the n-th call that touches the disk, once (a full disk, a flaky device) or from then on
// (the process was killed: nothing after that point happened, clean-up included).
import nodeFs, { type FileHandle } from 'node:fs/promises';
import type { FileSystem } from '../../lib/io/files.js';

export interface FaultyFileSystem {
  readonly fs: FileSystem;
  /** Calls made so far. */
  readonly calls: () => number;
  /** Whether the fault happened. */
  readonly failed: () => boolean;
}

const CALLS = ['open', 'rename', 'rm', 'mkdir', 'readdir', 'stat', 'readFile'] as const;
const HANDLE_CALLS = new Set(['write', 'read', 'sync', 'stat']);

export function faultyFs(failAt: number, options: { code?: string; then?: 'recover' | 'crash' } = {}): FaultyFileSystem {
  const { code = 'ENOSPC', then = 'recover' } = options;
  let calls = 0;
  let failed = false;
  const gate = (): void => {
    if (calls++ === failAt || (failed && then === 'crash')) {
      failed = true;
      throw Object.assign(new Error(`${code}: injected at call ${calls - 1}`), { code });
    }
  };
  const guardHandle = (handle: FileHandle): FileHandle =>
    new Proxy(handle, {
      get(target, key) {
        const value = Reflect.get(target, key) as unknown;
        if (typeof value !== 'function') return value;
        return async (...args: unknown[]) => {
          if (HANDLE_CALLS.has(key as string)) {
            try {
              gate();
            } catch (error) {
              // a disk fills in the middle of a write
              if (key === 'write') await target.write((args[0] as Uint8Array).subarray(0, (args[0] as Uint8Array).length >> 1));
              throw error;
            }
          }
          return (value as (...a: unknown[]) => unknown).apply(target, args);
        };
      },
    });
  const fs = Object.fromEntries(
    CALLS.map((name) => [
      name,
      async (...args: unknown[]) => {
        gate();
        const result = await (nodeFs[name] as (...a: unknown[]) => Promise<unknown>)(...args);
        return name === 'open' ? guardHandle(result as FileHandle) : result;
      },
    ]),
  ) as unknown as FileSystem;
  return { fs, calls: () => calls, failed: () => failed };
}
