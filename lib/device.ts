// Devices by name. `cpu` is `cpu:0`; `cpu:1`, … are separate virtual devices with streams of their own (simulated ranks);
// `meta` has shapes without storage, and the door stops before the native side.
import { DeviceError, describe, fromNative } from './errors.js';
import { native } from './native.js';

/** @inline */
export type DeviceType = 'cpu' | 'cuda' | 'meta';
/** A device or its name: `cpu`, `cpu:1`, `cuda:0`, `meta`. */
export type DeviceLike = string | Device;

/** A place where tensors live and kernels run. `device(name)` gives the one of a name; two of one name are the same object. */
export class Device {
  private slotNumber = -1;
  /** @internal */
  constructor(
    /** The kind: `cpu`, `cuda` or `meta`. */
    readonly type: DeviceType,
    /** Its number: the GPU of `cuda`, the virtual device of `cpu`. */
    readonly index: number,
  ) {}
  /** The addon's number for this device; opens it at first use. @internal */
  get slot(): number {
    if (this.slotNumber < 0) {
      try {
        this.slotNumber = native.openDevice(this.type, this.index);
      } catch (error) {
        throw fromNative(error);
      }
    }
    return this.slotNumber;
  }
  /** Whether anything has used the device in this thread. @internal */
  get opened(): boolean {
    return this.slotNumber >= 0;
  }
  /** The next use opens it again. @internal */
  forget(): void {
    this.slotNumber = -1;
  }
  /** The name: `cpu:0`, `cuda:1`, `meta`. */
  toString(): string {
    return this.type === 'meta' ? 'meta' : `${this.type}:${this.index}`;
  }
  /** The name. */
  toJSON(): string {
    return this.toString();
  }
}

const known = new Map<string, Device>();
const PATTERN = /^(cpu|cuda|meta)(?::(\d{1,4}))?$/;

/** The device of a name such as `cpu`, `cpu:1`, `cuda:0`, `meta`. Throws DeviceError on anything else. */
export function device(name: DeviceLike): Device {
  if (name instanceof Device) return name;
  const found = known.get(name);
  if (found) return found;
  const match = typeof name === 'string' ? PATTERN.exec(name) : null;
  if (!match || (match[1] === 'meta' && match[2])) {
    throw new DeviceError(`unknown device ${describe(name)}: expected cpu, cpu:N, cuda:N or meta`);
  }
  const type = match[1] as DeviceType;
  const key = `${type}:${Number(match[2] ?? 0)}`;
  let made = known.get(key);
  if (!made) {
    made = new Device(type, Number(match[2] ?? 0));
    known.set(key, made);
  }
  known.set(name, made);
  return made;
}

/** Devices that were used so far in this thread. */
export function openDevices(): Device[] {
  return [...new Set(known.values())].filter((d) => d.opened);
}

/** Runs `fn` and forgets the devices that it was the first to use, as another than the addon has opened them. */
export function forgettingDevices<T>(fn: () => T): T {
  const before = openDevices();
  try {
    return fn();
  } finally {
    for (const d of openDevices()) if (!before.includes(d)) d.forget();
  }
}

/** Waits until everything enqueued on the device has run; faults of its kernels are raised here. */
export function synchronizeSync(on: DeviceLike = 'cpu'): void {
  const d = device(on);
  if (d.type === 'meta') return;
  try {
    native.synchronize(d.slot);
  } catch (error) {
    throw fromNative(error);
  }
}

/** As synchronizeSync, without blocking the event loop. */
export async function synchronize(on: DeviceLike = 'cpu'): Promise<void> {
  const d = device(on);
  if (d.type === 'meta') return;
  try {
    await native.synchronizeAsync(d.slot);
  } catch (error) {
    throw fromNative(error);
  }
}

/** Number of threads that kernels may use together, the calling one included. */
export function getNumThreads(): number {
  return native.getNumThreads();
}

/** Sets the number of threads for kernels; by default SHARDGRAD_NUM_THREADS or the usable cores. */
export function setNumThreads(count: number): void {
  if (!Number.isInteger(count) || count < 1 || count > 1024) {
    throw new DeviceError(`setNumThreads: expected a whole number from 1 to 1024, got ${describe(count)}`);
  }
  native.setNumThreads(count);
}
