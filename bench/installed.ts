// What a user does first, as one command in an empty folder: `npm install <tarball> && node first.mjs`, with the README's example. From the packed
// tarball, without a network.
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ShardgradError } from '../lib/index.js';
import { median, type Row, row } from './rows.js';

function run(command: string, args: readonly string[], cwd: string): string {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd, encoding: 'utf8' });
  if (status !== 0) throw new ShardgradError(`bench: ${command} ${args[0]} failed: ${stderr.trim().split('\n').slice(-1)[0]}`);
  return stdout;
}

/** @param root the checkout, whose prebuilt binary is of these sources */
export function fromAnEmptyFolder(root: string, rounds: number): Row {
  const example = readFileSync(join(root, 'README.md'), 'utf8').match(/^## Twenty lines\n+```ts\n([\s\S]*?)^```/m)![1]!;
  const folder = mkdtempSync(join(tmpdir(), 'shardgrad-bench-'));
  try {
    const [{ filename }] = JSON.parse(run('npm', ['pack', '--ignore-scripts', '--json', '--pack-destination', folder], root)) as [{ filename: string }];
    const [installs, examples]: [number[], number[]] = [[], []];
    for (let i = 0; i < rounds; i++) {
      const project = join(folder, `project${i}`);
      mkdirSync(project);
      writeFileSync(join(project, 'first.mjs'), example);
      const begin = performance.now();
      run('npm', ['install', '--offline', '--no-audit', '--no-fund', '--prefix', project, join(folder, filename)], project);
      const installed = performance.now();
      run(process.execPath, ['first.mjs'], project);
      installs.push((installed - begin) / 1000);
      examples.push((performance.now() - installed) / 1000);
    }
    const note = `npm install ${median(installs).toFixed(1)} s, the README's example with its 300 steps ${median(examples).toFixed(1)} s; no network`;
    return row('size', 'from an empty folder to a trained model', 's', { ours: installs.map((s, i) => s + examples[i]!), theirs: null }, { note });
  } finally {
    rmSync(folder, { recursive: true });
  }
}
