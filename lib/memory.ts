// Lifetimes and accounting. `scope(fn)` frees what was made inside except what is returned, kept, or stored as state; `memory()`
// says what is live; `checkLeaks()` says what a function left behind and where it was made.
import { context, withContext } from './context.js';
import { type DeviceLike, device, openDevices } from './device.js';
import { describe, ValueError } from './errors.js';
import { native } from './native.js';
import { leakSites, Scope, type Storage, sweep } from './storage.js';
import { Tensor } from './tensor.js';

/** Calls `visit` with every tensor reachable through arrays, maps, sets and plain objects, however deep. */
export function eachTensor(value: unknown, visit: (t: Tensor) => void): void {
  if (value instanceof Tensor) {
    visit(value);
    return;
  }
  if (typeof value !== 'object' || value === null) return;
  // grows while it is walked, and has everything once
  const found = new Set<object>([value]);
  for (const x of found) {
    for (const item of itemsOf(x)) {
      if (item instanceof Tensor) visit(item);
      else if (typeof item === 'object' && item !== null) found.add(item);
    }
  }
}

function itemsOf(container: object): Iterable<unknown> {
  if (Array.isArray(container)) return container;
  if (container instanceof Map || container instanceof Set) return container.values();
  const prototype: unknown = Object.getPrototypeOf(container);
  return prototype === Object.prototype || prototype === null ? Object.values(container) : [];
}

/** The value with its tensors replaced, also in arrays and plain objects, which are copied; objects of classes stay as they are. */
export function mapTensors(value: unknown, by: (t: Tensor) => Tensor): unknown {
  if (value instanceof Tensor) return by(value);
  if (Array.isArray(value)) return value.map((v) => mapTensors(v, by));
  if (typeof value !== 'object' || value === null || Object.getPrototypeOf(value) !== Object.prototype) return value;
  return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, mapTensors(v, by)]));
}

/** Ends a scope, handing what `result` holds to the outer one. */
export function endScope(scope: Scope, outer: Scope | null, result: unknown): void {
  try {
    eachTensor(result, (t) => {
      if (t.storage.scope !== scope) return;
      if (outer) outer.add(t.storage);
      else t.keep();
    });
  } finally {
    scope.end(outer);
  }
}

/**
 * Runs `fn` and then frees every tensor made inside, except those it returns (also inside arrays, maps, sets and plain objects; in an
 * object of a class, call `keep()` on them), those that `keep()` was called on, and those stored as `.grad`, buffer or optimizer state.
 * Takes async functions as well. What a timer or a forgotten promise makes after the end belongs to the scope outside.
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

/** Takes a tensor out of the scope that made it, so that it lives until it is disposed or no longer reached. Returns it. */
export function keep(t: Tensor): Tensor {
  if (!(t instanceof Tensor)) throw new ValueError(`keep: expected a tensor, got ${describe(t)}`);
  return t.keep();
}

/** What a device's memory holds; all but `count` in bytes. */
export interface MemoryStats {
  /** Bytes of tensors that are alive. */
  live: number;
  /** Tensors (storages) that are alive. */
  count: number;
  /** Bytes held from the system: live ones and the cache. */
  reserved: number;
  /** Highest `live` since the start or resetPeakMemory(). */
  peak: number;
  /** Highest `reserved` since then. */
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
  const d = device(on);
  if (d.type !== 'meta') native.resetPeak(d.slot);
}

/** Returns cached blocks to the system. */
export function emptyCache(on: DeviceLike = 'cpu'): void {
  const d = device(on);
  if (d.type !== 'meta') native.emptyCache(d.slot);
}

/** Frees tensors that JavaScript no longer reaches, now. Returns how many. */
export function collectGarbage(): number {
  return sweep('major');
}

/** A tensor that outlived the function given to checkLeaks(). */
export interface Leak {
  /** Size of what was left behind. */
  readonly bytes: number;
  /** The stack of the call that made it. */
  readonly site: string;
}

/**
 * Runs `fn` and reports the tensors it made that are still alive afterwards. Slow: it records a stack for each tensor.
 * @param fn a synchronous function: during an async one, other code makes tensors too
 * @throws ValueError for anything else
 */
export function checkLeaks(fn: () => unknown): Leak[] {
  if (typeof fn !== 'function') throw new ValueError(`checkLeaks: expected a function, got ${describe(fn)}`);
  const outer = leakSites.made;
  const mine: Storage[] = [];
  leakSites.made = mine;
  try {
    const result = fn();
    if (result instanceof Promise) {
      // what becomes of it is no longer anyone's concern
      result.catch(() => {});
      throw new ValueError('checkLeaks: expected a synchronous function, got an async one');
    }
    return mine.filter((s) => s.alive).map((s) => ({ bytes: s.bytes, site: s.site ?? '' }));
  } finally {
    leakSites.made = outer;
    outer?.push(...mine);
  }
}

/** Live bytes on all devices in use. */
export function liveBytes(): number {
  return openDevices().reduce((sum, d) => sum + (d.type === 'meta' ? 0 : memory(d).live), 0);
}
