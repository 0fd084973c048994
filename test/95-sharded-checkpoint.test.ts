// Checkpoints of several ranks: any topology loads any other, optimizer included, and goes on as one process would have; saving goes on while
// training does; and whatever fails on a rank fails on all, and leaves the earlier checkpoints whole.
import nodeFs, { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { loadCheckpoint } from '../lib/distributed/checkpoint/load.js';
import { saveCheckpoint, saveCheckpointAsync } from '../lib/distributed/checkpoint/save.js';
import { type DeviceMesh, initDeviceMesh, type MeshSizes } from '../lib/distributed/device_mesh.js';
import { distributeTensor, fullTensor, layoutOf, setLayout } from '../lib/distributed/distribute.js';
import type { Placements } from '../lib/distributed/layout.js';
import { Shard } from '../lib/distributed/placement.js';
import { simulate } from '../lib/distributed/simulate.js';
import * as sg from '../lib/index.js';
import type { FileSystem } from '../lib/io/files.js';

const { nn, optim, io } = sg;
let root: string;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'shardgrad-sharded-'));
});
afterEach(() => rm(root, { recursive: true, force: true }));

/** Parameters cut over a mesh; the gradient of an element is a function of the element and the step. */
class Model extends nn.Module {
  weight: sg.nn.Parameter;
  bias: sg.nn.Parameter;
  constructor(mesh: DeviceMesh, seed = 1) {
    super();
    const parameter = (shape: number[], key: number, placements: Placements): sg.nn.Parameter => {
      const whole = sg.randn(shape, { dtype: 'float64', generator: new sg.Generator(seed + key), device: mesh.device });
      const part = distributeTensor(whole, mesh, placements, { src: null });
      return setLayout(new nn.Parameter(part), layoutOf(part)!);
    };
    this.weight = parameter([7, 6], 1, { dpShard: Shard(0), tp: Shard(1) });
    this.bias = parameter([5], 2, { dpShard: Shard(0) });
  }
  override forward(): void {}
}

class Run {
  readonly model: Model;
  readonly optimizer: sg.optim.AdamW;
  readonly schedule: sg.optim.CosineAnnealingLR;
  step = 0;
  constructor(mesh: DeviceMesh, seed = 1) {
    this.model = new Model(mesh, seed);
    this.optimizer = new optim.AdamW(this.model.parameters(), { lr: 0.1 });
    this.schedule = new optim.CosineAnnealingLR(this.optimizer, { tMax: 10 });
  }
  train(steps: number): void {
    for (const end = this.step + steps; this.step < end; this.step++) {
      for (const p of this.model.parameters()) p.grad = sg.noGrad(() => p.detach().mul(0.1).add(Math.sin(this.step)));
      this.optimizer.step();
      this.schedule.step();
    }
  }
  get state(): { model: Model; optimizer: sg.optim.AdamW; schedule: sg.optim.CosineAnnealingLR; step: number; note: string; table: sg.Tensor } {
    const { model, optimizer, schedule, step } = this;
    return { model, optimizer, schedule, step, note: 'kept', table: sg.arange(0, 4, 1, { device: model.weight.device }) };
  }
  async values(): Promise<number[][]> {
    return Promise.all([this.model.weight, this.model.bias].map(async (p) => Array.from((await fullTensor(p).toTypedArray()) as Float64Array)));
  }
}

const on = <T>(sizes: MeshSizes, ranks: number, fn: (mesh: DeviceMesh, rank: number) => Promise<T>): Promise<T[]> =>
  simulate(ranks, async ({ world, rank }) => fn(await initDeviceMesh(sizes, { group: world }), rank));

const restored = ({ model, optimizer, schedule }: Run): Record<string, sg.io.Stateful> => ({ model, optimizer, schedule });

const meshes: [MeshSizes, number][] = [
  [{}, 1],
  [{ dpShard: 3 }, 3],
  [{ dpShard: 2, tp: 2 }, 4],
  [{ dpReplicate: 2, tp: 2 }, 4],
];
describe.each(meshes)('a run on %o', (sizes, ranks) => {
  test.each(meshes)('goes on on %o', async (others, count) => {
    const [expected] = await on({}, 1, async (mesh) => {
      const run = new Run(mesh);
      run.train(6);
      return run.values();
    });
    await on(sizes, ranks, async (mesh) => {
      const run = new Run(mesh);
      run.train(3);
      const path = await saveCheckpoint(root, run.state, { group: mesh.world });
      expect(basename(path)).toBe('step-00000003');
    });
    const results = await on(others, count, async (mesh) => {
      const run = new Run(mesh, 7);
      const { step, note, table } = await loadCheckpoint(join(root, 'latest'), restored(run), { group: mesh.world });
      expect([step, note, await (table as sg.Tensor).toArray()]).toEqual([3, 'kept', [0, 1, 2, 3]]);
      run.step = step;
      run.train(3);
      return run.values();
    });
    for (const result of results) expect(result).toEqual(expected);
  });
});

