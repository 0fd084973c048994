// Starts `shardgrad` from the sources, as a process, and knows which processes have come of it.
import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { buildSync } from 'esbuild';

/** The repository. */
export const root: string = fileURLToPath(new URL('../..', import.meta.url));
export const rankScript: string = join(root, 'test/children/rank.mjs');

/** Compiles the command and the ranks' part of the library into a folder. */
export function compile(folder: string): void {
  const shared = { bundle: true, format: 'esm', platform: 'node', logLevel: 'warning', absWorkingDir: root } as const;
  buildSync({ ...shared, entryPoints: ['lib/cli.ts'], outfile: join(folder, 'cli.mjs') });
  const contents = `export { meet } from './lib/distributed/rendezvous.js'; export { detectLaunch } from './lib/distributed/environment.js';`;
  buildSync({ ...shared, stdin: { contents, resolveDir: root, loader: 'ts' }, outfile: join(folder, 'lib.mjs') });
}

export interface Ended {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

export class Launched {
  out = '';
  err = '';
  readonly ended: Promise<Ended>;
  readonly tag: string = randomUUID();
  readonly child: ChildProcess;

  constructor(folder: string, args: readonly string[], options: { env?: NodeJS.ProcessEnv; cwd?: string; command?: readonly string[] } = {}) {
    const { PATH, HOME, TMPDIR } = process.env;
    const [file = process.execPath, ...before] = options.command ?? [process.execPath, join(folder, 'cli.mjs')];
    this.child = spawn(file, [...before, ...args], {
      cwd: options.cwd ?? folder,
      // nothing else of what surrounds the tests
      env: { PATH, HOME, TMPDIR, TEST_TAG: this.tag, TEST_LIB: join(folder, 'lib.mjs'), ...options.env },
    });
    this.child.stdout!.on('data', (chunk) => (this.out += chunk));
    this.child.stderr!.on('data', (chunk) => (this.err += chunk));
    this.ended = new Promise((resolve) => this.child.once('close', (code) => resolve({ code, out: this.out, err: this.err })));
  }

  /** Waits until the text has come `times` times on standard output. */
  async said(text: string, times = 1): Promise<void> {
    while (this.out.split(text).length <= times) await new Promise((resolve) => setTimeout(resolve, 10));
  }

  /** Processes that this launch has started and that still run. */
  processes(): number[] {
    return readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name))
      .filter((name) => {
        try {
          return readFileSync(`/proc/${name}/environ`, 'latin1').includes(this.tag);
        } catch {
          return false;
        }
      })
      .map(Number);
  }

  async gone(): Promise<void> {
    while (this.processes().length > 0) await new Promise((resolve) => setTimeout(resolve, 20));
  }

  /** Ends what a failed test has left. */
  clean(): void {
    for (const pid of existsSync('/proc') ? this.processes() : []) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // it has ended by itself
      }
    }
  }
}
