// The training step of GPT-2 124M (bfloat16, context 1024, a real text) at several batch sizes: ours eager and as a captured graph beside
// PyTorch eager and compiled. The same weights and batches, rounds in turn on the same GPU; the losses are compared, and sides that do
// not train the same model fail the bench.
//
//   node dist/bench/gpu/train.js [--device cuda:0] [--tiny] [--batches 64,1,16,4] [--rounds 3] [--steps 8] [--python python3]
//        [--sides eager,graph,torch,compile] [--minutes 5] [--out bench/results]
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import * as sg from '../../lib/index.js';
import { io, nn } from '../../lib/index.js';
import { Child, torchChild } from '../child.js';
import { median } from '../rows.js';
import { machineName, peakOnPaper, Report } from './results.js';
import { mobyDickTokens } from './tokens.js';
import type { Mode, Round, RoundAnswer, Setup } from './train_sides.js';

const { values: args } = parseArgs({
  options: {
    device: { type: 'string', default: 'cuda:0' },
    tiny: { type: 'boolean', default: false },
    batches: { type: 'string' },
    rounds: { type: 'string', default: '3' },
    steps: { type: 'string' },
    python: { type: 'string', default: 'python3' },
    sides: { type: 'string', default: 'eager,graph,torch,compile' },
    minutes: { type: 'string', default: '10' },
    out: { type: 'string', default: 'bench/results' },
  },
});
const model = args.tiny ? { layers: 2, dim: 32, heads: 2, context: 16, vocabSize: 256 } : { layers: 12, dim: 768, heads: 12, context: 1024, vocabSize: 50304 };
// the largest and the smallest tell most, should the time not suffice for all
const batches = (args.batches ?? (args.tiny ? '2,1' : '64,16,4,1')).split(',').map(Number);
const steps = Number(args.steps ?? (args.tiny ? 2 : 8));
const SIDES: Record<string, { label: string; mode: Mode }> = {
  eager: { label: 'shardgrad eager', mode: 'eager' },
  graph: { label: 'shardgrad graph', mode: 'graph' },
  torch: { label: 'PyTorch eager', mode: 'eager' },
  compile: { label: 'PyTorch compile', mode: 'compile' },
};
const isTorch = (label: string): boolean => label.startsWith('PyTorch');
const LOSSES_AGREE = 2e-2;
const deadline = performance.now() + Number(args.minutes) * 60_000;

/** Of one token: forward and backward, a masked attention counted by half. */
function flopsPerToken(parameters: number): number {
  return 6 * parameters + 6 * model.layers * model.dim * model.context;
}

interface Side {
  readonly label: string;
  readonly child: Child;
  readonly answers: RoundAnswer[];
}
interface Row {
  readonly batch: number;
  readonly side: string;
  readonly ms: number;
  readonly tokensPerSecond: number;
  readonly mfu: number | null;
  readonly hostMs: number;
  readonly peakMiB: number;
  readonly losses: readonly number[];
}

const report = new Report();
const failures: string[] = [];
const device = sg.device(args.device);
const machine = machineName(device);
const folder = mkdtempSync(join(tmpdir(), 'shardgrad-bench-'));

/** The sides that could be started, with the model's weights. */
async function start(): Promise<{ sides: Side[]; parameters: number }> {
  const [weights, tokens] = [join(folder, 'weights.safetensors'), join(folder, 'tokens.i32')];
  sg.manualSeed(1);
  const state = new nn.GPT(model).stateDict();
  await io.saveSafetensors(weights, state);
  const unique = new Set(Object.values(state).map((t) => (t as sg.Tensor).storage));
  const parameters = [...unique].reduce((sum, storage) => sum + storage.bytes / 4, 0);
  writeFileSync(
    tokens,
    Int32Array.from(await mobyDickTokens(), (id) => id % model.vocabSize),
  );
  const sides: Side[] = [];
  for (const name of args.sides.split(',')) {
    const { label, mode } = SIDES[name] ?? { label: name, mode: 'eager' as const };
    if (!SIDES[name]) throw new sg.ValueError(`--sides knows ${Object.keys(SIDES).join(', ')}, got ${name}`);
    if (mode === 'graph' && device.type !== 'cuda') continue;
    const limit = 240_000; // compiling is part of a first round
    const child = isTorch(label)
      ? torchChild(args.python, 'gpu/pytorch/train.py', args.device, limit)
      : new Child(label, process.execPath, [fileURLToPath(new URL('./train_worker.js', import.meta.url))], limit);
    try {
      const setup: Setup = { model, weights, tokens, mode, device: args.device };
      const told = await child.ask<{ name: string }>(setup);
      report.print(`${label}: ${told.name}`);
      sides.push({ label, child, answers: [] });
    } catch (error) {
      report.print(`${label} is left out: ${(error as Error).message}`);
      if (!isTorch(label)) failures.push(`${label}: ${(error as Error).message}`);
      child.end();
    }
  }
  return { sides, parameters };
}

