// Data parallelism over graphs that are not a plain chain: parameters used twice, in checkpoints, by some ranks, by none; static
// graphs; and the mistakes that would otherwise train different models in silence.
import { expect, test } from 'vitest';
import { type DataParallelOptions, DistributedDataParallel } from '../lib/distributed/ddp.js';
import { type SimulatedRank, simulate } from '../lib/distributed/simulate.js';
import * as sg from '../lib/index.js';
import { BATCH, expectEqual, flatten, part, rows, WIDTH } from './helpers/ranks.js';

const { nn, optim } = sg;
type Options = Omit<DataParallelOptions, 'group'>;
const smallBuckets = { bucketBytes: 300, firstBucketBytes: 100 };

/** Layers that a forward uses or not, as its argument says: `b` twice means twice, `[b]` in a checkpoint. */
class Layers extends nn.Module {
  a: sg.nn.Linear;
  b: sg.nn.Linear;
  c: sg.nn.Linear;
  constructor(device: string) {
    super();
    sg.manualSeed(3);
    const on = { device, dtype: 'float64' as const };
    this.a = new nn.Linear(WIDTH, WIDTH, on);
    this.b = new nn.Linear(WIDTH, WIDTH, on);
    this.c = new nn.Linear(WIDTH, WIDTH, on);
  }
  override forward(x: sg.Tensor, route: string): sg.Tensor {
    let y = x;
    for (const step of route.match(/\[\w+\]|\w/g) ?? []) {
      const run = (z: sg.Tensor): sg.Tensor => [...step.replace(/\W/g, '')].reduce((h, name) => this[name as 'a'].forward(h).tanh(), z);
      y = step.startsWith('[') ? sg.checkpoint(run, y) : run(y);
    }
    return y;
  }
}

type Wrapped = DistributedDataParallel<Layers>;
const wrap = (of: SimulatedRank, options: Options = {}): Wrapped =>
  new DistributedDataParallel(new Layers(of.device.toString()), { group: of.world, ...options });

function backward(of: SimulatedRank, ddp: Wrapped, route: string): void {
  const x = part(of);
  sg.mseLoss(ddp.forward(x, route), x).backward();
}

/** Every rank's parameters; routes[step][rank], or routes[step] for all ranks. */
function train(size: number, options: Options, routes: readonly (string | readonly string[])[]): Promise<number[][]> {
  return simulate(size, async (of) => {
    const ddp = wrap(of, { ...smallBuckets, ...options });
    const opt = new optim.AdamW(ddp.parameters(), { lr: 0.05, weightDecay: 0.1 });
    for (const route of routes) {
      backward(of, ddp, typeof route === 'string' ? route : route[of.rank]!);
      sg.optim.clipGradNorm(ddp.parameters(), 0.5);
      opt.step();
      opt.zeroGrad();
    }
    return flatten(ddp.parameters());
  });
}

/** One process: the mean of what each rank's part gives on its own route. */
async function alone(size: number, routes: readonly (string | readonly string[])[]): Promise<number[]> {
  const model = new Layers('cpu');
  const opt = new optim.AdamW(model.parameters(), { lr: 0.05, weightDecay: 0.1 });
  for (const route of routes) {
    for (let rank = 0; rank < size; rank++) {
      const x = rows('cpu', (BATCH / size) * rank, (BATCH / size) * (rank + 1));
      sg.mseLoss(model.forward(x, typeof route === 'string' ? route : route[rank]!), x)
        .div(size)
        .backward();
    }
    sg.optim.clipGradNorm(model.parameters(), 0.5);
    opt.step();
    opt.zeroGrad();
  }
  return flatten(model.parameters());
}

test.each([
  ['one parameter three times', 'abacba'],
  ['a checkpointed segment', 'a[bc]'],
  ['a parameter inside of a checkpoint and before it', 'ab[cab]'],
  ['a parameter inside of a checkpoint and after it', '[cab]ab'],
  ['two checkpoints with the same parameters', '[abc][ab]c'],
  ['everything in a checkpoint', '[abc]'],
])('%s', async (_, route) => {
  const steps = [route, route, route];
  const expected = await alone(2, steps);
  for (const options of [{}, { staticGraph: true }, { rebuildBuckets: false }, { findUnusedParameters: true }]) {
    expectEqual(await train(2, options, steps), expected);
  }
});

