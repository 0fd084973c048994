// GPT training beside eager PyTorch: the same weights, batches, threads and precision, rounds in turn. Each side is a process of its own
// that speaks one JSON line a round (train_worker.ts, pytorch/train.py). Losses are compared before any time is printed.
//
//   node dist/bench/train.js --config tiny --dtype float32 --threads 2 [--rounds 7] [--steps 10] [--python /path/to/python]
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import * as sg from '../lib/index.js';
import { io, nn } from '../lib/index.js';

const configs = {
  tiny: { layers: 4, dim: 128, heads: 4, context: 128, batch: 16, vocabSize: 256 },
  small: { layers: 6, dim: 384, heads: 6, context: 256, batch: 12, vocabSize: 256 },
  gpt2: { layers: 12, dim: 768, heads: 12, context: 1024, batch: 1, vocabSize: 50304 },
} as const;

const { values: args } = parseArgs({
  options: {
    config: { type: 'string', default: 'tiny' },
    dtype: { type: 'string', default: 'float32' },
    threads: { type: 'string', default: '2' },
    rounds: { type: 'string', default: '7' },
    steps: { type: 'string', default: '10' },
    python: { type: 'string', default: 'python3' },
  },
});
const config = configs[args.config as keyof typeof configs];
if (!config) throw new sg.ValueError(`--config must be one of ${Object.keys(configs).join(', ')}, got "${args.config}"`);

interface Answer {
  ms: number[];
  losses: number[];
  peakMiB: number;
}

class Side {
  private readonly lines: AsyncIterator<string>;
  constructor(
    readonly name: string,
    private readonly child: ChildProcess,
    setup: object,
  ) {
    this.lines = createInterface({ input: child.stdout! })[Symbol.asyncIterator]();
    child.stdin!.write(`${JSON.stringify(setup)}\n`);
  }
  async round(steps: number): Promise<Answer> {
    this.child.stdin!.write(`${JSON.stringify({ steps })}\n`);
    const { value, done } = await this.lines.next();
    if (done) throw new sg.ShardgradError(`bench: the ${this.name} process ended without an answer`);
    return JSON.parse(value) as Answer;
  }
  end(): void {
    this.child.stdin!.end();
  }
}

const median = (xs: number[]): number => xs.toSorted((a, b) => a - b)[xs.length >> 1]!;

const folder = mkdtempSync(join(tmpdir(), 'shardgrad-bench-'));
try {
  const { batch, ...model } = config;
  const weights = join(folder, 'weights.safetensors');
  const tokens = join(folder, 'tokens.bin');
  sg.manualSeed(1);
  await io.saveSafetensors(weights, new nn.GPT(model).stateDict());
  const ids = new Int32Array(64 * batch * (model.context + 1));
  // a text-like skew, so that the loss falls
  for (let i = 0; i < ids.length; i++) ids[i] = Math.min(model.vocabSize - 1, Math.floor(((Math.sin(i * 12.9898) * 43758.5453) % 1) ** 2 * model.vocabSize));
  writeFileSync(tokens, ids);
  const setup = { model, batch, weights, tokens, dtype: args.dtype, threads: Number(args.threads) };
  const stdio: ['pipe', 'pipe', 'inherit'] = ['pipe', 'pipe', 'inherit'];
  const here = fileURLToPath(new URL('./train_worker.js', import.meta.url));
  const peer = fileURLToPath(new URL('../../bench/pytorch/train.py', import.meta.url));
  const env = { ...process.env, SHARDGRAD_NUM_THREADS: args.threads, OMP_NUM_THREADS: args.threads };
  const ours = new Side('shardgrad', spawn(process.execPath, [here], { stdio, env }), setup);
  const theirs = new Side('pytorch', spawn(args.python, [peer], { stdio, env }), setup);
  const [a, b] = [await ours.round(3), await theirs.round(3)];
  const difference = Math.max(...a.losses.map((loss, i) => Math.abs(loss / b.losses[i]! - 1)));
  console.log(
    `${args.config} ${args.dtype} ${args.threads} threads; losses ${a.losses.map((x) => x.toFixed(5)).join(' ')}, largest relative difference ${difference.toExponential(1)}`,
  );
  const bound = args.dtype === 'float32' ? 1e-4 : 2e-2;
  if (!(difference < bound))
    throw new sg.ShardgradError(`bench: the losses differ by ${difference}, more than ${bound}: the two sides do not train the same model`);
  const rows: { ours: number; theirs: number }[] = [];
  for (let r = 0; r < Number(args.rounds); r++) {
    const mine = await ours.round(Number(args.steps));
    const other = await theirs.round(Number(args.steps));
    Object.assign(a, { peakMiB: mine.peakMiB });
    Object.assign(b, { peakMiB: other.peakMiB });
    rows.push({ ours: median(mine.ms), theirs: median(other.ms) });
    console.log(
      `round ${r + 1}: shardgrad ${rows.at(-1)!.ours.toFixed(1)} ms, pytorch ${rows.at(-1)!.theirs.toFixed(1)} ms, ratio ${(rows.at(-1)!.theirs / rows.at(-1)!.ours).toFixed(2)}`,
    );
  }
  const [ms, msTorch] = [median(rows.map((r) => r.ours)), median(rows.map((r) => r.theirs))];
  const perStep = batch * model.context;
  console.log(
    `median: shardgrad ${ms.toFixed(1)} ms (${Math.round((perStep / ms) * 1000)} tokens/s, peak ${a.peakMiB.toFixed(0)} MiB), ` +
      `pytorch ${msTorch.toFixed(1)} ms (${Math.round((perStep / msTorch) * 1000)} tokens/s, peak ${b.peakMiB.toFixed(0)} MiB), ratio ${(msTorch / ms).toFixed(2)}`,
  );
  ours.end();
  theirs.end();
} finally {
  rmSync(folder, { recursive: true });
}
