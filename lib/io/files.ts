// Paths, failures and writing. Writing is atomic: a temporary file beside the target, synced, renamed; whatever fails, the target is
// either the whole old file or the whole new one. The file system is an argument, `node:fs/promises` unless told, so that tests can
// make any call fail as a full disk would.
import { randomBytes } from 'node:crypto';
import nodeFs from 'node:fs/promises';
import { hostname } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { CheckpointError, describe, ShardgradError, ValueError } from '../errors.js';
import { native } from '../native.js';
import type { Tensor } from '../tensor.js';
import type { FileHandle, FileSystem } from './file_system.js';
import { descriptorOf, rowOf, writeRows } from './rows.js';

export type { FileSystem } from './file_system.js';

const reasons: Record<string, string> = {
  ENOSPC: 'no space left on the device',
  EDQUOT: 'the disk quota is used up',
  EROFS: 'the file system is read-only',
  EACCES: 'permission denied',
  EPERM: 'operation not permitted',
  ENOENT: 'no such file or directory',
  EEXIST: 'a file with that name exists',
  EISDIR: 'it is a directory',
  ENOTDIR: 'part of the path is not a directory',
  EIO: 'the device reported an input/output error',
  EMFILE: 'too many open files',
};

/** A file-system failure as a CheckpointError that says what was being done; errors of this package pass unchanged. */
export function fileError(error: unknown, doing: string): ShardgradError {
  if (error instanceof ShardgradError) return error;
  const code = (error as NodeJS.ErrnoException)?.code;
  const reason = code && reasons[code] ? `${reasons[code]} (${code})` : error instanceof Error ? error.message : String(error);
  return new CheckpointError(`${doing}: ${reason}`, { cause: error });
}

/** Checks a path that a user gave. Throws ValueError for what no file system takes. */
export function checkPath(path: unknown, op: string): string {
  if (typeof path === 'string' && path !== '' && !path.includes('\0')) return path;
  throw new ValueError(`${op}: the path must be a string that is not empty, without zero bytes, got ${describe(path)}`);
}

/** Makes a folder and those above it. Not Node's own recursion: where the system refuses with ENOENT, as in /proc, that never ends. */
export async function makeFolder(path: string, fs: FileSystem): Promise<void> {
  const made = async (): Promise<boolean> => {
    try {
      await fs.mkdir(path);
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code === 'ENOENT' && dirname(path) !== path) return false;
      if (code !== 'EEXIST' || !(await fs.stat(path)).isDirectory()) throw error;
    }
    return true;
  };
  if (await made()) return;
  await makeFolder(dirname(path), fs);
  if (!(await made())) throw Object.assign(new Error(`cannot make ${path}`), { code: 'ENOENT' });
}

/** A name that no other process picks, beside `path`; it tells its owner, so that leftovers of dead processes can be swept. */
export function temporaryName(path: string): string {
  return join(dirname(path), `.${basename(path)}.tmp-${hostname()}-${process.pid}-${randomBytes(4).toString('hex')}`);
}

/** Whether a folder entry is a temporary of a process of this host that has ended. */
export function isAbandoned(name: string): boolean {
  const match = /\.tmp-(.+)-(\d+)-[0-9a-f]{8}$/.exec(name);
  if (!match || match[1] !== hostname()) return false;
  try {
    process.kill(Number(match[2]), 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH';
  }
}

/** Makes the entries of a folder durable: a rename is lost in a power cut until its folder is synced. */
export async function syncFolder(path: string, fs: FileSystem): Promise<void> {
  const folder = await fs.open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** A file being written: counts and checksums what passes. */
export class FileSink {
  bytes = 0;
  crc = 0;
  /** @param descriptor for the addon; null: the file is not one of the system's */
  constructor(
    private readonly handle: FileHandle,
    readonly descriptor: number | null,
  ) {}

  async write(chunk: Uint8Array): Promise<void> {
    for (let done = 0; done < chunk.byteLength; ) {
      const { bytesWritten } = await this.handle.write(chunk, done, chunk.byteLength - done);
      done += bytesWritten;
    }
    this.bytes += chunk.byteLength;
    this.crc = native.crc32(chunk, this.crc);
  }

  /** Writes what tensors hold, from where they are. */
  async writeFrom(tensors: readonly Tensor[], descriptor: number): Promise<void> {
    this.crc = await writeRows(
      descriptor,
      tensors.map((t) => rowOf(t)),
      this.crc,
    );
    this.bytes += tensors.reduce((sum, t) => sum + t.nbytes, 0);
  }
}

/** Writes and syncs one file in place; returns its size and checksum. Removes it if anything fails. */
export async function writeFile(path: string, fill: (sink: FileSink) => Promise<void>, fs: FileSystem): Promise<{ bytes: number; crc32: number }> {
  const handle = await fs.open(path, 'wx');
  try {
    const sink = new FileSink(handle, descriptorOf(handle, fs));
    try {
      await fill(sink);
      await handle.sync();
    } finally {
      await handle.close();
    }
    return { bytes: sink.bytes, crc32: sink.crc };
  } catch (error) {
    await fs.rm(path, { force: true }).catch(() => {});
    throw error;
  }
}

/**
 * Writes a whole file atomically: afterwards `path` holds either what `fill` wrote or, when this throws, what it held before.
 * Throws CheckpointError naming `op`, the path and the reason.
 */
export async function writeAtomically(path: string, op: string, fill: (sink: FileSink) => Promise<void>, fs: FileSystem = nodeFs): Promise<void> {
  const temporary = temporaryName(checkPath(path, op));
  try {
    await refuseDevice(path, op, fs);
    await writeFile(temporary, fill, fs);
    try {
      await fs.rename(temporary, path);
    } catch (error) {
      await fs.rm(temporary, { force: true }).catch(() => {});
      throw error;
    }
    await syncFolder(dirname(path), fs);
  } catch (error) {
    throw fileError(error, `${op}: cannot write "${path}"`);
  }
}

/** A rename would put a file in the place of a pipe or a device such as /dev/full. */
async function refuseDevice(path: string, op: string, fs: FileSystem): Promise<void> {
  const old = await fs.stat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null;
    throw error;
  });
  if (old && !old.isFile() && !old.isDirectory()) throw new CheckpointError(`${op}: cannot write "${path}": it is not a regular file`);
}
