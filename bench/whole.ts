// What a training script is made of beside its model: loading data, a network for images, files. And the size of what is installed.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as sg from '../lib/index.js';
import { data, io, nn } from '../lib/index.js';
import { Child, compiled, source, withThreads } from './child.js';
import { fromAnEmptyFolder } from './installed.js';
import { type Group, inTurn, type Rounds, type Run, row } from './rows.js';

export interface DigitsSetup {
  /** Images, labels and the network's weights. */
  readonly file: string;
  readonly batch: number;
}
export type WholeQuestion = { readonly load: string } | { readonly files: string; readonly layers: number } | DigitsSetup | { readonly steps: number };

class Sides {
  private readonly sides: Child[];
  constructor(private readonly run: Run) {
    const env = withThreads(run.threads);
    this.sides = [new Child('shardgrad', process.execPath, [compiled('./whole_worker.js')], 300_000, env)];
    if (run.python !== null) this.sides.push(new Child('PyTorch', run.python, ['-u', source('pytorch/whole.py')], 300_000, env));
  }
  async ask<T>(question: WholeQuestion): Promise<T[]> {
    const answers: T[] = [];
    for (const side of this.sides) answers.push(await side.ask<T>(question));
    return answers;
  }
  /** After one round that does not count. */
  async rounds(question: WholeQuestion): Promise<Rounds> {
    await this.ask(question);
    const all = await inTurn(
      this.sides.map((side) => async () => (await side.ask<{ value: number }>(question)).value),
      this.run.rounds,
    );
    return { ours: all[0]!, theirs: all[1] ?? null };
  }
  end(): void {
    for (const side of this.sides) side.end();
  }
}

const LOADERS: readonly [string, string][] = [
  ['memory', 'digits in memory, shuffled batches of 64'],
  ['augmented', 'digits shifted and mirrored in the script, 2 workers'],
  ['tokens', 'windows of 256 tokens, shuffled batches of 12'],
];

export const loading: Group = async function* (run) {
  const sides = new Sides(run);
  try {
    for (const [load, name] of LOADERS) yield row('data', name, 'samples/s', await sides.rounds({ load }));
  } finally {
    sides.end();
  }
};

const FILES: readonly [string, string][] = [
  ['save weights', 'save the weights as safetensors'],
  ['load weights', 'load the weights, then copy them into the model'],
  ['load model', 'load the weights into the model'],
  ['save all', 'save a checkpoint of model and AdamW'],
  ['load all', 'load that checkpoint'],
];

const FILE_NOTES: Readonly<Record<string, string>> = {
  'save weights': 'ends on the disk (fsync), on both sides',
  'load weights': 'loadSafetensors and loadStateDict, load_file (which maps the file) and load_state_dict',
  'load model': 'loadModel, load_model',
  'save all': 'ends on the disk (fsync), on both sides',
  'load all': 'ours compares checksums, torch.load does not',
};

export const files: Group = async function* (run) {
  const layers = run.quick ? 1 : 12;
  const parameters = new nn.GPT({ layers, dim: 512, heads: 8, context: 256, vocabSize: 16384, device: 'meta' })
    .parameters()
    .reduce((sum, p) => sum + p.numel, 0);
  const sides = new Sides(run);
  try {
    for (const [kind, name] of FILES) {
      const bytes = parameters * (kind.endsWith('all') ? 12 : 4);
      yield row('files', name, 's', await sides.rounds({ files: kind, layers }), { note: `${(bytes / 1e6).toFixed(0)} MB; ${FILE_NOTES[kind]}` });
    }
  } finally {
    sides.end();
  }
};

const DIGITS_AGREE = 1e-3;

export const digits: Group = async function* (run) {
  const folder = mkdtempSync(join(tmpdir(), 'shardgrad-bench-'));
  const sides = new Sides(run);
  try {
    const file = join(folder, 'digits.safetensors');
    const { images, labels } = data.digits({ test: 0 }).train.getBatch(Array.from({ length: 8192 }, (_, i) => i)) as Record<string, data.HostArray>;
    sg.manualSeed(1);
    const norm = new nn.BatchNorm2d(32);
    const layers = { conv1: new nn.Conv2d(1, 16, 3), conv2: new nn.Conv2d(16, 32, 3), norm, fc: new nn.Linear(32 * 7 * 7, 10) };
    const weights = Object.entries(layers).flatMap(([name, layer]) => Object.entries(layer.stateDict()).map(([key, t]) => [`${name}.${key}`, t] as const));
    await io.saveSafetensors(file, {
      ...Object.fromEntries(weights),
      images: sg.fromTypedArray(images!.data, images!.shape),
      labels: sg.fromTypedArray(BigInt64Array.from(labels!.data as Int32Array, BigInt)),
    });
    await sides.ask({ file, batch: 64 });
    const first = await sides.ask<{ losses: number[] }>({ steps: 10 });
    const difference = Math.max(0, ...(first[1]?.losses ?? []).map((loss, i) => Math.abs(loss / first[0]!.losses[i]! - 1)));
    if (!(difference < DIGITS_AGREE))
      throw new sg.ShardgradError(`bench: the losses of the network for digits differ by ${difference}, more than ${DIGITS_AGREE}`);
    const note = `losses agree to ${difference.toExponential(0)}`;
    yield row('digits', 'convolutional network on digits, batch 64', 'images/s', await sides.rounds({ steps: run.quick ? 3 : 60 }), { note });
  } finally {
    sides.end();
    rmSync(folder, { recursive: true });
  }
};

/** Of the files of a folder, in MB. */
const megabytes = (path: string): number => Number(execFileSync('du', ['-sb', path], { encoding: 'utf8' }).split('\t')[0]) / 1e6;

/** What lies on the disk after installing, and how long that takes; the binary is the release's where there is one, with code for every GPU. */
export const size: Group = async function* (run) {
  const root = source('..');
  const release = join(root, 'prebuilds/linux-x64/shardgrad.glibc.node');
  const binary = existsSync(release) ? release : join(root, 'build/Release/shardgrad.node');
  const [installed, packed] = JSON.parse(execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], { cwd: root, encoding: 'utf8' })).map(
    (p: { unpackedSize: number; size: number }) => [p.unpackedSize / 1e6, p.size / 1e6],
  )[0] as [number, number];
  const ours = installed + (binary === release ? 0 : statSync(binary).size / 1e6);
  const folder = run.python && execFileSync(run.python, ['-c', 'import os, torch; print(os.path.dirname(torch.__file__))'], { encoding: 'utf8' }).trim();
  const note = binary === release ? `packed ${packed.toFixed(1)} MB; PyTorch: the CPU build alone, without its dependencies` : 'not a release build';
  yield row('size', 'installed files', 'MB', { ours: [ours], theirs: folder ? [megabytes(folder)] : null }, { note });
  if (binary === release) yield fromAnEmptyFolder(root, run.quick ? 1 : 3);
};
