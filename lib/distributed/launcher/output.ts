// One readable stream out of the output of many ranks: whole lines, each with its rank in front, coloured where a person reads it.
// A reader that is slow holds the ranks back instead of filling our memory; one that is gone does not end the job.
import { closeSync, mkdirSync, openSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Writable } from 'node:stream';
import { StringDecoder } from 'node:string_decoder';

/** A line longer than this is cut into several: a rank that never ends a line must not fill memory. */
const MAX_LINE = 64 * 1024;
const TAIL_LINES = 30;
const TAIL_LINE_LENGTH = 2000;

/** Colours that are readable on light and dark grounds; ranks take turns. */
const COLOURS = [36, 33, 35, 32, 34, 96, 93, 95, 92, 94];

/** Where lines go: standard output or error. */
export class Terminal {
  private readonly coloured: boolean;
  private gone = false;

  constructor(
    private readonly stream: Writable & { isTTY?: boolean },
    env: Readonly<Record<string, string | undefined>>,
  ) {
    this.coloured = stream.isTTY === true && !env['NO_COLOR'];
    stream.setMaxListeners(0);
    stream.on('error', () => {
      this.gone = true;
      // those who wait for room need not
      stream.emit('drain');
    });
  }

  prefix(rank: number): string {
    return this.coloured ? `\x1b[${COLOURS[rank % COLOURS.length]}m[rank ${rank}]\x1b[0m ` : `[rank ${rank}] `;
  }

  /** Writes text; false: call again only after `roomAgain`. */
  write(text: string): boolean {
    return this.gone || this.stream.write(text);
  }

  roomAgain(action: () => void): void {
    this.stream.once('drain', action);
  }
}

/** A file of output. Written synchronously, so that it holds all there was when the launcher is killed. */
export class LogFile {
  private descriptor: number | null;

  constructor(path: string) {
    mkdirSync(dirname(path), { recursive: true });
    this.descriptor = openSync(path, 'w');
  }

  write(chunk: Uint8Array): void {
    if (this.descriptor === null) return;
    try {
      writeFileSync(this.descriptor, chunk);
    } catch {
      // a full disk costs the log, not the job
      this.close();
    }
  }

  close(): void {
    if (this.descriptor !== null) closeSync(this.descriptor);
    this.descriptor = null;
  }
}

/** The output of one stream of one rank: prefixed lines to the terminal, bytes as they are to a file, the last lines kept. */
export class RankOutput {
  private readonly decoder = new StringDecoder('utf8');
  private partial = '';
  /** Whether the terminal is too slow, so that there may be more to come. */
  held = false;
  /** The last lines. */
  readonly tail: string[] = [];
  private readonly prefix: string;

  constructor(
    private readonly source: NodeJS.ReadableStream,
    private readonly terminal: Terminal,
    rank: number,
    private readonly file: LogFile | null,
  ) {
    this.prefix = terminal.prefix(rank);
    source.on('data', (chunk: Buffer) => this.take(chunk));
    source.on('error', () => {});
  }

  /** Writes the rest of a line that was not ended, and closes the file. */
  finish(): void {
    const rest = this.partial + this.decoder.end();
    this.partial = '';
    if (rest !== '') this.lines([rest]);
    this.file?.close();
  }

  private take(chunk: Buffer): void {
    this.file?.write(chunk);
    const lines = (this.partial + this.decoder.write(chunk)).split('\n');
    this.partial = lines.pop()!;
    for (; this.partial.length > MAX_LINE; this.partial = this.partial.slice(MAX_LINE)) lines.push(this.partial.slice(0, MAX_LINE));
    if (lines.length > 0) this.lines(lines);
  }

  private lines(lines: readonly string[]): void {
    for (const line of lines.slice(-TAIL_LINES)) this.tail.push(line.slice(0, TAIL_LINE_LENGTH).replace(/\r$/, ''));
    this.tail.splice(0, this.tail.length - TAIL_LINES);
    if (!this.terminal.write(lines.map((line) => `${this.prefix}${line}\n`).join(''))) {
      this.held = true;
      this.source.pause();
      this.terminal.roomAgain(() => {
        this.held = false;
        this.source.resume();
      });
    }
  }
}
