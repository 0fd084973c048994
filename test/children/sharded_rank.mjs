// A rank of a job that trains a GPT over tensor and sharded data parallelism, saves checkpoints from all ranks, and goes on from the newest when it
// is started again: node sharded_rank.mjs <root> <kills>. The kills are JSON, one for each start: { phase, rank, at, from } lets that rank kill
// itself before its at-th call to the file system while it loads, or saves step `from`, at the latest when it is done with it.
import { writeSync } from 'node:fs';
import nodeFs from 'node:fs/promises';
import * as sg from 'shardgrad';
import * as dist from 'shardgrad/distributed';

const { data, nn, optim } = sg;
const [root, kills] = process.argv.slice(2);
const [STEPS, VOCAB, TIME] = [10, 19, 7];
const { rank, world, restartCount, close } = await dist.init({ timeoutMs: 20_000 });
const kill = JSON.parse(kills)[restartCount] ?? null;

/** A file system that counts calls, those of open files too, and ends the process when it is time. */
let calls = 0;
const tick = (name) => {
  if (kill?.rank !== rank || kill.phase !== phase || ++calls < kill.at) return;
  writeSync(1, `killed in ${phase} before ${name}\n`);
  process.kill(process.pid, 'SIGKILL');
};
const counted = (of) =>
  new Proxy(of, {
    get(target, name) {
      const value = target[name];
      if (typeof value !== 'function') return value;
      return async (...args) => {
        tick(name);
        const made = await value.apply(target, args);
        return name === 'open' ? counted(made) : made;
      };
    },
  });
let phase = '';
const ended = () => {
  calls = kill?.at;
  tick('anything else');
  phase = '';
};
const fs = counted(nodeFs);

const mesh = await dist.initDeviceMesh({ dpShard: world.size / 2, tp: 2 }, { group: world });
sg.manualSeed(3);
const model = new nn.GPT({ vocabSize: VOCAB, layers: 2, heads: 2, dim: 8, context: TIME, dropout: 0.1 });
// 7 tokens over 2 ranks are pieces of 4 and 3
dist.parallelize(model, mesh, dist.gptPlan(model, { sequenceParallel: true }));
for (const part of [...model.transformer.h, model]) dist.fullyShard(part, { mesh });
const optimizer = new optim.AdamW(model.parameters(), { lr: 0.02 });
const schedule = new optim.CosineWithWarmup(optimizer, { warmup: 3, total: STEPS });
const ids = Int32Array.from({ length: 24 * (TIME + 1) }, (_, i) => Math.floor(Math.abs(Math.sin(i * 1.7)) * 1000) % VOCAB);
const loader = new data.DataLoader(new data.TensorDataset([{ data: ids, shape: [24, TIME + 1] }]), {
  batchSize: 2,
  shuffle: true,
  seed: 5,
  rank: mesh.rank('dpShard'),
  world: mesh.size('dpShard'),
});
const group = world;
let step = 0;
// the first save is let be
if (restartCount > 0) {
  phase = 'load';
  ({ step } = await dist.loadCheckpoint(root, { model, optimizer, schedule, loader }, { group, fs }));
  ended();
  if (rank === 0) console.log(`resumed ${step}`);
}
let saved = Promise.resolve();
while (step < STEPS) {
  for await (const [batch] of loader) {
    const loss = model.forward(batch.narrow(1, 0, TIME), batch.narrow(1, 1, TIME));
    loss.backward();
    optim.clipGradNorm(model.parameters(), 1);
    optimizer.step();
    optimizer.zeroGrad();
    schedule.step();
    step++;
    const value = await world.allReduce(loss.detach(), { op: 'avg' }).wait().item();
    if (rank === 0) console.log(`step ${step} loss ${value}`);
    if (step % 2 === 0) {
      await saved;
      if (step >= kill?.from) phase = 'save';
      const { done } = await dist.saveCheckpointAsync(root, { model, optimizer, schedule, loader, step }, { group, keep: 2, timeoutMs: 20_000, fs });
      // one that training goes on beside, and one that is waited for
      saved = done.then(() => phase && ended());
      saved.catch(() => {});
      if (step % 4 === 0) await saved;
    }
    if (step === STEPS) break;
  }
}
await saved;
for (const [name, p] of model.namedParameters()) {
  const sum = await dist.fullTensor(p).double().square().sum().item();
  if (rank === 0) console.log(`parameter ${name} ${sum}`);
}
await close();
