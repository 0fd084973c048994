// A process that answers one JSON line with one JSON line: how benches talk to their other sides. An answer { error } and a process that
// ends or stays silent become errors of one sentence, so a missing PyTorch costs its column and not the bench.
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { ShardgradError } from '../../lib/index.js';

export class Child {
  private readonly process: ChildProcess;
  private readonly lines: AsyncIterator<string>;
  private failed: Error | null = null;

  constructor(
    readonly name: string,
    command: string,
    args: readonly string[],
    private readonly limitMs: number,
  ) {
    this.process = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] });
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
}

/** The Python half of a bench, which lies beside its source and not beside what was compiled. */
export function torchChild(python: string, script: string, device: string, limitMs: number): Child {
  const file = fileURLToPath(new URL(`../../../bench/gpu/pytorch/${script}`, import.meta.url));
  return new Child('PyTorch', python, ['-u', file, device.split(':')[0]!], limitMs);
}
