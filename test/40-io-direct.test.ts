// Tensors read and written by the addon itself: the same bytes as through a buffer, whatever happens to files and tensors meanwhile.
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import nodeFs, { open } from 'node:fs/promises';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { arange, DisposedError, device, fromTypedArray, io, memory, randn, type Tensor, zeros } from '../lib/index.js';
import { RangeReader } from '../lib/io/range_reader.js';
import { openSafetensorsFile } from '../lib/io/safetensors_reader.js';
import { growBlock, HEADER, native } from '../lib/native.js';
import { expectSame, failure, scratchFolder } from './helpers/files.js';

const dir = scratchFolder();
const path = (name: string): string => join(dir, name);
/** Not node's own: goes through a buffer. */
const buffered = { ...nodeFs };

/** More than a job of 8 MiB, and not a multiple of anything. */
const LARGE = 5 * 2 ** 20 + 12_345;
const tensors = (): Record<string, Tensor> => ({
  large: randn([LARGE]),
  transposed: randn([300, 200]).t(),
  view: randn([64, 64]).narrow(0, 3, 5),
  ...Object.fromEntries(Array.from({ length: 1500 }, (_, i) => [`small.${i}`, arange(i % 7)])),
  none: zeros([0, 3]),
  scalar: fromTypedArray(Float64Array.of(3), []),
});

test('the same file and the same tensors as through a buffer', async () => {
  const saved = tensors();
  await io.saveSafetensors(path('direct.safetensors'), saved);
  await io.saveSafetensors(path('buffered.safetensors'), saved, {}, { fs: buffered });
  expect(readFileSync(path('direct.safetensors')).equals(readFileSync(path('buffered.safetensors')))).toBe(true);
  for (const fs of [undefined, buffered]) {
    const loaded = await io.loadSafetensors(path('direct.safetensors'), fs ? { fs } : {});
    for (const [name, t] of Object.entries(saved)) await expectSame(loaded[name]!, t.contiguous());
  }
});

test('checksums are those of zlib, in one piece and in several', async () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 700 }), fc.nat(), (bytes, at) => {
      const cut = bytes.length === 0 ? 0 : at % bytes.length;
      const [first, second] = [bytes.subarray(0, cut), bytes.subarray(cut)];
      expect(native.crc32(bytes, 0)).toBe(crc32(bytes));
      expect(native.crc32(second, native.crc32(first, 0))).toBe(crc32(bytes));
      expect(native.joinSums(crc32(first), crc32(second), second.length)).toBe(crc32(bytes));
    }),
  );
  const bytes = Buffer.from((await randn([LARGE]).toTypedArray()).buffer);
  writeFileSync(path('sum'), bytes);
  for (const fs of [nodeFs, buffered]) {
    const file = await RangeReader.open(path('sum'), 'test', fs);
    expect(await file.sum()).toBe(crc32(bytes));
    await file.close();
  }
  // what was loaded is not read again, in whatever order and however often
  await io.saveSafetensors(path('sums.safetensors'), { ...tensors(), flag: fromTypedArray(Uint8Array.of(1, 0), [2], { dtype: 'bool' }) });
  for (const fs of [nodeFs, buffered]) {
    for (const names of [[], ['small.700'], ['view', 'large', 'flag', 'view', 'small.3', 'none', 'scalar']]) {
      const file = await openSafetensorsFile(path('sums.safetensors'), fs, true);
      await file.loadMany(names.map((name) => ({ name })));
      expect(await file.sum()).toBe(crc32(readFileSync(path('sums.safetensors'))));
      await file.close();
    }
  }
  const root = path('checkpoint');
  const saved = await io.saveCheckpoint(root, { step: 1, x: randn([LARGE]) });
  const { files } = JSON.parse(readFileSync(join(saved, 'COMMIT'), 'utf8')) as { files: Record<string, { bytes: number; crc32: number }> };
  for (const [name, { crc32: sum }] of Object.entries(files)) expect(sum).toBe(crc32(readFileSync(join(saved, name))));
});

/** Bytes that were freed and are still in use. */
function pending(): number {
  const stats = new Float64Array(32);
  native.stats(device('cpu').slot, stats);
  return stats[(native as unknown as { memoryStats: string[] }).memoryStats.indexOf('pendingBytes')]!;
}

