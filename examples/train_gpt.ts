// Trains a small GPT on the text of Moby Dick, character by character, and reads like the recipe it is: data, model, optimizer, loop,
// checkpoint, sample. One command runs it:
//
//   npm run quickstart                         about two minutes on a laptop's CPU
//   npm run quickstart -- --resume             goes on where the last run stopped
//   npm run quickstart -- --steps 5000 --dtype bfloat16
//
// Options: --steps --batch --layers --heads --dim --context --lr --dropout --dtype --device --seed --out --eval-every --save-every
// --seconds (stop after so many) --resume. Ctrl-C saves a checkpoint and ends cleanly; a second Ctrl-C ends at once.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as sg from 'shardgrad';
import { data, io, nn, optim } from 'shardgrad';
import { curve, explainMistakes, progressLine, readOptions } from './report.js';

explainMistakes();

const options = {
  steps: { type: 'string', default: '1200' },
  seconds: { type: 'string', default: '0' },
  batch: { type: 'string', default: '16' },
  layers: { type: 'string', default: '4' },
  heads: { type: 'string', default: '4' },
  dim: { type: 'string', default: '128' },
  context: { type: 'string', default: '128' },
  lr: { type: 'string', default: '3e-3' },
  dropout: { type: 'string', default: '0' },
  dtype: { type: 'string', default: 'float32' },
  device: { type: 'string', default: 'cpu' },
  seed: { type: 'string', default: '1337' },
  out: { type: 'string', default: 'runs/gpt' },
  'eval-every': { type: 'string', default: '100' },
  'save-every': { type: 'string', default: '500' },
  resume: { type: 'boolean', default: false },
} as const;
const { args, number, count } = readOptions(options);
const steps = count('steps');
const context = count('context');
const batchSize = count('batch');
const seed = count('seed', 0);
const [evalEvery, saveEvery] = [count('eval-every'), count('save-every')];
const deadline = number('seconds') > 0 ? Date.now() + 1000 * number('seconds') : Number.POSITIVE_INFINITY;
if (!['float32', 'float64', 'float16', 'bfloat16'].includes(args.dtype)) {
  throw new sg.ValueError(`--dtype must be float32, float64, float16 or bfloat16, got "${args.dtype}"`);
}

// Data: the first nine tenths train, the last tenth validates.
const text = data.mobyDick();
const tokenizer = data.CharTokenizer.fit(text.train + text.validation);
const windows = (part: string, length?: number): data.TextDataset => new data.TextDataset(part, tokenizer, { context, windows: 'random', length });
const loader = new data.DataLoader(windows(text.train), {
  batchSize,
  shuffle: true,
  seed,
  dropLast: true,
  device: args.device,
});
if (loader.length === 0) throw new sg.ValueError(`--batch ${batchSize} is more than there are windows of ${context} characters`);
const validation = new data.DataLoader(windows(text.validation, 160), { batchSize: 16, device: args.device });

// Model and optimizer. Biases and norms are not decayed, as usual.
sg.manualSeed(seed);
const model = new nn.GPT({
  vocabSize: tokenizer.vocabSize,
  layers: count('layers'),
  heads: count('heads'),
  dim: count('dim'),
  context,
  dropout: number('dropout'),
  device: args.device,
}).to(args.dtype as sg.DType);
const decayed = model.parameters().filter((p) => p.ndim >= 2);
const others = model.parameters().filter((p) => p.ndim < 2);
const optimizer = new optim.AdamW(
  [
    { params: decayed, weightDecay: 0.1 },
    { params: others, weightDecay: 0 },
  ],
  { lr: number('lr'), betas: [0.9, 0.95] },
);
const schedule = new optim.CosineWithWarmup(optimizer, { warmup: Math.min(100, steps), total: steps, minLr: number('lr') / 10 });

let step = 0;
const history: { step: number; loss: number; validation?: number }[] = [];
if (args.resume) {
  const saved = await io.loadCheckpoint(join(args.out, 'latest'), { model, optimizer, schedule, loader });
  step = saved.step;
  history.push(...(saved['history'] as typeof history));
  if (step >= steps) throw new sg.ValueError(`the run in ${args.out} stands at step ${step}: give --steps more than that`);
  console.log(`resumed from step ${step}`);
}
const save = (): Promise<string> =>
  io.saveCheckpoint(args.out, { model, optimizer, schedule, loader, step, history, tokenizer: tokenizer.toJSON() }, { keep: 2 });
// at once, so that a folder that cannot be written is found now
if (!args.resume) await save();

/** Mean loss over the validation windows: always the same ones. */
async function evaluate(): Promise<number> {
  model.eval();
  let sum = 0;
  let batches = 0;
  validation.setEpoch(0);
  for await (const batch of validation) {
    const loss = sg.scope(() => sg.inferenceMode(() => model.forward(batch.inputs, batch.targets)));
    sum += await loss.item();
    loss.dispose();
    batches++;
  }
  model.train();
  return sum / batches;
}

console.log(
  `${model
    .parameters()
    .reduce((n, p) => n + p.numel, 0)
    .toLocaleString('en')} parameters, ${tokenizer.vocabSize} characters, ` + `${sg.getNumThreads()} threads, ${args.dtype}, ${args.device}`,
);

let stop: string | null = null;
process.once('SIGINT', () => {
  stop = 'interrupted';
});
process.once('SIGTERM', () => {
  stop = 'terminated';
});
const progress = progressLine({ total: steps, tokensPerStep: batchSize * context, from: step });
let valid = history.findLast((h) => h.validation !== undefined)?.validation ?? Number.NaN;

training: while (step < steps) {
  for await (const batch of loader) {
    const loss = sg.scope(() => {
      const loss = model.forward(batch.inputs, batch.targets);
      loss.backward();
      optim.clipGradNorm(model.parameters(), 1);
      optimizer.step();
      optimizer.zeroGrad();
      schedule.step();
      return loss.detach();
    });
    step++;
    const value = await loss.item(); // the event loop runs while the step does
    loss.dispose();
    const evaluates = step % evalEvery === 0 || step === steps;
    if (evaluates) valid = await evaluate();
    if (evaluates || step % 10 === 0) history.push({ step, loss: value, ...(evaluates ? { validation: valid } : {}) });
    progress.update({ step, loss: value, validation: valid, memory: sg.memory(args.device).peak });
    if (Date.now() > deadline) stop = 'time is up';
    if (step % saveEvery === 0 && step < steps) await save();
    if (stop !== null || step >= steps) break training;
  }
}
progress.end();

const path = await save();
writeFileSync(join(args.out, 'loss.svg'), curve(history));
if (stop) console.log(`${stop} at step ${step}`);
const prompt = tokenizer.encode('CHAPTER ');
const sample = model.generate(sg.tensor([Array.from(prompt)], { dtype: 'int64', device: args.device }), {
  maxNewTokens: 400,
  temperature: 0.8,
  topK: 40,
  seed: 1,
});
console.log(`\n${tokenizer.decode(((await sample.toArray()) as number[][])[0]!)}\n`);
const more = stop ? steps : steps + 1000;
const kept = (Object.keys(options) as (keyof typeof options)[])
  .filter((name) => name !== 'resume' && name !== 'steps' && args[name] !== options[name].default)
  .map((name) => ` --${name} ${/\s/.test(String(args[name])) ? JSON.stringify(args[name]) : args[name]}`);
console.log(`checkpoint  ${path}`);
console.log(`loss curve  ${join(args.out, 'loss.svg')}`);
console.log(`resume      npm run quickstart -- --resume --steps ${more}${kept.join('')}`);
