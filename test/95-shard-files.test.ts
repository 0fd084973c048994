// Sharded safetensors: whatever mesh wrote them, any other mesh reads the same tensors; every element is written once; and what is missing,
// doubled or malformed is named.
import nodeFs, { mkdtemp, readdir, rename, rm, writeFile as write } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { partsOf, ShardReader, writeParts } from '../lib/distributed/checkpoint/shards.js';
import { loadTensors } from '../lib/distributed/checkpoint/tensors.js';
import { initDeviceMesh, type MeshSizes } from '../lib/distributed/device_mesh.js';
import { distributeTensor, setLayout } from '../lib/distributed/distribute.js';
import { Layout, type Placements } from '../lib/distributed/layout.js';
import { Shard } from '../lib/distributed/placement.js';
import { simulate } from '../lib/distributed/simulate.js';
import * as sg from '../lib/index.js';
import { writeFile } from '../lib/io/files.js';

const { io } = sg;
let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'shardgrad-shards-'));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

const heads = Shard(0, {
  blocks: [
    { size: 8, unit: 2 },
    { size: 4, unit: 2, repeat: 2 },
    { size: 4, unit: 2, repeat: 2 },
  ],
});
/** Tensors by name: shape, dtype, and how a mesh cuts them. */
const tensors: Record<string, { shape: number[]; dtype: sg.DType; placements: Placements }> = {
  matrix: { shape: [7, 5], dtype: 'float32', placements: { dpShard: Shard(0), tp: Shard(1) } },
  twice: { shape: [9, 3], dtype: 'bfloat16', placements: { tp: Shard(0), dpShard: Shard(0) } },
  packed: { shape: [16, 3], dtype: 'float64', placements: { tp: heads, dpShard: Shard(0) } },
  few: { shape: [2], dtype: 'int64', placements: { dpShard: Shard(0) } },
  scalar: { shape: [], dtype: 'float32', placements: {} },
  none: { shape: [0, 4], dtype: 'float32', placements: { dpShard: Shard(0) } },
};
const whole = (name: string, device: sg.Device): sg.Tensor => {
  const { shape, dtype } = tensors[name]!;
  const n = shape.reduce((a, b) => a * b, 1);
  return sg
    .fromTypedArray(
      Float64Array.from({ length: n }, (_, i) => i + 1 + name.length),
      shape,
      { device: String(device) },
    )
    .to(dtype);
};
const values = async (t: sg.Tensor): Promise<number[]> => Array.from((await t.to('float64').toTypedArray()) as Float64Array);

async function save(sizes: MeshSizes, ranks: number, into = folder): Promise<number> {
  const bytes = await simulate(ranks, async ({ world, device }) => {
    const mesh = await initDeviceMesh(sizes, { group: world });
    const parts = new Map(Object.keys(tensors).map((name) => [name, distributeTensor(whole(name, device), mesh, tensors[name]!.placements)]));
    parts.set('plain', sg.full([3], 5, { device }));
    let written = 0;
    for (const [file, own] of partsOf(parts, world)) {
      await writeFile(join(into, file), (sink) => writeParts(sink, own), nodeFs);
      const reader = await io.openSafetensors(join(into, file));
      written += reader.names.reduce((n, name) => n + reader.info(name).bytes, 0);
      await reader.close();
    }
    return written;
  });
  return bytes.reduce((a, b) => a + b, 0);
}

async function load(sizes: MeshSizes, ranks: number): Promise<void> {
  await simulate(ranks, async ({ world, device }) => {
    const mesh = await initDeviceMesh(sizes, { group: world });
    await using reader = await ShardReader.open(folder);
    expect(reader.names.toSorted()).toEqual([...Object.keys(tensors).filter((name) => name !== 'none'), 'plain'].toSorted());
    for (const [name, { shape, dtype, placements }] of Object.entries(tensors)) {
      if (name === 'none') continue;
      expect(reader.shape(name)).toEqual(shape);
      const expected = distributeTensor(whole(name, device), mesh, placements, { src: null });
      const target = setLayout(sg.zeros(expected.shape as number[], { dtype, device }), new Layout(mesh, shape, placements));
      await reader.fill(name, target);
      expect(await values(target), name).toEqual(await values(expected));
    }
    const plain = sg.zeros([3], { device });
    await reader.fill('plain', plain);
    expect(await values(plain)).toEqual([5, 5, 5]);
  });
}

