// A file being read by position, into buffers or straight into tensors. Keeps the handle, so a file that is replaced meanwhile is still
// read whole; one that is cut short meanwhile ends in an error.
import nodeFs from 'node:fs/promises';
import { CheckpointError } from '../errors.js';
import { native } from '../native.js';
import type { Tensor } from '../tensor.js';
import { CHUNK_BYTES, fillFrom } from './chunks.js';
import type { FileHandle, FileSystem } from './file_system.js';
import { checkPath, fileError } from './files.js';
import { descriptorOf, isDirect, readRows, rowOf, sumFile } from './rows.js';

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
  ) {}

  static async open(path: string, op: string, fs: FileSystem = nodeFs): Promise<RangeReader> {
    checkPath(path, op);
    try {
      // before opening: opening a pipe would wait for its writer
      if (!(await fs.stat(path)).isFile()) throw new CheckpointError(`${op}: "${path}" is not a regular file`);
      const handle = await fs.open(path, 'r');
      return new RangeReader(path, (await handle.stat()).size, op, handle, descriptorOf(handle, fs));
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
      await readRows(descriptor, rows, (position, missing) => this.ended(position, missing));
    } catch (error) {
      throw this.failed(error);
    }
  }

  /** The checksum of all of it. */
  async sum(): Promise<number> {
    if (this.descriptor !== null) {
      const sum = await sumFile(this.descriptor, this.size).catch((error: unknown) => {
        throw this.failed(error);
      });
      if (sum === null) throw new CheckpointError(`${this.op}: "${this.path}" was cut short while it was read`);
      return sum;
    }
    const buffer = new Uint8Array(Math.min(CHUNK_BYTES, this.size));
    let sum = 0;
    for (let at = 0; at < this.size; at += CHUNK_BYTES) {
      const chunk = buffer.subarray(0, Math.min(CHUNK_BYTES, this.size - at));
      await this.read(chunk, at);
      sum = native.crc32(chunk, sum);
    }
    return sum;
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
