// When the device has no room: drop what JavaScript no longer reaches, try again, and if that fails too, say what fills the memory.
import { context } from './context.js';
import { firstFrame } from './debug.js';
import type { Device } from './device.js';
import { fromNative, OutOfMemoryError } from './errors.js';
import { native } from './native.js';
import { type Scope, type Storage, sweep, watchedStorages } from './storage.js';

function mebibytes(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}

/** What a storage is to the user: a temporary that a graph saved is an activation. */
function kindOf(s: Storage): string {
  return s.kind === 'temporary' && s.saves > 0 ? 'activation' : s.kind;
}

function owned(scope: Scope | null): Storage[] {
  return scope ? scope.alive() : [];
}

/** Live bytes by kind, fragmentation, and the largest storages with the place that made them. */
export function memoryReport(device: Device): string {
  const storages = [...new Set([...watchedStorages(), ...owned(context().scope)])].filter((s) => s.device === device);
  const byKind = new Map<string, number>();
  for (const s of storages) {
    byKind.set(kindOf(s), (byKind.get(kindOf(s)) ?? 0) + s.bytes);
  }
  const stats = new Float64Array(32);
  native.stats(device.slot, stats);
  const [live, , reserved] = stats as unknown as [number, number, number];
  const listed = [...byKind.values()].reduce((a, b) => a + b, 0);
  const rows = [...byKind, ['held by outer scopes', Math.max(0, live - listed)] as const, ['cached, free or fragmented', reserved - live] as const]
    .filter(([, bytes]) => bytes > 0)
    .sort((a, b) => b[1] - a[1])
    .map(([kind, bytes]) => `  ${kind.padEnd(28)}${mebibytes(bytes).padStart(14)}`);
  const largest = storages
    .sort((a, b) => b.bytes - a.bytes)
    .slice(0, 5)
    .map((s) => `  ${mebibytes(s.bytes).padStart(14)}  ${kindOf(s)}${s.site ? ` made at ${firstFrame(s.site)}` : ''}`);
  const hint = storages.some((s) => s.site) ? '' : '\n(SHARDGRAD_DEBUG=1 records where each tensor is made)';
  return `${device} holds ${mebibytes(live)} in tensors, ${mebibytes(reserved)} from the system:\n${rows.join('\n')}\nlargest:\n${largest.join('\n')}${hint}`;
}

/**
 * Runs a native call that allocates. On exhaustion it frees unreachable tensors and the cache, restores the call's description and
 * tries once more; a second failure throws OutOfMemoryError with the report.
 */
export function withRelief<T>(device: Device, op: string, describeCall: () => () => void, call: () => T): T {
  try {
    return call();
  } catch (error) {
    return againWithRelief(error, device, op, describeCall, call);
  }
}

/** What withRelief does once a call has failed: the door, where none should cost a function made for it, calls it by itself. */
export function againWithRelief<T>(error: unknown, device: Device, op: string, describeCall: () => () => void, call: () => T): T {
  const first = fromNative(error);
  if (!(first instanceof OutOfMemoryError)) throw first;
  const restore = describeCall();
  sweep('major');
  native.emptyCache(device.slot);
  restore();
  try {
    return call();
  } catch (again) {
    const second = fromNative(again);
    if (!(second instanceof OutOfMemoryError)) throw second;
    throw new OutOfMemoryError(`${second.message.startsWith(op) ? '' : `${op}: `}${second.message}\n${memoryReport(device)}`);
  }
}
