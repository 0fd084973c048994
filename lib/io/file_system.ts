// What saving and loading asks of a file system: the calls of `node:fs/promises` that are used, written out so that the package's types
// need none of Node's.

/** What a read did. */
export interface FileRead {
  /** Bytes that were read; 0 at the end of the file. */
  bytesRead: number;
}
/** What a write did. */
export interface FileWritten {
  /** Bytes that were written. */
  bytesWritten: number;
}

/** An open file. */
export interface FileHandle {
  /** Fills `target` from `offset` with at most `length` bytes of the file from `position`. */
  read(target: Uint8Array, offset: number, length: number, position: number): Promise<FileRead>;
  /** Writes `length` bytes of `bytes` from `offset` where the last write ended, or fewer. */
  write(bytes: Uint8Array, offset: number, length: number): Promise<FileWritten>;
  /** Writes what was written through to the disk (fsync). */
  sync(): Promise<void>;
  /** What the file is now. */
  stat(): Promise<Pick<FileStatus, 'size'>>;
  /** Closes it. */
  close(): Promise<void>;
}

/** What is at a path. */
export interface FileStatus {
  /** Bytes. */
  readonly size: number;
  /** Whether it is a regular file. */
  isFile(): boolean;
  /** Whether it is a folder. */
  isDirectory(): boolean;
}

/** `node:fs/promises` is one; another may be given wherever files are saved and loaded. */
export interface FileSystem {
  /** Opens a file to read, or (`wx`) a new one to write; that there is one already rejects. */
  open(path: string, flags: 'r' | 'wx'): Promise<FileHandle>;
  /** Moves a file or folder, in the place of an existing file. */
  rename(from: string, to: string): Promise<void>;
  /** Removes a file or, with `recursive`, a folder; with `force` one that is not there is no error. */
  rm(path: string, options: { recursive?: boolean; force?: boolean }): Promise<void>;
  /** Makes a folder in an existing one. */
  mkdir(path: string): Promise<unknown>;
  /** Names in a folder. */
  readdir(path: string): Promise<string[]>;
  /** What is at a path; rejects where nothing is. */
  stat(path: string): Promise<FileStatus>;
  /** All of a file as text. */
  readFile(path: string, encoding: 'utf8'): Promise<string>;
}
