// Kernels beside PyTorch's on one GPU: time, TB/s or TFLOP/s, the share of what a copy or a large product reaches on the same card, and the
// ratio to PyTorch. Both sides are timed on the device (ours by its clock between two marks of the stream, PyTorch by CUDA events),
// in turn, case by case, over runs that are long enough to hide what launching costs.
//
//   node dist/bench/gpu/kernels.js [--device cuda:0] [--tiny] [--rounds 3] [--python python3] [--only softmax] [--minutes 2] [--out bench/results]
import { parseArgs } from 'node:util';
import * as sg from '../../lib/index.js';
import { native } from '../../lib/native.js';
import { torchChild } from '../child.js';
import { type KernelCase, kernelCases, ours, SCALES } from '../kernel_cases.js';
import { median } from '../rows.js';
import { machineName, Report } from './results.js';

const { values: args } = parseArgs({
  options: {
    device: { type: 'string', default: 'cuda:0' },
    tiny: { type: 'boolean', default: false },
    rounds: { type: 'string', default: '3' },
    python: { type: 'string', default: 'python3' },
    only: { type: 'string', default: '' },
    minutes: { type: 'string', default: '10' },
    out: { type: 'string', default: 'bench/results' },
  },
});
const device = sg.device(args.device);
const marks = sg.zeros([2], { dtype: 'float64', device }).keep();
const RUN_MS = args.tiny ? 1 : 20;

/** Seconds on the device for `count` calls. */
async function seconds(call: () => unknown, count: number): Promise<number> {
  native.markTime(marks.storage.handle, 0, 0);
  for (let i = 0; i < count; i++) sg.scope(() => void call());
  native.markTime(marks.storage.handle, 8, 0);
  const [from, to] = (await marks.toArray()) as number[];
  return to! - from!;
}

/** Milliseconds of one call, the median of the rounds; `between` runs after each of ours. */
async function measure(c: KernelCase, between: () => Promise<void>): Promise<number> {
  const make = (...shape: number[]): sg.Tensor => sg.randn(shape, { dtype: c.dtype, device });
  const call = ours[c.kind]!(c.sizes, make, { dtype: c.dtype, device });
  await seconds(call, 2); // plans, first launches, memory
  const one = (await seconds(call, 1)) * 1000;
  const count = Math.min(1000, Math.max(1, Math.ceil(RUN_MS / Math.max(one, 1e-3))));
  const times: number[] = [];
  for (let round = 0; round < Number(args.rounds); round++) {
    times.push(((await seconds(call, count)) * 1000) / count);
    await between();
  }
  return median(times);
}

interface Row {
  readonly name: string;
  readonly ms: number;
  readonly torchMs: number | null;
  /** Per second, in 10¹²: bytes or operations. */
  readonly rate: number;
  readonly share: number;
  readonly ratio: number | null;
}

const report = new Report();
const machine = machineName(device);
const torch = torchChild(args.python, 'pytorch/kernels.py', args.device, 120_000);
let torchName: string | null = null;
try {
  torchName = (await torch.ask<{ name: string }>({ hello: true })).name;
} catch (error) {
  report.print(`without PyTorch: ${(error as Error).message}`);
}
report.print(`shardgrad on ${machine}; ${torchName ?? 'no PyTorch'}${args.tiny ? '; tiny sizes, the times mean nothing' : ''}`);
report.print(`${'kernel'.padEnd(38)}${'ms'.padStart(9)}${'PyTorch'.padStart(9)}${'rate'.padStart(16)}${'of ceiling'.padStart(12)}${'ratio'.padStart(8)}`);

const deadline = performance.now() + Number(args.minutes) * 60_000;
const rows: Row[] = [];
const failures: string[] = [];
const left: string[] = [];
const ceiling = { bytes: 0, flops: 0 };
for (const c of kernelCases(args.tiny ? SCALES.tiny : SCALES.gpu, 'bfloat16')) {
  const isCeiling = c.kind === 'copy' || c.name.startsWith('product');
  if (args.only && !c.name.includes(args.only) && !isCeiling) continue;
  if (performance.now() > deadline) {
    left.push(c.name);
    continue;
  }
  const theirs: number[] = [];
  const ask = async (): Promise<void> => {
    if (torchName) theirs.push((await torch.ask<{ ms: number }>({ kind: c.kind, dtype: c.dtype, sizes: c.sizes, runMs: RUN_MS })).ms);
  };
  try {
    const ms = await sg.scope(() => measure(c, ask));
    const torchMs = theirs.length ? median(theirs) : null;
    const unit = c.bytes === undefined ? 'flops' : 'bytes';
    const rate = (c[unit]! / ms) * 1e-9;
    if (isCeiling) ceiling[unit] = Math.max(rate, torchMs === null ? 0 : (c[unit]! / torchMs) * 1e-9);
    const row = { name: c.name, ms, torchMs, rate, share: rate / ceiling[unit], ratio: torchMs === null ? null : torchMs / ms };
    rows.push(row);
    report.print(
      `${c.name.padEnd(38)}${ms.toFixed(4).padStart(9)}${(torchMs?.toFixed(4) ?? '').padStart(9)}` +
        `${`${rate.toFixed(unit === 'bytes' ? 3 : 1)} ${unit === 'bytes' ? 'TB/s   ' : 'TFLOP/s'}`.padStart(16)}` +
        `${`${(100 * row.share).toFixed(0)}%`.padStart(12)}${(row.ratio?.toFixed(2) ?? '').padStart(8)}`,
    );
  } catch (error) {
    failures.push(`${c.name}: ${(error as Error).message}`);
    report.print(`${c.name.padEnd(38)} FAILED: ${(error as Error).message}`);
  }
  await torch.ask({ forget: true }).catch(() => {});
  sg.collectGarbage();
  sg.emptyCache(device);
}
if (left.length) report.print(`not measured, as the time was up: ${left.join(', ')}`);
console.log(`written: ${report.write(args.out, machine, 'kernels', { torch: torchName, tiny: args.tiny, rows, failures, left })}.txt and .json`);
torch.end();
process.exitCode = failures.length ? 1 : 0;
