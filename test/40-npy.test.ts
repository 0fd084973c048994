// .npy files: every dtype of NumPy both ways, and broken files as CheckpointErrors.
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { CheckpointError, fromTypedArray, io } from '../lib/index.js';
import { encodeNpyHeader, parseNpyHeader } from '../lib/io/npy_header.js';
import { everyDType } from './helpers/every_dtype.js';
import { expectSame, failure, scratchFolder } from './helpers/files.js';

const dir = scratchFolder();
const path = (name: string): string => join(dir, name);

describe('npy', () => {
  const npy = (dict: string, data: Buffer, version = 1): string => {
    const head = Buffer.from(encodeNpyHeader('<f4', [1]));
    const wide = version > 1;
    const length = Buffer.alloc(wide ? 4 : 2);
    if (wide) length.writeUInt32LE(dict.length);
    else length.writeUInt16LE(dict.length);
    writeFileSync(path('t.npy'), Buffer.concat([head.subarray(0, 6), Buffer.of(version, 0), length, Buffer.from(dict, 'latin1'), data]));
    return path('t.npy');
  };

  test('every dtype that NumPy has comes back', async () => {
    for (const [dtype, t] of Object.entries(everyDType())) {
      if (dtype === 'bfloat16' || dtype.startsWith('float8')) {
        expect((await failure(io.saveNpy(path('x.npy'), t))).message).toBe(`saveNpy: NumPy has no ${dtype}; cast to float32 first`);
        continue;
      }
      await io.saveNpy(path(`${dtype}.npy`), t);
      expect(statSync(path(`${dtype}.npy`)).size).toBe(128 + t.nbytes);
      await expectSame(await io.loadNpy(path(`${dtype}.npy`)), t);
    }
    const scalar = fromTypedArray(Float32Array.of(7), []);
    await io.saveNpy(path('scalar.npy'), scalar);
    await expectSame(await io.loadNpy(path('scalar.npy')), scalar);
  });

  test('big-endian, Fortran order, versions 2 and 3, uint64', async () => {
    const big = Buffer.alloc(24);
    for (let i = 0; i < 6; i++) big.writeFloatBE(i + 1, 4 * i);
    const turned = await io.loadNpy(npy("{'descr': '>f4', 'fortran_order': True, 'shape': (2, 3), }", big, 2));
    expect(await turned.toArray()).toEqual([
      [1, 3, 5],
      [2, 4, 6],
    ]);
    const row = await io.loadNpy(npy("{'descr': '>f4', 'fortran_order': True, 'shape': (1, 6)}\n", big, 3));
    expect(await row.toArray()).toEqual([[1, 2, 3, 4, 5, 6]]);
    const long = Buffer.alloc(8, 0xff);
    long[7] = 0x7f;
    expect(await (await io.loadNpy(npy("{'shape': (1,), 'fortran_order': False, 'descr': '<u8'}", long))).toTypedArray()).toEqual(
      BigInt64Array.of(2n ** 63n - 1n),
    );
    expect((await failure(io.loadNpy(npy("{'shape': (1,), 'fortran_order': False, 'descr': '<u8'}", Buffer.alloc(8, 0xff))))).message).toMatch(
      /uint64 value from 2\^63/,
    );
  });

  test.each<[string, string, number, RegExp]>([
    ['no dict', 'hello', 0, /malformed header/],
    ['code', "{'descr': __import__('os'), 'fortran_order': False, 'shape': ()}", 0, /malformed header/],
    ['a key twice', "{'descr': '<f4', 'descr': '<f8', 'fortran_order': False, 'shape': ()}", 4, /"descr" appears twice/],
    ['a key too many', "{'descr': '<f4', 'fortran_order': False, 'shape': (), 'x': True}", 4, /expected exactly descr, fortran_order and shape/],
    ['a key missing', "{'descr': '<f4', 'fortran_order': False}", 4, /expected exactly/],
    ['objects', "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", 8, /dtype "\|O" has no counterpart here/],
    ['complex', "{'descr': '<c8', 'fortran_order': False, 'shape': (1,)}", 8, /dtype "<c8" has no counterpart/],
    ['structured', "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", 4, /structured types are not supported/],
    ['a huge shape', "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}", 4, /not a whole number below 2\^53/],
    ['an overflowing shape', "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296, 4294967296)}", 4, /needs \d\.?\d*e\+\d+ bytes/],
    ['a negative shape', "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", 4, /malformed header/],
    ['too little data', "{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", 8, /float32 \[3\] needs 12 bytes, the file holds 8/],
    ['too much data', "{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", 13, /needs 12 bytes, the file holds 13/],
    ['text after it', "{'descr': '<f4', 'fortran_order': False, 'shape': ()} {}", 4, /text after the closing brace/],
    ['an open dict', "{'descr': '<f4', 'fortran_order': False, 'shape': (1,", 4, /malformed header/],
  ])('hostile header: %s', async (_, dict, data, text) => {
    const error = await failure(io.loadNpy(npy(dict, Buffer.alloc(data))));
    expect(error).toBeInstanceOf(CheckpointError);
    expect(error.message).toMatch(text);
  });

  test('broken files raise CheckpointError or load', async () => {
    const originals = ['float32', 'int64', 'bool'].map((name) => readFileSync(path(`${name}.npy`)));
    const attempt = async (bytes: Buffer): Promise<void> => {
      writeFileSync(path('broken.npy'), bytes);
      try {
        (await io.loadNpy(path('broken.npy'))).dispose();
      } catch (error) {
        expect(error).toBeInstanceOf(CheckpointError);
      }
    };
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...originals), fc.nat(127), fc.integer({ min: 0, max: 255 }), async (original, at, value) => {
        const bytes = Buffer.from(original);
        bytes[at] = value;
        await attempt(bytes);
      }),
      { numRuns: 1500 },
    );
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...originals), fc.nat(), async (original, at) => attempt(original.subarray(0, at % original.length))),
      { numRuns: 300 },
    );
    // the grammar alone, on dictionary-like noise
    const noise = fc.array(fc.constantFrom('{', '}', '(', ')', ',', ':', "'descr'", "'<f4'", 'True', '1', "'shape'", "'fortran_order'", ' '), {
      maxLength: 30,
    });
    fc.assert(
      fc.property(noise, (parts) => {
        try {
          parseNpyHeader(parts.join(''), 'test');
        } catch (error) {
          expect(error).toBeInstanceOf(CheckpointError);
        }
      }),
      { numRuns: 5000 },
    );
  });
});
