// Runs code as it is, without memory and kernels: a stand-in takes the addon's place, hands out handles, and counts the bytes behind them.
// All above that line is the same as in a real run (scopes, graphs, gathers, buckets), so what it holds when needs no second description.
import { kernelInBlock, operationsInBlock } from './block_operations.js';
import { withContext } from './context.js';
import { type Device, forgettingDevices, openDevices } from './device.js';
import { ValueError } from './errors.js';
import { block, FRESH, HEADER, type Native, native, RECORD, Rec, withNative } from './native.js';
import { Generator } from './random.js';
import { DEAD, DRY, holders, type Storage, type StorageKind } from './storage.js';

/** Bytes by what they are for; a temporary that a graph has saved is an activation. */
export type Usage = { readonly [K in StorageKind | 'activation']: number };

/** What a device holds. */
interface Book {
  live: number;
  /** Highest `live`, and what it was made up of. */
  peak: number;
  atPeak: Usage | null;
  phaseAtPeak: string;
}

/** The highest there was. */
export interface Peak {
  readonly bytes: number;
  readonly usage: Usage;
  readonly phase: string;
}

const never = new Promise<never>(() => {});

export class DryRun {
  /** What is going on, for whoever asks about the peak. */
  phase = '';
  /** Floating-point operations so far, by kernel. */
  readonly operations: Map<string, number> = new Map();
  private next = DRY;
  private slots = DRY;
  private readonly blocks = new Map<number, { readonly slot: number; readonly bytes: number }>();
  /** Handles that count only when they are used again. */
  private readonly idle = new Set<number>();
  private readonly books = new Map<number, Book>();

  private book(slot: number): Book {
    let book = this.books.get(slot);
    if (!book) {
      book = { live: 0, peak: 0, atPeak: null, phaseAtPeak: '' };
      this.books.set(slot, book);
    }
    return book;
  }

  /** Counts memory for a storage that has none. */
  give(storage: Storage): void {
    storage.handle = this.allocate(storage.device.slot, storage.bytes);
    holders.byHandle!.set(storage.handle, storage);
  }

  private allocate(slot: number, bytes: number): number {
    this.blocks.set(this.next, { slot, bytes });
    this.count(slot, bytes);
    return this.next++;
  }

  private count(slot: number, bytes: number): void {
    const book = this.book(slot);
    book.live += bytes;
    if (book.live > book.peak) Object.assign(book, { peak: book.live, atPeak: null, phaseAtPeak: this.phase });
  }

  /** False for a handle of the addon. */
  private free(handle: number): boolean {
    const found = this.blocks.get(handle);
    if (!found) return false;
    if (!this.idle.delete(handle)) {
      const book = this.book(found.slot);
      this.describePeak(found.slot, book);
      book.live -= found.bytes;
    }
    this.blocks.delete(handle);
    return true;
  }

  /**
   * Nothing here can know what JavaScript still reaches. What is there now, but for `kept`, does not count until an op uses it again: otherwise it
   * is taken for garbage.
   */
  leaveGarbage(kept: ReadonlySet<Storage>): void {
    for (const [handle, { slot, bytes }] of this.blocks) {
      const holder = holders.byHandle!.get(handle);
      if (this.idle.has(handle) || (holder && kept.has(holder))) continue;
      this.idle.add(handle);
      this.book(slot).live -= bytes;
    }
  }

  private use(handle: number): void {
    if (!this.idle.delete(handle)) return;
    const { slot, bytes } = this.blocks.get(handle)!;
    this.count(slot, bytes);
  }

  /** What the peak is made up of is asked at the last moment: when the first of it is about to go. */
  private describePeak(slot: number, book: Book): void {
    if (book.live === book.peak) book.atPeak ??= this.usageOf(slot);
  }

  private usageOf(slot: number): Usage {
    const usage: { -readonly [K in keyof Usage]: number } = {
      parameter: 0,
      'gathered parameter': 0,
      autocast: 0,
      gradient: 0,
      'optimizer state': 0,
      buffer: 0,
      temporary: 0,
      activation: 0,
    };
    for (const [handle, { slot: at, bytes }] of this.blocks) {
      if (at !== slot || this.idle.has(handle)) continue;
      const { kind, saves } = holders.byHandle?.get(handle) ?? { kind: 'temporary', saves: 0 };
      usage[kind === 'temporary' && saves > 0 ? 'activation' : kind] += bytes;
    }
    return usage;
  }

  /** What the device holds now. */
  usage(device: Device): Usage {
    return this.usageOf(device.slot);
  }

