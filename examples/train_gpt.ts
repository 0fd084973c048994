// Trains a small GPT on the text of Moby Dick, character by character, and reads like the recipe it is: job, data, model, optimizer,
// loop, checkpoint, sample. One command runs it, as two processes that share every batch:
//
//   npm run quickstart                         about two minutes on a laptop's CPU
//   npm run quickstart -- --resume             goes on where the last run stopped
//   npm run quickstart -- --steps 5000 --autocast bfloat16     in mixed precision; --dtype bfloat16 for 16-bit parameters too
//   node dist/examples/train_gpt.js            one process; npx shardgrad run --nproc-per-node 4 dist/examples/train_gpt.js: four
//
// The batch is that of all processes, so the loss curve does not depend on their number, and a run may go on with another one.
// Options: --steps --batch --layers --heads --dim --context --lr --dropout --dtype --autocast --device --seed --out --eval-every
// --save-every --seconds (stop after so many) --resume. Ctrl-C saves a checkpoint and ends cleanly; a second Ctrl-C ends at once.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as sg from 'shardgrad';
import { amp, data, io, nn, optim } from 'shardgrad';
import * as dist from 'shardgrad/distributed';
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
  autocast: { type: 'string', default: 'none' },
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

if (!['none', 'float16', 'bfloat16'].includes(args.autocast)) throw new sg.ValueError(`--autocast must be none, float16 or bfloat16, got "${args.autocast}"`);
const autocast = args.autocast === 'none' ? null : (args.autocast as amp.AutocastDType);

// Job: this process is one of `world.size` ranks; started by itself, the only one. The first one prints, saves and samples.
const { rank, world, device, restartCount, close } = await dist.init({ device: args.device });
const first = rank === 0;
if (batchSize % world.size !== 0) throw new sg.ValueError(`--batch ${batchSize} cannot be divided over ${world.size} ranks`);

// Data: the first nine tenths train, the last tenth validates.
const text = data.mobyDick();
const tokenizer = data.CharTokenizer.fit(text.train + text.validation);
const windows = (part: string, length?: number): data.TextDataset => new data.TextDataset(part, tokenizer, { context, windows: 'random', length });
const loader = new data.DataLoader(windows(text.train), {
  batchSize: batchSize / world.size,
  shuffle: true,
  seed,
  dropLast: true,
  rank,
  world: world.size,
  device,
});
if (loader.length === 0) throw new sg.ValueError(`--batch ${batchSize} is more than there are windows of ${context} characters`);
const validation = new data.DataLoader(windows(text.validation, 160), { batchSize: 16, rank, world: world.size, device });

// Model and optimizer. Biases and norms are not decayed, as usual.
sg.manualSeed(seed);
const model = new nn.GPT({
  vocabSize: tokenizer.vocabSize,
  layers: count('layers'),
  heads: count('heads'),
  dim: count('dim'),
  context,
  dropout: number('dropout'),
  device,
}).to(args.dtype as sg.DType);
const ddp = new dist.DistributedDataParallel(model, { group: world });
await ddp.ready;
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

// float16 gradients need a loss that is scaled; otherwise the scaler passes everything on
const scaler = new amp.GradScaler({ enabled: autocast === 'float16' || args.dtype === 'float16' });

let step = 0;
const history: { step: number; loss: number; validation?: number }[] = [];
const resumes = args.resume || (restartCount > 0 && (await io.latestCheckpoint(args.out)) !== null);
if (resumes) {
  const saved = await io.loadCheckpoint(join(args.out, 'latest'), { model, optimizer, schedule, scaler, loader });
  step = saved.step;
  history.push(...(saved['history'] as typeof history));
  if (step >= steps) throw new sg.ValueError(`the run in ${args.out} stands at step ${step}: give --steps more than that`);
  if (first) console.log(`resumed from step ${step}`);
}
// every rank has the same state, so one saves it, and all load it, however many they are then
const save = (): Promise<string> =>
  io.saveCheckpoint(args.out, { model, optimizer, schedule, scaler, loader, step, history, tokenizer: tokenizer.toJSON() }, { keep: 2 });
// at once, so that a folder that cannot be written is found now
if (first && !resumes) await save();

/** The mean over the ranks of what each of them gives: numbers, and a last one that is still being computed. */
function meanOverRanks(numbers: number[], last?: sg.Tensor): Promise<number[]> {
  return sg.scope(async () => {
    const mine = sg.tensor(numbers, { device });
    const all = world.allReduce(last ? sg.cat([mine, last.reshape([1])]) : mine, { op: 'avg' }).wait();
    return (await all.toArray()) as number[];
  });
}

