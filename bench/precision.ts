// What precision costs in quality: the same GPT trained on Moby Dick in float32 and in every way of mixed precision, from the same seeds, and
// the validation loss of each beside float32's. Prints a table; minutes to an hour.
//
//   node dist/bench/precision.js --config tiny --steps 1000 --seeds 3 [--modes float32,bf16,…] [--threads 2]
import { parseArgs } from 'node:util';
import * as sg from '../lib/index.js';
import { amp, data, nn, optim } from '../lib/index.js';

const configs = {
  tiny: { layers: 4, dim: 128, heads: 4, context: 128, batch: 16, lr: 3e-3 },
  small: { layers: 6, dim: 384, heads: 6, context: 256, batch: 12, lr: 1e-3 },
} as const;

interface Mode {
  readonly name: string;
  /** Of the parameters. */
  readonly dtype: sg.DType;
  readonly autocast: amp.AutocastDType | null;
  readonly stochasticRounding?: boolean;
}
const modes: readonly Mode[] = [
  { name: 'float32', dtype: 'float32', autocast: null },
  { name: 'bf16-autocast', dtype: 'float32', autocast: 'bfloat16' },
  { name: 'bf16-masters', dtype: 'bfloat16', autocast: null },
  { name: 'bf16-no-masters', dtype: 'bfloat16', autocast: null, stochasticRounding: true },
  { name: 'fp16-autocast', dtype: 'float32', autocast: 'float16' },
];

const { values: args } = parseArgs({
  options: {
    config: { type: 'string', default: 'tiny' },
    steps: { type: 'string', default: '1000' },
    seeds: { type: 'string', default: '3' },
    modes: { type: 'string', default: modes.map((m) => m.name).join() },
    threads: { type: 'string', default: '2' },
  },
});
const config = configs[args.config as keyof typeof configs];
if (!config) throw new sg.ValueError(`--config must be one of ${Object.keys(configs).join(', ')}, got "${args.config}"`);
const chosen = args.modes.split(',').map((name) => {
  const mode = modes.find((m) => m.name === name);
  if (!mode) throw new sg.ValueError(`--modes: one of ${modes.map((m) => m.name).join(', ')}, got "${name}"`);
  return mode;
});
const steps = Number(args.steps);
sg.setNumThreads(Number(args.threads));
const text = data.mobyDick();
const tokenizer = data.CharTokenizer.fit(text.train + text.validation);

/** Trains a model, and gives its validation loss in float32. */
async function run(mode: Mode, seed: number): Promise<{ loss: number; skipped: number; seconds: number }> {
  const { batch, lr, ...sizes } = config!;
  const begin = performance.now();
  const windows = (part: string, length?: number): data.TextDataset =>
    new data.TextDataset(part, tokenizer, { context: sizes.context, windows: 'random', length });
  const loader = new data.DataLoader(windows(text.train), { batchSize: batch, shuffle: true, seed, dropLast: true });
  const validation = new data.DataLoader(windows(text.validation, 320), { batchSize: 16 });
  sg.manualSeed(seed);
  const model = new nn.GPT({ vocabSize: tokenizer.vocabSize, ...sizes }).to(mode.dtype);
  const [decayed, others] = [model.parameters().filter((p) => p.ndim >= 2), model.parameters().filter((p) => p.ndim < 2)];
  const optimizer = new optim.AdamW(
    [
      { params: decayed, weightDecay: 0.1 },
      { params: others, weightDecay: 0 },
    ],
    { lr, betas: [0.9, 0.95], stochasticRounding: mode.stochasticRounding },
  );
  const schedule = new optim.CosineWithWarmup(optimizer, { warmup: Math.min(100, steps), total: steps, minLr: lr / 10 });
  const scaler = new amp.GradScaler({ enabled: mode.autocast === 'float16' });
  let step = 0;
  training: for (;;) {
    for await (const { inputs, targets } of loader) {
      sg.scope(() => {
        const loss = amp.autocast(mode.autocast, () => model.forward(inputs, targets));
        scaler.scale(loss).backward();
        scaler.step(optimizer, { maxNorm: 1 });
        scaler.update();
        optimizer.zeroGrad();
        schedule.step();
      });
      if (++step === steps) break training;
      if (step % 20 === 0) await sg.synchronize('cpu');
    }
  }
  let total = 0;
  const exact = model.to('float32').eval();
  for await (const { inputs, targets } of validation) {
    total += sg.scope(() => sg.inferenceMode(() => exact.forward(inputs, targets).itemSync()));
  }
  return { loss: total / validation.length, skipped: scaler.skipped, seconds: (performance.now() - begin) / 1000 };
}

const mean = (xs: readonly number[]): number => xs.reduce((a, b) => a + b, 0) / xs.length;
const losses = new Map<string, number[]>(chosen.map((m) => [m.name, []]));
for (let seed = 1; seed <= Number(args.seeds); seed++) {
  for (const mode of chosen) {
    const { loss, skipped, seconds } = await run(mode, seed);
    losses.get(mode.name)!.push(loss);
    console.log(
      `seed ${seed}  ${mode.name.padEnd(16)}  validation loss ${loss.toFixed(4)}  ${seconds.toFixed(0)} s${skipped ? `, ${skipped} steps skipped` : ''}`,
    );
  }
}
const base = losses.get('float32');
console.log(`\n${args.config}, ${steps} steps, mean of ${args.seeds} seeds`);
for (const [name, values] of losses) {
  const difference = base && name !== 'float32' ? `  ${(mean(values) - mean(base)).toFixed(4).padStart(8)} from float32` : '';
  console.log(`${name.padEnd(16)}  ${mean(values).toFixed(4)}${difference}`);
}