/** All rounds of one batch size. A side that fails is left out of it. */
async function measure(sides: readonly Side[], batch: number): Promise<void> {
  for (const side of sides) side.answers.length = 0;
  const out = new Set<Side>();
  for (let round = 0; round < Number(args.rounds); round++) {
    if (round > 0 && performance.now() > deadline) break;
    for (const side of sides) {
      if (out.has(side)) continue;
      const task: Round = { batch, warmup: 3, steps, hostSteps: 3 };
      try {
        side.answers.push(await side.child.ask<RoundAnswer>(task));
      } catch (error) {
        out.add(side);
        report.print(`${side.label}, batch ${batch}: ${(error as Error).message}`);
        if (!isTorch(side.label)) failures.push(`${side.label}, batch ${batch}: ${(error as Error).message}`);
      }
    }
  }
}

try {
  const { sides, parameters } = await start();
  const peak = peakOnPaper(machine);
  report.print(
    `GPT-2 ${(parameters / 1e6).toFixed(1)}M on ${machine}, context ${model.context}, bfloat16; rounds of ${steps} steps in turn` +
      `${args.tiny ? '; tiny sizes, the times mean nothing' : ''}`,
  );
  report.print(
    `${'batch'.padStart(5)}  ${'side'.padEnd(17)}${'ms'.padStart(9)}${'tokens/s'.padStart(11)}${'MFU'.padStart(7)}${'host ms'.padStart(9)}${'peak MiB'.padStart(10)}${'loss'.padStart(9)}`,
  );
  const rows: Row[] = [];
  const left: number[] = [];
  const write = (): string => report.write(args.out, machine, 'training', { tiny: args.tiny, model, parameters, peak, rows, failures, left });
  for (const batch of batches) {
    if (performance.now() > deadline) {
      left.push(batch);
      continue;
    }
    await measure(sides, batch);
    let first: Row | null = null;
    for (const { label, answers } of sides) {
      if (answers.length === 0) continue;
      const ms = median(answers.map((a) => a.ms));
      const tokensPerSecond = (batch * model.context * 1000) / ms;
      const mfu = peak === null ? null : (tokensPerSecond * flopsPerToken(parameters)) / peak;
      const row = {
        batch,
        side: label,
        ms,
        tokensPerSecond,
        mfu,
        hostMs: median(answers.map((a) => a.hostMs)),
        peakMiB: Math.max(...answers.map((a) => a.peakMiB)),
        losses: answers.map((a) => a.loss),
      };
      rows.push(row);
      report.print(
        `${String(batch).padStart(5)}  ${label.padEnd(17)}${ms.toFixed(2).padStart(9)}${Math.round(tokensPerSecond).toString().padStart(11)}` +
          `${(mfu === null ? '' : `${(100 * mfu).toFixed(1)}%`).padStart(7)}${row.hostMs.toFixed(2).padStart(9)}${row.peakMiB.toFixed(0).padStart(10)}` +
          `${row.losses.at(-1)!.toFixed(4).padStart(9)}`,
      );
      first ??= row;
      const difference = Math.max(...row.losses.map((loss, i) => Math.abs(loss / (first!.losses[i] ?? loss) - 1)));
      if (!(difference < LOSSES_AGREE)) {
        failures.push(`batch ${batch}: the losses of ${label} and ${first.side} differ by ${difference.toExponential(1)}, so they do not train the same model`);
      }
    }
    write(); // whatever becomes of the other sizes
  }
  for (const failure of failures) report.print(`FAILED: ${failure}`);
  if (left.length) report.print(`not measured, as the time was up: batch ${left.join(', ')}`);
  console.log(`written: ${write()}.txt and .json`);
  for (const { child } of sides) child.end();
} finally {
  rmSync(folder, { recursive: true });
}
process.exitCode = failures.length ? 1 : 0;
