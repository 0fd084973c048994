// `shardgrad run` with real processes: what ranks are given, how failures, signals and restarts go, and that nothing is left behind.

import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { afterAll, afterEach, beforeAll, expect, describe as group, test } from 'vitest';
import { parseRunOptions } from '../lib/distributed/launcher/options.js';
import { RankOutput, Terminal } from '../lib/distributed/launcher/output.js';
import { StoreServer } from '../lib/distributed/store_server.js';
import { compile, type Ended, Launched, rankScript, root } from './helpers/launch.js';
import { freePort } from './helpers/ports.js';

const folder = mkdtempSync(join(tmpdir(), 'shardgrad-launch-'));
const launched: Launched[] = [];
beforeAll(() => compile(folder));
afterEach(() => {
  for (const one of launched.splice(0)) one.clean();
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function launch(args: readonly string[], options: { env?: NodeJS.ProcessEnv; cwd?: string } = {}): Launched {
  const one = new Launched(folder, args, options);
  launched.push(one);
  return one;
}

/** Runs to the end, and checks that no process is left. */
async function finish(one: Launched): Promise<Ended> {
  const ended = await one.ended;
  expect(one.processes()).toEqual([]);
  return ended;
}
const run = (args: readonly string[], options: { env?: NodeJS.ProcessEnv; cwd?: string } = {}): Promise<Ended> => finish(launch(['run', ...args], options));
const lines = (text: string): string[] => text.trimEnd().split('\n');
const last = (text: string): string => lines(text).at(-1)!;

group('one host', { timeout: 20_000 }, () => {
  test('ranks know who they are; arguments of the script stay as they are', async () => {
    const { code, out, err } = await run(['--nproc_per_node', '3', rankScript, 'print']);
    expect(code).toBe(0);
    const said = lines(out).sort();
    expect(said.map((line) => line.slice(0, 9))).toEqual(['[rank 0] ', '[rank 1] ', '[rank 2] ']);
    expect(said.map((line) => JSON.parse(line.slice(9)))).toEqual(
      [0, 1, 2].map((rank) => ({
        RANK: `${rank}`,
        WORLD_SIZE: '3',
        LOCAL_RANK: `${rank}`,
        LOCAL_WORLD_SIZE: '3',
        GROUP_RANK: '0',
        GROUP_WORLD_SIZE: '1',
        MASTER_ADDR: '127.0.0.1',
        threads: `${Math.max(1, Math.floor(availableParallelism() / 3))}`,
      })),
    );
    expect(err).toMatch(/^shardgrad run: 3 ranks, job [0-9a-f]{8}, store 127\.0\.0\.1:\d+\n$/);
    const args = await run(['--nproc-per-node=1', '--', process.execPath, rankScript, 'args', '--nnodes', '--some_flag=a_b']);
    expect(args.out).toBe('[rank 0] ["args","--nnodes","--some_flag=a_b"]\n');
    const threads = await run([rankScript, 'print'], { env: { SHARDGRAD_NUM_THREADS: '7' } });
    expect(threads.out).toContain('"threads":"7"');
  });

  test('ranks meet in the store of the launcher', async () => {
    const { code, out } = await run(['--nproc-per-node', '2', rankScript, 'meet']);
    expect(code).toBe(0);
    expect(lines(out).sort()).toEqual(['[rank 0] from 0, from 1', '[rank 1] from 0, from 1']);
  });

  test('without our launcher rank 0 runs the store, beside the port of another', async () => {
    const port = await freePort();
    const agent = createServer().listen(port, '127.0.0.1');
    const env = {
      WORLD_SIZE: '2',
      LOCAL_WORLD_SIZE: '2',
      MASTER_ADDR: '127.0.0.1',
      MASTER_PORT: `${port}`,
      TORCHELASTIC_RUN_ID: 'r',
      SHARDGRAD_TOKEN: 'a token for two ranks',
    };
    const ranks = ['0', '1'].map((rank) => {
      const one = new Launched(folder, [rankScript, 'meet'], { env: { ...env, RANK: rank, LOCAL_RANK: rank }, command: [process.execPath] });
      launched.push(one);
      return one;
    });
    for (const one of ranks) expect(await one.ended).toMatchObject({ code: 0, out: 'from 0, from 1\n', err: '' });
    agent.close();
  });

  test.each([
    ['throw', 1, 'exit code 1', 'the model of rank 1 is bad'],
    ['exit3', 3, 'exit code 3', 'It wrote nothing to standard error.'],
    ['kill', 137, 'killed by SIGKILL', 'It wrote nothing to standard error.'],
  ])('a rank that fails (%s) ends the job with its own error last', async (what, exitCode, how, text) => {
    const { code, err } = await run(['--nproc-per-node', '3', rankScript, what]);
    expect(code).toBe(exitCode);
    const summary = err.slice(err.lastIndexOf('shardgrad run: '));
    expect(summary).toMatch(`shardgrad run: rank 1 failed first: ${how}. `);
    expect(summary).toContain(text);
  });

  test('ranks that do not end by SIGTERM are killed after 5 s', async () => {
    const began = Date.now();
    const { code } = await run(['--nproc-per-node', '2', rankScript, 'exit3', 'stubborn']);
    expect(code).toBe(3);
    expect(Date.now() - began).toBeGreaterThan(4900);
    expect(Date.now() - began).toBeLessThan(9000);
  });

  test('signals reach the ranks; ranks that then end well are no failure', async () => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      const job = launch(['run', '--nproc-per-node', '2', '--max-restarts', '3', rankScript, 'graceful']);
      await job.said('waiting', 2);
      job.child.kill(signal);
      const { code, out, err } = await finish(job);
      expect(lines(out).sort().slice(0, 2)).toEqual([`[rank 0] saved at ${signal}`, `[rank 0] waiting`]);
      expect(out).toContain(`[rank 1] saved at ${signal}`);
      expect(last(err)).toBe(`shardgrad run: ended by ${signal}`);
      expect(code).toBe(0);
    }
    const job = launch(['run', '--nproc-per-node', '2', '--max-restarts', '3', rankScript, 'wait']);
    await job.said('waiting', 2);
    job.child.kill('SIGINT');
    expect((await finish(job)).code).toBe(130);
  });

  test('a signal that comes twice at once counts once; one that comes later ends the waiting', async () => {
    for (const [pause, code] of [
      [300, 0],
      [1300, 143],
    ] as const) {
      const job = launch(['run', rankScript, 'thorough']);
      await job.said('waiting');
      job.child.kill('SIGTERM');
      await new Promise((resolve) => setTimeout(resolve, pause));
      job.child.kill('SIGTERM');
      const ended = await finish(job);
      expect(ended.out.includes('saved')).toBe(code === 0);
      expect(ended.code).toBe(code);
    }
  });

  test('a launcher that is killed leaves no rank behind, also when others were told to end before', async () => {
    const job = launch(['run', '--nproc-per-node', '2', rankScript, 'deaf']);
    await job.said('waiting', 2);
    // Slurm tells every process
    const children = spawnSync('ps', ['-o', 'pid=', '--ppid', String(job.child.pid)], { encoding: 'utf8' })
      .stdout.trim()
      .split('\n');
    expect(children).toHaveLength(3);
    for (const pid of children) process.kill(Number(pid), 'SIGTERM');
    job.child.kill('SIGKILL');
    await job.ended;
    await job.gone();
  });

  test('a launcher that is killed leaves no rank behind', async () => {
    const job = launch(['run', '--nproc-per-node', '2', rankScript, 'wait']);
    await job.said('waiting', 2);
    expect(job.processes().length).toBe(5);
    job.child.kill('SIGKILL');
    await job.ended;
    await job.gone();
  });

  test('the whole job starts again, and knows how often; logs of every start and rank', async () => {
    const logs = join(folder, 'logs');
    const { code, out, err } = await run(['--nproc-per-node', '2', '--max-restarts', '3', '--log-dir', logs, '--rdzv-id', 'my job', rankScript, 'restarts']);
    expect(code).toBe(0);
    for (const start of [0, 1, 2]) for (const rank of [0, 1]) expect(out).toContain(`[rank ${rank}] start ${start} of rank ${rank}\n`);
    expect(lines(err).slice(1)).toEqual([
      'shardgrad run: rank 1 failed first: exit code 5; starting all 2 ranks again (restart 1 of 3)',
      'shardgrad run: rank 1 failed first: exit code 5; starting all 2 ranks again (restart 2 of 3)',
    ]);
    expect(readFileSync(join(logs, 'my_job/attempt_1/0/stdout.log'), 'utf8')).toBe('start 1 of rank 0\n');
    expect(readFileSync(join(logs, 'my_job/attempt_2/1/stderr.log'), 'utf8')).toBe('');
    const given = await run(['--nproc-per-node', '2', '--max-restarts', '1', '--log-dir', logs, '--rdzv-id', 'x', rankScript, 'restarts']);
    expect(given.code).toBe(5);
    expect(given.err).toContain('rank 1 failed first: exit code 5, after 1 of 1 restarts.');
    expect(last(given.err)).toBe(`shardgrad run: its output is in ${join(logs, 'x/attempt_1/1')}`);
  });

  test('logs that cannot be written cost the logs, not the job', async () => {
    const logs = join(folder, 'broken');
    mkdirSync(join(logs, 'x/attempt_0/1'), { recursive: true });
    writeFileSync(join(logs, 'x/attempt_0/0'), 'no folder');
    symlinkSync('/dev/full', join(logs, 'x/attempt_0/1/stdout.log'));
    const { code, out, err } = await run(['--nproc-per-node', '2', '--log-dir', logs, '--rdzv-id', 'x', rankScript, 'streams']);
    expect(code).toBe(0);
    expect(out.match(/without an end/g)).toHaveLength(2);
    expect(lines(err).filter((line) => line.includes('incomplete'))).toEqual([
      expect.stringMatching(/^shardgrad run: stdout\.log of rank 0 is incomplete: \w+: .*mkdir/),
      expect.stringMatching(/^shardgrad run: stderr\.log of rank 0 is incomplete: \w+: .*mkdir/),
      'shardgrad run: stdout.log of rank 1 is incomplete: ENOSPC: no space left on device, write',
    ]);
  });

  test('output comes in whole lines, complete, stream by stream', async () => {
    const { out, err } = await run(['--nproc-per-node', '1', rankScript, 'streams']);
    expect(out).toBe('[rank 0] one\n[rank 0] two\n[rank 0] without an end\n');
    expect(lines(err)[1]).toBe('[rank 0] a warning');
    const flood = await run(['--nproc-per-node', '2', rankScript, 'flood']);
    expect(lines(flood.out).length).toBe(40_000);
    expect(lines(flood.out).every((line) => /^\[rank [01]\] line \d+ of a rank/.test(line))).toBe(true);
  });

  test('the environment of an operator sets the number of ranks; the command line wins', async () => {
    const env = { PET_NNODES: '1', PET_NPROC_PER_NODE: '2', PET_NODE_RANK: '0', PET_MASTER_ADDR: 'somewhere.invalid' };
    expect(lines((await run([rankScript, 'print'], { env })).out).length).toBe(2);
    expect(lines((await run(['--nproc-per-node', '1', '--standalone', rankScript, 'print'], { env })).out).length).toBe(1);
    const mixed = await run([rankScript, 'print'], { env: { ...env, RANK: '1', WORLD_SIZE: '2' } });
    expect(mixed.code).toBe(1);
    expect(mixed.err).toContain('  launcher             rank  of  local  node  of  from\n');
  });
});

