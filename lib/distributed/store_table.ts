// The keys and values of a store and those who wait for keys to appear. Knows nothing of sockets. Counters are decimal strings, so
// that `get` reads what `add` wrote.
import type { StoreValue } from './store_message.js';

interface Waiter {
  readonly missing: Set<string>;
  readonly settle: (missing: readonly string[]) => void;
  timer: NodeJS.Timeout | null;
}

function equal(a: StoreValue | null, b: StoreValue | null): boolean {
  if (a === null || b === null || typeof a === 'string' || typeof b === 'string') return a === b;
  return Buffer.compare(a, b) === 0;
}

/** `setTimeout` that knows Infinity (never: null) and times beyond 24 days (as good as never). */
export function startTimer(milliseconds: number, action: () => void): NodeJS.Timeout | null {
  return milliseconds > 2 ** 31 - 1 ? null : setTimeout(action, milliseconds);
}

export class StoreTable {
  private readonly values = new Map<string, StoreValue>();
  private readonly waiters = new Map<string, Set<Waiter>>();

  get(key: string): StoreValue | null {
    return this.values.get(key) ?? null;
  }

  set(key: string, value: StoreValue): void {
    this.values.set(key, value);
    for (const waiter of this.waiters.get(key) ?? []) {
      waiter.missing.delete(key);
      if (waiter.missing.size === 0) this.finish(waiter);
    }
    this.waiters.delete(key);
  }

  /** Adds to a counter, which starts at 0, and returns the sum; null when the key holds something else. */
  add(key: string, amount: number): number | null {
    const old = this.get(key) ?? '0';
    if (typeof old !== 'string' || !/^-?\d+$/.test(old)) return null;
    const sum = Number(old) + amount;
    if (!Number.isSafeInteger(sum)) return null;
    this.set(key, String(sum));
    return sum;
  }

  /** Sets the key if it holds `expected` (null: nothing). Returns whether it did. */
  compareSet(key: string, expected: StoreValue | null, desired: StoreValue): boolean {
    if (!equal(this.get(key), expected)) return false;
    this.set(key, desired);
    return true;
  }

  delete(key: string): boolean {
    return this.values.delete(key);
  }

  /**
   * Calls `settle` once: with no keys as soon as all have been set, or with those still missing after the time.
   * @returns gives up waiting, without a call; null when it was settled at once
   */
  wait(keys: readonly string[], timeoutMs: number, settle: (missing: readonly string[]) => void): (() => void) | null {
    const missing = new Set(keys.filter((key) => !this.values.has(key)));
    if (missing.size === 0) {
      settle([]);
      return null;
    }
    const waiter: Waiter = { missing, settle, timer: null };
    for (const key of missing) {
      const others = this.waiters.get(key);
      if (others) others.add(waiter);
      else this.waiters.set(key, new Set([waiter]));
    }
    waiter.timer = startTimer(timeoutMs, () => this.finish(waiter));
    waiter.timer?.unref();
    return () => this.forget(waiter);
  }

  private finish(waiter: Waiter): void {
    const missing = [...waiter.missing];
    this.forget(waiter);
    waiter.settle(missing);
  }

  private forget(waiter: Waiter): void {
    if (waiter.timer) clearTimeout(waiter.timer);
    for (const key of waiter.missing) {
      const others = this.waiters.get(key);
      others?.delete(waiter);
      if (others?.size === 0) this.waiters.delete(key);
    }
  }
}
