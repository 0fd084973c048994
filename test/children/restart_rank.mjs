// A rank of a job that saves checkpoints every third step and resumes when it is started again. In the first start of the job, rank 1
// kills itself after the step that the second argument says; 0: never.
import * as sg from 'shardgrad';
import * as dist from 'shardgrad/distributed';

const { data, io, nn, optim } = sg;
const [out, failAt] = process.argv.slice(2);
const { rank, world, restartCount, close } = await dist.init();
sg.manualSeed(3);
const xs = Float32Array.from({ length: 52 * 4 }, (_, i) => Math.sin(i * 1.7));
const loader = new data.DataLoader(new data.TensorDataset([{ data: xs, shape: [52, 4] }]), {
  batchSize: 12 / world.size,
  shuffle: true,
  seed: 5,
  dropLast: true,
  rank,
  world: world.size,
});
const model = new nn.Sequential(new nn.Linear(4, 16), new nn.Tanh(), new nn.Linear(16, 4));
const ddp = new dist.DistributedDataParallel(model, { group: world });
const optimizer = new optim.AdamW(model.parameters(), { lr: 0.01 });
const schedule = new optim.CosineWithWarmup(optimizer, { warmup: 3, total: 20 });
let step = 0;
if (restartCount > 0) {
  ({ step } = await io.loadCheckpoint(out, { model, optimizer, schedule, loader }));
  if (rank === 0) console.log(`resumed ${step}`);
}
while (step < 20) {
  for await (const [x] of loader) {
    const loss = sg.mseLoss(ddp.forward(x), x.flip([1]));
    loss.backward();
    optimizer.step();
    optimizer.zeroGrad();
    schedule.step();
    step++;
    const value = await world.allReduce(loss.detach(), { op: 'avg' }).wait().item();
    if (rank === 0) console.log(`step ${step} loss ${value}`);
    if (rank === 0 && step % 3 === 0) await io.saveCheckpoint(out, { model, optimizer, schedule, loader, step }, { keep: 2 });
    if (rank === 1 && restartCount === 0 && step === Number(failAt)) process.kill(process.pid, 'SIGKILL');
    if (step === 20) break;
  }
}
if (rank === 0) console.log(`sum ${await model.parameters()[0].double().sum().item()}`);
await close();