  /** Highest numbers on other devices, by name. */
  elsewhere(device: Device): Record<string, number> {
    const others = openDevices().filter((d) => d !== device && this.books.has(d.slot));
    return Object.fromEntries(others.map((d) => [String(d), this.book(d.slot).peak]));
  }

  peak(device: Device): Peak {
    const book = this.book(device.slot);
    this.describePeak(device.slot, book);
    return { bytes: book.peak, usage: book.atPeak!, phase: book.phaseAtPeak };
  }

  /** Peaks count from here on. */
  resetPeaks(): void {
    for (const slot of this.books.keys()) this.resetPeak(slot);
  }
  private resetPeak(slot: number): void {
    const book = this.book(slot);
    Object.assign(book, { peak: book.live, atPeak: null, phaseAtPeak: this.phase });
  }

  /** The addon, but for all that has to do with memory, kernels and other ranks. */
  standIn(addon: Native): Native {
    const nothing = (): void => {};
    const betweenDevices = {
      copyAcross: nothing,
      hostMemory: (host: number, _accelerator: number, bytes: number) => this.allocate(host, bytes),
    };
    return {
      ...addon,
      ...betweenDevices,
      openDevice: () => this.slots++,
      run: () => this.run(),
      alloc: (slot, bytes) => this.allocate(slot, bytes),
      free: (handle) => {
        if (!this.free(handle)) addon.free(handle);
      },
      freeMany: (count) => {
        for (const handle of block.slice(HEADER, HEADER + count)) if (!this.free(handle)) addon.free(handle);
      },
      upload: (slot, bytes) => this.allocate(slot, bytes.byteLength),
      shareMemory: (_group, slot, bytes) => this.allocate(slot, bytes),
      write: (handle) => this.use(handle),
      read: nothing,
      readAsync: () => never,
      readRows: () => never,
      writeRows: () => never,
      overhear: () => never,
      item: () => never,
      itemSync: () => 0,
      synchronize: nothing,
      synchronizeAsync: () => never,
      streamDone: () => never,
      captureBegin: () => {
        throw new ValueError('capture: a graph cannot be captured while memory is estimated');
      },
      enqueueCollective: () => 0,
      sealGroup: nothing,
      abortGroup: nothing,
      leaveGroup: nothing,
      recordEvent: () => 0,
      waitEvent: nothing,
      waitedTime: () => 0,
      markTime: nothing,
      stats: (slot, out) => {
        const { live, peak } = this.book(slot);
        const count = [...this.blocks.values()].filter((b) => b.slot === slot).length;
        out.set([live, count, live, peak, peak]);
      },
      resetPeak: (slot) => this.resetPeak(slot),
      emptyCache: nothing,
      nudge: nothing,
      sweep: () => 0,
    };
  }

  /** An op: of all it does, its fresh outputs. */
  private run(): void {
    const [op, slot, records] = block as unknown as [number, number, number];
    const { name } = native.ops[op]!;
    const kernel = kernelInBlock(name);
    this.operations.set(kernel, (this.operations.get(kernel) ?? 0) + operationsInBlock(name));
    for (let i = 0; i < records; i++) {
      const at = HEADER + RECORD * i;
      if (block[at + Rec.Handle] !== FRESH) {
        this.use(block[at + Rec.Handle]!);
        continue;
      }
      let bytes = native.dtypeSizes[block[at + Rec.DType]!]!;
      for (let d = 0; d < block[at + Rec.Dims]!; d++) bytes *= block[at + Rec.Shape + d]!;
      block[at + Rec.Handle] = this.allocate(slot, bytes);
    }
  }
}

let running: DryRun | null = null;

/** The one that is under way. */
export const currentDryRun = (): DryRun | null => running;

/**
 * Runs `fn`, which must not wait for anything, with memory and kernels left out. Random generators, devices and the safety net are as before
 * when it ends, and what it has made is disposed of. Tensors that were there before may be read by ops; whoever has some written puts
 * their version back.
 */
export function dryRun<T>(fn: (run: DryRun) => T): T {
  if (running) throw new ValueError('estimateMemory: it is already under way');
  const run = new DryRun();
  const made = new Map<number, Storage>();
  running = run;
  holders.byHandle = made;
  const fresh = { scope: null, gradEnabled: true, inference: false, anomaly: false, keyTape: null, kept: null, autocast: null, capture: null, module: '' };
  try {
    return withNative(run.standIn(native), () => forgettingDevices(() => withContext({ ...fresh, generator: new Generator(0) }, () => fn(run))));
  } finally {
    running = null;
    holders.byHandle = null;
    for (const storage of made.values()) if (storage.handle >= DRY) storage.handle = DEAD;
  }
}
