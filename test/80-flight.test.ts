// What the flight recorder keeps, and how the recordings of all ranks are shown side by side.
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, truncateSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { type RankRecording, showRecordings } from '../lib/distributed/dump.js';
import { flightFile, flightFolder, makeFlightFolder, pruneFlights } from '../lib/distributed/flight.js';
import { segmentName } from '../lib/distributed/segment_name.js';
import { sharedWorld } from '../lib/distributed/transport.js';
import * as sg from '../lib/index.js';
import { native, type RecordedCall } from '../lib/native.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'flight-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

describe('the recorder', () => {
  test('keeps what was called, where, and how it went', async () => {
    const recorder = join(folder, 'rank_0.flight');
    const world = sharedWorld(segmentName(), { rank: 0, size: 1, device: sg.device('cpu'), timeoutMs: 1000, recorder });
    await world.allReduce(sg.ones([10]));
    await world.allReduce(sg.ones([4], { dtype: 'bfloat16' }), { op: 'max', label: 'of gradient bucket 3' });
    await world.barrier();
    await expect(world.allToAll(sg.ones([2]), { send: [2], receive: [1] }).then()).rejects.toThrow('rank 0 sends 2 elements to rank 0, which expects 1');
    await world.close();
    const { rank, process: pid, entries } = native.readRecorder(recorder);
    expect([rank, pid]).toEqual([0, process.pid]);
    expect(entries.map((e) => [e.number, e.group, e.sequence, e.call, e.failed])).toEqual([
      [1, 'world', 1, 'allReduce(float32, 10 elements, sum)', false],
      [2, 'world', 2, 'allReduce(bfloat16, 4 elements, max)', false],
      [3, 'world', 3, 'barrier', false],
      [4, 'world', 4, 'allToAll(float32, 2 elements sent)', true],
    ]);
    expect(entries[0]!.where).toMatch(/^at test\/80-flight\.test\.ts:\d+:\d+$/);
    expect(entries[1]!.where).toBe('of gradient bucket 3');
    for (const { enqueued, started, done } of entries.filter((e) => !e.failed)) {
      expect(Math.abs(enqueued - Date.now())).toBeLessThan(60_000);
      expect(started).toBeGreaterThanOrEqual(enqueued);
      expect(done).toBeGreaterThanOrEqual(started);
    }
  });

  test('keeps the last 2,000', async () => {
    const recorder = join(folder, 'long.flight');
    const world = sharedWorld(segmentName(), { rank: 0, size: 1, device: sg.device('cpu'), timeoutMs: 1000, recorder });
    for (let i = 0; i < 2345; i++) world.barrier();
    await world.close();
    const { entries } = native.readRecorder(recorder);
    expect(entries.length).toBe(2000);
    expect([entries[0]!.number, entries.at(-1)!.number]).toEqual([346, 2345]);
    expect(entries.every((e) => e.done > 0)).toBe(true);
  });

  test('one that cannot have its file stays in memory', async () => {
    const recorder = join(folder, 'no such folder', 'rank_0.flight');
    const world = sharedWorld(segmentName(), { rank: 0, size: 1, device: sg.device('cpu'), timeoutMs: 1000, recorder });
    await world.barrier();
    await world.close();
    expect(existsSync(recorder)).toBe(false);
  });

  test('a full disk costs the file', async ({ skip }) => {
    const small = join(folder, 'small');
    mkdirSync(small);
    if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', small]).status !== 0) skip('it needs the right to mount');
    try {
      const recorder = join(small, 'rank_0.flight');
      const world = sharedWorld(segmentName(), { rank: 0, size: 1, device: sg.device('cpu'), timeoutMs: 1000, recorder });
      for (let i = 0; i < 3000; i++) world.barrier();
      await world.close();
      expect(existsSync(recorder)).toBe(false);
    } finally {
      spawnSync('umount', [small]);
    }
  });

  test('a file that is none is refused', () => {
    const file = join(folder, 'noise.flight');
    for (const content of ['', 'x'.repeat(10), 'sgflight'.repeat(100_000)]) {
      writeFileSync(file, content);
      expect(() => native.readRecorder(file)).toThrow(/is no recording of this version/);
    }
    expect(() => native.readRecorder(join(folder, 'absent'))).toThrow(/cannot open .*absent: No such file/);
  });
});

