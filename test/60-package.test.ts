// The package as it is published: one bundle, found by its name.
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import * as lib from '../lib/index.js';

const child = fileURLToPath(new URL('./children/package_workers.mjs', import.meta.url));

test('the bundle exports what lib does, keeps class names, and its loader workers start', () => {
  const run = spawnSync(process.execPath, [child], { encoding: 'utf8' });
  expect(run.stderr).toBe('');
  const { names, firsts, name } = JSON.parse(run.stdout) as { names: string[]; firsts: number[][]; name: string };
  expect(names).toEqual(Object.keys(lib).sort());
  expect(firsts).toEqual([
    [24, 8],
    [0, 16],
  ]);
  expect(name).toBe('LSTM');
});
