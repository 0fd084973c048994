// The native boundary without the library in front of it: 20,000 blocks of garbage, from random numbers to calls that are
// right but for one number. Each ends in a typed error or is carried out; none touches memory that is not its own.
import { afterAll, beforeAll, expect, test } from 'vitest';
import { block, HEADER, native, RECORD, Rec } from '../lib/native.js';
import { stream } from './helpers/random.js';

const BLOCKS = 20_000;
const TYPED = /^(Shape|DType|Device|Disposed|OutOfMemory|Distributed|Value|Checkpoint|Internal)Error$/;
const next = stream(15);
const below = (n: number): number => Math.floor(next() * n);
const pick = <T>(list: readonly T[]): T => list[below(list.length)]!;
const strange = [Number.NaN, Number.POSITIVE_INFINITY, -1, -2, -3, 0, 0.5, 1, 1e300, -1e300, 2 ** 24, 2 ** 24 + 1, 2 ** 31, 2 ** 52, 2 ** 53, -(2 ** 53)];

let slot = 0;
let handles: number[] = [];
let group = 0;
const failures = new Map<string, number>();

beforeAll(() => {
  slot = native.openDevice('cpu', 0);
  // number 1: collectives find a group
  group = native.joinShmGroup('fuzz', 0, 1, 1000, 0, '', new Int32Array(), `/shardgrad-fuzz-${process.pid}`);
  native.sealGroup(group);
  handles = [0, 1, 4, 8, 64, 512, 4096].map((bytes) =>
    native.upload(
      slot,
      new Uint8Array(bytes).map(() => below(3)),
    ),
  );
});

afterAll(() => native.leaveGroup(group));

function stats(): Float64Array {
  const out = new Float64Array(32);
  native.stats(slot, out);
  return out;
}

/** Calls, waits, frees what was made. Anything but a typed error fails the test. */
function attempt(call: () => void): boolean {
  try {
    call();
    native.synchronize(slot);
    return true;
  } catch (error) {
    const { code, message } = error as { code?: string; message: string };
    expect(code, message).toMatch(TYPED);
    expect(message.length).toBeGreaterThan(10);
    failures.set(code!, (failures.get(code!) ?? 0) + 1);
    return false;
  }
}

function run(): boolean {
  const records = Math.min(100, Math.max(0, Math.trunc(block[2]!) || 0));
  const places = Array.from({ length: records }, (_, i) => HEADER + RECORD * i);
  const fresh = places.filter((at) => block[at] === -1);
  let made: number[] = [];
  const done = attempt(() => {
    native.run();
    made = fresh.map((at) => block[at]!);
  });
  for (const handle of made) native.free(handle);
  return done;
}

function header(op: number, records: number, numbers: number): void {
  block.set([op, slot, records, numbers, 0, 0, 0, 0]);
}

function record(i: number, handle: number, dtype: number, shape: readonly number[]): void {
  const at = HEADER + RECORD * i;
  block[at + Rec.Handle] = handle;
  block[at + Rec.DType] = dtype;
  block[at + Rec.Dims] = shape.length;
  block[at + Rec.Offset] = 0;
  let stride = 1;
  for (let d = shape.length - 1; d >= 0; d--) {
    block[at + Rec.Shape + d] = shape[d]!;
    block[at + Rec.Strides + d] = stride;
    stride *= shape[d]!;
  }
}

test('numbers without meaning', () => {
  for (let n = 0; n < BLOCKS / 2; n++) {
    for (let i = 0; i < 150; i++) block[i] = next() < 0.3 ? pick(strange) : next() < 0.5 ? pick(handles) : below(20);
    if (next() < 0.8) header(below(native.ops.length), below(7), below(5));
    run();
  }
  expect(failures.size).toBeGreaterThan(3);
});

