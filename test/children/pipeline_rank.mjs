// A training in stages, of which one rank comes to grief in a given action of a given step. Every rank says as lines of JSON what happens to
// it: `fault` just before, `caught` with the error it sees, `done`.
import { writeSync } from 'node:fs';
import * as sg from 'shardgrad';
import * as dist from 'shardgrad/distributed';

const { nn, optim } = sg;
const plan = JSON.parse(process.argv[2]);
const me = Number(process.env.RANK);
const [WIDE, MICRO_BATCHES] = [16, 4];
let step = 0;
const say = (event, text = '') => writeSync(1, `${JSON.stringify({ event, rank: me, at: Date.now(), text })}\n`);

/** Whether it is here that the plan wants its fault: in action 1F2, say. Most kinds do not come back. */
function at(action) {
  if (me !== plan.rank || step !== plan.step || action !== plan.action) return;
  plan.step = -1;
  say('fault');
  if (plan.kind === 'kill') process.kill(process.pid, 'SIGKILL');
  if (plan.kind === 'stop') process.kill(process.pid, 'SIGSTOP');
  if (plan.kind === 'throw') throw new RangeError('my own mistake');
}

const mark = sg.defineFunction({
  forward: (ctx, x, backward) => {
    ctx.backward = backward;
    return x.clone();
  },
  backward: (ctx, g) => {
    ctx.backward();
    return [g, null];
  },
});

/** A stage. Custom functions come to their gradient in B or I, the gradient of a Linear's weight in B or W. */
class Stage extends nn.Module {
  constructor(index) {
    super();
    this.index = index;
    this.layer = new nn.Linear(WIDE, WIDE);
    this.counts = {};
    this.layer.weight.registerPostAccumulateGradHook(() => this.count('W'));
  }
  count(kind) {
    this.counts[kind] ??= { step, next: 0 };
    if (this.counts[kind].step !== step) this.counts[kind] = { step, next: 0 };
    at(`${this.index}${kind}${this.counts[kind].next++}`);
  }
  forward(x) {
    if (!this.training) return this.layer.forward(x);
    this.count('F');
    const y = this.layer.forward(x).tanh();
    return mark(y, () => this.count(plan.action.includes('I') ? 'I' : 'B'));
  }
}

/** Calls of a group go through `at`, by their labels or by a name. */
function watch(group, method, name) {
  const call = group[method].bind(group);
  group[method] = (x, ...rest) => {
    at(name ?? rest.at(-1)?.label);
    return call(x, ...rest);
  };
}

async function train() {
  const { world, close } = await dist.init();
  const mesh = await dist.initDeviceMesh(plan.mesh, { group: world });
  sg.manualSeed(1);
  const pp = mesh.group('pp');
  const model = new nn.Sequential(...Array.from({ length: pp.size }, (_, i) => new Stage(i)));
  const pipeline = new dist.Pipeline(model, { mesh, schedule: plan.schedule, microBatches: MICRO_BATCHES, loss: (y, t) => sg.mseLoss(y, t) });
  if (plan.mesh.dpShard) for (const stage of pipeline.children()) dist.fullyShard(stage, { mesh });
  watch(pp, 'send');
  watch(pp, 'recv');
  if (plan.mesh.dpReplicate) watch(mesh.group('dpReplicate'), 'allReduce', 'REDUCE_GRAD');
  if (plan.mesh.dpShard) watch(mesh.group('dpShard'), 'allGather', 'UNSHARD');
  const optimizer = new optim.AdamW(pipeline.parameters(), { lr: 0.01 });
  for (step = 1; step <= 5; step++) {
    const x = sg.randn([2 * MICRO_BATCHES, WIDE], { generator: new sg.Generator(step) });
    const { loss } = await pipeline.step(x, x);
    optim.clipGradNorm(pipeline.parameters(), 1);
    optimizer.step();
    optimizer.zeroGrad();
    await loss.item();
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
