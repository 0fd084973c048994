// train_gpt.ts over a mesh: the layers of the GPT in stages on the ranks of `pp`, its matrices cut over `tp`, its blocks sharded over `dpShard`,
// copies of all that over `dpReplicate`. The same script runs on simulated ranks in one process, on processes, and on GPUs:
//
//   node dist/examples/train_gpt_3d.js --simulate 8 --pp 2 --tp 2       eight ranks, two of them left for --dp-shard, on a laptop
//   npx shardgrad run --nproc-per-node 8 dist/examples/train_gpt_3d.js --pp 2 --tp 2 --schedule interleaved --stages-per-rank 2
//   npx shardgrad run --nproc-per-node 8 dist/examples/train_gpt_3d.js --pp 4 --device cuda --autocast bfloat16
//
// The batch is that of all ranks, so the loss curve is that of one process, and a run goes on with --resume on any other mesh.
// Options: those of train_gpt.ts, and --pp --dp-replicate --dp-shard (what is left, unless given) --tp --sequence-parallel --schedule
// (gpipe, 1f1b, interleaved, zb-h1, zbv) --stages-per-rank --micro-batches (of each rank's part of the batch) --simulate.
import { join } from 'node:path';
import * as sg from 'shardgrad';
import { amp, data, io, nn, optim } from 'shardgrad';
import * as dist from 'shardgrad/distributed';
import { decayGroups, gptOptions, type History, lastWords, listen, meanOverRanks, mobyDick, precisionOf } from './gpt_run.js';
import { explainMistakes, progressLine, readOptions } from './report.js';

explainMistakes();

const options = {
  ...gptOptions,
  out: { type: 'string', default: 'runs/gpt_3d' },
  pp: { type: 'string', default: '1' },
  'dp-replicate': { type: 'string', default: '1' },
  'dp-shard': { type: 'string', default: 'rest' },
  tp: { type: 'string', default: '1' },
  'sequence-parallel': { type: 'boolean', default: false },
  schedule: { type: 'string', default: '1f1b' },
  'stages-per-rank': { type: 'string', default: 'default' },
  'micro-batches': { type: 'string', default: 'default' },
  simulate: { type: 'string', default: '0' },
} as const;
const { args, number, count } = readOptions(options);
const [steps, context, batchSize, seed] = [count('steps'), count('context'), count('batch'), count('seed', 0)];
const [evalEvery, saveEvery, seconds] = [count('eval-every'), count('save-every'), number('seconds')];
const { dtype, autocast, scaled } = precisionOf(args);
const given = (name: 'stages-per-rank' | 'micro-batches'): number | undefined => (args[name] === 'default' ? undefined : count(name));
const sizes: dist.MeshSizes = {
  pp: count('pp'),
  dpReplicate: count('dp-replicate'),
  dpShard: args['dp-shard'] === 'rest' ? -1 : count('dp-shard'),
  tp: count('tp'),
};
const stopping = listen(seconds);

// Job: as many ranks in this process as --simulate says, or one of those that a launcher has started.
const simulated = count('simulate', 0);
if (simulated > 0) {
  const device = args.device.startsWith('cuda') ? 'cuda' : 'cpu';
  await dist.simulate(simulated, (rank) => seeded(() => train(rank.world, 0)), { device });
} else {
  const job = await dist.init({ device: args.device });
  await seeded(() => train(job.world, job.restartCount));
  await job.close();
}

/** Simulated ranks have random numbers of their own, too. */
function seeded<T>(fn: () => T): T {
  return sg.withGenerator(new sg.Generator(seed), fn);
}