describe('what is left of many runs', () => {
  let flights: string;
  beforeEach(() => {
    vi.stubEnv('TMPDIR', mkdtempSync(join(folder, 'left-')));
    flights = join(flightFolder('any'), '..');
  });
  afterEach(() => vi.unstubAllEnvs());
  const HOUR = 3_600_000;
  const leave = (run: string, age: number, bytes = 0): void => {
    const attempt = join(makeFlightFolder(flightFolder(run), 0)!, 'attempt_0');
    if (bytes > 0) {
      writeFileSync(join(attempt, 'rank_0.flight'), '');
      truncateSync(join(attempt, 'rank_0.flight'), bytes);
    }
    const at = new Date(Date.now() - age);
    for (const path of [attempt, join(attempt, '..')]) utimesSync(path, at, at);
  };
  const left = (): string[] => readdirSync(flights).sort();

  test('the newest 50 stay, for a week', async () => {
    for (let i = 0; i < 60; i++) leave(`run${i}`, i * HOUR);
    leave('of last week', 8 * 24 * HOUR);
    await pruneFlights();
    expect(left()).toEqual(Array.from({ length: 50 }, (_, i) => `run${i}`).sort());
    leave('run7', 8 * 24 * HOUR);
    await pruneFlights();
    expect(left()).not.toContain('run7');
  });

  test('256 MiB of them stay, and the newest whatever its size', async () => {
    leave('large', 3 * HOUR, 200 << 20);
    leave('small', 2 * HOUR, 1 << 20);
    leave('new', HOUR, 100 << 20);
    await pruneFlights();
    expect(left()).toEqual(['new', 'small']);
    leave('huge', 0, 300 << 20);
    await pruneFlights();
    expect(left()).toEqual(['huge']);
  });

  test('a run that goes on stays', async () => {
    leave('old', 9 * 24 * HOUR);
    const recorder = flightFile(flightFolder('old'), 0, 0);
    const world = sharedWorld(segmentName(), { rank: 0, size: 1, device: sg.device('cpu'), timeoutMs: 1000, recorder });
    leave('old', 9 * 24 * HOUR);
    leave('older', 10 * 24 * HOUR, 1000);
    await pruneFlights();
    expect(left()).toEqual(['old']);
    await world.close();
  });
});

