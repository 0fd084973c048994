// Two hosts on one machine: network namespaces with a link between them, each with a /dev/shm and a folder for temporary files of its own.
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const ip = (...args: readonly string[]): void => void execFileSync('ip', args, { stdio: 'pipe' });

function probe(): string | null {
  const name = `sgprobe${process.pid}`;
  try {
    ip('netns', 'add', name);
    ip('netns', 'del', name);
    return null;
  } catch (error) {
    return (error as Error).message.split('\n')[0]!;
  }
}

/** Why they cannot be made here, or null. */
export const namespacesMissing: string | null = probe();

let made = 0;

export class TwoHosts {
  readonly addresses = ['10.231.77.1', '10.231.77.2'] as const;
  private readonly names: readonly string[];
  private readonly folder = mkdtempSync(join(tmpdir(), 'shardgrad-hosts-'));

  /** @param etcHosts for each host, in place of its /etc/hosts: the names that it knows */
  constructor(private readonly etcHosts: readonly string[] = []) {
    const tag = `${process.pid}n${made++}`;
    this.names = [`sga${tag}`, `sgb${tag}`];
    const [a, b] = this.names as [string, string];
    for (const name of this.names) ip('netns', 'add', name);
    ip('link', 'add', 'sglink', 'netns', a, 'type', 'veth', 'peer', 'name', 'sglink', 'netns', b);
    for (const [i, name] of this.names.entries()) {
      ip('-n', name, 'addr', 'add', `${this.addresses[i]}/24`, 'dev', 'sglink');
      ip('-n', name, 'link', 'set', 'sglink', 'up');
      ip('-n', name, 'link', 'set', 'lo', 'up');
    }
  }

  /** The command line that runs a command on a host. */
  on(host: number, command: readonly string[]): [string, ...string[]] {
    const own = join(this.folder, String(host));
    mkdirSync(own, { recursive: true });
    const mounts = ['mount -t tmpfs tmpfs /dev/shm'];
    const names = this.etcHosts[host];
    if (names !== undefined) {
      writeFileSync(join(own, 'hosts'), names);
      mounts.push(`mount --bind '${join(own, 'hosts')}' /etc/hosts`);
    }
    return ['ip', 'netns', 'exec', this.names[host]!, 'sh', '-c', `${mounts.join(' && ')} && exec "$@"`, 'sh', 'env', `TMPDIR=${own}`, ...command];
  }

  cut(): void {
    ip('-n', this.names[0]!, 'link', 'set', 'sglink', 'down');
  }

  remove(): void {
    for (const name of this.names) ip('netns', 'del', name);
    rmSync(this.folder, { recursive: true, force: true });
  }
}
