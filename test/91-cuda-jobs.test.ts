// Jobs whose ranks have a GPU each: processes over NCCL and by way of the host; what becomes of the others when a rank dies, stops or
// gives up while a collective is on the GPUs, where only the watching thread can see it; and which NCCL is good for what.
import { spawn } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { cuda } from '../lib/index.js';
import { scratchFolder, writeRawSafetensors } from './helpers/files.js';
import { ncclRanks } from './helpers/nccl.js';

const cli = fileURLToPath(new URL('../dist/bundle/cli.js', import.meta.url));
const child = (name: string): string => fileURLToPath(new URL(`children/${name}`, import.meta.url));
const folder = scratchFolder();

const { gpus, libraries, problem } = cuda.report();
const nccl = libraries.find(({ name }) => name === 'NCCL')?.path ?? '';
// the stand-in's GPUs are as many as one asks for, and hang when they are told to
const emulated = gpus[0]?.name === 'CUDA emulation';
const lacks = !existsSync(cli) ? 'there is no build' : gpus.length === 0 ? problem : '';
const onlyEmulated = lacks || (emulated && nccl ? '' : 'it takes the emulated NCCL, which can be told to stand still');
const because = (why: string): string => (why ? `, skipped: ${why}` : '');

interface Ended {
  readonly code: number | null;
  readonly out: string;
  readonly seconds: number;
}

function run(command: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Ended> {
  const start = Date.now();
  const process_ = spawn(process.execPath, command, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, SHARDGRAD_EMULATED_GPUS: '4', SHARDGRAD_SHARE_GPUS: '1', ...env },
  });
  let out = '';
  for (const output of [process_.stdout, process_.stderr]) output.on('data', (chunk) => (out += chunk));
  return new Promise((resolve) => process_.once('close', (code) => resolve({ code, out, seconds: (Date.now() - start) / 1000 })));
}

const job = (ranks: number, args: readonly string[], env?: NodeJS.ProcessEnv): Promise<Ended> =>
  run([cli, 'run', '--nproc-per-node', String(ranks), child('cuda_rank.mjs'), ...args], env);

describe.skipIf(lacks)(`jobs${because(lacks)}`, () => {
  test.skipIf(!nccl).each([...new Set([1, emulated ? 3 : Math.min(3, ncclRanks)])])('%i processes over NCCL, which is what they get', async (ranks) => {
    const { code, out } = await job(ranks, ['sum']);
    expect(out.match(new RegExp(`nccl sum ${4 * ((ranks * (ranks + 1)) / 2)}$`, 'gm'))).toHaveLength(ranks);
    expect(code).toBe(0);
  });

  test.each(['shm', 'tcp'])('three processes by way of the host, over %s', async (transport) => {
    const { code, out } = await job(3, ['sum', 'staged'], { SHARDGRAD_TRANSPORT: transport });
    expect(out.match(/staged sum 24$/gm)).toHaveLength(3);
    expect(code).toBe(0);
  });

  test.skipIf(!emulated || !nccl)('nothing is left in shared memory', async () => {
    const left = (): string[] => readdirSync('/dev/shm').filter((name) => /^shardgrad-(nccl-\d|[0-9a-f]{12}-)/.test(name));
    await expect.poll(left, { timeout: 5000 }).toEqual([]);
  });
});

describe.skipIf(onlyEmulated)(`a collective that stands still on the GPUs${because(onlyEmulated)}`, () => {
  const hanging = (what: string): Promise<Ended> => job(3, [what], { SHARDGRAD_EMULATED_NCCL_STALL: '2' });
  const call = String.raw`allReduce\(float32, 4 elements, sum\) #\d+ of process group world of the test`;

  test('rank 1 is killed', async () => {
    const { code, out, seconds } = await hanging('kill');
    expect(code).not.toBe(0);
    expect(out).toContain('rank 1 failed first: killed by SIGKILL');
    expect(seconds).toBeLessThan(10);
  });

  test('rank 1 ends as if all were well', async () => {
    const { code, out, seconds } = await hanging('exit');
    expect(code).toBe(1);
    expect(out).toMatch(new RegExp(`(the process of rank 1 has ended; rank [02] waits for it in|rank 1 ended while it waited in) ${call}`));
    expect(seconds).toBeLessThan(10);
  });

  test('rank 1 is stopped', async () => {
    const { code, out, seconds } = await hanging('stop');
    expect(code).toBe(1);
    expect(out).toMatch(new RegExp(`rank 1 has stopped \\(no heartbeat for 3 s\\); rank [02] waits for it in ${call}`));
    expect(seconds).toBeLessThan(20);
  });

  test('rank 1 gives up', async () => {
    const { code, out, seconds } = await hanging('abort');
    expect(code).toBe(1);
    expect(out).toMatch(/DistributedError: (process group world has failed on rank 1: )?rank 1 has had enough/);
    expect(seconds).toBeLessThan(10);
  });

  test('the time is over', async () => {
    const { code, out, seconds } = await hanging('late');
    expect(code).toBe(1);
    expect(out).toMatch(new RegExp(`${call}: rank \\d has waited 1000 ms on the GPU for the other ranks`));
    expect(seconds).toBeLessThan(10);
  });
});

describe.skipIf(onlyEmulated)(`which NCCL${because(onlyEmulated)}`, () => {
  const library = (env: NodeJS.ProcessEnv): Promise<Ended> => run([child('nccl_library.mjs')], env);
  const gathered = 'gathered [[0,0],[1,1]]';

  test('2.30, which can all', async () => {
    const { out } = await library({});
    expect(out).toContain('version 2.30.7');
    expect(out).toContain(gathered);
    expect(out).toContain('float8 reduced');
  });

  test('2.30 on one GPU: two ranks where the environment allows it', async () => {
    const shared = { SHARDGRAD_EMULATED_GPUS: '1', NCCL_MULTI_RANK_GPU_ENABLE: '0' };
    expect((await library({ ...shared, NCCL_MULTI_RANK_GPU_ENABLE: '1' })).out).toContain(gathered);
    expect((await library(shared)).out).toMatch(/ranks 0 and 1 use the same GPU \(.*\), which NCCL 2\.30\.7 refuses/);
  });

  test('2.18, which has no gather, no scatter and no 8-bit floats', async () => {
    const { out } = await library({ SHARDGRAD_EMULATED_NCCL_VERSION: '21805' });
    expect(out).toContain('version 2.18.5');
    expect(out).toContain(gathered);
    expect(out).toContain('DTypeError: allReduce: NCCL reduces float8_e4m3 from version 2.24 and compute capability 9.0 on; here are 2.18.5 and 9.0');
  });

  test('2.17, which is too old', async () => {
    const { out } = await library({ SHARDGRAD_EMULATED_NCCL_VERSION: '21701' });
    expect(out).toMatch(/DistributedError: dist\.init: .*libnccl\.so\.2 is NCCL 2\.17\.1; 2\.18 or newer is needed; backend: 'staged' does without/);
    expect(out).toMatch(/DistributedError: simulate: .* is NCCL 2\.17\.1/);
  });

  test('none, and a file that is none', async () => {
    const wrong = writeRawSafetensors(join(folder, 'libnccl.so.2'), {});
    for (const file of ['/no/such/libnccl.so.2', wrong]) {
      const { out } = await library({ SHARDGRAD_NCCL: file });
      expect(out).toContain('DistributedError: dist.init: NCCL was not found (tried ');
      expect(out).toContain(file);
      expect(out).toContain("backend: 'staged' does without, by way of the host's memory");
      // alone there is nobody to talk to
      expect(out.match(/dist\.init/g)).toHaveLength(1);
    }
  });
});
