// A data-parallel training with checkpoints, of which one rank comes to grief at a given point. Every rank says as lines of JSON what
// happens to it: `fault` just before, `caught` with the error it sees, `done`.
import { writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import * as sg from 'shardgrad';
import * as dist from 'shardgrad/distributed';

const { nn, optim, io } = sg;
const plan = JSON.parse(process.argv[2]);
const me = Number(process.env.RANK);
let step = 0;
const say = (event, text = '') => writeSync(1, `${JSON.stringify({ event, rank: me, at: Date.now(), text })}\n`);

/** Whether it is here and now that the plan wants its fault; most kinds do not come back. */
function at(stage) {
  if (me !== plan.rank || stage !== plan.stage || step !== plan.step) return false;
  plan.step = -1;
  say('fault');
  if (plan.kind === 'kill') process.kill(process.pid, 'SIGKILL');
  if (plan.kind === 'stop') process.kill(process.pid, 'SIGSTOP');
  if (plan.kind === 'exit') process.exit(0);
  if (plan.kind === 'throw') throw new RangeError('my own mistake');
  if (plan.kind === 'sleep') Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, plan.milliseconds);
  return true;
}

class Model extends nn.Module {
  constructor() {
    super();
    this.first = new nn.Linear(64, 256);
    this.last = new nn.Linear(256, 64);
  }
  forward(x) {
    const hidden = this.first.forward(x).tanh();
    at('forward');
    return this.last.forward(hidden);
  }
}

async function train() {
  at('start');
  const { rank, world, close } = await dist.init();
  at('joined');
  sg.manualSeed(1);
  const ddp = new dist.DistributedDataParallel(new Model(), { group: world, bucketBytes: 16384, firstBucketBytes: 16384 });
  at('verification');
  const optimizer = new optim.AdamW(ddp.parameters(), { lr: 0.01 });
  ddp.module.first.weight.registerPostAccumulateGradHook(() => at('backward'));
  const large = sg.ones([1 << 20]);
  const side = plan.kind === 'order' ? await world.split(0, { name: 'side' }) : null;
  // a cut link does not stop anybody: there must be something left to do
  const steps = plan.kind === 'cut' ? 1000 : 8;
  for (step = 1; step <= steps; step++) {
    const x = sg.randn([8, 64], { generator: new sg.Generator(step * 10 + rank) });
    const loss = sg.mseLoss(ddp.forward(x), x);
    loss.backward();
    at('optimizer');
    optimizer.step();
    optimizer.zeroGrad();
    const calls = [() => world.allReduce(large, { op: 'avg' })];
    if (side) calls.push(() => side.allReduce(sg.ones([2])));
    if (at('order')) calls.reverse();
    const works = calls.map((call) => call());
    at('collective');
    for (const work of works) work.wait();
    at('reading');
    await loss.item();
    if (plan.kind === 'cut') await sleep(10);
    if (step % 3 === 0) {
      const saving = rank === 0 ? io.saveCheckpoint(plan.folder, { model: ddp.module, optimizer, step }) : null;
      if (plan.stage === 'checkpoint') await sleep(plan.delay);
      at('checkpoint');
      await saving;
      await world.barrier();
    }
  }
  await close();
}

try {
  await train();
  say('done');
} catch (error) {
  if (error instanceof RangeError) throw error;
  say('caught', `${error.name}: ${error.message}`);
  process.exitCode = 3;
}
