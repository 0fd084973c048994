// Every layout to every other one, on meshes of two axes, over tensors that do not divide and shards that are empty: the local part is what
// cutting the whole gives, and gradients are those of the whole.
import { describe, expect, test } from 'vitest';
import { type DeviceMesh, initDeviceMesh, type MeshSizes } from '../lib/distributed/device_mesh.js';
import { distributeTensor, fullTensor, layoutOf, redistribute, setLayout } from '../lib/distributed/distribute.js';
import { Layout, type Placements } from '../lib/distributed/layout.js';
import { Partial, type Placement, Replicate, Shard } from '../lib/distributed/placement.js';
import { simulate } from '../lib/distributed/simulate.js';
import * as sg from '../lib/index.js';

const values = (shape: readonly number[]): Float64Array => Float64Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => i + 1);
const whole = (shape: readonly number[], device: sg.Device): sg.Tensor => sg.fromTypedArray(values(shape), [...shape], { device: String(device) });

/** What this rank has to have: the whole cut by index. Over a sum's axis the contributions are made here, so that they differ. */
function local(x: sg.Tensor, layout: Layout): sg.Tensor {
  let part = x;
  layout.ranges().forEach((ranges, dim) => {
    const rows = ranges.flatMap(({ start, length }) => Array.from({ length }, (_, i) => start + i));
    part = part.indexSelect(dim, sg.tensor(rows, { dtype: 'int64', device: x.device }));
  });
  for (const [axis, p] of layout.entries) {
    if (p.kind !== 'partial') continue;
    const [rank, size] = [layout.mesh.rank(axis), layout.mesh.size(axis)];
    // whole numbers that add up to 1, so that every sum is exact
    if (p.op === 'sum') part = part.mul(rank < size - 1 ? rank + 1 : 1 - (size * (size - 1)) / 2);
    else if (p.op === 'avg') part = part.mul(rank === 0 ? size : 0);
    else part = p.op === 'max' ? part.sub(rank) : part.add(rank);
  }
  return setLayout(part.contiguous(), layout);
}

const read = (x: sg.Tensor): Promise<number[]> =>
  x
    .detach()
    .toTypedArray()
    .then((t) => Array.from(t as Float64Array));

/** All layouts of two dimensions over two axes, in both orders where both cut one dimension. */
function layoutsOf(mesh: DeviceMesh, shape: readonly number[], a: 'dpShard', b: 'tp'): Layout[] {
  const kinds: Placement[] = [Replicate(), Shard(0), Shard(1), Partial()];
  return kinds.flatMap((p) =>
    kinds.flatMap((q) => {
      const both: Placements[] = [{ [a]: p, [b]: q }];
      if (p.kind === 'shard' && q.kind === 'shard' && p.dim === q.dim) both.push({ [b]: q, [a]: p });
      return both.map((placements) => new Layout(mesh, shape, placements));
    }),
  );
}

describe.each<[MeshSizes, number[]]>([
  [{ dpShard: 2, tp: 2 }, [8, 4]],
  [{ dpShard: 2, tp: 3 }, [7, 5]],
  [{ dpShard: 3, tp: 2 }, [2, 4]],
])('on %o, a tensor of [%s]', (sizes, shape) => {
  test('every layout becomes every other', async () => {
    const count = await simulate(sizes.dpShard! * sizes.tp!, async ({ world, device }) => {
      const mesh = await initDeviceMesh(sizes, { group: world });
      const x = whole(shape, device);
      const all = layoutsOf(mesh, shape, 'dpShard', 'tp');
      let pairs = 0;
      for (const from of all) {
        const given = local(x, from);
        expect(await read(fullTensor(given)), `the whole of ${from}`).toEqual(await read(x));
        for (const to of all) {
          if (to.entries.some(([, p]) => p.kind === 'partial')) continue;
          // named in the order of the cuts that are wanted, from no cuts at all where that order differs
          const target = Object.fromEntries([
            ...to.entries,
            ...mesh.axes.filter((axis) => to.placement(axis).kind === 'replicate').map((axis) => [axis, Replicate()]),
          ]);
          const made = redistribute(given, target as Placements);
          expect(layoutOf(made)!.entries.length).toBe(to.entries.length);
          expect(await read(made), `${from} to ${to}`).toEqual(await read(local(x, layoutOf(made)!)));
          pairs++;
        }
      }
      return pairs;
    });
    expect(count[0]).toBeGreaterThan(150);
  });
});

test('blocks are cut by themselves, and few key heads are shared', async () => {
  await simulate(4, async ({ world, device, rank }) => {
    const mesh = await initDeviceMesh({ tp: 4 }, { group: world });
    // four query heads of 3, two key heads of 3, two value heads of 3
    const packed = Shard(0, {
      blocks: [
        { size: 12, unit: 3 },
        { size: 6, unit: 3, repeat: 2 },
        { size: 6, unit: 3, repeat: 2 },
      ],
    });
    const x = whole([24, 2], device);
    const part = distributeTensor(x, mesh, { tp: packed });
    expect(part.shape).toEqual([9, 2]);
    const rows = [...[0, 1, 2].map((i) => 3 * rank + i), ...[12, 13, 14].map((r) => r + 3 * (rank >> 1)), ...[18, 19, 20].map((r) => r + 3 * (rank >> 1))];
    expect(await read(part)).toEqual(rows.flatMap((r) => [2 * r + 1, 2 * r + 2]));
    expect(await read(fullTensor(part))).toEqual(await read(x));
  });
});

