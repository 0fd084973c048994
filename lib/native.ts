// Loads and types the addon. The block is the one reused Float64Array through which an op's description crosses
// (header, 20 numbers a tensor, attributes): writing it by index is what makes a crossing cheap.

import type { CudaReport } from './cuda.js';
import { loadAddon, packageRoot } from './load_addon.js';

export interface NativeOp {
  readonly name: string;
  readonly kind: 'pointwise' | 'reduce' | 'structured';
  /** Pointwise ops: the number of operands. */
  readonly inputs: number;
}

/** What a flight recorder holds. Times are milliseconds of the wall clock, 0 for what has not happened. */
export interface Recording {
  readonly rank: number;
  readonly process: number;
  /** The rank for which this one has failed; −1: none. */
  readonly blames: number;
  /** Oldest first. */
  readonly entries: readonly RecordedCall[];
}
export interface RecordedCall {
  /** Counts this rank's collectives of all groups, from 1. */
  readonly number: number;
  readonly group: string;
  /** Counts this group's collectives; 0 before it has started, and for messages. */
  readonly sequence: number;
  /** `allReduce(float32, 10 elements, sum)` */
  readonly call: string;
  readonly where: string;
  readonly enqueued: number;
  readonly started: number;
  readonly done: number;
  readonly failed: boolean;
}

/** What came of reading, writing or summing a file. */
export interface FileDone {
  /** Bytes of all rows together; fewer than asked for, and no error: the file ends there. */
  readonly done: number;
  /** An errno, or 0. */
  readonly error: number;
  /** CRC-32 of what was written, summed, or read if `sums`. */
  readonly sum: number;
}

export interface Native {
  readonly version: string;
  readonly isa: string;
  readonly dtypes: readonly string[];
  readonly dtypeSizes: readonly number[];
  readonly ops: readonly NativeOp[];
  attach(block: Float64Array): void;
  openDevice(kind: string, index: number): number;
  run(): void;
  alloc(device: number, bytes: number): number;
  free(handle: number): void;
  freeMany(count: number): void;
  upload(device: number, bytes: ArrayBufferView): number;
  write(handle: number, byteOffset: number, bytes: ArrayBufferView): void;
  read(handle: number, byteOffset: number, target: Uint8Array): void;
  readAsync(handle: number, byteOffset: number, target: Uint8Array): Promise<void>;
  /** readAsync that leaves faults of the stream to those who wait for values; where there is one, all bits of the target are set (NaN). */
  overhear(handle: number, byteOffset: number, target: Uint8Array): Promise<void>;
  /** Rows of the block: handle and byte offset of the source, of the target, bytes. */
  copyAcross(count: number): void;
  /** Of `host`, for copies from and to `accelerator`. */
  hostMemory(host: number, accelerator: number, bytes: number): number;
  item(handle: number, byteOffset: number, dtype: number): Promise<number>;
  itemSync(handle: number, byteOffset: number, dtype: number): number;
  synchronize(device: number): void;
  synchronizeAsync(device: number): Promise<void>;
  captureBegin(device: number, keys: number): void;
  captureEnd(device: number): number;
  graphLaunch(graph: number): void;
  graphFree(graph: number): void;
  streamDone(device: number, stream: number): Promise<void>;
  joinShmGroup(name: string, rank: number, size: number, timeoutMs: number, parent: number, recorder: string, worldRanks: Int32Array, segment: string): number;
  joinTcpGroup(
    name: string,
    rank: number,
    size: number,
    timeoutMs: number,
    parent: number,
    recorder: string,
    worldRanks: Int32Array,
    descriptors: Int32Array,
    key: string,
  ): number;
  stageGroup(group: number, device: number): void;
  /** `version` 23007 is 2.30.7; `problem` is why it cannot be used, empty where it can. */
  findNccl(): { version: number; problem: string };
  ncclId(target: Uint8Array): void;
  startNccl(group: number, device: number, entry: number, id: Uint8Array): void;
  splitNccl(group: number, device: number, entry: number, part: number, color: number, key: number): void;
  nameOfPlace(text: string): number;
  enqueueCollective(group: number, device: number, call: number, dtype: number, count: number, root: number, place: number): number;
  readRecorder(path: string): Recording;
  collectiveNames(): string[];
  shareMemory(group: number, device: number, bytes: number): number;
  sealGroup(group: number): void;
  abortGroup(group: number, reason: string): void;
  leaveGroup(group: number): void;
  trackMany(objects: readonly object[], count: number): void;
  tracked(): object[];
  sweep(): number;
  nudge(bytes: number): void;
  stats(device: number, out: Float64Array): void;
  resetPeak(device: number): void;
  emptyCache(device: number): void;
  history(device: number, on: boolean): unknown;
  setNumThreads(count: number): void;
  getNumThreads(): number;
  mapFile(path: string): ArrayBuffer;
  /** Rows of the block: handle, byte offset, bytes, position in the file. Not in the order of the streams: they must be done with the memory. */
  readRows(file: number, rows: number, sums: boolean): Promise<FileDone>;
  /** Rows of the block: handle, byte offset, bytes, 0. `sum` is that of what the file has already. */
  writeRows(file: number, rows: number, sum: number): Promise<FileDone>;
  sumRange(file: number, position: number, bytes: number): Promise<FileDone>;
  /** CRC-32, of the data after what gave `sum`. */
  crc32(data: Uint8Array, sum: number): number;
  /** Of two parts, the second of which has so many bytes. */
  joinSums(first: number, second: number, bytes: number): number;
  recordEvent(device: number, stream: number): number;
  waitEvent(device: number, stream: number, onDevice: number, onStream: number, sequence: number): void;
  waitedTime(device: number, stream: number): number;
  markTime(handle: number, byteOffset: number, stream: number): void;
  configure(options: { queueLimit?: number; spinMicroseconds?: number; sync?: boolean; matmulTf32?: boolean }): void;
  cudaReport(): CudaReport;
  rangePush(name: string): void;
  rangePop(): void;
  rangeMark(name: string): void;
  /** Microseconds of the clock that command times are in, the same for all processes of a host. */
  now(): number;
  /** From here on the times of commands are recorded, and run() answers in the header of the block. */
  startCommandLog(): void;
  /** Rows of COMMAND_COLUMNS numbers: device slot, stream, number, index of the name, begin, end, whether the device itself was timed. */
  stopCommandLog(): { names: string[]; rows: Float64Array; lost: number };
  nameOfGroup(group: number): string;
}
export const COMMAND_COLUMNS = 7;

