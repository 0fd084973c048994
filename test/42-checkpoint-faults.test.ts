// No failure at any point of a save costs an earlier checkpoint.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { beforeEach, describe, expect, test } from 'vitest';
import { CheckpointError, fromTypedArray, io, type Tensor } from '../lib/index.js';
import { Box, box, valuesOf } from './helpers/boxes.js';
import { faultyFs } from './helpers/faulty_fs.js';
import { failure, scratchFolder } from './helpers/files.js';

const dir = scratchFolder();
let root = '';
let roots = 0;
beforeEach(() => {
  root = join(dir, `run${roots++}`);
});

describe('failures while saving', () => {
  test.each(['recover', 'crash'] as const)('at every call to the file system (%s), no earlier checkpoint is lost', async (then) => {
    for (const again of [false, true]) {
      for (let n = 0; ; n++) {
        root = join(dir, `faults${roots++}`);
        await io.saveCheckpoint(root, { step: 1, model: box(1) });
        await io.saveCheckpoint(root, { step: 2, model: box(2) });
        const faulty = faultyFs(n, { then });
        const step = again ? 2 : 3;
        const error = await io.saveCheckpoint(root, { step, model: box(30) }, { keep: 3, fs: faulty.fs }).then(
          () => null,
          (e: Error) => e,
        );
        if (error) {
          expect(error).toBeInstanceOf(CheckpointError);
          expect(error.message).toMatch(/^saveCheckpoint: cannot .* no space left on the device \(ENOSPC\)$/);
        }
        const model = box(0);
        const loaded = (await io.loadCheckpoint(root, { model })).step;
        const values = await valuesOf(model);
        // the last save or the one before it, whole in either case
        expect([
          [2, [2]],
          [step, [30]],
        ]).toContainEqual([loaded, values]);
        if (then === 'recover' && error && loaded === 2 && values[0] === 2) expect(readdirSync(root).sort()).toEqual(['step-00000001', 'step-00000002']);
        expect(existsSync(join(root, 'step-00000001', 'COMMIT'))).toBe(true);
        // and the next save works
        await io.saveCheckpoint(root, { step: 4, model: box(4) });
        expect((await io.loadCheckpoint(root)).step).toBe(4);
        if (!faulty.failed()) {
          expect(error).toBeNull();
          break;
        }
        expect(n).toBeLessThan(500);
      }
    }
  });

  test('leftovers of processes that ended are swept by the next save', async () => {
    const script = 'console.log(process.pid)';
    const pid = execFileSync(process.execPath, ['-e', script]).toString().trim();
    const left = join(root, `.step-00000001.tmp-${hostname()}-${pid}-00000000`);
    const foreign = join(root, `.step-00000001.tmp-another.host-${pid}-00000000`);
    mkdirSync(left, { recursive: true });
    mkdirSync(foreign);
    await io.saveCheckpoint(root, { step: 1 });
    expect([existsSync(left), existsSync(foreign)]).toEqual([false, true]);
  });

  const mounted = (): string | null => {
    const folder = join(dir, 'small');
    mkdirSync(folder, { recursive: true });
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', folder], { stdio: 'ignore' });
      return folder;
    } catch {
      return null;
    }
  };
  test('a disk that is really full', async (context) => {
    const folder = mounted();
    if (folder === null) return context.skip('a tmpfs of limited size cannot be mounted here');
    try {
      const small = new Box({ w: fromTypedArray(new Float32Array(50_000).fill(1)) });
      await io.saveCheckpoint(folder, { step: 1, model: small });
      const large = new Box({ w: fromTypedArray(new Float32Array(400_000)) });
      const error = await failure(io.saveCheckpoint(folder, { step: 2, model: large }));
      expect(error).toBeInstanceOf(CheckpointError);
      expect(error.message).toBe(`saveCheckpoint: cannot write "${join(folder, 'step-00000002')}": no space left on the device (ENOSPC)`);
      expect(readdirSync(folder)).toEqual(['step-00000001']);
      const model = box(0);
      expect((await io.loadCheckpoint(folder, { model })).step).toBe(1);
      expect((await valuesOf(model)).every((x) => x === 1)).toBe(true);
      expect(await failure(io.saveSafetensors(join(folder, 'x.safetensors'), { w: (large.state as { w: Tensor }).w }))).toBeInstanceOf(CheckpointError);
      expect(readdirSync(folder)).toEqual(['step-00000001']);
    } finally {
      execFileSync('umount', [folder]);
    }
  });
});
