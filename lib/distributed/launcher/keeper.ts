// Ends the ranks when the launcher itself was killed without a chance to do so. A small shell outlives it: it reads the process groups
// of the living ranks from a pipe, and when the pipe breaks, ends those it read last. Node has no way to ask the kernel for this.
import { type ChildProcess, spawn } from 'node:child_process';
import type { Socket } from 'node:net';

// Slurm signals every process of a step, and this one is to stay until the launcher has gone
const SCRIPT = `
trap '' HUP INT TERM
groups=
while read -r line; do groups=$line; done
for group in $groups; do kill -s TERM -- "-$group" 2>/dev/null; done
[ -z "$groups" ] || sleep 5
for group in $groups; do kill -s KILL -- "-$group" 2>/dev/null; done
`;

export class Keeper {
  private readonly groups = new Set<number>();
  private readonly shell: ChildProcess;

  constructor() {
    // a session of its own: what ends the launcher by a terminal does not end this
    this.shell = spawn('/bin/sh', ['-c', SCRIPT], { detached: true, cwd: '/', env: {}, stdio: ['pipe', 'ignore', 'ignore'] });
    // without a shell there is no keeper, and the job runs all the same
    this.shell.on('error', () => {});
    this.shell.stdin?.on('error', () => {});
    this.shell.unref();
    (this.shell.stdin as Socket | null)?.unref();
  }

  add(group: number): void {
    this.groups.add(group);
    this.tell();
  }

  remove(group: number): void {
    this.groups.delete(group);
    this.tell();
  }

  /** The launcher ends by itself. */
  close(): void {
    this.groups.clear();
    this.tell();
    this.shell.stdin?.end();
  }

  private tell(): void {
    this.shell.stdin?.write(`${[...this.groups].join(' ')}\n`);
  }
}
