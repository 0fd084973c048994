// A process that answers one JSON line with one JSON line: how benches talk to their other sides. An answer { error } and a process that
// ends or stays silent become errors of one sentence, so a missing PyTorch costs its column and not the bench.
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { createServer } from 'node:net';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { ShardgradError } from '../lib/index.js';

export class Child {
  private readonly process: ChildProcess;
  private readonly lines: AsyncIterator<string>;
  private failed: Error | null = null;

  constructor(
    readonly name: string,
    command: string,
    args: readonly string[],
    private readonly limitMs: number,
    env: Readonly<Record<string, string>> = {},
  ) {
    this.process = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'], env: { ...process.env, ...env } });
    this.process.on('error', (error) => {
      this.failed = error;
    });
    this.process.stdin!.on('error', () => {}); // its end shows as a missing answer
    this.lines = createInterface({ input: this.process.stdout! })[Symbol.asyncIterator]();
  }

  /** Its answer to `question`. */
  async ask<T>(question: object): Promise<T> {
    this.process.stdin!.write(`${JSON.stringify(question)}\n`);
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        this.process.kill('SIGKILL');
        reject(new ShardgradError(`${this.name} did not answer within ${this.limitMs / 1000} s`));
      }, this.limitMs);
    });
    try {
      const { value, done } = await Promise.race([this.lines.next(), late]);
      if (done) throw new ShardgradError(this.failed ? `${this.name} could not be run: ${this.failed.message}` : `${this.name} ended without an answer`);
      const answer = JSON.parse(value) as T & { error?: string };
      if (answer.error !== undefined) throw new ShardgradError(`${this.name}: ${answer.error}`);
      return answer;
    } finally {
      clearTimeout(timer);
    }
  }

  end(): void {
    this.process.stdin!.end();
  }

  kill(): void {
    this.process.kill('SIGKILL');
  }
}

/** A file of this folder, which for Python lies beside its source and not beside what was compiled. */
export const compiled = (file: string): string => fileURLToPath(new URL(file, import.meta.url));
export const source = (file: string): string => fileURLToPath(new URL(`../../bench/${file}`, import.meta.url));

/** The Python half of a bench of one process on `device`. */
export function torchChild(python: string, script: string, device: string, limitMs: number): Child {
  return new Child('PyTorch', python, ['-u', source(script), device.split(':')[0]!], limitMs);
}

/** Threads of a process, for all sides alike. */
export const withThreads = (threads: number): Record<string, string> => ({ SHARDGRAD_NUM_THREADS: String(threads), OMP_NUM_THREADS: String(threads) });

export interface JobOptions {
  readonly ranks?: number;
  readonly threads: number;
  readonly limitMs?: number;
  readonly env?: Readonly<Record<string, string>>;
}

/** Processes of one job on this machine, or one process alone, which are asked the same. */
export class Job {
  private constructor(private readonly ranks: readonly Child[]) {}

  static async start(name: string, command: readonly string[], { ranks = 1, threads, limitMs = 600_000, env = {} }: JobOptions): Promise<Job> {
    const job = {
      WORLD_SIZE: String(ranks),
      LOCAL_WORLD_SIZE: String(ranks),
      MASTER_ADDR: '127.0.0.1',
      MASTER_PORT: String(await freePort()),
      SHARDGRAD_TOKEN: randomBytes(16).toString('hex'),
      GLOO_SOCKET_IFNAME: 'lo',
    };
    return new Job(
      Array.from({ length: ranks }, (_, rank) => {
        const own = ranks > 1 ? { ...job, RANK: String(rank), LOCAL_RANK: String(rank) } : {};
        return new Child(name, command[0]!, command.slice(1), limitMs, { ...withThreads(threads), ...own, ...env });
      }),
    );
  }

  /** The answers of all ranks. When one fails the others, which may wait for it, are ended. */
  async ask<T>(question: object): Promise<T[]> {
    try {
      return await Promise.all(this.ranks.map((rank) => rank.ask<T>(question)));
    } catch (error) {
      for (const rank of this.ranks) rank.kill();
      throw error;
    }
  }

  end(): void {
    for (const rank of this.ranks) rank.end();
  }
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}