test('the wrapper itself inside a checkpoint', async () => {
  const results = await simulate(2, async (of) => {
    const ddp = wrap(of, smallBuckets);
    const opt = new optim.AdamW(ddp.parameters(), { lr: 0.05, weightDecay: 0.1 });
    for (let s = 0; s < 3; s++) {
      const x = part(of);
      sg.mseLoss(
        sg.checkpoint((z: sg.Tensor) => ddp.forward(z, 'abc'), x),
        x,
      ).backward();
      sg.optim.clipGradNorm(ddp.parameters(), 0.5);
      opt.step();
      opt.zeroGrad();
    }
    return flatten(ddp.parameters());
  });
  expectEqual(results, await alone(2, ['abc', 'abc', 'abc']));
});

test('a parameter that later steps use less often in checkpoints', async () => {
  const steps = ['[cab]ab', 'abc', '[cab]ab'];
  expectEqual(await train(2, {}, steps), await alone(2, steps));
});

test('a gradient that grows after its bucket has gone is an error that names it', async () => {
  const run = train(2, { bucketBytes: 1, firstBucketBytes: 1 }, ['cab', '[cab]ab']);
  await expect(run).rejects.toThrow(/[abc]\.(weight|bias) \(Linear "[abc]"\) got a further gradient after its bucket was reduced/);
});

test('parameters that some ranks, or none, use: weights, moments and step counts of the unused stay', async () => {
  // c is used by rank 1 alone, by nobody, by all, by nobody again; b by rank 0 alone in the last step
  const steps = [['ab', 'abc'], 'ab', 'abc', ['ab', 'a'], 'abc'];
  const expected = await alone(2, steps);
  expectEqual(await train(2, { findUnusedParameters: true }, steps), expected);
  expectEqual(await train(2, { findUnusedParameters: true, bucketBytes: 1, firstBucketBytes: 1 }, steps), expected);
  expectEqual(await train(2, { findUnusedParameters: true, rebuildBuckets: false, bucketBytes: 1e9, firstBucketBytes: 1e9 }, steps), expected);
});

test.each<[string, (p: sg.nn.Parameter[]) => sg.optim.Optimizer]>([
  ['SGD with momentum', (p) => new optim.SGD(p, { lr: 0.1, momentum: 0.9, dampening: 0.5, weightDecay: 0.1 })],
  ['Adagrad', (p) => new optim.Adagrad(p, { lr: 0.1, lrDecay: 0.1, weightDecay: 0.1 })],
  ['RMSprop', (p) => new optim.RMSprop(p, { lr: 0.01, momentum: 0.9, centered: true, weightDecay: 0.1 })],
  ['LAMB', (p) => new optim.LAMB(p, { lr: 0.1, weightDecay: 0.1 })],
  ['Lion', (p) => new optim.Lion(p, { lr: 0.01, weightDecay: 0.1 })],
])('%s skips what no rank has used', async (_, make) => {
  const steps = ['abc', 'ab', 'ab', 'abc', 'b'];
  const run = async (model: Layers, forward: (x: sg.Tensor, route: string) => sg.Tensor, x: sg.Tensor): Promise<number[]> => {
    const opt = make(model.parameters());
    for (const route of steps) {
      sg.mseLoss(forward(x, route), x).backward();
      opt.step();
      opt.zeroGrad();
    }
    return flatten(model.parameters());
  };
  const results = await simulate(2, async (of) => {
    const ddp = wrap(of, { findUnusedParameters: true });
    return run(ddp.module, (x, route) => ddp.forward(x, route), rows(of.device));
  });
  const model = new Layers('cpu');
  expectEqual(results, await run(model, (x, route) => model.forward(x, route), rows('cpu')));
});

test('used before the reduction, in a micro-batch that was not reduced', async () => {
  const results = await simulate(2, async (of) => {
    const ddp = wrap(of, { findUnusedParameters: true });
    const opt = new optim.AdamW(ddp.parameters(), { lr: 0.05, weightDecay: 0.1 });
    for (let s = 0; s < 2; s++) {
      ddp.noSync(() => backward(of, ddp, 'abc'));
      backward(of, ddp, 'ab');
      opt.step();
      opt.zeroGrad();
    }
    return flatten(ddp.parameters());
  });
  const model = new Layers('cpu');
  const opt = new optim.AdamW(model.parameters(), { lr: 0.05, weightDecay: 0.1 });
  for (let s = 0; s < 2; s++) {
    const x = rows('cpu');
    for (const route of ['abc', 'ab']) sg.mseLoss(model.forward(x, route), x).backward();
    opt.step();
    opt.zeroGrad();
  }
  expectEqual(results, await flatten(model.parameters()));
});

