// Training checkpoints: what is saved comes back, and what is broken is said.
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import fc from 'fast-check';
import { beforeEach, describe, expect, test } from 'vitest';
import { CheckpointError, io, type Tensor, ValueError } from '../lib/index.js';
import { decodeState, encodeState } from '../lib/io/state_tree.js';
import { Box, box, valuesOf, vector } from './helpers/boxes.js';
import { failure, scratchFolder } from './helpers/files.js';

const dir = scratchFolder();
let root = '';
let roots = 0;
beforeEach(() => {
  root = join(dir, `run${roots++}`);
});

describe('states as JSON and tensors', () => {
  const roundTrip = async (value: unknown): Promise<unknown> => {
    const tensors = new Map<string, Tensor>();
    const json = JSON.parse(JSON.stringify(encodeState(value, tensors, 'x')));
    return decodeState(json, async (names) => names.map((name) => tensors.get(name)!), 'test');
  };

  test('anything plain comes back identical', async () => {
    const leaf = fc.oneof(
      fc.double(),
      fc.constantFrom(Number.NaN, -0, Number.POSITIVE_INFINITY),
      fc.bigInt(),
      fc.string(),
      fc.boolean(),
      fc.constant(null),
      fc.constant(undefined),
      fc.uint32Array(),
      fc.float64Array(),
    );
    const key = fc.oneof(fc.string(), fc.constantFrom('$tensor', '$number', '$', '__proto__', '0'));
    const { tree } = fc.letrec((tie) => ({
      tree: fc.oneof({ depthSize: 'small' }, leaf, fc.array(tie('tree')), fc.dictionary(key, tie('tree'), { noNullPrototype: true })),
    }));
    await fc.assert(
      fc.asyncProperty(tree, async (value) => {
        expect(await roundTrip(value)).toStrictEqual(value);
      }),
      { numRuns: 1000 },
    );
  });

  test('tensors are named by their path, and never twice the same', () => {
    const tensors = new Map<string, Tensor>();
    const t = vector(1);
    expect(encodeState({ a: { b: t }, 'a.b': t, list: [t] }, tensors, 'x')).toEqual({
      a: { b: { $tensor: 'a.b' } },
      'a.b': { $tensor: 'a.b#2' },
      list: [{ $tensor: 'list.0' }],
    });
    expect([...tensors.keys()]).toEqual(['a.b', 'a.b#2', 'list.0']);
  });

  test('what cannot come back is refused with its path', () => {
    const loop: Record<string, unknown> = {};
    loop.self = loop;
    for (const [value, text] of [
      [{ a: [new Map()] }, /model\.a\.0 is an object of class Map, which a checkpoint cannot hold/],
      [{ f: () => 1 }, /model\.f is a function/],
      [{ d: new Date() }, /model\.d is an object of class Date/],
      [loop, /nested more than 200 deep, or contains itself/],
    ] as const) {
      expect(() => encodeState(value, new Map(), 'model')).toThrow(ValueError);
      expect(() => encodeState(value, new Map(), 'model')).toThrow(text);
    }
  });

  test('JSON that was not written here is a CheckpointError', async () => {
    const deep = JSON.parse(`${'['.repeat(20_000)}${']'.repeat(20_000)}`);
    for (const bad of [
      deep,
      { $number: 'x' },
      { $bigint: '1.5' },
      { $array: 'Map', base64: '' },
      { $array: 'Float32Array', base64: 'AA==' },
      { $object: [1] },
      { $other: 1 },
      { $tensor: 3 },
    ]) {
      expect(await failure(decodeState(bad, async (names) => names.map(() => vector(1)), 'file'))).toBeInstanceOf(CheckpointError);
    }
  });
});