const meshes: [MeshSizes, number][] = [
  [{}, 1],
  [{ dpShard: 3 }, 3],
  [{ dpShard: 2, tp: 2 }, 4],
  [{ dpReplicate: 2, tp: 2 }, 4],
  [{ tp: 4 }, 4],
];
test.each(meshes)('what the mesh %o wrote, all others read', async (sizes, ranks) => {
  const bytes = await save(sizes, ranks);
  const once = Object.values(tensors).reduce(
    (n, { shape, dtype }) => n + shape.reduce((a, b) => a * b, 1) * { float32: 4, bfloat16: 2, float64: 8, int64: 8 }[dtype as 'float32'],
    0,
  );
  expect(bytes).toBe(once + 12);
  for (const [other, count] of meshes) await load(other, count);
});

test('a folder of whole tensors is read in pieces', async () => {
  await io.saveSafetensors(join(folder, 'model.safetensors'), { matrix: whole('matrix', sg.device('cpu')) });
  await simulate(2, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ dpShard: 2 }, { group: world });
    const expected = distributeTensor(whole('matrix', device), mesh, { dpShard: Shard(0) }, { src: null });
    const target = setLayout(sg.zeros(expected.shape as number[], { device }), new Layout(mesh, [7, 5], { dpShard: Shard(0) }));
    await using reader = await ShardReader.open(folder);
    await reader.fill('matrix', target);
    expect(await values(target)).toEqual(await values(expected));
    await expect(reader.fill('other', target)).rejects.toThrow(/has no tensor "other"; it has 1/);
    await expect(reader.fill('matrix', sg.zeros([7, 4], { device }))).rejects.toThrow(/tensor "matrix" is \[7,5\] in .*, expected \[7,4\]/);
  });
});

test('a missing, doubled or malformed file is named', async () => {
  await save({ dpShard: 2, tp: 2 }, 4);
  const target = sg.zeros([7, 5]);
  const fill = async (): Promise<void> => {
    await using reader = await ShardReader.open(folder);
    await reader.fill('matrix', target);
  };
  const [first] = (await readdir(folder)).toSorted();
  await rename(join(folder, first!), join(folder, 'aside'));
  await expect(fill()).rejects.toThrow(/lacks 12 elements of tensor "matrix": files of a rank are missing/);
  await io.saveSafetensors(join(folder, 'x.safetensors'), { matrix: sg.zeros([5, 4]) }, { DCP_SHARDING_INFO: '{"matrix":{"saved_offsets":[0,0]}}' });
  await expect(fill()).rejects.toThrow(/has elements of tensor "matrix" twice/);
  for (const [text, error] of [
    ['{', /DCP_SHARDING_INFO is not JSON/],
    ['{}', /DCP_SHARDING_INFO has no valid offsets of tensor "matrix"/],
    ['{"matrix":{"saved_offsets":[0]}}', /no valid offsets/],
    ['{"matrix":{"saved_offsets":[0,-1]}}', /no valid offsets/],
    ['null', /no valid offsets/],
  ] as const) {
    await io.saveSafetensors(join(folder, 'x.safetensors'), { matrix: sg.zeros([5, 4]) }, { DCP_SHARDING_INFO: text });
    await expect(fill()).rejects.toThrow(error);
  }
  await write(join(folder, 'x.safetensors'), 'nothing');
  await expect(fill()).rejects.toThrow(/is truncated/);
  await expect(ShardReader.open(join(folder, 'none'))).rejects.toThrow(/loadCheckpoint: cannot read ".*none": no such file or directory/);
});

test('loadTensors fills what it is given, and changes nothing when something is missing', async () => {
  await save({ dpShard: 2, tp: 2 }, 4);
  await simulate(3, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ dpShard: 3 }, { group: world });
    const part = distributeTensor(sg.zeros([7, 5], { dtype: 'float64', device }), mesh, { dpShard: Shard(0) });
    const few = sg.zeros([2], { device });
    await expect(loadTensors(folder, { matrix: part, gone: few })).rejects.toThrow(/has no tensor "gone"/);
    expect((await values(part)).every((v) => v === 0)).toBe(true);
    await loadTensors(folder, { matrix: part, few });
    expect(await values(part)).toEqual(await values(distributeTensor(whole('matrix', device), mesh, { dpShard: Shard(0) }, { src: null })));
    expect(await values(few)).toEqual([4, 5]);
    await expect(loadTensors(folder, { few: 3 as never })).rejects.toThrow(/loadTensors: "few" must be a tensor/);
    await expect(loadTensors(folder, few as never)).rejects.toThrow(/expected tensors by name/);
  });
});
