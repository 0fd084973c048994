// The training script that the files for clusters start. It asks nobody where it runs: the same file is a job of one process, of ranks on one
// host and on many. It goes on from its latest checkpoint, and SIGTERM makes it save one and end with code 143, so that whoever started the
// job knows that there is more to do.
//
//   npx shardgrad run --nproc-per-node 2 train.js --steps 200 --out runs/cluster
import { parseArgs } from 'node:util';
import * as sg from 'shardgrad';
import { data, io, nn, optim } from 'shardgrad';
import * as dist from 'shardgrad/distributed';

const { values: args } = parseArgs({
  options: { steps: { type: 'string', default: '200' }, out: { type: 'string', default: 'runs/cluster' }, 'save-every': { type: 'string', default: '50' } },
});
const steps = Number(args.steps);
const saveEvery = Number(args['save-every']);

// Slurm and a launcher may both signal a rank, so a signal is noted, and what the job does about it is decided by all ranks together.
let told = false;
process.on('SIGTERM', () => {
  told = true;
});

const { rank, worldSize, world, device, close } = await dist.init({ device: sg.cuda.isAvailable() ? 'cuda' : 'cpu' });
const first = rank === 0;
if (first) console.log(`${worldSize} ${worldSize === 1 ? 'rank' : 'ranks'}, ${device.type}`);

// Data: points of the plane and a wavy function of them. 48 samples a step, dealt to the ranks.
const points = sg.withGenerator(new sg.Generator(7), () => sg.rand([4800, 2]));
const heights = points.select(1, 0).mul(6).sin().mul(points.select(1, 1)).unsqueeze(1);
const loader = new data.DataLoader(new data.TensorDataset({ points, heights }), {
  batchSize: 48 / worldSize,
  shuffle: true,
  seed: 7,
  dropLast: true,
  rank,
  world: worldSize,
  device,
});

sg.manualSeed(1);
const model = new nn.Sequential(new nn.Linear(2, 32, { device }), new nn.GELU(), new nn.Linear(32, 1, { device }));
const ddp = new dist.DistributedDataParallel(model, { group: world });
await ddp.ready;
const optimizer = new optim.AdamW(model.parameters(), { lr: 0.01 });

// A job that starts again, for whatever reason, goes on. The folder must be the same for all hosts.
const states = { model, optimizer, loader };
let step = 0;
if ((await io.latestCheckpoint(args.out)) !== null) {
  ({ step } = await dist.loadCheckpoint(args.out, states, { group: world }));
  if (first) console.log(`resumed from step ${step}`);
}
const save = (): Promise<string> => dist.saveCheckpoint(args.out, { ...states, step }, { group: world, keep: 2 });

let stopping = false;
training: while (step < steps) {
  for await (const batch of loader) {
    const loss = sg.scope(() => {
      const loss = sg.mseLoss(ddp.forward(batch.points), batch.heights);
      loss.backward();
      optimizer.step();
      optimizer.zeroGrad();
      return loss.detach();
    });
    step++;
    // a signal reaches some ranks a step before others: it counts when any of them has heard it
    const news = sg.tensor([Number(told), 0], { device });
    news.select(0, 1).copy_(loss);
    const [heard, sum] = (await world.allReduce(news).wait().toArray()) as [number, number];
    for (const t of [loss, news]) t.dispose();
    stopping = heard > 0;
    if (first && step % 50 === 0) console.log(`step ${step}  loss ${(sum / worldSize).toFixed(5)}`);
    if (stopping || step >= steps) break training;
    if (step % saveEvery === 0) await save();
  }
}
await save();
if (first) console.log(stopping ? `told to end at step ${step}: saved, there is more to do` : `done at step ${step}`);
await close();
if (stopping) process.exitCode = 143;
