// `shardgrad checkpoint` on what one process and what several ranks have saved.
import nodeFs, { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { checkpoint } from '../lib/cli/checkpoint.js';
import { saveCheckpoint } from '../lib/distributed/checkpoint/save.js';
import { initDeviceMesh } from '../lib/distributed/device_mesh.js';
import { distributeTensor } from '../lib/distributed/distribute.js';
import { Shard } from '../lib/distributed/placement.js';
import { simulate } from '../lib/distributed/simulate.js';
import * as sg from '../lib/index.js';
import { runCommand, type Said } from './helpers/command.js';

const { io, nn, optim } = sg;
let root: string;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'shardgrad-command-'));
});
afterEach(async () => {
  vi.restoreAllMocks();
  await rm(root, { recursive: true, force: true });
});

async function run(...args: string[]): Promise<Said> {
  const { code, out, err } = await runCommand(checkpoint, args);
  return { code, out: out.replaceAll(root, 'ROOT'), err: err.replaceAll(root, 'ROOT') };
}

test('of one process', async () => {
  const model = new nn.Linear(3, 2);
  const optimizer = new optim.SGD(model.parameters(), { lr: 0.1, momentum: 0.9 });
  for (const p of model.parameters()) p.grad = sg.onesLike(p);
  optimizer.step();
  await io.saveCheckpoint(root, { model, optimizer, step: 3, note: 'x' });
  const shown = await run('inspect', root, '--tensors');
  expect(shown.code).toBe(0);
  expect(shown.out).toMatch(
    /^ROOT\/step-00000003: step 3, 3 files, \d+(\.\d)? (bytes|KiB)\n {2}model {8}2 tensors, 32 bytes\n {4}bias {2}float32 \[2\]\n {4}weight {2}float32 \[2,3\]\n/,
  );
  expect(shown.out).toContain('  optimizer    2 tensors, 32 bytes\n    state.0.momentum_buffer  float32 [2,3]\n');
  expect(shown.out).toContain('  note         no tensors, plain data\n');
  expect(await run('verify', join(root, 'latest'))).toEqual({ code: 0, out: 'ROOT/step-00000003 is whole: 3 files, 4 tensors\n', err: '' });
  expect((await run('merge', root, join(root, 'out.safetensors'))).out).toBe('2 tensors of model in ROOT/out.safetensors\n');
  const merged = await io.loadSafetensors(join(root, 'out.safetensors'));
  expect(await merged['weight']!.toArray()).toEqual(await model.weight.toArray());
});

test('of several ranks', async () => {
  await simulate(4, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ dpShard: 2, tp: 2 }, { group: world });
    const whole = sg.arange(0, 35, 1, { dtype: 'float32', device }).reshape([7, 5]);
    const weight = distributeTensor(whole, mesh, { dpShard: Shard(0), tp: Shard(1) }, { src: null });
    await saveCheckpoint(root, { step: 1, model: { weight, scale: sg.ones([2], { device }) } }, { group: world });
  });
  const shown = await run('inspect', root, '--tensors');
  expect(shown.out).toContain('  model        2 tensors, 148 bytes, plain data\n    scale  float32 [2]\n    weight  float32 [7,5] in 4 pieces\n');
  const json = JSON.parse((await run('inspect', root, '--json')).out);
  expect(json.states.find((s: { name: string }) => s.name === 'model').tensors[1]).toEqual({
    name: 'weight',
    dtype: 'float32',
    shape: [7, 5],
    bytes: 140,
    pieces: 4,
  });
  expect((await run('verify', root)).out).toBe('ROOT/step-00000001 is whole: 5 files, 2 tensors\n');
  expect((await run('merge', root, join(root, 'out.safetensors'))).code).toBe(0);
  const merged = await io.loadSafetensors(join(root, 'out.safetensors'));
  expect(await merged['weight']!.toArray()).toEqual(Array.from({ length: 7 }, (_, i) => Array.from({ length: 5 }, (_, j) => 5 * i + j)));

  const folder = join(root, 'step-00000001');
  const [file] = (await readdir(folder)).filter((name) => name.startsWith('shard-00003'));
  const handle = await nodeFs.open(join(folder, file!), 'r+');
  await handle.write(Uint8Array.of(255), 0, 1, (await handle.stat()).size - 1);
  await handle.close();
  const broken = await run('verify', root);
  expect([broken.code, broken.err]).toEqual([1, expect.stringMatching(/^shardgrad checkpoint: .*shard-00003.* is corrupted: its checksum differs/)]);
  await rm(join(folder, file!));
  expect((await run('inspect', folder)).err).toMatch(/is not a complete checkpoint/);
});

test('mistakes', async () => {
  await expect(run('show', root)).rejects.toThrow('unknown command show; there are: inspect, verify, merge');
  await expect(run('inspect')).rejects.toThrow('inspect: give the path of a checkpoint');
  await expect(run('merge', root)).rejects.toThrow('merge: give the path of a checkpoint and of the file to write');
  await expect(run('inspect', root, '--all')).rejects.toThrow(/Unknown option '--all'/);
  expect((await run('inspect', root)).err).toMatch(/there is no complete checkpoint in "ROOT"/);
  await io.saveCheckpoint(root, { step: 1 });
  expect((await run('merge', root, join(root, 'x'))).err).toMatch(/has no tensors of a state called "model"; it has those of none/);
  expect(await run('--help')).toMatchObject({ code: 0, out: expect.stringContaining('shardgrad checkpoint inspect <path>') });
  expect((await run()).code).toBe(2);
});