async function train(world: dist.ProcessGroup, restartCount: number): Promise<void> {
  const { rank, device } = world;
  const first = rank === 0;
  const mesh = await dist.initDeviceMesh(sizes, { group: world });
  const copies = mesh.size('dpReplicate', 'dpShard');
  if (batchSize % copies !== 0) throw new sg.ValueError(`--batch ${batchSize} cannot be divided over ${copies} data-parallel ranks`);

  // Data: ranks that differ in pp or tp alone read the same.
  const { tokenizer, text, heldOut } = mobyDick(context);
  const part = { batchSize: batchSize / copies, dropLast: true, rank: mesh.rank('dpReplicate', 'dpShard'), world: copies, device };
  const loader = new data.DataLoader(text, { ...part, shuffle: true, seed });
  if (loader.length === 0) throw new sg.ValueError(`--batch ${batchSize} is more than there are windows of ${context} characters`);
  const validation = new data.DataLoader(heldOut(Math.max(160, batchSize)), part);

  // Model: made without memory, cut, and then given the values that it would have whole.
  const gpt = { vocabSize: tokenizer.vocabSize, layers: count('layers'), heads: count('heads'), dim: count('dim'), context, dropout: number('dropout'), dtype };
  const model = new nn.GPT({ ...gpt, device: 'meta' });
  const parameters = model.parameters().reduce((n, p) => n + p.numel, 0);
  dist.parallelize(model, mesh, dist.gptPlan(model, { sequenceParallel: args['sequence-parallel'] }));
  const pipeline = new dist.Pipeline(model, {
    mesh,
    schedule: args.schedule as dist.ScheduleName,
    microBatches: given('micro-batches') ?? (mesh.size('pp') === 1 ? 1 : Math.min(part.batchSize, 4 * mesh.size('pp'))),
    stagesPerRank: given('stages-per-rank'),
  });
  const blocks = mesh.size('dpShard') > 1 ? pipeline.children().filter((m) => m instanceof nn.GPTBlock) : [];
  for (const block of blocks) dist.fullyShard(block, { mesh, gradientReduction: 'sum' }); // the loss is divided by the targets of all ranks
  dist.materialize(pipeline);

  const optimizer = new optim.AdamW(decayGroups(pipeline.parameters()), { lr: number('lr'), betas: [0.9, 0.95] });
  const schedule = new optim.CosineWithWarmup(optimizer, { warmup: Math.min(100, steps), total: steps, minLr: number('lr') / 10 });
  const scaler = new amp.GradScaler({ enabled: scaled, group: world });

  let step = 0;
  const history: History = [];
  const states = { model: pipeline, optimizer, schedule, scaler, loader };
  const resumes = args.resume || (restartCount > 0 && (await io.latestCheckpoint(args.out)) !== null);
  if (resumes) {
    const saved = await dist.loadCheckpoint(join(args.out, 'latest'), states, { group: world });
    step = saved.step;
    history.push(...(saved['history'] as History));
    if (step >= steps) throw new sg.ValueError(`the run in ${args.out} stands at step ${step}: give --steps more than that`);
    if (first) console.log(`resumed from step ${step}`);
  }
  // each rank writes what it has, and any mesh loads it
  const save = (): Promise<string> => dist.saveCheckpoint(args.out, { ...states, step, history, tokenizer: tokenizer.toJSON() }, { group: world, keep: 2 });
  if (!resumes) await save(); // at once, so that a folder that cannot be written is found now

  /** Mean loss over the validation windows, always the same ones; known on every rank. */
  const evaluate = async (): Promise<number> => {
    pipeline.eval();
    let [sum, batches] = [0, 0];
    validation.setEpoch(0);
    for await (const { inputs, targets } of validation) {
      const { loss } = await amp.autocast(autocast, () => pipeline.evaluate(inputs, targets));
      sum += await loss.item();
      loss.dispose();
      batches++;
    }
    pipeline.train();
    return sum / batches;
  };

  if (first) {
    const what = [
      `${parameters.toLocaleString('en')} parameters`,
      `${tokenizer.vocabSize} characters`,
      `${pipeline.schedule.name} of ${pipeline.schedule.microBatches}`,
    ];
    console.log(`${[...what, `${dtype}${autocast ? ` under ${autocast} autocast` : ''}`, device].join(', ')}\n${mesh}`);
  }
  let stop: string | undefined;
  const progress = progressLine({ total: steps, tokensPerStep: batchSize * context, from: step });
  const [begin, waitedBefore] = [performance.now(), dist.waitedForCollectives(device)];
  let valid = history.findLast((h) => h.validation !== undefined)?.validation ?? Number.NaN;

  training: while (step < steps) {
    for await (const { inputs, targets } of loader) {
      // forward and backward of all micro-batches, gradients summed over the copies
      const { loss } = await amp.autocast(autocast, () => pipeline.step(inputs, targets, { scaler }));
      sg.scope(() => {
        scaler.unscale_(optimizer);
        optim.clipGradNorm(pipeline.parameters(), 1);
        scaler.step(optimizer);
        scaler.update();
        optimizer.zeroGrad();
        schedule.step();
      });
      step++;
      const value = await loss.item();
      loss.dispose();
      const waited = (1000 * (dist.waitedForCollectives(device) - waitedBefore)) / (performance.now() - begin);
      const told = await meanOverRanks(world, [...stopping.heard(), waited, sg.memory(device).peak]);
      stop = stopping.reason(told);
      const evaluates = step % evalEvery === 0 || step === steps;
      if (evaluates) valid = await evaluate();
      if (evaluates || step % 10 === 0) history.push({ step, loss: value, ...(evaluates ? { validation: valid } : {}) });
      if (first) {
        const communication = world.size === 1 ? null : told[3]!;
        progress.update({ step, loss: value, validation: valid, memory: told[4]! * world.size, communication });
      }
      if (step % saveEvery === 0 && step < steps) await save();
      if (stop || step >= steps) break training;
    }
  }
  if (first) progress.end();
  const path = await save();
  if (!first) return;
  // the whole model, from the pieces that all ranks have written
  const whole = new nn.GPT({ ...gpt, device });
  await dist.loadCheckpoint(path, { model: whole });
  const launcher = simulated > 0 || world.size === 1 ? 'node' : `npx shardgrad run --nproc-per-node ${world.size}`;
  const command = `${launcher} dist/examples/train_gpt_3d.js`;
  await lastWords({ model: whole, tokenizer, autocast, history, path, args, options, command, step, steps, stop });
}