describe('saving and loading', () => {
  test('objects are restored in place, data is returned', async () => {
    const path = await io.saveCheckpoint(root, { step: 12, epoch: 3, model: box(1, 2), note: { losses: [Number.NaN, 1n], best: vector(9) } });
    expect(path).toBe(join(root, 'step-00000012'));
    expect(readdirSync(path).sort()).toEqual(['COMMIT', 'model.safetensors', 'note.safetensors', 'trainer.json']);
    const model = box(0, 0);
    const { step, epoch, note, ...rest } = await io.loadCheckpoint(path, { model });
    expect(await valuesOf(model)).toEqual([1, 2]);
    expect([step, epoch, Object.keys(rest)]).toEqual([12, 3, []]);
    const { losses, best } = note as { losses: unknown[]; best: Tensor };
    expect(losses).toEqual([Number.NaN, 1n]);
    expect(await best.toArray()).toEqual([9]);
    // the weights alone are an ordinary file
    expect(Object.keys(await io.loadSafetensors(join(path, 'model.safetensors')))).toEqual(['w']);
  });

  test('the one saved last is found, of the root and of root/latest, whatever its step', async () => {
    expect(await io.latestCheckpoint(root)).toBeNull();
    for (const step of [5, 20, 100_000_000, 7]) {
      await io.saveCheckpoint(root, { step, model: box(step) });
      expect(basename((await io.latestCheckpoint(root))!)).toBe(`step-${String(step).padStart(8, '0')}`);
      for (const path of [root, join(root, 'latest')]) expect((await io.loadCheckpoint(path)).step).toBe(step);
    }
  });

  test('keep removes the oldest', async () => {
    for (let step = 1; step <= 5; step++) await io.saveCheckpoint(root, { step }, { keep: 2 });
    expect(readdirSync(root).sort()).toEqual(['step-00000004', 'step-00000005']);
    // a run that began anew in the same folder
    await io.saveCheckpoint(root, { step: 1 }, { keep: 2 });
    expect(readdirSync(root).sort()).toEqual(['step-00000001', 'step-00000005']);
    // a removal that was interrupted
    rmSync(join(root, 'step-00000005', 'COMMIT'));
    await io.saveCheckpoint(root, { step: 2 }, { keep: 2 });
    expect(readdirSync(root).sort()).toEqual(['step-00000001', 'step-00000002']);
  });

  test('saves into one folder wait for each other', async () => {
    const paths = await Promise.all([3, 3, 4].map((step, i) => io.saveCheckpoint(root, { step, model: box(i) }, { keep: 1 })));
    expect(paths.map((path) => basename(path))).toEqual(['step-00000003', 'step-00000003', 'step-00000004']);
    expect(readdirSync(root)).toEqual(['step-00000004']);
    const model = box(0);
    await io.loadCheckpoint(root, { model });
    expect(await valuesOf(model)).toEqual([2]);
  });

  test('a step may be saved again', async () => {
    await io.saveCheckpoint(root, { step: 1, model: box(1) });
    await io.saveCheckpoint(root, { step: 1, model: box(2) });
    expect(readdirSync(root)).toEqual(['step-00000001']);
    const model = box(0);
    await io.loadCheckpoint(root, { model });
    expect(await valuesOf(model)).toEqual([2]);
  });

  test('incomplete folders are ignored', async () => {
    await io.saveCheckpoint(root, { step: 1, model: box(1) });
    const later = await io.saveCheckpoint(root, { step: 2, model: box(2) });
    const commit = readFileSync(join(later, 'COMMIT'));
    rmSync(join(later, 'COMMIT'));
    expect((await io.loadCheckpoint(root)).step).toBe(1);
    expect((await failure(io.loadCheckpoint(later))).message).toMatch(/is not a complete checkpoint: its COMMIT file is missing/);
    writeFileSync(join(later, 'COMMIT'), commit.subarray(0, 20));
    expect((await io.loadCheckpoint(root)).step).toBe(1);
    writeFileSync(join(later, 'COMMIT'), commit);
    writeFileSync(join(later, 'model.safetensors'), 'short');
    expect((await io.loadCheckpoint(root)).step).toBe(1);
    mkdirSync(join(root, 'step-00000003'));
    expect((await io.loadCheckpoint(root)).step).toBe(1);
  });

  test('errors name what is wrong', async () => {
    expect((await failure(io.loadCheckpoint(join(root, 'none')))).message).toMatch(/there is no complete checkpoint in/);
    const path = await io.saveCheckpoint(root, { step: 1, model: box(1, 2), loader: new Box({}) });
    expect((await failure(io.loadCheckpoint(path, { optimizer: box(1) }))).message).toMatch(/has no state called "optimizer"; it has model, loader/);
    expect(await failure(io.loadCheckpoint(path, { model: {} as never }))).toBeInstanceOf(ValueError);
    expect(await failure(io.saveCheckpoint(root, {} as never))).toBeInstanceOf(ValueError);
    expect(await failure(io.saveCheckpoint(root, { step: 1.5 }))).toBeInstanceOf(ValueError);
    expect((await failure(io.saveCheckpoint(root, { step: 1, 'a/b': 1 }))).message).toMatch(/a name must consist of letters/);
    expect((await failure(io.saveCheckpoint(root, { step: 1, rng: 1 }))).message).toMatch(/"rng" is the name of the default generator/);
    expect((await failure(io.saveCheckpoint(root, { step: 2, f: () => 1 }))).message).toMatch(/saveCheckpoint: f is a function/);
    expect(readdirSync(root)).toEqual(['step-00000001']);
  });

  test('a flipped bit is found before anything is restored', async () => {
    const path = await io.saveCheckpoint(root, { step: 1, a: box(1), model: box(1, 2) });
    for (const file of ['model.safetensors', 'trainer.json']) {
      const bytes = readFileSync(join(path, file));
      const broken = Buffer.from(bytes);
      broken[broken.length - 3]! ^= 1;
      writeFileSync(join(path, file), broken);
      const a = box(0);
      const error = await failure(io.loadCheckpoint(path, { a, model: box(0) }));
      expect(error).toBeInstanceOf(CheckpointError);
      expect(error.message).toMatch(new RegExp(`${file}" is corrupted: its checksum differs`));
      expect(await valuesOf(a)).toEqual([0]);
      writeFileSync(join(path, file), bytes);
    }
  });

  test('files broken at random give a CheckpointError, or the state that was saved', async () => {
    const path = await io.saveCheckpoint(root, { step: 7, model: box(1, 2), more: { x: [1, 2, 3] } });
    const originals = readdirSync(path).map((name) => [name, readFileSync(join(path, name))] as const);
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...originals), fc.nat(), fc.integer({ min: 0, max: 255 }), fc.boolean(), async ([name, bytes], at, value, cut) => {
        const broken = cut ? bytes.subarray(0, at % bytes.length) : Buffer.from(bytes);
        if (!cut) broken[at % bytes.length] = value;
        writeFileSync(join(path, name), broken);
        const model = box(0, 0);
        try {
          const { more } = await io.loadCheckpoint(path, { model });
          expect(more).toEqual({ x: [1, 2, 3] });
          expect(await valuesOf(model)).toEqual([1, 2]);
        } catch (error) {
          if (!(error instanceof CheckpointError)) throw error;
        } finally {
          writeFileSync(join(path, name), bytes);
        }
      }),
      { numRuns: 1000 },
    );
  });
});
