// No safetensors file, however broken, does more than raise a CheckpointError that names it.
import { execFileSync } from 'node:child_process';
import { readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { CheckpointError, type DType, empty, fromTypedArray, io, memory } from '../lib/index.js';
import { encodeHeader, parseHeader, repeatedKey } from '../lib/io/safetensors_header.js';
import { everyDType } from './helpers/every_dtype.js';
import { failure, scratchFolder, writeRawSafetensors } from './helpers/files.js';

const dir = scratchFolder();
const path = (name: string): string => join(dir, name);
await io.saveSafetensors(path('all.safetensors'), everyDType(), { note: 'ünï' });
await io.saveSafetensors(
  path('names.safetensors'),
  Object.fromEntries(['', '0', 'a"b\\c', '日本', 'x'.repeat(300)].map((name) => [name, fromTypedArray(Float32Array.of(7), [])])),
);

describe('hostile files', () => {
  const f32 = (shape: number[], from: number, to: number): object => ({ dtype: 'F32', shape, data_offsets: [from, to] });
  test.each<[string, string | object, number, RegExp]>([
    ['not JSON', '{"a"', 0, /the header is not JSON in UTF-8/],
    ['not an object', '[]', 0, /does not begin with "{"/],
    ['leading space', ' {}', 0, /does not begin with "{"/],
    [
      'a name twice',
      '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
      1,
      /the header has "a" twice/,
    ],
    [
      'a name twice, spelled differently',
      '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\\u0061":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
      1,
      /the header has "a" twice/,
    ],
    ['a field twice', '{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}', 1, /the header has "dtype" twice/],
    ['unknown dtype', { a: { dtype: 'F31', shape: [1], data_offsets: [0, 4] } }, 4, /tensor "a": unknown dtype a string "F31"/],
    ['dtype of the prototype', { a: { dtype: 'toString', shape: [1], data_offsets: [0, 4] } }, 4, /unknown dtype/],
    ['entry of the wrong kind', { a: 3 }, 0, /tensor "a": expected { dtype, shape, data_offsets }, got 3/],
    ['negative size', { a: f32([-1], 0, 4) }, 4, /tensor "a": shape must be an array of whole numbers from 0, got \[-1\]/],
    ['fractional size', { a: f32([1.5], 0, 6) }, 6, /shape must be an array of whole numbers/],
    ['size beyond 2^53', '{"a":{"dtype":"U8","shape":[9007199254740993],"data_offsets":[0,1]}}', 1, /shape must be an array of whole numbers/],
    ['overflowing product', { a: f32([2 ** 31, 2 ** 31, 4], 0, 16) }, 16, /needs \d+/],
    ['offsets backwards', { a: f32([1], 4, 0) }, 4, /tensor "a": data_offsets must be two whole numbers in order, got \[4,0\]/],
    ['one offset', { a: { dtype: 'U8', shape: [1], data_offsets: [0] } }, 1, /data_offsets must be two whole numbers/],
    ['size and range differ', { a: f32([3], 0, 8) }, 8, /tensor "a": F32 \[3\] needs 12 bytes, data_offsets \[0,8\] hold 8/],
    ['overlap', { a: f32([2], 0, 8), b: f32([2], 4, 12) }, 12, /tensor "b": data_offsets \[4,12\] overlaps the tensor before it, which ends at 8/],
    ['hole', { a: f32([1], 0, 4), b: f32([1], 8, 12) }, 12, /tensor "b": data_offsets \[8,12\] leaves a hole after byte 4/],
    ['hole at the start', { a: f32([1], 4, 8) }, 8, /leaves a hole after byte 0/],
    ['past the end', { a: f32([4], 0, 16) }, 12, /reach past the end of the data at 12: the file is truncated/],
    ['bytes of nobody', { a: f32([1], 0, 4) }, 5, /1 bytes after the last tensor belong to none/],
    ['metadata of numbers', { __metadata__: { a: 1 } }, 0, /__metadata__ "a" must be a string, got 1/],
    ['metadata of the wrong kind', { __metadata__: [] }, 0, /__metadata__ must map strings to strings/],
    ['not UTF-8', '', 0, /the header is not JSON/],
  ])('hostile header: %s', async (_, header, data, text) => {
    const file = writeRawSafetensors(path('hostile.safetensors'), header, data);
    const error = await failure(io.openSafetensors(file));
    expect(error).toBeInstanceOf(CheckpointError);
    expect(error.message).toMatch(text);
    expect(error.message).toContain(file);
  });

  test('hostile sizes of the header', async () => {
    expect((await failure(io.openSafetensors(writeRawSafetensors(path('h.safetensors'), '{}', 0, 2n ** 64n - 1n)))).message).toMatch(
      /a header of 18446744073709551615 bytes is over the limit/,
    );
    expect((await failure(io.openSafetensors(writeRawSafetensors(path('h.safetensors'), '{}', 0, 100_000_001n)))).message).toMatch(
      /over the limit of 100000000/,
    );
    expect((await failure(io.openSafetensors(writeRawSafetensors(path('h.safetensors'), '{}', 0, 100n)))).message).toMatch(
      /is truncated: the header ends at byte 108, the file at 10/,
    );
    writeFileSync(path('short.safetensors'), Buffer.alloc(7));
    expect((await failure(io.openSafetensors(path('short.safetensors')))).message).toMatch(/is truncated: 7 bytes/);
  });

  test('too deep, too many dimensions, no counterpart', async () => {
    expect(await failure(io.openSafetensors(writeRawSafetensors(path('deep.safetensors'), `{"a":${'['.repeat(1e6)}${']'.repeat(1e6)}}`)))).toBeInstanceOf(
      CheckpointError,
    );
    const wide = writeRawSafetensors(path('wide.safetensors'), { a: { dtype: 'U8', shape: new Array(9).fill(1), data_offsets: [0, 1] } }, 1);
    expect((await failure(io.loadSafetensors(wide))).message).toMatch(/9 dimensions, at most 8/);
    const complex = writeRawSafetensors(path('complex.safetensors'), { a: { dtype: 'C64', shape: [1], data_offsets: [0, 8] } }, 8);
    await using reader = await io.openSafetensors(complex);
    expect(reader.info('a')).toMatchObject({ dtype: null, stored: 'C64' });
    expect((await failure(reader.load('a'))).message).toMatch(/dtype C64 has no counterpart here/);
  });

  test('files that cannot be read', async () => {
    expect((await failure(io.openSafetensors(path('absent.safetensors')))).message).toBe(
      `openSafetensors: cannot open "${path('absent.safetensors')}": no such file or directory (ENOENT)`,
    );
    execFileSync('mkfifo', [path('pipe.safetensors')]);
    expect((await failure(io.openSafetensors(path('pipe.safetensors')))).message).toMatch(/is not a regular file/);
    await using reader = await io.openSafetensors(path('all.safetensors'));
    expect((await failure(reader.load('absent'))).message).toMatch(/has no tensor "absent"; it has 14, such as /);
  });

  test('a file cut short after it was opened', async () => {
    await io.saveSafetensors(path('cut.safetensors'), { x: empty([1000]) });
    await using reader = await io.openSafetensors(path('cut.safetensors'));
    truncateSync(path('cut.safetensors'), statSync(path('cut.safetensors')).size - 100);
    expect((await failure(reader.load('x'))).message).toMatch(/is truncated: it ends at byte \d+, 100 more were expected/);
  });

  test('broken files raise CheckpointError or load: thousands of flips and cuts', async () => {
    const originals = ['all.safetensors', 'names.safetensors'].map((name) => readFileSync(path(name)));
    const live = memory().live;
    let refused = 0;
    const attempt = async (bytes: Buffer): Promise<void> => {
      writeFileSync(path('broken.safetensors'), bytes);
      try {
        for (const t of Object.values(await io.loadSafetensors(path('broken.safetensors')))) t.dispose();
      } catch (error) {
        expect(error).toBeInstanceOf(CheckpointError);
        refused++;
      }
    };
    const flips = fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })), { minLength: 1, maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...originals), flips, fc.boolean(), async (original, changes, inHeader) => {
        const bytes = Buffer.from(original);
        const range = inHeader ? 8 + Number(original.readBigUInt64LE(0)) : bytes.length;
        for (const [at, value] of changes) bytes[at % range] = value;
        await attempt(bytes);
      }),
      { numRuns: 3000 },
    );
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...originals), fc.nat(), async (original, at) => attempt(original.subarray(0, at % original.length))),
      { numRuns: 500 },
    );
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), async (bytes) => attempt(Buffer.from(bytes))),
      { numRuns: 500 },
    );
    expect(refused).toBeGreaterThan(1500);
    expect(memory().live).toBe(live);
  });

  test('headers: what is written is read, for any names, shapes and dtypes', () => {
    const entry = fc.record({ dtype: fc.constantFrom<DType>('float32', 'bfloat16', 'bool', 'int64'), shape: fc.array(fc.nat(50), { maxLength: 4 }) });
    const size = { float32: 4, bfloat16: 2, bool: 1, int64: 8 } as Record<DType, number>;
    fc.assert(
      fc.property(fc.dictionary(fc.string({ unit: 'binary' }), entry), (tensors) => {
        const list = Object.entries(tensors)
          .filter(([name]) => name !== '__metadata__')
          .map(([name, t]) => [name, { ...t, bytes: t.shape.reduce((a, b) => a * b, size[t.dtype]) }] as const);
        const total = list.reduce((sum, [, t]) => sum + t.bytes, 0);
        const bytes = encodeHeader(list, {});
        const { entries } = parseHeader(bytes.subarray(8), total, 'test');
        expect([...entries].map(([name, e]) => [name, e.dtype, e.shape])).toEqual(list.map(([name, t]) => [name, t.dtype, t.shape]));
      }),
    );
  });

  test('repeated keys are found exactly when an object has one', () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 4 }), (value) => {
        expect(repeatedKey(JSON.stringify(value))).toBeNull();
      }),
    );
    expect(repeatedKey('{"a":{"b":1},"b":{"a":"a\\":","c":["a","a"]}}')).toBeNull();
    expect(repeatedKey('{"a" \n\t :1, "a":2}')).toBe('a');
  });
});
