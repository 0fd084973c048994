// What the benches need beside this package, made on their first run: a Python with PyTorch's CPU build, tfjs, and the machine's name.
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { arch, availableParallelism, cpus, loadavg, release, totalmem } from 'node:os';
import { join } from 'node:path';
import { ShardgradError } from '../lib/index.js';
import { source } from './child.js';

const TORCH = '2.13.0';
const root = source('..');

/** A Python that has the PyTorch we compare with: `given`, or an environment of our own under build/. */
export function pythonWithTorch(given: string | undefined): string {
  const own = join(root, 'build/bench-python');
  const python = given ?? join(own, 'bin/python');
  if (given === undefined && torchOf(python) === null) {
    console.log(`making a Python environment with PyTorch ${TORCH} in ${own} (once; pip's own settings and variables decide where from)`);
    execFileSync('python3', ['-m', 'venv', own], { stdio: 'inherit' });
    execFileSync(python, ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '-r', source('pytorch/requirements.txt')], { stdio: 'inherit' });
  }
  const version = torchOf(python);
  if (version === null) throw new ShardgradError(`bench: ${python} has no PyTorch; leave --python out to have it installed, or run with --no-pytorch`);
  if (!version.startsWith(TORCH)) console.log(`beside PyTorch ${version}, not ${TORCH}`);
  return python;
}

/** Version of the PyTorch of a Python; null: none. */
export function torchOf(python: string): string | null {
  if (!existsSync(python) && python.includes('/')) return null;
  try {
    return execFileSync(python, ['-c', 'import torch, safetensors, numpy; print(torch.__version__)'], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
  } catch {
    return null;
  }
}

/** Installs tfjs and what draws the picture into bench/tools, where they are missing. */
export function tools(): string {
  const folder = source('tools');
  if (!existsSync(join(folder, 'node_modules'))) {
    console.log(`installing tfjs and vega in ${folder} (once)`);
    execFileSync('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'], { cwd: folder, stdio: 'inherit' });
  }
  return folder;
}

export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGiB: number;
  readonly system: string;
  readonly node: string;
  readonly commit: string;
  /** Of the last minute, before the benches: what else ran. */
  readonly load: number;
}

export function machine(): Machine {
  const git = (...args: string[]): string => {
    try {
      return execFileSync('git', args, { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
    } catch {
      return '';
    }
  };
  const changed = git('status', '--porcelain', '--untracked-files=no') === '' ? '' : ' with changes';
  return {
    cpu: cpus()[0]?.model.trim() ?? arch(),
    cores: availableParallelism(),
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    system: `Linux ${release()}`,
    node: process.versions.node,
    commit: `${git('rev-parse', '--short', 'HEAD')}${changed}`,
    load: loadavg()[0]!,
  };
}

/** For the names of files: `amd-epyc-2-cores`. */
export const slug = ({ cpu, cores }: Machine): string =>
  `${cpu
    .toLowerCase()
    .replace(/\((r|tm)\)|processor|\d+-core|cpu|@.*$/g, ' ')
    .trim()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/-+$/, '')}-${cores}-cores`;
