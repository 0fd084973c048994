// The files of examples/clusters, run: under a stand-in for srun that sets the variables of the real one, as two pods of the Kubernetes
// manifest, under torchrun; and the hosts that clusters are made of, whose names lead elsewhere than one thinks.
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { chmodSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, describe, expect, test } from 'vitest';
import { parseAllDocuments } from 'yaml';
import { detectNode, storePortsOf } from '../lib/distributed/environment.js';
import { parseRunOptions } from '../lib/distributed/launcher/options.js';
import { ownAddress } from '../lib/distributed/own_address.js';
import { namespacesMissing, TwoHosts } from './helpers/namespaces.js';
import { freePort } from './helpers/ports.js';

const root = fileURLToPath(new URL('..', import.meta.url));
const clusters = join(root, 'examples/clusters');
const text = (name: string): string => readFileSync(join(clusters, name), 'utf8');
const token = 'the token of this test';

const cleaning: (() => unknown)[] = [];
const running = new Set<ChildProcess>();
afterEach(() => {
  for (const child of running) child.kill('SIGKILL');
});
afterAll(() => {
  for (const clean of cleaning) clean();
});

/** A user's folder: the package, the training script, the files for clusters, and programs that stand in for those of a cluster. */
function project(programs: Readonly<Record<string, string>> = {}): string {
  const folder = mkdtempSync(join(tmpdir(), 'shardgrad-cluster-'));
  cleaning.push(() => rmSync(folder, { recursive: true, force: true }));
  mkdirSync(join(folder, 'node_modules/.bin'), { recursive: true });
  symlinkSync(root, join(folder, 'node_modules/shardgrad'));
  symlinkSync('../shardgrad/dist/bundle/cli.js', join(folder, 'node_modules/.bin/shardgrad'));
  writeFileSync(join(folder, 'package.json'), '{"private":true,"type":"module"}');
  copyFileSync(join(root, 'dist/examples/clusters/train.js'), join(folder, 'train.js'));
  for (const name of ['slurm.sbatch', 'torchrun.sh']) copyFileSync(join(clusters, name), join(folder, name));
  mkdirSync(join(folder, 'bin'));
  for (const [name, body] of Object.entries(programs)) {
    writeFileSync(join(folder, 'bin', name), body);
    chmodSync(join(folder, 'bin', name), 0o755);
  }
  return folder;
}

interface Running {
  readonly child: ChildProcess;
  readonly ended: Promise<{ code: number | null; out: string }>;
  readonly said: (words: string) => Promise<void>;
}