describe('side by side', () => {
  const now = 1_000_000;
  const call = (number: number, more: Partial<RecordedCall>): RecordedCall => ({
    ...{ number, group: 'world', sequence: number, call: 'barrier', where: '', enqueued: now - 9000, started: now - 8000, done: now - 7990, failed: false },
    ...more,
  });
  const rank = (r: number, entries: RecordedCall[], alive = true): RankRecording => ({ rank: r, process: 100 + r, blames: -1, alive, entries });

  test('a rank that never called', () => {
    const step = { call: 'allReduce(float32, 8 elements, avg)', where: 'at train.ts:3:7' };
    const text = showRecordings(
      [rank(1, [call(1, {})]), rank(0, [call(1, {}), call(2, { ...step, done: 0 })]), rank(2, [call(1, {}), call(2, { ...step, done: 0 })])],
      {
        now,
      },
    );
    expect(text).toBe(`world #2: ranks 0, 2 in allReduce(float32, 8 elements, avg) at train.ts:3:7 since 8.0 s
world #2: rank 1 has not called it; its last is #1 barrier

process group world, ranks 0 1 2

  #  rank 0        rank 1        rank 2        call
  1  done 10.0 ms  done 10.0 ms  done 10.0 ms  barrier
  2  in it 8.0 s   not called    in it 8.0 s   allReduce(float32, 8 elements, avg) at train.ts:3:7
`);
  });

  test('ranks that called different things, a dead one, a message under way', () => {
    const text = showRecordings(
      [
        rank(0, [call(1, { done: 0 }), call(2, { sequence: 0, call: 'recv(float32, 1 elements, from rank 1)', started: 0, done: 0 })]),
        rank(1, [call(1, { call: 'allReduce(int32, 1 elements, sum)', failed: true })], false),
      ],
      { now },
    );
    expect(text).toBe(`rank 1: its process (101) has ended
world #1: rank 0 in barrier since 8.0 s
world #1: rank 1 called allReduce(int32, 1 elements, sum)

process group world, ranks 0 1

  #  rank 0       rank 1      call
  1  in it 8.0 s  not called  barrier
  1  not called   failed      allReduce(int32, 1 elements, sum)
  rank 0: recv(float32, 1 elements, from rank 1): enqueued
`);
  });

  test('ranks that send different amounts in an allToAll called the same', () => {
    const sends = (n: number, more: Partial<RecordedCall> = {}): RecordedCall =>
      call(1, { call: `allToAll(float32, ${n} elements sent)`, where: 'at moe.ts:1:1', ...more });
    const text = showRecordings([rank(0, [sends(12, { done: 0 })]), rank(1, [sends(4)]), rank(2, [sends(12)])], { now });
    expect(text.split('\n')[0]).toBe('world #1: rank 0 in allToAll(float32, 4 to 12 elements sent) at moe.ts:1:1 since 8.0 s');
    expect(text).toContain('\n  1  in it 8.0 s  done 10.0 ms  done 10.0 ms  allToAll(float32, 4 to 12 elements sent) at moe.ts:1:1\n');
    expect(showRecordings([rank(0, [sends(12)]), rank(1, [sends(12)])], { now })).toContain('  allToAll(float32, 12 elements sent) at moe.ts:1:1\n');
  });

  test('many ranks are listed by state, long stories by their end', () => {
    const recordings = Array.from({ length: 12 }, (_, r) =>
      rank(
        r,
        Array.from({ length: 30 }, (_, i) => call(i + 1, r === 5 && i === 29 ? { done: 0 } : {})),
      ),
    );
    const lines = showRecordings(recordings, { now, last: 2 }).split('\n');
    expect(lines.slice(4)).toEqual([
      '   #  ranks                                          call',
      '  29  all done                                       barrier',
      '  30  done: 0 1 2 3 4 6 7 8 9 10 11; in it 8.0 s: 5  barrier',
      '',
    ]);
  });

  test('nothing', () => expect(showRecordings([])).toBe('no collective was called\n'));
});