group('two launchers', { timeout: 30_000 }, () => {
  const token = { SHARDGRAD_TOKEN: 'the token of both hosts' };
  async function both(args: readonly string[], port?: number, each: readonly (readonly string[])[] = [[], []]): Promise<Launched[]> {
    const masterPort = port ?? (await freePort());
    // the second comes first: it waits for the store
    const start = (node: number): Launched =>
      launch(['run', '--nnodes', '2', '--node-rank', `${node}`, '--master-addr', '127.0.0.1', '--master-port', `${masterPort}`, ...each[node]!, ...args], {
        env: token,
      });
    const second = start(1);
    return [start(0), second];
  }

  test('ranks are numbered through, also when hosts have different numbers of them', async () => {
    const jobs = await both([rankScript, 'meet'], undefined, [
      ['--nproc-per-node', '1'],
      ['--nproc-per-node', '2'],
    ]);
    const [a, b] = await Promise.all(jobs.map(finish));
    expect([a!.code, b!.code]).toEqual([0, 0]);
    expect(a!.out).toBe('[rank 0] from 0, from 1, from 2\n');
    expect(lines(b!.out).sort()).toEqual(['[rank 1] from 0, from 1, from 2', '[rank 2] from 0, from 1, from 2']);
    expect(b!.err).toContain('3 ranks, job none, store 127.0.0.1:');
    expect(b!.err).toContain('node 1 of 2: ranks 1 to 2');
  });

  test('all end with the first failure and name it; restarts are agreed', async () => {
    const [a, b] = await Promise.all((await both([rankScript, 'exit3'])).map(finish));
    expect([a!.code, b!.code]).toEqual([3, 3]);
    for (const one of [a!, b!]) expect(last(one.err)).toMatch(/rank 1 on .* \(node 1\) failed first: exit code 3\./);
    const restarted = await Promise.all((await both(['--max-restarts', '2', rankScript, 'restarts'])).map(finish));
    expect(restarted.map(({ code }) => code)).toEqual([0, 0]);
    expect(restarted[0]!.out).toContain('[rank 0] start 2 of rank 0');
    expect(restarted[1]!.out).toContain('[rank 1] start 2 of rank 1');
    for (const one of restarted) expect(one.err).toContain('(restart 2 of 2)');
  });

  test('a signal to one ends the job', async () => {
    const [a, b] = await both(['--max-restarts', '2', rankScript, 'graceful']);
    await Promise.all([a!.said('waiting'), b!.said('waiting')]);
    b!.child.kill('SIGTERM');
    for (const one of [a!, b!]) {
      const { code, out, err } = await finish(one);
      expect(out).toContain('saved at SIGTERM');
      expect(last(err)).toBe('shardgrad run: ended by SIGTERM');
      expect(code).toBe(0);
    }
  });

  test('a launcher that is killed ends the job on the other host', async () => {
    for (const victim of [0, 1]) {
      const jobs = await both(['--max-restarts', '2', rankScript, 'wait']);
      await Promise.all(jobs.map((one) => one.said('waiting')));
      jobs[victim]!.child.kill('SIGKILL');
      const { code, err } = await finish(jobs[1 - victim]!);
      expect(code).toBe(1);
      expect(last(err)).toMatch(victim === 1 ? /the launcher on .* \(node 1\) ended or lost its connection/ : /the store at 127\.0\.0\.1:\d+ was lost/);
      await jobs[victim]!.gone();
    }
  });

  test('a launcher that falls silent ends the job on the other host, which then ends on the first', async () => {
    const [a, b] = await both(['--max-restarts', '2', rankScript, 'wait']);
    await Promise.all([a!.said('waiting'), b!.said('waiting')]);
    b!.child.kill('SIGSTOP');
    const { code, err } = await finish(a!);
    expect(code).toBe(1);
    expect(last(err)).toBe('shardgrad run: the launcher of node 1 gave no sign of life for 10 s');
    b!.child.kill('SIGCONT');
    expect((await finish(b!)).code).toBe(1);
  });

  test('the store gives way to one of another job', async () => {
    const port = await freePort();
    const stranger = await StoreServer.listen({ token: 'the token of another job', port, log: () => {} });
    const [a, b] = await Promise.all((await both([rankScript, 'meet'], port)).map(finish));
    expect([a, b]).toMatchObject([{ code: 0 }, { code: 0 }]);
    expect(a!.err).toContain(`store 127.0.0.1:${port + 1}`);
    await stranger.close();
  });

  test('a signal while others are awaited ends those that wait', async () => {
    const port = await freePort();
    const start = (node: number): Launched =>
      launch(['run', '--nnodes', '3', '--node-rank', `${node}`, '--master-addr', '127.0.0.1', '--master-port', `${port}`, 'true'], { env: token });
    const [a, b] = [start(0), start(1)];
    await new Promise((resolve) => setTimeout(resolve, 700));
    const twin = await finish(start(1));
    expect(twin).toMatchObject({ code: 1, err: expect.stringMatching(/--node-rank 1 is taken: the launcher on .* has it/) });
    a.child.kill('SIGINT');
    const began = Date.now();
    expect(await finish(a)).toMatchObject({ code: 130, err: 'shardgrad run: ended by SIGINT\n' });
    expect(await finish(b)).toMatchObject({ code: 1, err: 'shardgrad run: ended by SIGINT\n' });
    expect(Date.now() - began).toBeLessThan(3000);
    const alone = start(2);
    await new Promise((resolve) => setTimeout(resolve, 300));
    alone.child.kill('SIGTERM');
    expect((await finish(alone)).code).toBe(143);
  });

  test('hosts that were started differently are refused', async () => {
    const jobs = await both([rankScript, 'wait'], undefined, [
      ['--max-restarts', '1'],
      ['--max-restarts', '2'],
    ]);
    for (const [node, one] of (await Promise.all(jobs.map(finish))).entries()) {
      expect(one.code).toBe(1);
      expect(last(one.err)).toMatch(node === 0 ? /node 1 \(.*\) was started with --max-restarts 2, node 0 \(.*\) with 1/ : /--max-restarts/);
    }
  });

  test('who has long waited says for whom', async () => {
    const port = await freePort();
    const start = (node: number): Launched =>
      launch(['run', '--nnodes', '4', '--node-rank', `${node}`, '--master-addr', '127.0.0.1', '--master-port', `${port}`, rankScript, 'wait'], { env: token });
    const second = start(1);
    await expect.poll(() => second.err, { timeout: 8000 }).toBe(`shardgrad run: waiting for the launcher of node 0, on 127.0.0.1:${port}\n`);
    const first = start(0);
    await expect.poll(() => first.err, { timeout: 8000 }).toBe('shardgrad run: waiting for the launchers of nodes 2, 3\n');
    await expect.poll(() => lines(second.err).slice(1), { timeout: 8000 }).toEqual(['shardgrad run: waiting for the launchers of nodes 2, 3']);
    first.child.kill('SIGINT');
    expect((await finish(first)).code).toBe(130);
    expect((await finish(second)).code).toBe(1);
  });

  test('one that waits for more hosts than there are is told', async () => {
    const start = Date.now();
    const jobs = await both([rankScript, 'wait'], undefined, [[], ['--nnodes', '3']]);
    for (const one of await Promise.all(jobs.map(finish))) {
      expect(one.code).toBe(1);
      expect(last(one.err)).toMatch(/^shardgrad run: node 1 \(.*\) was started with --nnodes 3, node 0 \(.*\) with 2$/);
    }
    expect(Date.now() - start).toBeLessThan(8000);
  });
});

