// All that a run of the tests writes into the temporary folder goes into one of its own, which is removed at the end: recordings of jobs
// that were meant to fail among it. Test files and the processes they start inherit it as TMPDIR, so launchers and ranks agree on it.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export default function setup(): () => void {
  const before = process.env['TMPDIR'];
  const folder = mkdtempSync(join(tmpdir(), 'shardgrad-tests-'));
  process.env['TMPDIR'] = folder;
  return () => {
    if (before === undefined) delete process.env['TMPDIR'];
    else process.env['TMPDIR'] = before;
    rmSync(folder, { recursive: true, force: true });
  };
}