/** Mean loss over the validation windows, always the same ones: each rank goes through its part. */
async function evaluate(): Promise<number> {
  model.eval();
  let sum = 0;
  let count = 0;
  validation.setEpoch(0);
  for await (const batch of validation) {
    const loss = sg.scope(() => sg.inferenceMode(() => amp.autocast(autocast, () => model.forward(batch.inputs, batch.targets))));
    sum += (await loss.item()) * batch.inputs.shape[0]!;
    loss.dispose();
    count += batch.inputs.shape[0]!;
  }
  model.train();
  const [meanSum, meanCount] = await meanOverRanks([sum, count]);
  return meanSum! / meanCount!;
}

if (first) {
  const size = model.parameters().reduce((n, p) => n + p.numel, 0);
  const ranks = world.size === 1 ? '' : `${world.size} ranks, `;
  console.log(
    `${size.toLocaleString('en')} parameters, ${tokenizer.vocabSize} characters, ${ranks}${sg.getNumThreads()} threads, ${args.dtype}${autocast ? ` under ${autocast} autocast` : ''}, ${device}`,
  );
}

// A signal may reach one rank a step before the others: what each has heard goes around with the loss, and all stop at the same step.
const reasons = ['interrupted', 'terminated', 'time is up'] as const;
const heard = [0, 0, 0];
process.once('SIGINT', () => {
  heard[0] = 1;
});
process.once('SIGTERM', () => {
  heard[1] = 1;
});
let stop: string | undefined;
const progress = progressLine({ total: steps, tokensPerStep: batchSize * context, from: step });
const [begin, waitedBefore] = [performance.now(), dist.waitedForCollectives(device)];
let valid = history.findLast((h) => h.validation !== undefined)?.validation ?? Number.NaN;

training: while (step < steps) {
  for await (const batch of loader) {
    const loss = sg.scope(() => {
      const loss = amp.autocast(autocast, () => ddp.forward(batch.inputs, batch.targets));
      scaler.scale(loss).backward(); // the gradients become the mean over all ranks
      scaler.step(optimizer, { maxNorm: 1 });
      scaler.update();
      optimizer.zeroGrad();
      schedule.step();
      return loss.detach().float();
    });
    step++;
    if (Date.now() > deadline) heard[2] = 1;
    const waited = (1000 * (dist.waitedForCollectives(device) - waitedBefore)) / (performance.now() - begin);
    // the event loop runs while the step does
    const told = await meanOverRanks([...heard, waited, sg.memory(device).peak], loss);
    const value = told.pop()!;
    loss.dispose();
    stop = reasons.find((_, i) => told[i]! > 0);
    const evaluates = step % evalEvery === 0 || step === steps;
    if (evaluates) valid = await evaluate();
    if (evaluates || step % 10 === 0) history.push({ step, loss: value, ...(evaluates ? { validation: valid } : {}) });
    if (first) {
      const communication = world.size === 1 ? null : told[3]!;
      progress.update({ step, loss: value, validation: valid, memory: told[4]! * world.size, communication });
      if (step % saveEvery === 0 && step < steps) await save();
    }
    if (stop || step >= steps) break training;
  }
}
if (first) await finish();
await close();

/** The first rank's last words. */
async function finish(): Promise<void> {
  progress.end();
  const path = await save();
  writeFileSync(join(args.out, 'loss.svg'), curve(history));
  if (stop) console.log(`${stop} at step ${step}`);
  const prompt = tokenizer.encode('CHAPTER ');
  const prompts = sg.tensor([Array.from(prompt)], { dtype: 'int64', device });
  const sample = amp.autocast(autocast, () => model.generate(prompts, { maxNewTokens: 400, temperature: 0.8, topK: 40, seed: 1 }));
  console.log(`\n${tokenizer.decode(((await sample.toArray()) as number[][])[0]!)}\n`);
  const more = stop ? steps : steps + 1000;
  const kept = (Object.keys(options) as (keyof typeof options)[])
    .filter((name) => name !== 'resume' && name !== 'steps' && args[name] !== options[name].default)
    .map((name) => ` --${name} ${/\s/.test(String(args[name])) ? JSON.stringify(args[name]) : args[name]}`);
  console.log(`checkpoint  ${path}`);
  console.log(`loss curve  ${join(args.out, 'loss.svg')}`);
  console.log(`resume      npm run quickstart -- --resume --steps ${more}${kept.join('')}`);
}
