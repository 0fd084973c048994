// A file being read by position, into buffers or straight into tensors. Keeps the handle, so a file that is replaced meanwhile is still
// read whole; one that is cut short meanwhile ends in an error. It may take the checksums of what passes, so that to verify a file is not to
// read it twice.
import nodeFs from 'node:fs/promises';
import { CheckpointError } from '../errors.js';
import { native } from '../native.js';
import type { Tensor } from '../tensor.js';
import { CHUNK_BYTES, fillFrom } from './chunks.js';
import type { FileHandle, FileSystem } from './file_system.js';
import { checkPath, fileError } from './files.js';
import { descriptorOf, isDirect, type Part, readRows, rowOf, sumRange } from './rows.js';

/** A contiguous tensor, and where its bytes are in the file. */
export interface Place {
  readonly tensor: Tensor;
  readonly position: number;
  /** Refuses or repairs what no tensor may hold, piece by piece. */
  readonly check?: ((bytes: Uint8Array) => void) | null;
}

export class RangeReader {
  private constructor(
    readonly path: string,
    readonly size: number,
    private readonly op: string,
    private readonly handle: FileHandle,
    /** For the addon; null: the file is not one of the system's. */
    private readonly descriptor: number | null,
    /** Of all that was read. */
    private readonly parts: Part[] | null,
  ) {}

  /** @param sums whether sum() will be asked for */
  static async open(path: string, op: string, fs: FileSystem = nodeFs, sums = false): Promise<RangeReader> {
    checkPath(path, op);
    try {
      // before opening: opening a pipe would wait for its writer
      if (!(await fs.stat(path)).isFile()) throw new CheckpointError(`${op}: "${path}" is not a regular file`);
      const handle = await fs.open(path, 'r');
      return new RangeReader(path, (await handle.stat()).size, op, handle, descriptorOf(handle, fs), sums ? [] : null);
    } catch (error) {
      throw fileError(error, `${op}: cannot open "${path}"`);
    }
  }

  /** Fills `target` from `position`. Throws CheckpointError when the file ends before. */
  async read(target: Uint8Array, position: number): Promise<void> {
    for (let done = 0; done < target.byteLength; ) {
      let count: number;
      try {
        count = (await this.handle.read(target, done, target.byteLength - done, position + done)).bytesRead;
      } catch (error) {
        throw this.failed(error);
      }
      if (count === 0) throw this.ended(position + done, target.byteLength - done);
      done += count;
    }
    this.parts?.push({ position, bytes: target.byteLength, sum: native.crc32(target, 0) });
  }

  /** Fills tensors, several at a time where that is possible. Throws CheckpointError when the file ends before. */
  async fill(places: readonly Place[]): Promise<void> {
    const { descriptor } = this;
    const rows: ReturnType<typeof rowOf>[] = [];
    for (const { tensor, position, check } of places) {
      if (descriptor !== null && !check && isDirect(tensor)) rows.push(rowOf(tensor, position));
      else
        await fillFrom(tensor, async (into, offset) => {
          await this.read(into, position + offset);
          check?.(into);
        });
    }
    if (descriptor === null || rows.length === 0) return;
    try {
      await readRows(descriptor, rows, (position, missing) => this.ended(position, missing), this.parts);
    } catch (error) {
      throw this.failed(error);
    }
  }

  /** The checksum of all of it: what has not been read yet is read. */
  async sum(): Promise<number> {
    let [sum, end] = [0, 0];
    const join = (parts: Iterable<Part>): void => {
      for (const part of parts) {
        sum = native.joinSums(sum, part.sum, part.bytes);
        end += part.bytes;
      }
    };
    for (const part of (this.parts ?? []).toSorted((a, b) => a.position - b.position)) {
      if (part.position < end) continue; // read twice
      join(await this.sumsOf(end, part.position));
      join([part]);
    }
    join(await this.sumsOf(end, this.size));
    return sum;
  }

  private async sumsOf(begin: number, end: number): Promise<Part[]> {
    const { descriptor } = this;
    const parts: Part[] = [];
    if (descriptor !== null) {
      try {
        parts.push(...(await sumRange(descriptor, begin, end - begin)));
      } catch (error) {
        throw this.failed(error);
      }
      const got = parts.reduce((n, { bytes }) => n + bytes, begin);
      if (got < end) throw this.ended(got, end - got);
      return parts.sort((a, b) => a.position - b.position);
    }
    const buffer = new Uint8Array(Math.min(CHUNK_BYTES, end - begin));
    for (let at = begin; at < end; at += CHUNK_BYTES) {
      const chunk = buffer.subarray(0, Math.min(CHUNK_BYTES, end - at));
      await this.read(chunk, at);
      parts.push({ position: at, bytes: chunk.byteLength, sum: native.crc32(chunk, 0) });
    }
    return parts;
  }

  private failed(error: unknown): Error {
    return fileError(error, `${this.op}: cannot read "${this.path}"`);
  }

  private ended(position: number, missing: number): CheckpointError {
    return new CheckpointError(`${this.op}: "${this.path}" is truncated: it ends at byte ${position}, ${missing} more were expected`);
  }

  async close(): Promise<void> {
    await this.handle.close();
  }
}