test('calls with one or two numbers wrong', () => {
  let carriedOut = 0;
  for (let n = 0; n < BLOCKS / 2; n++) {
    const op = below(native.ops.length);
    const { kind, inputs } = native.ops[op]!;
    const records = kind === 'structured' ? below(7) : inputs + 1;
    const numbers = kind === 'structured' ? below(4) : 1;
    const shape = Array.from({ length: below(4) }, () => pick([0, 1, 2, 2, 3]));
    const dtype = pick([0, 0, 0, 1, 3, 4]);
    header(op, records, numbers);
    for (let i = 0; i < records; i++) {
      const kept = kind === 'reduce' && i === 1 ? shape.map(() => 1) : shape;
      record(i, i === records - 1 ? -1 : handles.at(-1)!, dtype, kept);
    }
    for (let i = 0; i < numbers; i++) block[HEADER + RECORD * records + i] = kind === 'reduce' ? 2 ** shape.length - 1 : pick([0, 1]);
    const mistakes = below(3);
    for (let i = 0; i < mistakes; i++) block[below(HEADER + RECORD * records + numbers)] = next() < 0.6 ? pick(strange) : pick(handles);
    if (run()) carriedOut++;
  }
  expect(carriedOut).toBeGreaterThan(500);
});

test('views that reach outside their storage', () => {
  const relu = native.ops.findIndex((op) => op.name === 'relu');
  const handle = native.upload(slot, new Float32Array(12));
  const place = HEADER;
  const at = (offset: number, shape: readonly number[], strides: readonly number[]): boolean => {
    header(relu, 2, 1);
    record(0, handle, 0, shape);
    record(1, -1, 0, shape);
    block[place + Rec.Offset] = offset;
    strides.forEach((s, d) => {
      block[place + Rec.Strides + d] = s;
    });
    block[HEADER + 2 * RECORD] = 0;
    return run();
  };
  expect(at(0, [3, 4], [4, 1])).toBe(true);
  expect(at(11, [3, 4], [-4, -1])).toBe(true);
  expect(at(0, [100, 4], [0, 1])).toBe(true);
  expect(at(99, [0, 4], [4, 1])).toBe(true);
  expect(at(1, [3, 4], [4, 1])).toBe(false);
  expect(at(10, [3, 4], [-4, -1])).toBe(false);
  expect(at(-1, [1], [1])).toBe(false);
  expect(at(0, [2], [2 ** 53])).toBe(false);
  expect(at(0, [2 ** 52, 2], [2 ** 52, 1])).toBe(false);
  expect(at(0, [3], [0.5])).toBe(false);
  native.free(handle);
});

test('impossible sizes are OutOfMemoryError and the device works on', () => {
  for (const bytes of [2 ** 50, 2 ** 53, 2 ** 45]) {
    expect(() => native.alloc(slot, bytes)).toThrow(/out of memory on cpu:0: requested .* live .* reserved .* limit/);
  }
  for (const bytes of [-1, Number.NaN, 0.5, Number.POSITIVE_INFINITY]) expect(() => native.alloc(slot, bytes)).toThrow(/not a number of bytes/);
});

test('the functions of the addon with any arguments', () => {
  const values = [...strange, null, undefined, 'x', {}, [], Symbol('s'), 1n, () => 1, new Uint8Array(8), new Float64Array(4)];
  const skipped = new Set(['run', 'attach', 'setNumThreads', 'configure', 'nudge', 'openDevice', 'free', 'freeMany', 'writeRows']);
  for (const [name, f] of Object.entries(native)) {
    if (typeof f !== 'function' || skipped.has(name)) continue;
    for (let n = 0; n < 100; n++) {
      const args = Array.from({ length: below(6) }, () => pick<unknown>(values));
      attempt(() => {
        const result = (f as (...args: unknown[]) => unknown)(...args);
        if (name === 'alloc' || name === 'upload') native.free(result as number);
        if (result instanceof Promise) result.catch((error: { code: string }) => expect(error.code).toMatch(TYPED));
      });
    }
  }
  expect(() => native.attach(new Float64Array(100))).toThrow(/SharedArrayBuffer/);
  native.attach(block);
});

test('nothing was leaked', () => {
  for (const handle of handles) native.free(handle);
  native.synchronize(slot);
  expect(stats()[0]).toBe(0);
  expect(stats()[1]).toBe(0);
});
