// The mesh of ranks: coordinates, groups for every set of axes, sub-meshes, the picture, and the errors.
import { expect, test } from 'vitest';
import { initDeviceMesh, type MeshSizes } from '../lib/distributed/device_mesh.js';
import { simulate } from '../lib/distributed/simulate.js';
import * as sg from '../lib/index.js';

test('every set of axes has the group of the ranks that differ in it alone', async () => {
  const axes = ['pp', 'dpShard', 'tp'] as const;
  await simulate(12, async ({ rank, world, device }) => {
    const mesh = await initDeviceMesh({ pp: 2, dpShard: 3, tp: 2 }, { group: world });
    const at = { pp: Math.floor(rank / 6), dpShard: Math.floor(rank / 2) % 3, tp: rank % 2 };
    for (const axis of axes) expect(mesh.rank(axis)).toBe(at[axis]);
    expect([mesh.size(), mesh.size('dpShard', 'tp'), mesh.size('cp')]).toEqual([12, 6, 1]);
    expect([mesh.rank('dpShard', 'tp'), mesh.rank('cp')]).toEqual([at.dpShard * 2 + at.tp, 0]);
    for (let bits = 0; bits < 8; bits++) {
      const chosen = axes.filter((_, i) => bits & (1 << i));
      const group = chosen.length ? mesh.group(...chosen) : mesh.group('ep');
      const others = Array.from({ length: 12 }, (_, r) => r).filter((r) =>
        axes.every((axis) => chosen.includes(axis) || at[axis] === { pp: Math.floor(r / 6), dpShard: Math.floor(r / 2) % 3, tp: r % 2 }[axis]),
      );
      expect(group.worldRanks).toEqual(others);
      expect(group.rank).toBe(chosen.length ? mesh.rank(...chosen) : 0);
      const sum = await group.allReduce(sg.tensor([rank], { device }));
      expect(await sum.toArray()).toEqual([others.reduce((a, b) => a + b, 0)]);
    }
    expect(mesh.group('tp', 'pp')).toBe(mesh.group('pp', 'tp'));
    expect(mesh.group()).toBe(world);
    const inner = mesh.submesh('dpShard', 'tp');
    expect([inner.size(), inner.group().worldRanks]).toEqual([6, mesh.group('dpShard', 'tp').worldRanks]);
    expect(() => inner.group('pp')).toThrow(/group: a string "pp" is no axis of this mesh; it has dpShard, tp/);
  });
});

test('one size may be all that is left', async () => {
  await simulate(6, async ({ world }) => {
    expect((await initDeviceMesh({ dpShard: -1, tp: 2 }, { group: world })).size('dpShard')).toBe(3);
    expect((await initDeviceMesh({ dpReplicate: -1 }, { group: world })).group('dpReplicate')).toBe(world);
  });
});

test('a mesh of one rank', async () => {
  await simulate(1, async ({ world, device }) => {
    const mesh = await initDeviceMesh({}, { group: world });
    expect([mesh.size(), mesh.rank(), String(mesh)]).toEqual([1, 0, 'mesh of one rank\n    [0]']);
    expect(await (await mesh.group('tp').allReduce(sg.tensor([3], { device }))).toArray()).toEqual([3]);
  });
});

test('draws who is where', async () => {
  const pictures = await simulate(8, async ({ world }) => {
    const mesh = await initDeviceMesh({ pp: 2, dpShard: 2, tp: 2 }, { group: world });
    return [String(mesh), String(mesh.submesh('dpShard', 'tp')), String(mesh.submesh('tp'))];
  });
  expect(pictures[5]).toEqual([
    [
      'mesh of pp 2 × dpShard 2 × tp 2',
      '  pp 0',
      '             tp 0  tp 1',
      '  dpShard 0    0     1',
      '  dpShard 1    2     3',
      '  pp 1',
      '             tp 0  tp 1',
      '  dpShard 0    4    [5]',
      '  dpShard 1    6     7',
    ].join('\n'),
    ['mesh of dpShard 2 × tp 2', '             tp 0  tp 1', '  dpShard 0    4    [5]', '  dpShard 1    6     7'].join('\n'),
    ['mesh of tp 2', '    tp 0  tp 1', '      4    [5]'].join('\n'),
  ]);
});

test.each<[MeshSizes, RegExp]>([
  [{ tp: 3 }, /initDeviceMesh: tp 3 does not make 4 ranks/],
  [{ dpShard: 2, tp: 4 }, /dpShard 2 × tp 4 does not make 4 ranks/],
  [{}, /initDeviceMesh: 1 does not make 4 ranks/],
  [{ tp: -1, pp: 8 }, /pp 8 × tp -1 does not make 4 ranks/],
  [{ tp: -1, pp: -1 }, /only one axis can take all that is left, got -1 for pp and tp/],
  [{ tp: 0 }, /initDeviceMesh: tp must be/],
  [{ dp: 4 } as MeshSizes, /there is no axis "dp"; axes are pp, dpReplicate, dpShard, cp, ep, tp/],
  [null as unknown as MeshSizes, /expected sizes by axis/],
])('%o on four ranks is refused', async (sizes, text) => {
  await simulate(4, async ({ world }) => {
    await expect(initDeviceMesh(sizes, { group: world })).rejects.toThrow(text);
    await expect(initDeviceMesh({ tp: 4 }, {} as never)).rejects.toThrow(/expected \{ group \}/);
  });
});

test('a rank that fails ends the waits of the others in every group', async () => {
  const waited: string[] = [];
  const job = simulate(4, async ({ rank, world, device }) => {
    const mesh = await initDeviceMesh({ dpShard: 2, tp: 2 }, { group: world });
    if (rank === 3) throw new Error('out of luck');
    await mesh
      .group('dpShard')
      .allReduce(sg.ones([1], { device }))
      .then(
        () => {},
        (error) => waited.push((error as Error).message),
      );
  });
  await expect(job).rejects.toThrow('out of luck');
  expect(waited).toEqual([expect.stringMatching(/rank 3 has failed: out of luck/)]);
}, 10_000);
