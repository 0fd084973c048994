// Lifetimes and accounting. `scope(fn)` frees what was made inside except what is returned, kept, or stored as state; `memory()`
// says what is live; `checkLeaks()` says what a function left behind and where it was made.
import { context, withContext } from './context.js';
import { type DeviceLike, device, openDevices } from './device.js';
import { describe, ShardgradError, ValueError } from './errors.js';
import { native } from './native.js';
import { leakSites, Scope, sweep } from './storage.js';
import { Tensor } from './tensor.js';

/** Calls `visit` with every tensor reachable through arrays, maps and plain objects. */
export function eachTensor(value: unknown, visit: (t: Tensor) => void, seen: Set<unknown> = new Set()): void {
  if (value instanceof Tensor) {
    visit(value);
    return;
  }
  if (typeof value !== 'object' || value === null || seen.has(value)) return;
  seen.add(value);
  if (Array.isArray(value)) for (const v of value) eachTensor(v, visit, seen);
  else if (value instanceof Map || value instanceof Set) for (const v of value.values()) eachTensor(v, visit, seen);
  else {
    const proto = Object.getPrototypeOf(value);
    if (proto === Object.prototype || proto === null) for (const v of Object.values(value)) eachTensor(v, visit, seen);
  }
}

/** Ends a scope, handing what `result` holds to the outer one. */
export function endScope(scope: Scope, outer: Scope | null, result: unknown): void {
  eachTensor(result, (t) => {
    if (t.storage.scope !== scope) return;
    if (outer) outer.add(t.storage);
    else t.keep();
  });
  scope.end(outer);
}

/**
 * Runs `fn` and then frees every tensor made inside, except those it returns (also inside arrays and objects), those that
 * `keep()` was called on, and those stored as `.grad`, buffer or optimizer state. Takes async functions as well.
 */
export function scope<T>(fn: () => T): T {
  const mine = new Scope();
  const outer = context().scope;
  let result: T;
  try {
    result = withContext({ scope: mine }, fn);
  } catch (error) {
    mine.end(outer);
    throw error;
  }
  if (result instanceof Promise) {
    return result.then(
      (value) => {
        endScope(mine, outer, value);
        return value;
      },
      (error) => {
        mine.end(outer);
        throw error;
      },
    ) as T;
  }
  endScope(mine, outer, result);
  return result;
}

/** Takes a tensor out of the scope that made it. Returns it. */
export function keep(t: Tensor): Tensor {
  if (!(t instanceof Tensor)) throw new ValueError(`keep: expected a tensor, got ${describe(t)}`);
  return t.keep();
}

export interface MemoryStats {
  /** Bytes of tensors that are alive. */
  live: number;
  /** Tensors (storages) that are alive. */
  count: number;
  /** Bytes held from the system: live ones and the cache. */
  reserved: number;
  /** Highest `live` since the start or resetPeakMemory(). */
  peak: number;
  peakReserved: number;
}

/** What a device's memory holds, in bytes. */
export function memory(on: DeviceLike = 'cpu'): MemoryStats {
  const d = device(on);
  const out = new Float64Array(32);
  if (d.type !== 'meta') native.stats(d.slot, out);
  return { live: out[0]!, count: out[1]!, reserved: out[2]!, peak: out[3]!, peakReserved: out[4]! };
}

/** Starts a new measurement of the peak. */
export function resetPeakMemory(on: DeviceLike = 'cpu'): void {
  native.resetPeak(device(on).slot);
}

/** Returns cached blocks to the system. */
export function emptyCache(on: DeviceLike = 'cpu'): void {
  native.emptyCache(device(on).slot);
}

/** Frees tensors that JavaScript no longer reaches, now. Returns how many. */
export function collectGarbage(): number {
  return sweep('major');
}

export interface Leak {
  readonly bytes: number;
  /** The stack of the call that made it. */
  readonly site: string;
}

/** Runs `fn` and reports the tensors it made that are still alive afterwards. Slow: it records a stack for each tensor. */
export function checkLeaks(fn: () => unknown): Leak[] {
  const before = leakSites.enabled;
  leakSites.enabled = true;
  leakSites.collecting = true;
  leakSites.made = [];
  try {
    const result = fn();
    if (result instanceof Promise) throw new ShardgradError('checkLeaks: takes a synchronous function');
    const made = leakSites.made;
    return made.filter((s) => s.alive).map((s) => ({ bytes: s.bytes, site: s.site ?? '' }));
  } finally {
    leakSites.enabled = before;
    leakSites.collecting = false;
    leakSites.made = [];
  }
}

/** Live bytes on all devices in use. */
export function liveBytes(): number {
  return openDevices().reduce((sum, d) => sum + (d.type === 'meta' ? 0 : memory(d).live), 0);
}