export let native: Native = loadAddon(packageRoot(), process.env['SHARDGRAD_ADDON']) as Native;

/** Puts something else in the addon's place, for as long as a profile is recorded. */
export function replaceNative(other: Native): void {
  native = other;
}

/** Runs `fn` with something else in the addon's place. */
export function withNative<T>(other: Native, fn: () => T): T {
  const addon = native;
  native = other;
  try {
    return fn();
  } finally {
    native = addon;
  }
}

export const HEADER = 8;
export const RECORD = 20;
/** Places of the header. The last three answer while a profile is recorded; `Number` is that of the command, and after enqueueCollective the collective's. */
export enum Head {
  Op = 0,
  Slot = 1,
  Records = 2,
  Numbers = 3,
  Stream = 4,
  Number = 5,
  LiveBytes = 6,
  ReservedBytes = 7,
}
/** Places of a tensor record. */
export enum Rec {
  Handle = 0,
  DType = 1,
  Dims = 2,
  Offset = 3,
  Shape = 4,
  Strides = 12,
}
export const MAX_DIMS = 8;
/** Special handles of a record. */
export const FRESH = -1;
export const SCALAR = -2;
export const ABSENT = -3;

/** Shared memory, because such a buffer cannot be detached under the addon, which keeps its address. */
function newBlock(numbers: number): Float64Array {
  const made = new Float64Array(new SharedArrayBuffer(8 * numbers));
  native.attach(made);
  return made;
}

export let block: Float64Array = newBlock(1 << 14);

/** Makes room for an op with this many numbers; only steps over very many tensors ever need it. */
export function growBlock(numbers: number): Float64Array {
  if (numbers > block.length) block = newBlock(2 * numbers);
  return block;
}
