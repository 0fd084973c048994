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
import { join } from 'node:path';
import * as sg from 'shardgrad';
import { amp, data, io, nn, optim } from 'shardgrad';
import * as dist from 'shardgrad/distributed';
import { decayGroups, gptOptions, type History, lastWords, listen, meanOverRanks, mobyDick, precisionOf } from './gpt_run.js';
import { explainMistakes, progressLine, readOptions } from './report.js';

explainMistakes();

const { args, number, count } = readOptions(gptOptions);
const steps = count('steps');
const context = count('context');
const batchSize = count('batch');
const seed = count('seed', 0);
const [evalEvery, saveEvery, seconds] = [count('eval-every'), count('save-every'), number('seconds')];
const { dtype, autocast, scaled } = precisionOf(args);

// Job: this process is one of `world.size` ranks; started by itself, the only one. The first one prints, saves and samples.
const { rank, world, device, restartCount, close } = await dist.init({ device: args.device });
const first = rank === 0;
if (batchSize % world.size !== 0) throw new sg.ValueError(`--batch ${batchSize} cannot be divided over ${world.size} ranks`);

// Data
const { tokenizer, text, heldOut } = mobyDick(context);
const loader = new data.DataLoader(text, {
  batchSize: batchSize / world.size,
  shuffle: true,
  seed,
  dropLast: true,
  rank,
  world: world.size,
  device,
});
if (loader.length === 0) throw new sg.ValueError(`--batch ${batchSize} is more than there are windows of ${context} characters`);
const validation = new data.DataLoader(heldOut(160), { batchSize: 16, rank, world: world.size, device });

// Model and optimizer
sg.manualSeed(seed);
const model = new nn.GPT({
  vocabSize: tokenizer.vocabSize,
  layers: count('layers'),
  heads: count('heads'),
  dim: count('dim'),
  context,
  dropout: number('dropout'),
  device,
}).to(dtype);
const ddp = new dist.DistributedDataParallel(model, { group: world });
await ddp.ready;
const optimizer = new optim.AdamW(decayGroups(model.parameters()), { lr: number('lr'), betas: [0.9, 0.95] });
const schedule = new optim.CosineWithWarmup(optimizer, { warmup: Math.min(100, steps), total: steps, minLr: number('lr') / 10 });

// where nothing has to be scaled, the scaler passes everything on
const scaler = new amp.GradScaler({ enabled: scaled });

let step = 0;
const history: History = [];
const resumes = args.resume || (restartCount > 0 && (await io.latestCheckpoint(args.out)) !== null);
if (resumes) {
  const saved = await io.loadCheckpoint(join(args.out, 'latest'), { model, optimizer, schedule, scaler, loader });
  step = saved.step;
  history.push(...(saved['history'] as History));
  if (step >= steps) throw new sg.ValueError(`the run in ${args.out} stands at step ${step}: give --steps more than that`);
  if (first) console.log(`resumed from step ${step}`);
}
// every rank has the same state, so one saves it, and all load it, however many they are then
const save = (): Promise<string> =>
  io.saveCheckpoint(args.out, { model, optimizer, schedule, scaler, loader, step, history, tokenizer: tokenizer.toJSON() }, { keep: 2 });
// at once, so that a folder that cannot be written is found now
if (first && !resumes) await save();

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
  const [meanSum, meanCount] = await meanOverRanks(world, [sum, count]);
  return meanSum! / meanCount!;
}

if (first) {
  const size = model.parameters().reduce((n, p) => n + p.numel, 0);
  const ranks = world.size === 1 ? '' : `${world.size} ranks, `;
  console.log(
    `${size.toLocaleString('en')} parameters, ${tokenizer.vocabSize} characters, ${ranks}${sg.getNumThreads()} threads, ${dtype}${autocast ? ` under ${autocast} autocast` : ''}, ${device}`,
  );
}

const stopping = listen(seconds);
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
    const waited = (1000 * (dist.waitedForCollectives(device) - waitedBefore)) / (performance.now() - begin);
    // the event loop runs while the step does
    const told = await meanOverRanks(world, [...stopping.heard(), waited, sg.memory(device).peak], loss);
    const value = told.pop()!;
    loss.dispose();
    stop = stopping.reason(told);
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
if (first) {
  progress.end();
  const path = await save();
  const command = 'npm run quickstart --';
  await lastWords({ model, tokenizer, autocast, history, path, args, options: gptOptions, command, step, steps, stop });
}
await close();