test('saving goes on while training does', async () => {
  await on({ dpShard: 2 }, 2, async (mesh) => {
    const run = new Run(mesh);
    run.train(2);
    const before = await run.values();
    const { done } = await saveCheckpointAsync(root, run.state, { group: mesh.world });
    run.train(2);
    const second = await saveCheckpointAsync(root, run.state, { group: mesh.world, keep: 1 });
    expect(await done).toBe(join(root, 'step-00000002'));
    const after = await run.values();
    await second.done;
    await mesh.world.barrier();
    expect((await readdir(root)).filter((name) => name.startsWith('step'))).toEqual(['step-00000004']);
    const other = new Run(mesh, 5);
    await loadCheckpoint(root, restored(other), { group: mesh.world });
    expect(await other.values()).toEqual(after);
    expect(after).not.toEqual(before);
  });
});

/** A file system on which the n-th write of a rank's files fails. */
function failing(code: string): FileSystem {
  return {
    ...nodeFs,
    open: (async (path: string, flags: string) => {
      if (flags === 'wx' && path.includes('shard-')) throw Object.assign(new Error(`${code}: made to fail`), { code });
      return nodeFs.open(path, flags);
    }) as unknown as FileSystem['open'],
  };
}

test.each([0, 1, 2])('a disk that is full for rank %d fails the save on all, and the earlier one stays', async (broken) => {
  const texts = await on({ dpShard: 3 }, 3, async (mesh, rank) => {
    const run = new Run(mesh);
    run.train(1);
    await saveCheckpoint(root, run.state, { group: mesh.world });
    const before = await run.values();
    run.train(1);
    const fs = rank === broken ? failing('ENOSPC') : nodeFs;
    const text = await saveCheckpoint(root, run.state, { group: mesh.world, fs, timeoutMs: 5000 }).then(
      () => 'saved',
      (error: Error) => error.message,
    );
    await mesh.world.barrier();
    const other = new Run(mesh, 3);
    expect((await loadCheckpoint(root, restored(other), { group: mesh.world })).step).toBe(1);
    expect(await other.values()).toEqual(before);
    // and the next one works
    expect(basename(await saveCheckpoint(root, run.state, { group: mesh.world }))).toBe('step-00000002');
    return text;
  });
  for (const text of texts) expect(text).toMatch(/no space left on the device/);
});

test('mistakes are named on every rank', async () => {
  await on({ dpShard: 2 }, 2, async (mesh, rank) => {
    const run = new Run(mesh);
    const { world: group } = mesh;
    await expect(saveCheckpoint(root, { ...run.state, step: rank }, { group })).rejects.toThrow(
      /ranks save different states: rank 0 step 0 with .*, rank 1 step 1 with/,
    );
    await expect(saveCheckpoint(root, run.state, {} as never)).rejects.toThrow(/saveCheckpoint: expected \{ group \}/);
    await expect(saveCheckpoint('/proc/none', run.state, { group })).rejects.toThrow(/cannot write "\/proc\/none/);
    const odd = rank === 1 ? { ...run.state, note: new Map() as never } : run.state;
    await expect(saveCheckpoint(root, odd, { group, timeoutMs: 5000 })).rejects.toThrow(/note is .*, which a checkpoint cannot hold/);
    await expect(loadCheckpoint(root, restored(run), { group })).rejects.toThrow(/there is no complete checkpoint in/);
    await saveCheckpoint(root, run.state, { group });
    await expect(loadCheckpoint(root, { other: run.model }, { group })).rejects.toThrow(/has no state called "other"; it has model, optimizer, schedule/);
    await group.barrier();
    if (rank === 0) {
      const folder = join(root, 'step-00000000');
      const [file] = (await readdir(folder)).filter((name) => name.startsWith('shard-00002'));
      const handle = await nodeFs.open(join(folder, file!), 'r+');
      await handle.write(Uint8Array.of(1, 2, 3), 0, 3, (await handle.stat()).size - 8);
      await handle.close();
    }
    await group.barrier();
    await expect(loadCheckpoint(root, restored(run), { group })).rejects.toThrow(/shard-00002.* is corrupted: its checksum differs/);
    await group.barrier();
    await io.saveCheckpoint(join(root, 'plain'), { step: 1 });
    await expect(loadCheckpoint(join(root, 'plain'), {}, { group })).rejects.toThrow(/was saved by io.saveCheckpoint; load it with io.loadCheckpoint/);
  });
});
