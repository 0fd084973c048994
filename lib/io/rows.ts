// Tensors in the host's memory read from files and written to them by the addon, on threads of its own, with no buffer in between and nothing for
// JavaScript to do. Only for files of `node:fs`: another file system has no file that the addon could open.
import nodeFs from 'node:fs/promises';
import { getSystemErrorName } from 'node:util';
import type { Device } from '../device.js';
import { dtypeSize } from '../dtype.js';
import { fromNative } from '../errors.js';
import { type FileDone, growBlock, HEADER, native } from '../native.js';
import type { Storage } from '../storage.js';
import type { Tensor } from '../tensor.js';
import type { FileHandle, FileSystem } from './file_system.js';

/** Some bytes of a storage, and where they are in a file. */
interface Row {
  readonly storage: Storage;
  readonly offset: number;
  readonly bytes: number;
  readonly position: number;
}
/** Numbers that describe one, as csrc/napi/files.cc has them. */
const ROW = 4;
/** What is given to a thread at a time: much more than that takes itself, and little enough that threads end together. */
const JOB_BYTES = 8 * 2 ** 20;
const JOB_ROWS = 1024;
const COMPUTE_STREAM = 0;

/** The number of an open file that the addon may use, or null. */
export function descriptorOf(handle: FileHandle, fs: FileSystem): number | null {
  return fs === nodeFs ? (handle as unknown as { fd: number }).fd : null;
}

/** Whether the addon can read into a tensor, or write from it, without a stop in between. */
export function isDirect(t: Tensor): boolean {
  return t.device.type === 'cpu' && t.isContiguous;
}

/** All bytes of a contiguous tensor. */
export function rowOf(t: Tensor, position = 0): Row {
  return { storage: t.storage, offset: t.offset * dtypeSize[t.dtype], bytes: t.nbytes, position };
}

/** Rows in the order given, cut and gathered into jobs of about the same size; if `adjoining`, each one range of the file. */
function* jobsOf(rows: Iterable<Row>, adjoining = false): Generator<Row[], void, void> {
  let job: Row[] = [];
  let room = JOB_BYTES;
  let end = 0;
  for (const { storage, offset, bytes, position } of rows) {
    if (adjoining && position !== end && job.length > 0) {
      yield job;
      job = [];
      room = JOB_BYTES;
    }
    end = position + bytes;
    for (let at = 0; at < bytes; ) {
      const part = Math.min(room, bytes - at);
      job.push({ storage, offset: offset + at, bytes: part, position: position + at });
      at += part;
      room -= part;
      if (room > 0 && job.length < JOB_ROWS) continue;
      yield job;
      job = [];
      room = JOB_BYTES;
    }
  }
  if (job.length > 0) yield job;
}

function fillBlock(job: readonly Row[]): void {
  const m = growBlock(HEADER + ROW * job.length);
  job.forEach(({ storage, offset, bytes, position }, i) => {
    m.set([storage.handle, offset, bytes, position], HEADER + ROW * i);
  });
}

/** Nothing that was enqueued before still uses the memory. Throws the fault of what was. */
async function settled(rows: readonly Row[]): Promise<void> {
  const devices = new Set<Device>(rows.map(({ storage }) => storage.device));
  try {
    for (const { slot } of devices) await native.streamDone(slot, COMPUTE_STREAM);
  } catch (error) {
    throw fromNative(error);
  }
}

/** Runs `run` for each job, as many at a time as there are threads; ends when none runs any more. */
async function inLanes<T>(jobs: Iterable<T>, run: (job: T) => Promise<void>): Promise<void> {
  const waiting = jobs[Symbol.iterator]();
  const failures: unknown[] = [];
  const lane = async (): Promise<void> => {
    for (let next = waiting.next(); !next.done && failures.length === 0; next = waiting.next()) {
      await run(next.value).catch((error: unknown) => failures.push(fromNative(error)));
    }
  };
  await Promise.all(Array.from({ length: native.getNumThreads() }, lane));
  if (failures.length > 0) throw failures[0];
}

/** Throws what the system said. */
function checkError({ error }: FileDone): void {
  if (error === 0) return;
  const code = getSystemErrorName(-error);
  throw Object.assign(new Error(code), { code });
}

/** A range of a file and its checksum. */
export interface Part {
  readonly position: number;
  readonly bytes: number;
  readonly sum: number;
}

/**
 * Fills rows from a file.
 * @param ended makes the error of a file that ends at `position`, with so many bytes of the row missing
 * @param parts gets the checksums of what was read; null: nobody wants them
 */
export async function readRows(file: number, rows: readonly Row[], ended: (position: number, missing: number) => Error, parts: Part[] | null): Promise<void> {
  await settled(rows);
  const inOrder = rows.toSorted((a, b) => a.position - b.position);
  await inLanes(jobsOf(inOrder, parts !== null), async (job) => {
    fillBlock(job);
    const result = await native.readRows(file, job.length, parts !== null);
    checkError(result);
    let { done } = result;
    for (const { position, bytes } of job) {
      if (done < bytes) throw ended(position + done, bytes - done);
      done -= bytes;
    }
    parts?.push({ position: job[0]!.position, bytes: result.done, sum: result.sum });
  });
}

/** Writes rows one after another where the file's last write ended; returns the checksum of all of it, of which `sum` was the one so far. */
export async function writeRows(file: number, rows: readonly Row[], sum: number): Promise<number> {
  await settled(rows);
  let all = sum;
  for (const job of jobsOf(rows)) {
    fillBlock(job);
    const result = await native.writeRows(file, job.length, all);
    checkError(result);
    all = result.sum;
  }
  return all;
}

/** The checksums of a range of a file, in parts; they end where the file does. */
export async function sumRange(file: number, position: number, bytes: number): Promise<Part[]> {
  const starts = Array.from({ length: Math.ceil(bytes / JOB_BYTES) }, (_, i) => i * JOB_BYTES);
  const parts: Part[] = [];
  await inLanes(starts, async (start) => {
    const result = await native.sumRange(file, position + start, Math.min(JOB_BYTES, bytes - start));
    checkError(result);
    parts.push({ position: position + start, bytes: result.done, sum: result.sum });
  });
  return parts;
}
