// shardgrad beside PyTorch on this machine: the same models, data, seeds, threads and precision, in turn, as one table.
//
//   npm run bench [-- --only training,kernels] [--rounds 5] [--quick] [--python /path/to/python | --no-pytorch] [--no-tfjs]
//     [--threads 2] [--out bench/results]
//   npm run bench -- --gpu      kernels and the training step of GPT-2 on the first GPU
import { execFileSync } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import { ValueError } from '../lib/index.js';
import { compiled, source } from './child.js';
import { collectives } from './collectives.js';
import { machine, pythonWithTorch, slug, tools, torchOf } from './environment.js';
import { calls, kernels, products } from './kernels.js';
import { header, line, write } from './report.js';
import type { Group, Row, Run } from './rows.js';
import { ddp, sharding, startup, training } from './training.js';
import { digits, files, loading, size } from './whole.js';

/** In the order of the table. */
const GROUPS: Readonly<Record<string, Group>> = {
  training,
  digits,
  ddp,
  sharding,
  collectives,
  kernels,
  products,
  calls,
  data: loading,
  files,
  start: startup,
  size,
};

const { values: args } = parseArgs({
  options: {
    gpu: { type: 'boolean', default: false },
    only: { type: 'string' },
    rounds: { type: 'string', default: '5' },
    threads: { type: 'string', default: String(availableParallelism()) },
    quick: { type: 'boolean', default: false },
    python: { type: 'string' },
    pytorch: { type: 'boolean', default: true },
    tfjs: { type: 'boolean', default: true },
    out: { type: 'string', default: source('results') },
  },
  allowNegative: true,
});

if (args.gpu) {
  const python = args.pytorch ? (args.python ?? 'python3') : 'no-python';
  for (const bench of ['kernels', 'train']) {
    const quick = args.quick ? ['--tiny', '--rounds', '1'] : ['--rounds', args.rounds];
    execFileSync(process.execPath, [compiled(`./gpu/${bench}.js`), '--python', python, '--out', args.out, ...quick], { stdio: 'inherit' });
  }
  process.exit();
}

const only = args.only?.split(',') ?? Object.keys(GROUPS);
for (const name of only) if (!GROUPS[name]) throw new ValueError(`bench: --only knows ${Object.keys(GROUPS).join(', ')}, got ${name}`);
const here = machine();
if (here.load > 0.5) console.log(`other work keeps this machine busy (a load of ${here.load.toFixed(1)}): the spread will show it`);
const python = args.pytorch ? pythonWithTorch(args.python) : null;
const folder = args.tfjs ? tools() : null;
const run: Run = { python, tfjs: folder !== null, rounds: args.quick ? 1 : Number(args.rounds), threads: Number(args.threads), quick: args.quick };
const torch = python && torchOf(python);

console.log(
  `shardgrad ${here.commit} and PyTorch ${torch ?? '(left out)'} on ${here.cpu}, ${here.cores} cores${args.quick ? '; quick, the times mean nothing' : ''}`,
);
console.log(header());
const [rows, failures]: [Row[], string[]] = [[], []];
for (const name of only) {
  try {
    for await (const row of GROUPS[name]!(run)) {
      rows.push(row);
      console.log(line(row));
    }
  } catch (error) {
    failures.push(`${name}: ${(error as Error).message}`);
    console.log(`${name} FAILED: ${(error as Error).message}`);
  }
}
const result = { date: new Date().toISOString(), machine: here, torch, rounds: run.rounds, rows, failures };
console.log(`written: ${await write(result, args.out, slug(here), folder)}.json, .md and .svg`);
process.exitCode = failures.length ? 1 : 0;
