// Who frees a storage. It has two kinds of holder: an owner (a scope, or else the safety net) and the graph nodes that saved
// it for backward. It is freed when the owner lets go and no node needs it: the effect of reference counting, without counting
// JavaScript references. Tensors nobody frees are found by the safety net, which works inside a loop that never awaits.
import v8 from 'node:v8';
import vm from 'node:vm';
import { callStack, debugMode } from './debug.js';
import { type Device, openDevices } from './device.js';
import { DisposedError } from './errors.js';
import { block, growBlock, HEADER, native } from './native.js';

/** Handle of a storage whose memory was given back, and of one that never had any (device meta). */
export const DEAD = 0;
export const META = -4;
/** Handles from here on stand for memory that is only counted (dry_run.ts). */
export const DRY: number = 2 ** 52;

export type StorageKind = 'parameter' | 'gathered parameter' | 'autocast' | 'gradient' | 'optimizer state' | 'buffer' | 'temporary';

/** In a dry run: who holds which handle. */
export const holders: { byHandle: Map<number, Storage> | null } = { byHandle: null };

export class Storage {
  /** Counts writes; a tensor saved for backward remembers the count. */
  version = 0;
  /** The op of the last in-place write, for the error text. */
  writer = '';
  /** Graph nodes that still need the contents. */
  saves = 0;
  /** The owner has let go: the last node to drop it frees it. */
  released = false;
  /** Counts recorded in-place writes: views taken before one have an outdated graph. */
  epoch = 0;
  /** Made in inferenceMode: may not enter a graph. */
  inference = false;
  /** Gets the contents back when backward needs them and they were drained. */
  restore: (() => void) | null = null;
  /** Views of it have other owners than the whole, and none of them gives back more than itself: gradients in a bucket. */
  divided = false;
  /** What it holds, for memory reports. */
  kind: StorageKind = 'temporary';
  /** Where it was made, when checkLeaks() or SHARDGRAD_DEBUG asked for it. */
  site: string | undefined = undefined;

  constructor(
    public handle: number,
    readonly device: Device,
    readonly bytes: number,
    public scope: Scope | null,
  ) {}

  get alive(): boolean {
    return this.handle !== DEAD;
  }

  /** The owner lets go. With `heir`, a graph may keep the contents for a while; without, they go at once. */
  release(heir: Scope | null): void {
    if (this.handle === DEAD) return;
    if (this.saves === 0) {
      free(this);
      return;
    }
    this.released = true;
    if (heir) heir.add(this);
    else {
      this.scope = null;
      watch(this);
    }
  }

  save(): void {
    this.saves++;
  }
  unsave(): void {
    if (--this.saves === 0 && this.released) free(this);
  }

  wrote(op: string): void {
    this.version++;
    this.writer = op;
  }
}

/** What a view of a divided storage has left when it is disposed of; a graph that saved the view finds it changed. */
export function nothingOf(whole: Storage): Storage {
  const nothing = new Storage(DEAD, whole.device, 0, null);
  nothing.version = whole.version;
  nothing.wrote('dispose');
  return nothing;
}

export class Scope {
  private storages: Storage[] = [];
  /** Once ended: who gets what late code, such as a timer set inside, still makes. */
  private heir: Scope | null | undefined = undefined;
  add(s: Storage): void {
    if (this.heir) {
      this.heir.add(s);
      return;
    }
    s.scope = this.heir === null ? null : this;
    if (s.scope) this.storages.push(s);
    else if (s.handle !== META) watch(s);
  }
  /** The storages made here that nobody took out since the last call; empties the list. */
  take(): Storage[] {
    const mine = this.storages.filter((s) => s.scope === this && s.handle !== DEAD);
    this.storages = [];
    return mine;
  }
  /** The storages made here that are still alive. */
  alive(): Storage[] {
    return this.storages.filter((s) => s.scope === this && s.handle > 0);
  }
  /** Releases all that is still owned here. */
  end(heir: Scope | null): void {
    this.heir = heir;
    const batch: Storage[] = [];
    for (const s of this.storages) {
      if (s.scope !== this || s.handle === DEAD) continue;
      if (s.saves > 0) s.release(heir);
      else batch.push(s);
    }
    this.storages = [];
    freeAll(batch);
  }
}

/** While checkLeaks() runs, what is made. Creation sites are recorded then, and always in debug mode. */
export const leakSites: { made: Storage[] | null } = { made: null };

/** Registers a fresh storage with its owner. */
export function born(handle: number, device: Device, bytes: number, scope: Scope | null): Storage {
  const s = new Storage(handle, device, bytes, scope);
  holders.byHandle?.set(handle, s);
  if (debugMode || leakSites.made) {
    s.site = callStack();
    leakSites.made?.push(s);
  }
  if (scope !== null) scope.add(s);
  else if (handle !== META) watch(s);
  return s;
}

/** Frees the contents of a storage that will get them again: a graph that saved it finds them by then. */
export function drain(s: Storage): void {
  free(s);
}

