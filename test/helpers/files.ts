// Scratch folders, errors and files for the tests of io and data.
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect } from 'vitest';
import type { Tensor } from '../../lib/index.js';

/** A folder that is removed after the tests of the file. In memory where possible: a save syncs, which a disk makes slow. */
export function scratchFolder(): string {
  const dir = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'shardgrad-test-'));
  afterAll(() => rmSync(dir, { recursive: true }));
  return dir;
}

/** The error a promise is rejected with. */
export async function failure(promise: Promise<unknown>): Promise<Error> {
  try {
    await promise;
  } catch (error) {
    return error as Error;
  }
  throw new Error('expected a rejection');
}

export const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

async function bytesOf(t: Tensor): Promise<Buffer> {
  const raw = await t.toTypedArray({ raw: true });
  return Buffer.from(raw.buffer, raw.byteOffset, raw.byteLength);
}

/** Equal in dtype, shape and every bit. */
export async function expectSame(actual: Tensor, expected: Tensor): Promise<void> {
  expect([actual.dtype, actual.shape]).toEqual([expected.dtype, expected.shape]);
  expect((await bytesOf(actual)).equals(await bytesOf(expected))).toBe(true);
}

/** Writes a safetensors file of any header and as many zeros of data. */
export function writeRawSafetensors(path: string, header: string | object, data = 0, length?: bigint): string {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(length ?? BigInt(json.length));
  writeFileSync(path, Buffer.concat([prefix, json, Buffer.alloc(data)]));
  return path;
}
