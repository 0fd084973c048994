// A data-parallel training of a few steps as one rank of a job; rank 1 may come to grief in its middle.
import * as sg from 'shardgrad';
import * as dist from 'shardgrad/distributed';
const { nn, optim } = sg;
const [what] = process.argv.slice(2);
const { rank, worldSize, world, close } = await dist.init();
sg.manualSeed(1);
const ddp = new dist.DistributedDataParallel(new nn.Sequential(new nn.Linear(8, 16), new nn.Tanh(), new nn.Linear(16, 8)), { group: world });
await ddp.ready;
const opt = new optim.AdamW(ddp.parameters(), { lr: 0.01 });
const all = sg.fromTypedArray(Float32Array.from({ length: 12 * 8 }, (_, i) => Math.sin(i)), [12, 8]);
const n = 12 / worldSize;
for (let step = 1; step <= 20; step++) {
  const x = all.slice(0, rank * n, (rank + 1) * n);
  const loss = sg.mseLoss(ddp.forward(x), x);
  loss.backward(); opt.step(); opt.zeroGrad();
  if (step === 10 && rank === 1) {
    if (what === 'kill') process.kill(process.pid, 'SIGKILL');
    if (what === 'stop') process.kill(process.pid, 'SIGSTOP');
    if (what === 'exit') process.exit(0);
    if (what === 'throw') throw new Error('my own mistake');
  }
  await loss.item();
}
console.log('sum', await ddp.parameters()[0].double().sum().item());
await close();
