// Training scripts as jobs of several ranks: the quickstart gives the losses of one process and stops at one step on every rank, a
// checkpoint goes on with another number of ranks, a restarted job gives the bits of an undisturbed one, and its progress is one line.
import { spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { afterEach, describe, expect, test } from 'vitest';
import { LiveLine, RankOutput, Terminal } from '../lib/distributed/launcher/output.js';
import { scratchFolder } from './helpers/files.js';
import { type Ended, Launched, root } from './helpers/launch.js';

const dir = scratchFolder();
const cli = [process.execPath, join(root, 'dist/bundle/cli.js')];
const gpt = join(root, 'dist/examples/train_gpt.js');
const small = ['--batch', '12', '--layers', '1', '--heads', '1', '--dim', '16', '--context', '16'];

let launches: Launched[] = [];
afterEach(() => {
  for (const launched of launches) launched.clean();
  launches = [];
});

function start(ranks: number, script: readonly string[], options: readonly string[] = []): Launched {
  const command = ranks === 1 ? [process.execPath] : [...cli, 'run', '--nproc-per-node', String(ranks), ...options];
  const launched = new Launched(dir, script, { command, env: { SHARDGRAD_NUM_THREADS: '1' } });
  launches.push(launched);
  return launched;
}
const run = (...args: Parameters<typeof start>): Promise<Ended> => start(...args).ended;

interface Point {
  step: number;
  loss: number;
  validation?: number;
}

/** The losses in the newest checkpoint. */
function history(out: string): Point[] {
  const newest = readdirSync(out)
    .filter((name) => name.startsWith('step-'))
    .sort()
    .at(-1)!;
  const { entries } = JSON.parse(readFileSync(join(out, newest, 'trainer.json'), 'utf8')) as { entries: { history: { state: Point[] } } };
  return entries.history.state;
}

function expectClose(actual: readonly Point[], expected: readonly Point[]): void {
  expect(actual.map(({ step }) => step)).toEqual(expected.map(({ step }) => step));
  for (const [i, point] of actual.entries()) {
    expect(Math.abs(point.loss / expected[i]!.loss - 1)).toBeLessThan(1e-4);
    if (point.validation !== undefined) expect(Math.abs(point.validation / expected[i]!.validation! - 1)).toBeLessThan(1e-4);
  }
}

describe('the quickstart', () => {
  test('gives the losses of one process, also when it goes on with another number of ranks', async () => {
    const outs = [1, 2, 3].map((ranks) => join(dir, `gpt ${ranks}`));
    const common = [gpt, ...small, '--eval-every', '20', '--dropout', '0.2'];
    for (const ranks of [1, 2, 3]) {
      const { code, err, out } = await run(ranks, [...common, '--steps', '40', '--out', outs[ranks - 1]!]);
      expect([code, err.replace(/^shardgrad run: .*\n/, '')]).toEqual([0, '']);
      // the first rank speaks for all
      expect(out).not.toMatch(/\[rank [12]\]/);
      if (ranks > 1) expect(out).toMatch(new RegExp(`\\[rank 0\\] .*, ${ranks} ranks, .*\\n\\[rank 0\\] step +\\d+/40 .* tokens/s  comm \\d+%`));
    }
    for (const out of outs) expectClose(history(out), history(outs[0]!));
    for (const [was, now] of [
      [0, 2],
      [1, 1],
      [2, 2],
    ] as const) {
      const { code, out } = await run(now, [...common, '--steps', '60', '--out', outs[was]!, '--resume']);
      expect(code).toBe(0);
      expect(out).toContain('resumed from step 40\n');
    }
    for (const out of outs) expectClose(history(out), history(outs[1]!));
    expect(history(outs[0]!).at(-1)!.step).toBe(60);
  });

  test('a batch that cannot be divided is refused', async () => {
    const { code, err } = await run(3, [gpt, ...small, '--batch', '16', '--out', join(dir, 'refused')]);
    expect(code).toBe(1);
    expect(err).toContain('--batch 16 cannot be divided over 3 ranks');
  });

  test.each(['the launcher', 'one rank'])('a signal to %s stops all ranks at one step', async (target) => {
    const out = join(dir, `signal ${target}`);
    const job = start(2, [gpt, ...small, '--steps', '1000000', '--out', out]);
    await job.said('tokens/s');
    const second = job.processes().find((pid) => readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0').includes('RANK=1'))!;
    process.kill(target === 'one rank' ? second : job.child.pid!, 'SIGINT');
    const { code, out: said } = await job.ended;
    expect(code).toBe(0);
    const step = Number(/interrupted at step (\d+)/.exec(said)![1]);
    expect(readdirSync(out)).toContain(`step-${String(step).padStart(8, '0')}`);
    await job.gone();
    const again = await run(2, [gpt, ...small, '--out', out, '--resume', '--steps', String(step + 3)]);
    expect([again.code, again.out]).toEqual([0, expect.stringContaining(`resumed from step ${step}\n`)]);
  });
});

describe('a job that is started again', () => {
  const script = join(root, 'test/children/restart_rank.mjs');
  const losses = (out: string): Map<number, string> => new Map([...out.matchAll(/step (\d+) loss (\S+)/g)].map((m) => [Number(m[1]), m[2]!]));

  test.each([2, 3])('%i ranks: the losses are those of an undisturbed run, to the bit', async (ranks) => {
    const calm = await run(ranks, [script, join(dir, `calm ${ranks}`), '0']);
    const restarted = await run(ranks, [script, join(dir, `restarted ${ranks}`), '8'], ['--max-restarts', '1']);
    expect([calm.code, restarted.code]).toEqual([0, 0]);
    expect(restarted.err).toContain('rank 1 failed first: killed by SIGKILL');
    const [before, after] = restarted.out.split('resumed 6\n') as [string, string];
    expect([...losses(before).keys()].at(-1)).toBeGreaterThanOrEqual(7);
    expect([...losses(after).keys()]).toEqual(Array.from({ length: 14 }, (_, i) => 7 + i));
    const expected = losses(calm.out);
    for (const part of [before, after]) for (const [step, loss] of losses(part)) expect(loss).toBe(expected.get(step));
    expect(/sum (\S+)/.exec(after)![1]).toBe(/sum (\S+)/.exec(calm.out)![1]);
  });

  test('without restarts left, the failure is the last word', async () => {
    const { code, err } = await run(2, [script, join(dir, 'no restart'), '8']);
    expect(code).toBe(137);
    expect(err).toContain('rank 1 failed first: killed by SIGKILL');
  });
});

describe('lines that a rank rewrites', () => {
  const screen = (): { out: PassThrough; read: () => string; ranks: PassThrough[]; outputs: RankOutput[]; err: Terminal } => {
    const out = Object.assign(new PassThrough(), { isTTY: true, columns: 40 });
    const foot = new LiveLine();
    const terminal = new Terminal(out, { NO_COLOR: '1' }, foot);
    const ranks = [new PassThrough(), new PassThrough()];
    return {
      out,
      read: () => String(out.read() ?? ''),
      ranks,
      outputs: ranks.map((source, rank) => new RankOutput(source, terminal, rank, null)),
      err: new Terminal(out, { NO_COLOR: '1' }, foot),
    };
  };
  const turn = (): Promise<void> => new Promise(setImmediate);
  const erase = '\r\x1b[2K';

  test('stay at the foot of a terminal', async () => {
    const { read, ranks, err } = screen();
    ranks[0]!.write(`${erase}step 1`);
    await turn();
    expect(read()).toBe(`${erase}[rank 0] step 1`);
    ranks[1]!.write('a warning\n');
    await turn();
    expect(read()).toBe(`${erase}[rank 1] a warning\n[rank 0] step 1`);
    err.write('shardgrad run: news\n');
    expect(read()).toBe(`${erase}shardgrad run: news\n[rank 0] step 1`);
    ranks[0]!.write(`${erase}step 2${erase}step 3`);
    await turn();
    expect(read()).toBe(`${erase}[rank 0] step 3`);
    ranks[0]!.write(`${erase}step 4\nand a line that has its own end\n`);
    await turn();
    expect(read()).toBe(`${erase}[rank 0] step 4\n[rank 0] and a line that has its own end\n`);
    ranks[0]!.write('and another\n');
    await turn();
    expect(read()).toBe('[rank 0] and another\n');
  });

  test('fit the terminal, and go with their rank', async () => {
    const { read, ranks, outputs } = screen();
    ranks[0]!.write(`\r${'x'.repeat(100)}`);
    await turn();
    expect(read()).toBe(`${erase}[rank 0] ${'x'.repeat(30)}`);
    outputs[0]!.finish();
    // its last state is a whole line
    expect(read()).toBe(`${erase}[rank 0] ${'x'.repeat(100)}\n`);
  });

  test('are left as they are in a file, and line ends of any kind are line ends', async () => {
    const file = new PassThrough();
    const source = new PassThrough();
    new RankOutput(source, new Terminal(file, {}), 0, null);
    source.write('\rstep 1\rstep 2\nmore\r\n');
    await turn();
    expect(String(file.read())).toBe('[rank 0] \rstep 1\rstep 2\n[rank 0] more\r\n');
  });

  test('the launcher tells its ranks whether it has a terminal', async () => {
    const show = ['-e', 'console.log("live=" + process.env.SHARDGRAD_LIVE_LINE)'];
    expect((await run(2, [process.execPath, ...show])).out).toContain('[rank 0] live=\n');
    // util-linux's script runs a command on a terminal of its own
    const terminal = spawn('script', ['-qec', [...cli, 'run', process.execPath, ...show].map((word) => `'${word}'`).join(' '), '/dev/null']);
    let out = '';
    terminal.stdout.on('data', (text) => (out += text));
    const missing = await new Promise<boolean>((resolve) => {
      terminal.once('error', () => resolve(true));
      terminal.once('close', () => resolve(false));
    });
    if (!missing) expect(out).toContain('live=1');
  });
});
