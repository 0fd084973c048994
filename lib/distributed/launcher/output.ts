// One readable stream out of the output of many ranks: whole lines, each with its rank in front, coloured where a person reads it.
// A line that a rank rewrites (by \r, as progress bars do) stays at the foot of a terminal, below the whole lines.
// A reader that is slow holds the ranks back instead of filling our memory; one that is gone does not end the job.
import { closeSync, mkdirSync, openSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Writable } from 'node:stream';
import { StringDecoder } from 'node:string_decoder';
import { stripVTControlCharacters } from 'node:util';

/** A line longer than this is cut into several: a rank that never ends a line must not fill memory. */
const MAX_LINE = 64 * 1024;
const TAIL_LINES = 30;
const TAIL_LINE_LENGTH = 2000;

/** Colours that are readable on light and dark grounds; ranks take turns. */
const COLOURS = [36, 33, 35, 32, 34, 96, 93, 95, 92, 94];

const ERASE_LINE = '\r\x1b[2K';

/** The line at the foot of a terminal, which standard output and error share. */
export class LiveLine {
  text = '';
  /** Whose it is: the last that wrote one. */
  owner: unknown = null;
}

/** Where lines go: standard output or error. */
export class Terminal {
  /** Whether a line can be rewritten here. */
  readonly live: boolean;
  private readonly coloured: boolean;
  private gone = false;

  constructor(
    private readonly stream: Writable & { isTTY?: boolean; columns?: number },
    env: Readonly<Record<string, string | undefined>>,
    private readonly foot: LiveLine = new LiveLine(),
  ) {
    this.live = stream.isTTY === true;
    this.coloured = this.live && !env['NO_COLOR'];
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

  /** Writes whole lines; false: call again only after `roomAgain`. */
  write(text: string): boolean {
    return this.gone || this.stream.write(this.live && this.foot.text !== '' ? `${ERASE_LINE}${text}${this.foot.text}` : text);
  }

  /** Rewrites the line at the foot; an empty one of the same owner takes it away. */
  rewrite(owner: unknown, rank: number, text: string): void {
    const { foot } = this;
    if (this.gone || (text === '' && (foot.text === '' || foot.owner !== owner))) return;
    // a line that wraps could not be taken back
    const room = (this.stream.columns ?? 80) - 1 - `[rank ${rank}] `.length;
    foot.text = text === '' ? '' : this.prefix(rank) + text.slice(0, Math.max(0, room));
    foot.owner = owner;
    this.stream.write(ERASE_LINE + foot.text);
  }

  roomAgain(action: () => void): void {
    this.stream.once('drain', action);
  }
}

/**
 * A file of output. Written synchronously, so that it holds all there was when the launcher is killed. A full disk, or a folder that
 * cannot be written, costs the log and not the job.
 */
export class LogFile {
  private descriptor: number | null = null;

  /** @param incomplete is told why the file does not hold everything, once */
  constructor(
    path: string,
    private readonly incomplete: (reason: string) => void,
  ) {
    try {
      mkdirSync(dirname(path), { recursive: true });
      this.descriptor = openSync(path, 'w');
    } catch (error) {
      incomplete((error as Error).message);
    }
  }

  write(chunk: Uint8Array): void {
    if (this.descriptor === null) return;
    try {
      writeFileSync(this.descriptor, chunk);
    } catch (error) {
      this.close();
      this.incomplete((error as Error).message);
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

  constructor(
    private readonly source: NodeJS.ReadableStream,
    private readonly terminal: Terminal,
    private readonly rank: number,
    private readonly file: LogFile | null,
  ) {
    source.on('data', (chunk: Buffer) => this.take(chunk));
    source.on('error', () => {});
  }

  /** Writes the rest of a line that was not ended, and closes the file. */
  finish(): void {
    const rest = this.partial + this.decoder.end();
    this.partial = '';
    if (rest !== '') this.lines([rest]);
    else if (this.terminal.live) this.terminal.rewrite(this, this.rank, '');
    this.file?.close();
  }

  private take(chunk: Buffer): void {
    this.file?.write(chunk);
    const lines = (this.partial + this.decoder.write(chunk)).split('\n');
    this.partial = lines.pop()!;
    for (; this.partial.length > MAX_LINE; this.partial = this.partial.slice(MAX_LINE)) lines.push(this.partial.slice(0, MAX_LINE));
    if (lines.length > 0) this.lines(lines);
    if (!this.terminal.live || !this.partial.includes('\r')) return;
    const text = lastWriting(this.partial);
    this.partial = `\r${text}`;
    if (!this.held) this.terminal.rewrite(this, this.rank, text);
  }

  private lines(given: readonly string[]): void {
    const { terminal, rank } = this;
    if (terminal.live) terminal.rewrite(this, rank, '');
    const lines = terminal.live ? given.map(lastWriting) : given;
    const prefix = terminal.prefix(rank);
    for (const line of lines.slice(-TAIL_LINES)) this.tail.push(line.slice(0, TAIL_LINE_LENGTH).replace(/\r$/, ''));
    this.tail.splice(0, this.tail.length - TAIL_LINES);
    if (!terminal.write(lines.map((line) => `${prefix}${line}\n`).join(''))) {
      this.held = true;
      this.source.pause();
      terminal.roomAgain(() => {
        this.held = false;
        this.source.resume();
      });
    }
  }
}

/** What is to be seen of a line that was written over itself, without the codes that did it. */
function lastWriting(line: string): string {
  const writings = line.replace(/\r$/, '').split('\r');
  return writings.length === 1 ? writings[0]! : stripVTControlCharacters(writings.findLast((text) => text !== '') ?? '');
}