describe('a job', { timeout: 30_000 }, () => {
  const cli = new URL('../dist/bundle/cli.js', import.meta.url).pathname;
  const script = new URL('children/stuck_rank.mjs', import.meta.url).pathname;
  const port = 20_000 + (process.pid % 20_000);
  interface Launcher {
    readonly child: ChildProcess;
    out: string;
    readonly ended: Promise<number | null>;
  }
  const launch = (tmp: string, ...args: string[]): Launcher => {
    mkdirSync(join(folder, tmp), { recursive: true });
    const env = { ...process.env, TMPDIR: join(folder, tmp), SHARDGRAD_TOKEN: 'a token of the tests' };
    const child = spawn(process.execPath, [cli, 'run', ...args], { env, stdio: ['ignore', 'pipe', 'pipe'] });
    const launcher = { child, out: '', ended: new Promise<number | null>((resolve) => child.once('close', resolve)) };
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (launcher.out += chunk));
    return launcher;
  };
  const dump = (tmp: string, run: string): string =>
    execFileSync(process.execPath, [cli, 'debug', 'dump', run], {
      env: { ...process.env, TMPDIR: join(folder, tmp) },
      stdio: ['ignore', 'pipe', 'pipe'],
    }).toString();
  const end = async (...launchers: Launcher[]): Promise<void> => {
    for (const { child } of launchers) child.kill('SIGTERM');
    for (const { ended } of launchers) await ended;
  };
  const started = (l: Launcher): number => l.out.split('started').length - 1;

  test('that stands still is seen while it runs, and leaves nothing when it is ended', async () => {
    const job = launch('one', '--nproc-per-node', '3', '--rdzv-id', 'still', script);
    await expect.poll(() => started(job), { timeout: 15_000 }).toBe(3);
    await expect
      .poll(() => dump('one', 'still'), { timeout: 5000 })
      .toMatch(/world #3: ranks 0, 2 in allReduce\(float32, 8 elements, avg\) at .*stuck_rank\.mjs:\d+:\d+ since/);
    const text = dump('one', 'still');
    expect(text).toMatch(/world #3: rank 1 has not called it; its last is #2 allReduce\(float32, 4 elements, sum\)/);
    expect(text).toMatch(/ {2}3 {2}in it \S+ \S+ +not called +in it/);
    await end(job);
  });

  test('that failed is explained afterwards', async () => {
    const job = launch('two', '--nproc-per-node', '2', '--rdzv-id', 'failed/one', script, 'fail');
    expect(await job.ended).toBe(1);
    expect(job.out).toContain('What all ranks were doing: shardgrad debug dump failed/one');
    const text = dump('two', 'failed/one');
    expect(text).toMatch(/rank 1: its process \(\d+\) has ended/);
    expect(text).toMatch(/ {2}3 {2}(failed|ended in it) +not called +allReduce/);
  });

  test('of several hosts answers for all of them', async () => {
    const hosts = [0, 1].map((node) =>
      launch(
        `host${node}`,
        '--nnodes',
        '2',
        '--node-rank',
        `${node}`,
        '--master-addr',
        '127.0.0.1',
        '--master-port',
        `${port}`,
        '--rdzv-id',
        'far',
        '--nproc-per-node',
        '1',
        script,
      ),
    );
    await expect.poll(() => started(hosts[0]!) + started(hosts[1]!), { timeout: 15_000 }).toBe(2);
    await expect.poll(() => dump('host1', 'far'), { timeout: 5000 }).toMatch(/world #3: rank 0 in allReduce/);
    expect(dump('host0', 'far')).toMatch(/world #3: rank 1 has not called it/);
    await end(...hosts);
  });

  test('that ends well leaves nothing', async () => {
    const job = launch('good', '--nproc-per-node', '2', '--rdzv-id', 'good', join(script, '..', 'job_rank.mjs'), 'train');
    expect(await job.ended).toBe(0);
    expect(readdirSync(join(folder, 'good')).flatMap((name) => readdirSync(join(folder, 'good', name)))).toEqual([]);
  });
});

describe('shardgrad debug', () => {
  const cli = (...args: string[]): { code: number; err: string } => {
    try {
      execFileSync(process.execPath, [new URL('../dist/bundle/cli.js', import.meta.url).pathname, 'debug', ...args], { stdio: 'pipe' });
      return { code: 0, err: '' };
    } catch (error) {
      const { status, stderr } = error as { status: number; stderr: Buffer };
      return { code: status, err: String(stderr) };
    }
  };
  test.each([
    [['dump'], /give one run/],
    [['dump', 'no-such-run'], /run no-such-run has left no recordings on this host/],
    [['dump', '../../etc'], /has left no recordings/],
    [['undump'], /unknown command undump; there is: dump/],
    [['dump', 'x', '--last', 'many'], /--last must be a whole number, got "many"/],
    [['dump', 'x', '--frob'], /Unknown option '--frob'/],
  ])('%j', (args, message) => {
    const { code, err } = cli(...args);
    expect(code).toBe(2);
    expect(err).toMatch(message);
  });
});
