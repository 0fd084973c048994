// A file that grows: what is added is collected and written in the background, in order, so that a training loop never waits for a disk.
import { closeSync, mkdirSync, openSync, write, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { promisify } from 'node:util';
import { ValueError } from '../errors.js';

const writeTo = promisify(write);
/** What a killed process may lose. */
const WRITE_AFTER_MS = 1000;

export class AppendingFile {
  private waiting: Uint8Array[] = [];
  private readonly file: number;
  private writing: Promise<void> = Promise.resolve();
  private failed: unknown = null;
  private timer: NodeJS.Timeout | null = null;
  private open = true;
  /** What is left when the process ends. */
  private readonly atExit = (): void => {
    for (const bytes of this.waiting.splice(0)) writeSync(this.file, bytes);
  };

  constructor(readonly path: string) {
    mkdirSync(dirname(path), { recursive: true });
    this.file = openSync(path, 'a');
    process.once('exit', this.atExit);
  }

  add(bytes: Uint8Array): void {
    if (!this.open) throw new ValueError(`${this.path}: the writer was closed`);
    this.waiting.push(bytes);
    this.timer ??= setTimeout(() => this.write(), WRITE_AFTER_MS).unref();
  }

  private write(): void {
    if (this.timer) clearTimeout(this.timer);
    this.timer = null;
    const bytes = Buffer.concat(this.waiting.splice(0));
    if (bytes.length === 0) return;
    this.writing = this.writing.then(async () => {
      for (let at = 0; at < bytes.length; ) at += (await writeTo(this.file, bytes, at)).bytesWritten;
    });
    this.writing = this.writing.catch((error) => {
      this.failed ??= error;
    });
  }

  async flush(): Promise<void> {
    this.write();
    await this.writing;
    const { failed } = this;
    this.failed = null;
    if (failed !== null) throw failed;
  }

  async close(): Promise<void> {
    if (!this.open) return;
    this.open = false;
    try {
      await this.flush();
    } finally {
      process.off('exit', this.atExit);
      closeSync(this.file);
    }
  }
}