/** With nothing else of the environment of the tests than what programs need. */
function run(folder: string, command: readonly string[], env: NodeJS.ProcessEnv = {}): Running {
  const { PATH = '', HOME, TMPDIR } = process.env;
  const child = spawn(command[0]!, command.slice(1), {
    cwd: folder,
    env: { PATH: [join(folder, 'bin'), PATH].join(delimiter), HOME, TMPDIR, SHARDGRAD_NUM_THREADS: '1', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  running.add(child);
  let out = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (out += chunk));
  const ended = new Promise<{ code: number | null; out: string }>((resolve) =>
    child.once('close', (code) => {
      running.delete(child);
      resolve({ code, out });
    }),
  );
  const said = async (words: string): Promise<void> => {
    const over = ended.then(() => 'over');
    while (!out.includes(words)) {
      const next = await Promise.race([over, new Promise((resolve) => setTimeout(resolve, 20))]);
      if (next === 'over' && !out.includes(words)) throw new Error(`ended without "${words}":\n${out}`);
    }
  };
  return { child, ended, said };
}

const program = (name: string): string | null =>
  [...(process.env['PATH'] ?? '').split(delimiter), '/opt/torchenv/bin'].map((folder) => join(folder, name)).find((path) => existsSync(path)) ?? null;

test.each(['slurm.sbatch', 'torchrun.sh'])('%s is sound bash', (name) => {
  expect(spawnSync('bash', ['-n', join(clusters, name)], { encoding: 'utf8' })).toMatchObject({ status: 0, stderr: '' });
});

describe('Slurm', { timeout: 60_000 }, () => {
  // On two "nodes" of this machine. As the real one it gives every task its place, and a signal to every process of every task.
  const srun = `#!/bin/bash
per_node=$SLURM_NTASKS_PER_NODE
while [[ $1 == -* ]]; do case $1 in --ntasks-per-node=*) per_node=\${1#*=} ;; esac; shift; done
export SLURM_STEP_ID=0 SLURM_STEPID=0 SLURM_STEP_NODELIST=$SLURM_JOB_NODELIST SLURM_STEP_NUM_NODES=$SLURM_NNODES
export SLURM_NTASKS=$((SLURM_NNODES * per_node)) SLURM_STEP_TASKS_PER_NODE="$per_node(x$SLURM_NNODES)"
export SLURM_NPROCS=$SLURM_NTASKS SLURM_STEP_NUM_TASKS=$SLURM_NTASKS SLURM_TASKS_PER_NODE=$SLURM_STEP_TASKS_PER_NODE
tasks=()
for ((task = 0; task < SLURM_NTASKS; task++)); do
  SLURM_PROCID=$task SLURM_NODEID=$((task / per_node)) SLURM_LOCALID=$((task % per_node)) "$@" &
  tasks+=($!)
done
worst=0
for task in "\${tasks[@]}"; do wait "$task"; code=$?; ((code > worst)) && worst=$code; done
exit "$worst"
`;
  const programs = { srun, scontrol: '#!/bin/sh\necho "scontrol $*"\n' };
  // what sbatch sets; the first host of the list is 127.0.0.1
  const allocation = (): NodeJS.ProcessEnv => ({
    SLURM_JOB_ID: String(1000 + Math.floor(Math.random() * 19_000)),
    SLURM_JOB_NODELIST: '127.0.0.[1-2]',
    SLURM_NNODES: '2',
    SLURM_JOB_NUM_NODES: '2',
    SLURM_NTASKS_PER_NODE: '1',
    SLURM_CPUS_PER_TASK: '2',
    SLURM_PROCID: '0',
    SLURM_LOCALID: '0',
    SLURM_NODEID: '0',
    SHARDGRAD_TRANSPORT: 'tcp',
  });

  test('sbatch options: one task a node, and more time before SIGKILL than ranks may take to end', () => {
    const options = Object.fromEntries([...text('slurm.sbatch').matchAll(/^#SBATCH --([\w-]+)=?(\S*)/gm)].map((m) => [m[1]!, m[2]!]));
    expect(options).toMatchObject({ nodes: '2', 'ntasks-per-node': '1', requeue: '' });
    const seconds = Number(/@(\d+)$/.exec(options['signal']!)![1]);
    const args = /^srun \S+ run (.*)$/m.exec(text('slurm.sbatch'))![1]!.replaceAll('"', '').split(' ');
    const parsed = parseRunOptions(args.map((arg) => (arg === '$ranks' ? 'gpu' : arg)));
    expect(parsed).toMatchObject({ nprocPerNode: 'gpu', nnodes: null, maxRestarts: 3 });
    expect((parsed as { shutdownTimeoutMs: number }).shutdownTimeoutMs).toBeLessThan(1000 * seconds);
  });

  test('a launcher a node, a rank for each of its GPUs', async () => {
    const folder = project(programs);
    const { code, out } = await run(folder, ['bash', 'slurm.sbatch', '--steps', '60'], { ...allocation(), RANKS_PER_NODE: '2' }).ended;
    expect(code, out).toBe(0);
    expect(out).toContain('[rank 0] 4 ranks, cpu\n');
    expect(out).toMatch(/node 0 of 2: ranks 0 to 1/);
    expect(out).toMatch(/node 1 of 2: ranks 2 to 3/);
    expect(out).toContain('[rank 0] done at step 60\n');
    expect(out).not.toContain('scontrol');
  });

  test('a rank a task, without a launcher', async () => {
    const folder = project(programs);
    const env = { ...allocation(), SHARDGRAD_TOKEN: token };
    const { code, out } = await run(folder, ['srun', '--ntasks-per-node=2', 'node', 'train.js', '--steps', '60'], env).ended;
    expect(code, out).toBe(0);
    expect(out).toContain('4 ranks, cpu\n');
    expect(out).toContain('done at step 60\n');
  });

  test('SIGTERM to every process, as before the time limit: a checkpoint, a requeue, and the next start goes on', async () => {
    const folder = project(programs);
    const env: NodeJS.ProcessEnv = { ...allocation(), RANKS_PER_NODE: '1' };
    const job = run(folder, ['bash', 'slurm.sbatch', '--steps', '1000000'], env);
    await job.said('step 50 ');
    // the step's, without the batch script
    for (const pid of tasksOf(job.child.pid!)) process.kill(pid, 'SIGTERM');
    const { code, out } = await job.ended;
    expect(code, out).toBe(143);
    const step = /told to end at step (\d+): saved, there is more to do/.exec(out)?.[1];
    expect(step, out).toBeDefined();
    expect(out).toContain(`scontrol requeue ${env['SLURM_JOB_ID']}`);
    const again = await run(folder, ['bash', 'slurm.sbatch', '--steps', String(Number(step) + 10)], { ...env, SLURM_RESTART_COUNT: '1' }).ended;
    expect(again.code, again.out).toBe(0);
    expect(again.out).toContain(`resumed from step ${step}\n`);
  });

  /** The launchers and all that they have started. */
  function tasksOf(batch: number): number[] {
    const table = spawnSync('ps', ['-eo', 'pid=,ppid=,comm='], { encoding: 'utf8' }).stdout.trim().split('\n');
    const processes = table
      .map((line) => /^\s*(\d+)\s+(\d+)\s+(.*)$/.exec(line)!)
      .map(([, pid, parent, name]) => ({ pid: Number(pid), parent: Number(parent), name }));
    const below = (of: number): typeof processes => processes.filter(({ parent }) => parent === of).flatMap((one) => [one, ...below(one.pid)]);
    return below(batch)
      .filter(({ name }) => !['bash', 'srun'].includes(name!))
      .map(({ pid }) => pid);
  }
});

describe('Kubernetes', { timeout: 60_000 }, () => {
  type Named = { name: string };
  interface Manifest {
    kind: string;
    metadata: Named;
    spec: Record<string, any>;
  }
  const documents = parseAllDocuments(text('kubernetes.yaml'));
  const [service, job] = documents.map((one) => one.toJS() as Manifest) as [Manifest, Manifest];
  const pod = job.spec['template'].spec;
  const container = pod.containers[0] as { command: string[]; args: string[]; env: (Named & { value?: string; valueFrom?: unknown })[] };
  const env = (index: number): NodeJS.ProcessEnv => ({
    ...Object.fromEntries(container.env.map(({ name, value = token }) => [name, value])),
    JOB_COMPLETION_INDEX: String(index),
  });
  const options = parseRunOptions(container.args.slice(1));
  if (options === 'help') throw new Error('the manifest asks for help');

  test('the manifest fits together', () => {
    expect(documents.map(({ errors, warnings }) => [...errors, ...warnings])).toEqual([[], []]);
    expect([service.kind, job.kind]).toEqual(['Service', 'Job']);
    // names for the pods, before they are ready
    expect(service.spec).toMatchObject({ clusterIP: 'None', publishNotReadyAddresses: true });
    expect(job.spec['template'].metadata.labels).toMatchObject(service.spec['selector']);
    expect(pod.subdomain).toBe(service.metadata.name);
    expect(job.spec).toMatchObject({ completionMode: 'Indexed', completions: options.nnodes, parallelism: options.nnodes });
    expect(env(0)['MASTER_ADDR']).toBe(`${job.metadata.name}-0.${service.metadata.name}`);
    const port = service.spec['ports'][0].port as number;
    expect([String(port), pod.containers[0].ports[0].containerPort]).toEqual([env(0)['MASTER_PORT'], port]);
    // GPUs, time to save, memory that ranks share
    expect(pod.containers[0].resources.limits['nvidia.com/gpu']).toBe(options.nprocPerNode);
    expect(1000 * pod.terminationGracePeriodSeconds).toBeGreaterThan(options.shutdownTimeoutMs);
    expect(job.spec['backoffLimit']).toBeGreaterThanOrEqual(options.nnodes!);
    const mounted = new Map((pod.containers[0].volumeMounts as (Named & { mountPath: string })[]).map((mount) => [mount.mountPath, mount.name]));
    expect((pod.volumes as Named[]).map(({ name }) => name).sort()).toEqual([...mounted.values()].sort());
    expect(pod.volumes.find(({ name }: Named) => name === mounted.get('/dev/shm'))).toMatchObject({ emptyDir: { medium: 'Memory' } });
    expect(options.command.join(' ')).toContain(`--out=${[...mounted.keys()].find((path) => path === '/runs')}/`);
  });

  test('the launcher reads from it what it needs', () => {
    for (const index of [0, 1]) {
      const node = { launcher: 'Kubernetes', nodeRank: index, masterAddr: 'train-0.train', masterPort: 29500 };
      expect(detectNode(env(index))).toMatchObject(node);
    }
    expect(storePortsOf(29500, false)).toEqual([29500, 29501]);
  });

  test('two pods', async () => {
    const folder = project();
    const args = container.args.map((arg) =>
      arg
        .replace(/^--nproc-per-node=.*/, '--nproc-per-node=2')
        .replace(/^--steps=.*/, '--steps=60')
        .replace('=/runs', '=runs'),
    );
    const port = String(await freePort());
    const pods = [1, 0].map((index) =>
      run(folder, [...container.command, ...args], { ...env(index), MASTER_ADDR: '127.0.0.1', MASTER_PORT: port, SHARDGRAD_TRANSPORT: 'tcp' }),
    );
    const [second, first] = await Promise.all(pods.map(({ ended }) => ended));
    expect([first!.code, second!.code], first!.out + second!.out).toEqual([0, 0]);
    expect(first!.out).toContain('[rank 0] 4 ranks, cpu\n');
    expect(first!.out).toContain('[rank 0] done at step 60\n');
    expect(second!.out).toContain('node 1 of 2: ranks 2 to 3');
  });

  test('a pod that is told to go: both save and end, and the job is not taken for done', async () => {
    const folder = project();
    const args = container.args.map((arg) => arg.replace(/^--nproc-per-node=.*/, '--nproc-per-node=1').replace('=/runs', '=runs'));
    const port = String(await freePort());
    const pods = [0, 1].map((index) => run(folder, [...container.command, ...args], { ...env(index), MASTER_ADDR: '127.0.0.1', MASTER_PORT: port }));
    await pods[0]!.said('step 50 ');
    pods[1]!.child.kill('SIGTERM');
    const all = await Promise.all(pods.map(({ ended }) => ended));
    expect(all.map(({ code }) => code)).toEqual([143, 143]);
    expect(all[0]!.out).toMatch(/told to end at step \d+: saved, there is more to do/);
  });
});

const torchrun = program('torchrun');
describe.skipIf(torchrun === null)('torchrun (skipped where it is not installed)', { timeout: 120_000 }, () => {
  test('two hosts', async () => {
    const folder = project();
    symlinkSync(torchrun!, join(folder, 'bin/torchrun'));
    const port = String(await freePort());
    const common = { NNODES: '2', MASTER_ADDR: '127.0.0.1', MASTER_PORT: port, RANKS_PER_NODE: '2', SHARDGRAD_TOKEN: token };
    const hosts = [0, 1].map((rank) => run(folder, ['./torchrun.sh', '--steps', '60'], { ...common, NODE_RANK: String(rank) }));
    const [first, second] = await Promise.all(hosts.map(({ ended }) => ended));
    expect([first!.code, second!.code], first!.out + second!.out).toEqual([0, 0]);
    expect(first!.out).toContain('4 ranks, cpu\n');
    expect(first!.out).toContain('done at step 60\n');
  });
});

test('torchrun.sh on several hosts needs a token', async () => {
  const { code, out } = await run(project(), ['./torchrun.sh'], { NNODES: '2' }).ended;
  expect(code).toBe(2);
  expect(out).toBe('./torchrun.sh: set SHARDGRAD_TOKEN, to the same on all hosts\n');
});

describe('the guide', { timeout: 60_000 }, () => {
  const guide = readFileSync(join(root, 'docs/guide/clusters.md'), 'utf8');
  const blocks = (language: string): string[] => [...guide.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, 'gms'))].map((m) => m[1]!);

  test('quotes the files as they are', () => {
    for (const [name, sign] of [
      ['slurm.sbatch', '#SBATCH'],
      ['torchrun.sh', 'exec torchrun'],
    ] as const) {
      const block = blocks('sh').find((one) => one.includes(sign))!;
      for (const line of block.split('\n')) expect(text(name).split('\n')).toContain(line);
    }
    const part = (small: unknown, large: unknown): boolean => {
      if (Array.isArray(small)) return Array.isArray(large) && small.every((one) => large.some((other) => part(one, other)));
      if (typeof small !== 'object' || small === null) return small === large;
      return Object.entries(small).every(([key, value]) => part(value, (large as Record<string, unknown> | undefined)?.[key]));
    };
    const [quoted] = parseAllDocuments(blocks('yaml')[0]!);
    expect(parseAllDocuments(text('kubernetes.yaml')).some((one) => part(quoted!.toJS(), one.toJS()))).toBe(true);
  });

  test('by hand: the commands, on two hosts', async () => {
    const lines = blocks('sh').find((one) => one.includes('--node-rank 1'))!;
    const folder = project();
    writeFileSync(join(folder, 'token'), `${token}\n`);
    const port = await freePort();
    const commands = lines.trim().split('\n');
    expect(commands).toHaveLength(2);
    const hosts = commands.map((line) => {
      const here = line
        .replace('npx ', 'node_modules/.bin/')
        .replace('gpu01', `127.0.0.1 --master-port ${port}`)
        .replace('--nproc-per-node gpu', '--nproc-per-node 1');
      return run(folder, `${here} --steps 60`.split(' '), { SHARDGRAD_TRANSPORT: 'tcp' });
    });
    const [first, second] = await Promise.all(hosts.map(({ ended }) => ended));
    expect([first!.code, second!.code], first!.out + second!.out).toEqual([0, 0]);
    expect(first!.out).toContain('[rank 0] done at step 60\n');
  });
});

describe('the name of the first host', { timeout: 60_000 }, () => {
  test('one that leads to loopback: it listens everywhere, if there are others', async () => {
    const debian = async (): Promise<string[]> => ['127.0.1.1'];
    expect((await ownAddress('gpu01', true, debian)).own).toBe('0.0.0.0');
    expect((await ownAddress('gpu01', false, debian)).own).toBe('127.0.1.1');
    expect((await ownAddress('gpu01', true, async () => ['::1'])).own).toBe('::');
    // said so
    expect((await ownAddress('127.0.0.1', true)).own).toBe('127.0.0.1');
    expect((await ownAddress('localhost', true, async () => ['127.0.0.1'])).own).toBe('127.0.0.1');
    expect(await ownAddress('elsewhere', true, async () => ['192.0.2.7'])).toEqual({ own: null, found: ['192.0.2.7'] });
  });

  test('one that is published late is waited for, if there are others', async () => {
    let asked = 0;
    const late = async (): Promise<string[]> => {
      if (++asked < 3) throw Object.assign(new Error('getaddrinfo ENOTFOUND train-0.train'), { code: 'ENOTFOUND' });
      return ['127.0.0.1'];
    };
    expect((await ownAddress('train-0.train', true, late)).found).toEqual(['127.0.0.1']);
    expect(asked).toBe(3);
    asked = 0;
    await expect(ownAddress('train-0.train', false, late)).rejects.toThrow('ENOTFOUND');
  });

  const why = namespacesMissing === null ? '' : ` (skipped: ${namespacesMissing})`;
  test.skipIf(namespacesMissing !== null)(`Debian's 127.0.1.1 for a host's own name${why}`, async () => {
    const hosts = new TwoHosts(['127.0.0.1 localhost\n127.0.1.1 gpu01\n', '127.0.0.1 localhost\n10.231.77.1 gpu01\n']);
    cleaning.push(() => hosts.remove());
    const folder = project();
    const shared = { SHARDGRAD_TOKEN: token };
    const command = (node: number): string[] => [
      'node_modules/.bin/shardgrad',
      ...['run', '--nnodes', '2', '--node-rank', String(node), '--master-addr', 'gpu01', '--nproc-per-node', '2', 'train.js', '--steps', '60'],
    ];
    const jobs = [0, 1].map((node) => run(folder, hosts.on(node, command(node)), shared));
    const [first, second] = await Promise.all(jobs.map(({ ended }) => ended));
    expect([first!.code, second!.code], first!.out + second!.out).toEqual([0, 0]);
    expect(first!.out).toContain('[rank 0] done at step 60\n');
    // the same without a launcher, as under srun
    const rank = (r: number): Running =>
      run(folder, hosts.on(r, ['node', 'train.js', '--steps', '90']), {
        ...shared,
        RANK: String(r),
        WORLD_SIZE: '2',
        MASTER_ADDR: 'gpu01',
        MASTER_PORT: '29600',
      });
    const ranks = await Promise.all([rank(0), rank(1)].map(({ ended }) => ended));
    expect(
      ranks.map(({ code }) => code),
      ranks.map(({ out }) => out).join(''),
    ).toEqual([0, 0]);
    expect(ranks[0]!.out).toContain('done at step 90\n');
  });
});