test('means, largest and smallest of contributions', async () => {
  await simulate(2, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ tp: 2 }, { group: world });
    const x = whole([4, 2], device);
    for (const op of ['avg', 'max', 'min'] as const) {
      const given = local(x, new Layout(mesh, [4, 2], { tp: Partial(op) }));
      const part = redistribute(given, { tp: Shard(0) });
      expect(await read(part), op).toEqual(await read(local(x, layoutOf(part)!)));
      expect(await read(fullTensor(redistribute(fullTensor(part), { tp: Partial(op) }))), op).toEqual(await read(x));
    }
  });
});

test('a shard of a shard: the first named axis cuts first', async () => {
  const parts = await simulate(4, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ dpShard: 2, tp: 2 }, { group: world });
    const x = whole([8], device);
    const [first, second] = [distributeTensor(x, mesh, { tp: Shard(0), dpShard: Shard(0) }), distributeTensor(x, mesh, { dpShard: Shard(0), tp: Shard(0) })];
    return [await read(first), await read(second)];
  });
  expect(parts.map(([first]) => first)).toEqual([
    [1, 2],
    [5, 6],
    [3, 4],
    [7, 8],
  ]); // rank = 2·dpShard + tp
  expect(parts.map(([, second]) => second)).toEqual([
    [1, 2],
    [3, 4],
    [5, 6],
    [7, 8],
  ]);
});

test('only rank src counts', async () => {
  await simulate(2, async ({ world, device, rank }) => {
    const mesh = await initDeviceMesh({ tp: 2 }, { group: world });
    const x = sg.full([2], rank + 5, { device });
    expect(await read(distributeTensor(x, mesh, { tp: Shard(0) }))).toEqual([5]);
    expect(await read(distributeTensor(x, mesh, { tp: Shard(0) }, { src: 1 }))).toEqual([6]);
    expect(await read(distributeTensor(x, mesh, { tp: Shard(0) }, { src: null }))).toEqual([rank + 5]);
    expect(await read(x)).toEqual([rank + 5, rank + 5]);
  });
});

test('gradients come back in the placements of what was given', async () => {
  await simulate(2, async ({ world, device, rank }) => {
    const mesh = await initDeviceMesh({ tp: 2 }, { group: world });
    const leaf = (placement: Placement): sg.Tensor => {
      const x = local(whole([4, 2], device), new Layout(mesh, [4, 2], { tp: placement }));
      x.requiresGrad = true;
      return x;
    };
    const gradient = async (x: sg.Tensor, to: Placement, options?: Parameters<typeof redistribute>[2]): Promise<number[]> => {
      const y = redistribute(x, { tp: to }, options);
      // each rank weighs what it has by the position in the whole, and once more by its rank where all have it
      const weights = local(whole([4, 2], device), new Layout(mesh, [4, 2], { tp: to.kind === 'partial' ? Replicate() : to })).detach();
      y.mul(options?.gradient ? weights.mul(rank + 1) : weights)
        .sum()
        .backward();
      return read(x.grad!);
    };
    const all = [1, 2, 3, 4, 5, 6, 7, 8];
    const mine = all.slice(4 * rank, 4 * rank + 4);
    expect(await gradient(leaf(Replicate()), Shard(0))).toEqual(all);
    expect(await gradient(leaf(Shard(0)), Replicate())).toEqual(mine);
    expect(await gradient(leaf(Shard(0)), Replicate(), { gradient: { tp: Partial() } })).toEqual(mine.map((v) => 3 * v));
    expect(await gradient(leaf(Partial()), Replicate())).toEqual(all);
    expect(await gradient(leaf(Partial()), Shard(1))).toEqual(all);
    expect(await gradient(leaf(Shard(0)), Shard(1))).toEqual(mine);
    expect(await gradient(leaf(Replicate()), Replicate(), { gradient: { tp: Partial() } })).toEqual(all.map((v) => 3 * v));
  });
});

test('misuse is named', async () => {
  await simulate(2, async ({ world, device }) => {
    const mesh = await initDeviceMesh({ tp: 2 }, { group: world });
    const x = sg.zeros([4], { device });
    expect(() => distributeTensor(3 as never, mesh, {})).toThrow(/distributeTensor: expected a tensor, got /);
    expect(() => distributeTensor(x, 3 as never, {})).toThrow(/expected a mesh, got /);
    expect(() => distributeTensor(x, mesh, { tp: Shard(1) })).toThrow(/Shard\(1\) over tp does not fit \[4\], which has no dimension 1/);
    expect(() => distributeTensor(x, mesh, { tp: 'shard' } as never)).toThrow(/the placement over tp must be Replicate\(\), Shard\(dim\) or Partial\(\)/);
    expect(() => distributeTensor(x, mesh, { dp: Shard(0) } as never)).toThrow(/"dp" is no axis of the mesh/);
    expect(() => distributeTensor(x, mesh, { tp: Partial() })).toThrow(/\[4\] Partial\(sum\) over tp: a whole tensor cannot be distributed as contributions/);
    expect(() => distributeTensor(x, mesh, { tp: Shard(0, { blocks: [{ size: 3 }] }) })).toThrow(/blocks of 3 do not make up the 4 of dimension 0/);
    expect(() => redistribute(x, { tp: Shard(0) })).toThrow(/the tensor \[4\] is this rank's own: distributeTensor gives it a layout/);
    expect(() => setLayout(x, new Layout(mesh, [4], { tp: Shard(0) }))).toThrow(/this rank's part of \[4\] Shard\(0\) over tp is \[2\], got \[4\]/);
    expect(() => Shard(-1)).toThrow(/Shard: dim must be/);
    expect(() => Partial('mean' as never)).toThrow(/Partial: op must be sum, avg, min or max/);
    expect(() => Shard(0, { blocks: [{ size: 5, unit: 2 }] })).toThrow(/a block of 5 is no multiple of its unit 2/);
  });
});
