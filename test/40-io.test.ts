// safetensors: what we write others read and the other way round, and a failed write leaves what was there.
import { existsSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { CheckpointError, type DType, DTypeError, empty, fromTypedArray, io, memory, type Tensor, ValueError } from '../lib/index.js';
import { encodeHeader } from '../lib/io/safetensors_header.js';
import { everyDType } from './helpers/every_dtype.js';
import { faultyFs } from './helpers/faulty_fs.js';
import { expectSame, failure, scratchFolder, writeRawSafetensors } from './helpers/files.js';
import { goldenPath } from './helpers/golden.js';

const dir = scratchFolder();
const path = (name: string): string => join(dir, name);

describe('safetensors', () => {
  test('every dtype comes back bit for bit', async () => {
    const tensors = everyDType();
    await io.saveSafetensors(path('all.safetensors'), tensors, { note: 'ünï' });
    await using reader = await io.openSafetensors(path('all.safetensors'));
    expect(reader.metadata).toEqual({ format: 'pt', note: 'ünï' });
    expect(new Set(reader.names)).toEqual(new Set(Object.keys(tensors)));
    for (const [name, t] of Object.entries(tensors)) await expectSame(await reader.load(name), t);
  });

  test('scalars, empty tensors, no tensors, and names of every kind', async () => {
    const one = fromTypedArray(Float32Array.of(7), []);
    const names = ['', '0', '10', '2', '__proto__', 'constructor', 'a"b\\c\n', '日本', '😀', 'x'.repeat(5000)];
    const tensors = new Map(names.map((name) => [name, one]));
    tensors.set('empty', empty([0, 3]));
    await io.saveSafetensors(path('names.safetensors'), tensors);
    const loaded = await io.loadSafetensors(path('names.safetensors'));
    expect(Object.keys(loaded).sort()).toEqual([...tensors.keys()].sort());
    for (const name of names) await expectSame(Object.getOwnPropertyDescriptor(loaded, name)!.value, one);
    expect(loaded.empty!.shape).toEqual([0, 3]);
    await io.saveSafetensors(path('none.safetensors'), {});
    expect(await io.loadSafetensors(path('none.safetensors'))).toEqual({});
  });

  test('views are written in row-major order, larger than one chunk too', async () => {
    const n = 5_000_000;
    const base = fromTypedArray(
      Float32Array.from({ length: n }, (_, i) => i),
      [n / 2, 2],
    );
    await io.saveSafetensors(path('views.safetensors'), { turned: base.transpose(0, 1), part: base.narrow(0, 1000, 4_000) });
    const { turned, part } = await io.loadSafetensors(path('views.safetensors'));
    await expectSame(turned!, base.transpose(0, 1).contiguous());
    await expectSame(part!, base.narrow(0, 1000, 4_000).contiguous());
  });

  test('the layout others expect: padded header, larger elements first, then by name', async () => {
    const f = fromTypedArray(Float32Array.of(1), [1]);
    const l = fromTypedArray(BigInt64Array.of(1n), [1]);
    const b = fromTypedArray(Uint8Array.of(1), [1]);
    await io.saveSafetensors(path('order.safetensors'), { b, f2: f, f1: f, l });
    const bytes = readFileSync(path('order.safetensors'));
    const length = Number(bytes.readBigUInt64LE(0));
    expect(length % 8).toBe(0);
    const header = bytes.toString('utf8', 8, 8 + length);
    expect(header.trimEnd()).toBe(
      '{"__metadata__":{"format":"pt"},"l":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},"f1":{"dtype":"F32","shape":[1],"data_offsets":[8,12]},' +
        '"f2":{"dtype":"F32","shape":[1],"data_offsets":[12,16]},"b":{"dtype":"U8","shape":[1],"data_offsets":[16,17]}}',
    );
    expect(bytes.length).toBe(8 + length + 17);
  });

  test('files of the reference implementation', async () => {
    await using reader = await io.openSafetensors(goldenPath('gpt2'));
    expect(reader.info('transformer.wte.weight').dtype).toBe('float32');
    expect(reader.metadata.format).toBe('pt');
    const before = memory().live;
    const tensors = await io.loadSafetensors(goldenPath('gpt2'));
    expect(memory().live).toBeGreaterThan(before);
    // and back, to the same data
    await io.saveSafetensors(path('gpt2.safetensors'), tensors);
    const again = await io.loadSafetensors(path('gpt2.safetensors'));
    for (const [name, t] of Object.entries(tensors)) await expectSame(again[name]!, t);
  });

  test('dtype casts floating-point tensors only', async () => {
    const half = await io.loadSafetensors(path('all.safetensors'), { dtype: 'bfloat16' });
    expect([half.float64!.dtype, half.float32!.dtype, half.int64!.dtype, half.bool!.dtype]).toEqual(['bfloat16', 'bfloat16', 'int64', 'bool']);
    await using reader = await io.openSafetensors(path('all.safetensors'));
    expect((await reader.load('int32', { dtype: 'float32' })).dtype).toBe('float32');
    expect(await failure(reader.load('int32', { dtype: 'floaty' as DType }))).toBeInstanceOf(DTypeError);
  });

  test('bools of a file are 0 or 1, whatever its bytes', async () => {
    const file = writeRawSafetensors(path('bools.safetensors'), { x: { dtype: 'BOOL', shape: [4], data_offsets: [0, 4] } }, 4);
    const bytes = readFileSync(file);
    bytes.set([0, 1, 2, 255], bytes.length - 4);
    writeFileSync(file, bytes);
    const { x } = await io.loadSafetensors(file);
    expect(await x!.toTypedArray()).toEqual(Uint8Array.of(0, 1, 1, 1));
  });

  test('unsigned 64-bit integers load where they fit', async () => {
    const file = writeRawSafetensors(path('u64.safetensors'), { x: { dtype: 'U64', shape: [1], data_offsets: [0, 8] } }, 8);
    expect((await io.loadSafetensors(file)).x!.dtype).toBe('int64');
    const bytes = readFileSync(file);
    bytes[bytes.length - 1] = 128;
    writeFileSync(file, bytes);
    expect((await failure(io.loadSafetensors(file))).message).toBe(`load: "${file}": tensor "x": a U64 value from 2^63 on does not fit into int64`);
  });

  test('a file of more than 4 GiB is read by ranges', async () => {
    // sparse: its tensors are zeros but for the last one
    const big = 5 * 2 ** 30;
    const header = Buffer.from(
      encodeHeader(
        [
          ['big', { dtype: 'uint8', shape: [big], bytes: big }],
          ['last', { dtype: 'uint8', shape: [3], bytes: 3 }],
        ],
        {},
      ),
    );
    writeFileSync(path('big.safetensors'), header);
    truncateSync(path('big.safetensors'), header.length + big);
    writeFileSync(path('big.safetensors'), Buffer.of(1, 2, 3), { flag: 'a' });
    await using reader = await io.openSafetensors(path('big.safetensors'));
    expect(reader.info('big').bytes).toBe(big);
    expect(await (await reader.load('last')).toTypedArray()).toEqual(Uint8Array.of(1, 2, 3));
    rmSync(path('big.safetensors'));
  });

  test('wrong arguments', async () => {
    expect((await failure(io.saveSafetensors(path('w'), { x: 3 as never }))).message).toBe('saveSafetensors: "x" must be a tensor, got 3');
    expect(await failure(io.saveSafetensors(path('w'), { __metadata__: empty([1]) }))).toBeInstanceOf(ValueError);
    expect(await failure(io.saveSafetensors(path('w'), { x: empty([1], { device: 'meta' }) }))).toBeInstanceOf(DTypeError);
    expect(await failure(io.saveSafetensors(path('w'), {}, { a: 1 as never }))).toBeInstanceOf(ValueError);
    const gone = empty([1]);
    gone.dispose();
    expect((await failure(io.saveSafetensors(path('w'), { gone }))).name).toBe('DisposedError');
    expect(existsSync(path('w'))).toBe(false);
  });
});

describe('writing is atomic', () => {
  test('whichever call fails, the old file is whole or the new one is', async () => {
    const target = path('atomic.safetensors');
    const [old, fresh] = [fromTypedArray(Float32Array.of(1, 2)), fromTypedArray(Float32Array.of(3, 4))];
    await io.saveSafetensors(target, { x: old });
    for (const then of ['recover', 'crash'] as const) {
      for (let n = 0; ; n++) {
        await io.saveSafetensors(target, { x: old });
        const faulty = faultyFs(n, { then });
        const error = await io.saveSafetensors(target, { x: fresh }, {}, { fs: faulty.fs }).then(
          () => null,
          (e: Error) => e,
        );
        const { x } = await io.loadSafetensors(target);
        const values = await x!.toArray();
        if (!faulty.failed()) {
          expect([error, values]).toEqual([null, [3, 4]]);
          break;
        }
        expect(error).toBeInstanceOf(CheckpointError);
        expect(error!.message).toContain(`saveSafetensors: cannot write "${target}": no space left on the device (ENOSPC)`);
        expect([
          [1, 2],
          [3, 4],
        ]).toContainEqual(values);
        const left = readdirSync(dir).filter((name) => name.includes('.tmp-'));
        if (then === 'recover') expect(left).toEqual([]);
        for (const name of left) rmSync(path(name));
      }
    }
  });

  test('a folder that does not exist, a target that is a folder', async () => {
    expect((await failure(io.saveSafetensors(path('no/such/file'), {}))).message).toMatch(/no such file or directory/);
    expect(await failure(io.saveSafetensors(dir, {}))).toBeInstanceOf(CheckpointError);
  });
});

describe('models in several files', () => {
  const model = (): Record<string, Tensor> =>
    Object.fromEntries(
      Array.from({ length: 7 }, (_, i) => [
        `layer.${i}`,
        fromTypedArray(
          Float32Array.from({ length: 10 }, (_, j) => i * 10 + j),
          [10],
        ),
      ]),
    );

  test('written and read through the index', async () => {
    const folder = path('sharded');
    const tensors = model();
    const index = await io.saveShardedSafetensors(folder, tensors, { maxShardBytes: 85 });
    expect(index).toBe(join(folder, 'model.safetensors.index.json'));
    const json = JSON.parse(readFileSync(index, 'utf8'));
    expect(json.metadata).toEqual({ total_size: 280, total_parameters: 70 });
    expect(new Set(Object.values(json.weight_map)).size).toBe(4);
    for (const from of [folder, index]) {
      await using reader = await io.openSafetensors(from);
      expect(reader.names.length).toBe(7);
      for (const [name, t] of Object.entries(tensors)) await expectSame(await reader.load(name), t);
      expect((await failure(reader.load('absent'))).message).toMatch(/has no tensor "absent"/);
    }
    // a later model that fits one file wins over the index
    expect(await io.saveShardedSafetensors(folder, { only: empty([1]) })).toBe(join(folder, 'model.safetensors'));
    expect(Object.keys(await io.loadSafetensors(folder))).toEqual(['only']);
  });

  test.each<[string, unknown, RegExp]>([
    ['no map', {}, /weight_map must map tensors to files/],
    ['a path', { weight_map: { a: '../secret.safetensors' } }, /tensor "a": expected the name of a .safetensors file in the same folder/],
    ['another kind of file', { weight_map: { a: 'passwd' } }, /expected the name of a .safetensors file/],
    ['a number', { weight_map: { a: 1 } }, /expected the name of a .safetensors file/],
    ['an absent file', { weight_map: { a: 'gone.safetensors' } }, /cannot open ".*gone.safetensors": no such file/],
    ['an absent tensor', { weight_map: { a: 'here.safetensors' } }, /says tensor "a" is in "here.safetensors", which does not have it/],
    ['not JSON', '{', /cannot read the index/],
  ])('hostile index: %s', async (_, index, text) => {
    writeRawSafetensors(path('here.safetensors'), {});
    writeFileSync(path('x.index.json'), typeof index === 'string' ? index : JSON.stringify(index));
    const error = await failure(io.openSafetensors(path('x.index.json')));
    expect(error).toBeInstanceOf(CheckpointError);
    expect(error.message).toMatch(text);
  });
});