/** Gives a drained storage the contents of another one, which it takes over. */
export function refill(s: Storage, from: Storage): void {
  s.handle = from.handle;
  holders.byHandle?.set(s.handle, s);
  from.handle = DEAD;
  watch(s);
}

/** Takes a storage out of its scope: parameters, gradients, buffers, optimizer state, what `keep` is called on. */
export function takeOut(s: Storage, kind?: StorageKind): void {
  if (kind) s.kind = kind;
  s.released = false;
  if (s.scope === null) return;
  s.scope = null;
  watch(s);
}

function free(s: Storage): void {
  if (s.handle > 0) native.free(s.handle);
  s.handle = DEAD;
}

function freeAll(list: readonly Storage[]): void {
  let n = 0;
  const room = block.length - HEADER;
  for (const s of list) {
    if (s.handle > 0) {
      block[HEADER + n++] = s.handle;
      if (n === room) {
        native.freeMany(n);
        n = 0;
      }
    }
    s.handle = DEAD;
  }
  if (n > 0) native.freeMany(n);
}

export function requireAlive(s: Storage, op: string, which: string): void {
  if (s.handle === DEAD) throw new DisposedError(`${op}: ${which} was disposed, or the scope that made it has ended; return it from the scope or keep() it`);
}

// ---- the safety net

type Gc = (options?: { type: 'minor' | 'major' }) => void;
let gc: Gc | null | undefined;

/** V8's own collector, without a command-line flag. */
function collector(): Gc | null {
  if (gc === undefined) {
    try {
      v8.setFlagsFromString('--expose-gc');
      gc = vm.runInNewContext('gc') as Gc;
      v8.setFlagsFromString('--no-expose-gc');
    } catch {
      gc = null;
    }
  }
  return gc;
}

const COUNT_LIMIT = 2048;
const MIN_BYTE_LIMIT = 256 * 2 ** 20;

export const net = {
  young: [] as Storage[],
  bytes: 0,
  byteLimit: MIN_BYTE_LIMIT,
  /** Storages that outlived a sweep and have weak references (an upper bound), and when a full collection looks at them. */
  oldCount: 0,
  oldLimit: 2 * COUNT_LIMIT,
  sweeps: 0,
  freed: 0,
};

function watch(s: Storage): void {
  if (s.handle >= DRY) return;
  net.young.push(s);
  net.bytes += s.bytes;
  if (net.young.length >= COUNT_LIMIT || net.bytes >= net.byteLimit) relieve();
}

/** Collects when what is left of the young list still passes a limit. No local here may hold a storage: it would survive. */
function relieve(): void {
  prune();
  const count = net.young.length;
  if (count < COUNT_LIMIT / 2 && net.bytes < net.byteLimit / 2) return;
  net.oldCount += count - sweep('minor');
  // Entries that lived through an earlier scavenge are old for V8, and only a full collection finds them. Its cost is kept
  // amortised, as collectors do, by letting the limits follow what survives.
  if (net.oldCount < net.oldLimit && liveBytes() < net.byteLimit) return;
  net.oldCount = Math.max(0, net.oldCount - sweep('major'));
  net.oldLimit = Math.max(2 * COUNT_LIMIT, 2 * net.oldCount);
  net.byteLimit = Math.max(MIN_BYTE_LIMIT, 2 * liveBytes());
}

/** Drops entries that were freed in time. */
function prune(): void {
  net.young = net.young.filter((s) => s.handle > 0);
  net.bytes = net.young.reduce((sum, s) => sum + s.bytes, 0);
}

function liveBytes(): number {
  const out = new Float64Array(32);
  let sum = 0;
  for (const d of openDevices()) {
    if (d.type === 'meta') continue;
    native.stats(d.slot, out);
    sum += out[0]!;
  }
  return sum;
}

/**
 * Frees the storages of tensors that JavaScript no longer reaches; returns how many. Survivors get one weak native reference
 * each, V8 clears those of the dead in a scavenge, and the addon frees their blocks.
 */
export function sweep(kind: 'minor' | 'major'): number {
  handOver();
  const collect = collector();
  if (collect) collect(kind === 'minor' ? { type: 'minor' } : undefined);
  else native.nudge(3e9);
  const freed = native.sweep();
  net.sweeps++;
  net.freed += freed;
  return freed;
}

/** Every storage of this thread that is alive and not owned by a scope. */
export function watchedStorages(): Storage[] {
  return [...(native.tracked() as Storage[]), ...net.young].filter((s) => s.handle > 0);
}

/** Moves the young list to weak references; in a function of its own, so that no local keeps an entry reachable. */
function handOver(): void {
  const alive = net.young.filter((s) => s.handle > 0);
  net.young = [];
  net.bytes = 0;
  const m = growBlock(HEADER + alive.length);
  for (let i = 0; i < alive.length; i++) m[HEADER + i] = alive[i]!.handle;
  native.trackMany(alive, alive.length);
}