group('TypeScript', { timeout: 20_000 }, () => {
  const native = Boolean((process.features as { typescript?: unknown }).typescript);
  const script = (name: string): string => {
    const at = join(folder, name);
    mkdirSync(at, { recursive: true });
    writeFileSync(join(at, 'train.ts'), 'const answer: number = 42;\nconsole.log(answer);\n');
    return at;
  };

  test.skipIf(native)('without means to run it there is one sentence', async () => {
    const { code, err } = await run(['train.ts'], { cwd: script('plain') });
    expect(code).toBe(2);
    expect(err).toMatch(
      /^shardgrad run: train\.ts is TypeScript, which Node [\d.]+ does not run by itself .*: install tsx beside the script .*, or compile it\n$/,
    );
  });

  test('tsx of the script’s own project runs it, where Node does not', async () => {
    const at = script('project');
    const tsx = join(at, 'node_modules/tsx');
    mkdirSync(tsx, { recursive: true });
    writeFileSync(join(tsx, 'package.json'), '{"name":"tsx","type":"module","exports":{".":"./loader.mjs"}}');
    writeFileSync(join(tsx, 'loader.mjs'), `import { register } from 'node:module';\nregister('./hooks.mjs', import.meta.url);\n`);
    writeFileSync(
      join(tsx, 'hooks.mjs'),
      `import { readFileSync } from 'node:fs';
export const load = (url, context, next) => url.endsWith('.ts')
  ? { format: 'module', shortCircuit: true, source: readFileSync(new URL(url), 'utf8').replace(': number', '') } : next(url, context);\n`,
    );
    expect(await run(['project/train.ts'])).toMatchObject({ code: 0, out: '[rank 0] 42\n' });
  });
});

