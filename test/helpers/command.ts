// A command of `shardgrad` run within the test: what it prints, and its exit code.
import { vi } from 'vitest';

export interface Said {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

export async function runCommand(command: (args: string[]) => number | Promise<number>, args: readonly string[]): Promise<Said> {
  const said = { out: '', err: '' };
  for (const [stream, name] of [
    [process.stdout, 'out'],
    [process.stderr, 'err'],
  ] as const) {
    vi.spyOn(stream, 'write').mockImplementation((text) => {
      said[name] += text;
      return true;
    });
  }
  try {
    return { code: await command([...args]), ...said };
  } finally {
    vi.restoreAllMocks();
  }
}