describe('meanwhile', () => {
  test('a file is cut short: an error that says where, and no memory is left behind', async () => {
    const live = memory().live;
    for (const size of [100, 9 * 2 ** 20, 17 * 2 ** 20 + 3]) {
      const x = zeros([LARGE]);
      await io.saveSafetensors(path('cut.safetensors'), { x });
      x.dispose();
      const whole = readFileSync(path('cut.safetensors')).length;
      await using reader = await io.openSafetensors(path('cut.safetensors'));
      truncateSync(path('cut.safetensors'), whole - size);
      expect((await failure(reader.load('x'))).message).toMatch(
        /^openSafetensors: ".*cut.safetensors" is truncated: it ends at byte \d+, \d+ more were expected$/,
      );
    }
    const file = await RangeReader.open(path('cut.safetensors'), 'test');
    truncateSync(path('cut.safetensors'), 50);
    expect((await failure(file.sum())).message).toMatch(/^test: ".*cut.safetensors" is truncated: it ends at byte 50, \d+ more were expected$/);
    await file.close();
    expect(memory().live).toBe(live);
  });

  test("a tensor is disposed of: its memory is nobody else's until the file is read", async () => {
    await io.saveSafetensors(path('x.safetensors'), { x: fromTypedArray(new Float32Array(LARGE).fill(7)) });
    const file = await open(path('x.safetensors'));
    const target = zeros([LARGE]);
    const m = growBlock(HEADER + 4);
    m.set([target.storage.handle, 0, LARGE * 4, (await file.stat()).size - LARGE * 4], HEADER);
    const reading = native.readRows(file.fd, 1, true);
    target.dispose();
    const closing = file.close();
    const next = zeros([LARGE]);
    expect(pending()).toBe(LARGE * 4);
    await closing;
    const other = await open(path('other'), 'w+'); // may get the number of the file that was closed
    const sum = crc32(new Uint8Array(new Float32Array(LARGE).fill(7).buffer));
    expect(await reading).toEqual({ done: LARGE * 4, error: 0, sum });
    expect(pending()).toBe(0);
    expect(await next.sum().item()).toBe(0);
    await other.close();
  });

  test('a file is closed, or never was one', async () => {
    const file = await open(path('x.safetensors'));
    const { fd } = file;
    await file.close();
    const m = growBlock(HEADER + 4);
    const target = zeros([4]);
    m.set([target.storage.handle, 0, 16, 0], HEADER);
    expect(await native.readRows(fd, 1, false)).toEqual({ done: 0, error: 9, sum: 0 });
    target.dispose();
    expect(() => native.readRows(fd, 1, false)).toThrow(/readRows: the tensor's memory was given back/);
  });

  test('kernels that are still queued have their memory to themselves', async () => {
    await io.saveSafetensors(path('y.safetensors'), { y: fromTypedArray(new Float32Array(1 << 20).fill(5)) });
    for (let round = 0; round < 20; round++) {
      // a block that is free for JavaScript, and still written to
      let x = randn([1024, 1024]);
      for (let i = 0; i < 3; i++) {
        const y = x.matmul(x);
        x.dispose();
        x = y;
      }
      x.dispose();
      const { y } = await io.loadSafetensors(path('y.safetensors'));
      expect(await y!.sub(5).abs().sum().item()).toBe(0);
      y!.dispose();
    }
  });

  test('a tensor that is saved is disposed of: a DisposedError, and no file', async () => {
    const gone = zeros([1000]);
    const saving = io.saveSafetensors(path('gone.safetensors'), { first: zeros([LARGE]), gone });
    gone.dispose();
    expect(await failure(saving)).toBeInstanceOf(DisposedError);
    await expect(nodeFs.stat(path('gone.safetensors'))).rejects.toThrow(/ENOENT/);
  });
});

test('rows outside of a storage are refused', () => {
  const x = zeros([4]);
  const m = growBlock(HEADER + 4);
  for (const [offset, bytes, position] of [
    [8, 9, 0],
    [17, 0, 0],
    [-1, 1, 0],
    [0, 0.5, 0],
    [0, 4, -1],
    [0, Number.NaN, 0],
  ]) {
    m.set([x.storage.handle, offset!, bytes!, position!], HEADER);
    expect(() => native.readRows(0, 1, false)).toThrow(/^readRows: /);
    expect(() => native.writeRows(0, 1, 0)).toThrow(/^writeRows: /);
  }
  expect(() => native.readRows(-1, 0, false)).toThrow(/the file/);
  expect(() => native.readRows(0, 1e9, false)).toThrow(/the number of rows/);
  expect(() => native.sumRange(0, -1, 1)).toThrow(/the position/);
});