group('the command line', { timeout: 20_000 }, () => {
  test('help', async () => {
    expect(await finish(launch(['--help']))).toMatchObject({ code: 0, err: '', out: expect.stringContaining('start the ranks of a training job') });
    expect(await finish(launch(['run', '--help']))).toMatchObject({ code: 0, err: '', out: expect.stringContaining('--nproc-per-node N') });
  });

  test.each([
    [['walk'], 'shardgrad: unknown command walk; shardgrad --help lists all\n'],
    [['--walk'], 'shardgrad: unknown option --walk; shardgrad --help lists all\n'],
    [['run', '--foo', 'a.mjs'], 'shardgrad run: unknown option --foo; shardgrad run --help lists all\n'],
    [['run', '-x', 'a.mjs'], 'shardgrad run: unknown option -x; shardgrad run --help lists all\n'],
    [['run'], 'shardgrad run: a script or command is missing\n'],
    [['run', ''], 'shardgrad run: a script or command is missing\n'],
    [['run', 'absent.mjs'], 'shardgrad run: there is no file absent.mjs\n'],
    [['run', '--nproc-per-node', 'train.mjs'], 'shardgrad run: --nproc-per-node must be a whole number from 1, auto, cpu or gpu, got "train.mjs"\n'],
    [['run', '--max-restarts', '-1', 'x'], 'shardgrad run: --max-restarts needs a value; one that begins with a dash is given as --max-restarts=…\n'],
    [['run', '--max-restarts=-1', 'x'], 'shardgrad run: --max-restarts must be a whole number from 0 to 1000000, got "-1"\n'],
    [['run', '--log-dir'], 'shardgrad run: --log-dir needs a value\n'],
    [['run', '--nproc-per-node', '0', 'x'], 'shardgrad run: --nproc-per-node must be a whole number from 1, auto, cpu or gpu, got "0"\n'],
    [['run', '--nnodes', '1:2', 'x'], 'shardgrad run: --nnodes: a range of nodes (1:2) needs an elastic launcher; give one number\n'],
    [['run', '--nnodes', '2', 'x'], 'shardgrad run: which of the 2 hosts this is, is not known: give --node-rank\n'],
    [['run', '--nnodes', '2', '--node-rank', '2', 'x'], 'shardgrad run: --node-rank 2 is not below --nnodes 2\n'],
    [['run', '--nnodes', '2', '--node-rank', '1', 'x'], 'shardgrad run: the address of the first host is not known: give --master-addr\n'],
    [['run', '--master-port', 'http', 'x'], 'shardgrad run: --master-port must be a whole number from 1 to 65535, got "http"\n'],
    [['run', '--nnodes', '2', '--standalone', 'x'], 'shardgrad run: --standalone is for one host; leave it out, or --nnodes\n'],
    [['run', '--nnodes', '2', '--node-rank', '0', '--master-addr', '192.0.2.1', 'x'], 'give --local-addr, the address to listen on\n'],
    [['run', '--token-file', '/dev/null', 'x'], "--token-file /dev/null: the job's token is missing"],
  ])('%j', async (args, text) => {
    const { code, out, err } = await finish(launch(args));
    expect(err).toContain(text);
    expect(lines(err).length).toBe(1);
    expect(out).toBe('');
    expect(code).toBe(2);
  });

  test('several hosts need a token', async () => {
    const { code, err } = await finish(launch(['run', '--nnodes', '2', '--node-rank', '1', '--master-addr', '127.0.0.1', 'x']));
    expect(err).toBe(
      "shardgrad run: 2 hosts: the job's token is missing; give every host the same one in SHARDGRAD_TOKEN, or to shardgrad run by --token-file\n",
    );
    expect(code).toBe(1);
  });

  test('a command that does not exist', async () => {
    const { code, err } = await run(['no-such-command']);
    expect(code).toBe(127);
    expect(last(err)).toContain('rank 0 failed first: could not be started: there is no command no-such-command.');
  });

  test('options in both spellings, up to the script', () => {
    const parsed = parseRunOptions(['--nproc_per_node=2', '--max_restarts', '1', '--log-dir', 'a_b', 'train.js', '--max_restarts', '9', '-h']);
    expect(parsed).toMatchObject({ nprocPerNode: 2, maxRestarts: 1, logDir: 'a_b', command: ['train.js', '--max_restarts', '9', '-h'] });
    expect(parseRunOptions(['-h'])).toBe('help');
    expect(parseRunOptions(['--nproc-per-node', 'auto', '--', '--odd'])).toMatchObject({ nprocPerNode: 'auto', command: ['--odd'] });
  });
});