test('a gradient of an earlier reduction stays, where later ones have none', async () => {
  const results = await simulate(2, async (of) => {
    const ddp = wrap(of, { findUnusedParameters: true });
    const before = await flatten([ddp.module.b.weight, ddp.module.c.weight]);
    const opt = new optim.SGD(ddp.parameters(), { lr: 0.5 });
    backward(of, ddp, 'ab'); // c has none
    const b = await flatten([ddp.module.b.weight.grad!]);
    backward(of, ddp, 'a'); // nor has b, but the old one stays
    expect(await flatten([ddp.module.b.weight.grad!])).toEqual(b);
    expect(await flatten([ddp.module.c.weight.grad!.absent!, ddp.module.b.weight.grad!.absent!])).toEqual([1, 0]);
    opt.step();
    const after = await flatten([ddp.module.b.weight, ddp.module.c.weight]);
    return after.map((w, i) => w - before[i]! + (i < b.length ? 0.5 * b[i]! : 0));
  });
  for (const rest of results) expect(Math.max(...rest.map(Math.abs))).toBeLessThan(1e-15);
});

test('parameters that a forward leaves out are named with their modules', async () => {
  await expect(train(2, {}, ['ab'])).rejects.toThrow(
    'DistributedDataParallel: backward gave no gradient for c.weight, c.bias (Linear "c"); use every parameter in forward, or pass findUnusedParameters: true',
  );
  await expect(train(2, {}, ['abc', 'b'])).rejects.toThrow('no gradient for a.weight, a.bias, c.weight, c.bias (Linear "a", Linear "c")');
  // one rank alone: the others learn its reason
  await expect(train(3, {}, [['abc', 'abc', 'ab']])).rejects.toThrow('no gradient for c.weight, c.bias (Linear "c")');
});

test('a static graph: the first step decides what takes part', async () => {
  const steps = ['ab', 'ab', 'ab'];
  expectEqual(await train(2, { staticGraph: true }, steps), await alone(2, steps));
  await simulate(2, (of) => {
    const ddp = wrap(of, { staticGraph: true });
    backward(of, ddp, 'ab');
    expect(ddp.module.c.weight.grad).toBe(null);
  });
  await expect(train(2, { staticGraph: true }, ['ab', 'abc'])).rejects.toThrow(
    'staticGraph: the graph has changed: c.weight, c.bias (Linear "c") got a gradient once, in the first step 0 times',
  );
  await expect(train(2, { staticGraph: true }, ['[ab]a', 'ab'])).rejects.toThrow(
    'a.weight, a.bias (Linear "a") got a gradient once, in the first step 2 times',
  );
});

test('ranks whose gradients come in different orders are told', async () => {
  const run = simulate(2, async (of) => {
    const ddp = wrap(of, { bucketBytes: 1, firstBucketBytes: 1 });
    for (let s = 0; s < 3; s++) {
      backward(of, ddp, of.rank === 0 ? 'abc' : 'cba');
      await sg.synchronize(of.device);
    }
    await of.world.barrier();
  });
  await expect(run).rejects.toThrow('in different orders; pass rebuildBuckets: false if the graph depends on the data');
  const steps = [['abc', 'cba'], 'bac'];
  expectEqual(await train(2, { rebuildBuckets: false }, steps), await alone(2, steps));
});

test('a second backward without a forward is an error', async () => {
  await expect(
    simulate(2, (of) => {
      const ddp = wrap(of);
      const x = part(of);
      const [one, two] = ['abc', 'cba'].map((route) => sg.mseLoss(ddp.forward(x, route), x));
      one!.backward();
      two!.backward();
    }),
  ).rejects.toThrow('backward ran again after the gradients were reduced; call forward before each backward');
});

test('a backward that fails half-way leaves nothing behind', async () => {
  const results = await simulate(2, async (of) => {
    const ddp = wrap(of, { bucketBytes: 1, firstBucketBytes: 1 });
    const fails = sg.defineFunction({
      forward: (_, x: sg.Tensor) => x.clone(),
      backward: () => {
        throw new Error('half-way');
      },
    });
    backward(of, ddp, 'abc');
    ddp.zeroGrad();
    const x = part(of);
    const h = fails(ddp.module.a.forward(x));
    ddp.forward(x, '');
    expect(() => sg.mseLoss(ddp.module.c.forward(h), x).backward()).toThrow('half-way');
    ddp.zeroGrad();
    backward(of, ddp, 'abc');
    return flatten(ddp.parameters().map((p) => p.grad!));
  });
  const model = new Layers('cpu');
  const x = rows('cpu');
  sg.mseLoss(model.forward(x, 'abc'), x).backward();
  expectEqual(results, await flatten(model.parameters().map((p) => p.grad!)));
});
