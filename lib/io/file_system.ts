// What saving and loading asks of a file system: the calls of `node:fs/promises` that are used, written out so that the package's types
// need none of Node's.

export interface FileHandle {
  /** Fills `target` from `offset` with at most `length` bytes of the file from `position`. */
  read(target: Uint8Array, offset: number, length: number, position: number): Promise<{ bytesRead: number }>;
  /** Writes `length` bytes of `bytes` from `offset` where the last write ended, or fewer. */
  write(bytes: Uint8Array, offset: number, length: number): Promise<{ bytesWritten: number }>;
  sync(): Promise<void>;
  stat(): Promise<{ size: number }>;
  close(): Promise<void>;
}

export interface FileStatus {
  readonly size: number;
  isFile(): boolean;
  isDirectory(): boolean;
}

/** `node:fs/promises` is one; another may be given wherever files are saved and loaded. */
export interface FileSystem {
  open(path: string, flags: 'r' | 'wx'): Promise<FileHandle>;
  rename(from: string, to: string): Promise<void>;
  rm(path: string, options: { recursive?: boolean; force?: boolean }): Promise<void>;
  mkdir(path: string): Promise<unknown>;
  readdir(path: string): Promise<string[]>;
  stat(path: string): Promise<FileStatus>;
  readFile(path: string, encoding: 'utf8'): Promise<string>;
}