test('the package has the command and the entry for ranks', () => {
  const node = (...args: string[]): string => spawnSync(process.execPath, args, { cwd: root, encoding: 'utf8' }).stdout;
  const { version, bin } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string; bin: { shardgrad: string } };
  expect(node(bin.shardgrad, '--version')).toBe(`${version}\n`);
  const names = node('--input-type=module', '-e', `console.log(Object.keys(await import('shardgrad/distributed')).join())`);
  expect(names.trim().split(',')).toEqual(expect.arrayContaining(['Store', 'StoreServer', 'detectLaunch', 'meet']));
});

test('lines are coloured for people only, and a slow reader holds ranks back', async () => {
  const tty = Object.assign(new PassThrough(), { isTTY: true });
  expect(new Terminal(tty, {}).prefix(1)).toBe('\x1b[33m[rank 1]\x1b[0m ');
  expect(new Terminal(tty, { NO_COLOR: '1' }).prefix(1)).toBe('[rank 1] ');
  expect(new Terminal(new PassThrough(), {}).prefix(1)).toBe('[rank 1] ');

  const slow = new PassThrough({ highWaterMark: 10 });
  const source = new PassThrough();
  const output = new RankOutput(source, new Terminal(slow, {}), 0, null);
  source.write('a line that is longer than ten bytes\npart');
  await new Promise(setImmediate);
  expect(source.isPaused()).toBe(true);
  expect(output.held).toBe(true);
  expect(String(slow.read())).toBe('[rank 0] a line that is longer than ten bytes\n');
  await new Promise(setImmediate);
  expect(source.isPaused()).toBe(false);
  source.write(Buffer.from('é').subarray(0, 1));
  source.write(Buffer.from('é').subarray(1));
  source.write('x'.repeat(70_000));
  await new Promise(setImmediate);
  output.finish();
  const rest = String(slow.read());
  expect(rest).toMatch(/^\[rank 0\] parté/);
  expect(lines(rest).length).toBe(2);
});
