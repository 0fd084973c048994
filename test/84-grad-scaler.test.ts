// Loss scaling: the scale against PyTorch's, steps that are skipped on the device and what the host makes of them later, the fused step
// against its parts, and what is saved.
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { DistributedDataParallel } from '../lib/distributed/ddp.js';
import { simulate } from '../lib/distributed/simulate.js';
import * as sg from '../lib/index.js';
import { devices } from './helpers/devices.js';
import { Golden } from './helpers/golden.js';
import { expectClose } from './helpers/metric.js';
import { flatten } from './helpers/ranks.js';
import { read } from './helpers/tensors.js';

const { amp, optim } = sg;
const INF = Number.POSITIVE_INFINITY;
type Numbers = readonly number[];

const bits = (t: sg.Tensor): number[] => Array.from(t.toTypedArraySync() as Float64Array);
const parameter = (values: Numbers, device: string, dtype: sg.DType = 'float32'): sg.Tensor => {
  const p = sg.tensor(values as number[], { device, dtype });
  p.requiresGrad = true;
  return p;
};
/** Long enough for the host to hear of what the device has done. */
const hear = async (device: string): Promise<void> => {
  await sg.synchronize(device);
  await wait(5);
};

/** Steps with given gradients of the scaled loss sum(p · g), by a scaler or without one. */
function trainer(device: string, make: (p: sg.Tensor[]) => sg.optim.Optimizer<any>, dtype: sg.DType = 'float32') {
  const params = [parameter([1, -2, 0.5], device, dtype), parameter([[0.25], [4]] as never, device, dtype)];
  const optimizer = make(params);
  return {
    params,
    optimizer,
    backward(step: number, scaler: sg.amp.GradScaler | null, bad = 0): void {
      const losses = params.map((p, i) => {
        const g = sg.ones(p.shape, { dtype: p.dtype, device }).mul(Math.sin(1 + i + 1.7 * step) + bad);
        return p.mul(g).sum().to('float32');
      });
      const loss = losses[0]!.add(losses[1]!);
      (scaler ? scaler.scale(loss) : loss).backward();
    },
    take(step: number, scaler: sg.amp.GradScaler | null, bad = 0, options: { maxNorm?: number } = {}): void {
      this.backward(step, scaler, bad);
      if (scaler) {
        scaler.step(optimizer, options);
        scaler.update();
      } else optimizer.step(options);
      optimizer.zeroGrad();
    },
    values(): number[] {
      const { state } = optimizer.stateDict();
      const states = Object.values(state).flatMap((s) => Object.values(s).flatMap((v) => (v instanceof sg.Tensor ? bits(v) : [v])));
      return [...params.flatMap(bits), ...states];
    },
  };
}

const adamw =
  (lr = 0.05) =>
  (params: sg.Tensor[]): sg.optim.Optimizer<any> =>
    new optim.AdamW(params, { lr, weightDecay: 0.1 });

describe.each(devices)('GradScaler on %s', (device) => {
  const golden = new Golden('grad_scaler');
  test.each(golden.cases.map((c) => [`${JSON.stringify(c.options)}${c.clip ? ', clipped' : ''}`, c] as const))('as PyTorch: %s', async (_, c) => {
    for (const fused of [false, true]) {
      const p = parameter([1, -2, 0.5], device);
      const optimizer = new optim.Adam([p], { lr: 0.05 });
      const scaler = new amp.GradScaler({ ...c.options, minScale: 1e-30 });
      for (let step = 0; step < c.bad.length; step++) {
        const inputs = [0, 1, 2].map((i) => Math.fround(Math.sin(Math.fround(i + Math.fround(1.7 * step)))));
        if (c.bad[step]) inputs[step % 3] = c.bad[step] === 1 ? INF : Number.NaN;
        scaler.scale(p.mul(sg.tensor(inputs, { device })).sum()).backward();
        if (c.clip && !fused) {
          scaler.unscale_(optimizer);
          optim.clipGradNorm([p], c.clip);
        }
        scaler.step(optimizer, fused && c.clip ? { maxNorm: c.clip } : {});
        scaler.update();
        optimizer.zeroGrad();
        expect(await scaler.getScale(), `scale after step ${step}`).toBe(c.scales[step]);
        expectClose(read(p).data, c.values[step], 5e-6, `parameter after step ${step}`);
      }
      await hear(device);
      const skips = c.bad.filter(Boolean).length;
      expect(scaler.skipped).toBe(skips);
      expect((await scaler.stateDict()).scale).toBe(c.scales.at(-1));
    }
  });

  test.each(['SGD', 'Adam', 'Adagrad', 'RMSprop', 'LAMB', 'Lion'])('%s: a skipped step changes nothing', (name) => {
    const make = (params: sg.Tensor[]): sg.optim.Optimizer<any> =>
      new (optim as any)[name](params, name === 'SGD' || name === 'RMSprop' ? { lr: 0.01, momentum: 0.9 } : { lr: 0.01 });
    const good = trainer(device, make);
    const tried = trainer(device, make);
    // powers of two: dividing by another scale gives the same bits
    const [a, b] = [new amp.GradScaler(), new amp.GradScaler()];
    for (let step = 0; step < 6; step++) {
      good.take(step, a);
      tried.take(step, b);
      if (step === 0 || step === 3) tried.take(step, b, step ? Number.NaN : INF);
    }
    expect(tried.values()).toEqual(good.values());
    expect([tried.optimizer.steps, tried.optimizer.skipped, good.optimizer.skipped]).toEqual([6, 2, 0]);
  });

  test.each([
    ['float16', 'fused'],
    ['float16', 'unscaled'],
    ['bfloat16', 'fused'],
    ['float32', 'unscaled'],
    ['float64', 'fused'],
  ] as const)('%s parameters, %s: clipping', (dtype, way) => {
    const [p, q] = [parameter([1, 2, 3, 4], device, dtype), parameter([1, 2, 3, 4], device, dtype)];
    const [mine, reference] = [p, q].map((x) => new optim.Adam([x], { lr: 0.1 }));
    const scaler = new amp.GradScaler({ initScale: 1024, device });
    for (let step = 0; step < 4; step++) {
      const g = [0.5, -0.25, 2, 1].map((x) => x * (step + 1));
      p.grad = sg.tensor(
        g.map((x) => x * 1024),
        { dtype, device },
      );
      q.grad = sg.tensor(g, { dtype, device });
      if (way === 'unscaled') scaler.unscale_(mine!);
      const norm = scaler.step(mine!, { maxNorm: 1 });
      scaler.update(1024);
      const expected = reference!.step({ maxNorm: 1 });
      expect(norm.itemSync()).toBeCloseTo(Math.hypot(...g), 4);
      expect([norm.dtype, norm.shape, norm.itemSync()]).toEqual(['float32', [], expected.itemSync()]);
      expect(bits(p)).toEqual(bits(q));
      expect(read(p.grad).data[0]).toBe(way === 'unscaled' ? g[0] : g[0]! * 1024);
    }
    // and against clipping apart from the step
    const r = parameter([1, 2, 3, 4], device, dtype);
    const apart = new optim.Adam([r], { lr: 0.1 });
    for (let step = 0; step < 4; step++) {
      r.grad = sg.tensor(
        [0.5, -0.25, 2, 1].map((x) => x * (step + 1)),
        { dtype, device },
      );
      optim.clipGradNorm([r], 1);
      apart.step();
    }
    expectClose(read(p).data, read(r).data, { float64: 1e-6, float32: 1e-6, float16: 2e-3, bfloat16: 2e-2 }[dtype], 'apart');
  });

  test('large gradients are not inf', () => {
    for (const [dtype, large] of [
      ['float16', 65504],
      ['bfloat16', 3e38],
      ['float32', 3e38],
      ['float64', 1e200],
    ] as const) {
      const p = parameter([1, 1], device, dtype);
      const optimizer = new optim.SGD([p], { lr: 1 / large });
      p.grad = sg.full([2], large, { dtype, device });
      optimizer.step({ maxNorm: INF });
      expect(Math.abs(bits(p)[0]!), dtype).toBeLessThan(2e-3);
      const before = bits(p);
      p.grad = sg.tensor([large, Number.NEGATIVE_INFINITY], { dtype, device });
      const norm = optimizer.step({ maxNorm: 3 });
      expect([...bits(p), norm.itemSync()], dtype).toEqual([...before, INF]);
    }
  });

  test('a step without scaler and limit is never skipped, and not scaled by an earlier one', () => {
    const p = parameter([1, 1], device);
    const optimizer = new optim.SGD([p], { lr: 1 });
    p.grad = sg.tensor([INF, 8], { device });
    optimizer.step({ maxNorm: 1 });
    expect(bits(p)).toEqual([1, 1]);
    p.grad = sg.tensor([3, 4], { device });
    optimizer.step();
    expect(bits(p)).toEqual([-2, -3]);
    optimizer.step({ maxNorm: 1 });
    optimizer.step();
    const [a, b] = bits(p);
    expect([a, b]).toEqual([expect.closeTo(-5.6, 5), expect.closeTo(-7.8, 5)]);
    expect(optim.gradNorm([p]).itemSync()).toBe(5);
    expect(new optim.SGD([parameter([1], device)]).step({ maxNorm: 1 }).itemSync()).toBe(0);
  });

  describe('schedules count the steps that were taken', () => {
    const schedules: Record<string, (o: sg.optim.Optimizer<any>) => sg.optim.Schedule> = {
      warmup: (o) => new optim.CosineWithWarmup(o, { warmup: 5, total: 24 }),
      lambda: (o) => new optim.LambdaLR(o, (step) => 1 / (1 + step)),
      sequential: (o) =>
        new optim.SequentialLR(o, {
          schedules: [new optim.LinearLR(o, { startFactor: 0.1, totalIters: 5 }), new optim.ExponentialLR(o, { gamma: 0.9 })],
          milestones: [5],
        }),
      steps: (o) => new optim.StepLR(o, { stepSize: 3, gamma: 0.5 }),
    };
    test.each(Object.keys(schedules))('%s', async (name) => {
      const run = async (bad: ReadonlySet<number>, pause: (attempt: number) => boolean): Promise<unknown[]> => {
        const t = trainer(device, adamw());
        const schedule = schedules[name]!(t.optimizer);
        const scaler = new amp.GradScaler();
        for (let attempt = 0, step = 0; step < 20; attempt++) {
          const skip = bad.has(attempt);
          t.take(step, scaler, skip ? INF : 0);
          schedule.step();
          if (!skip) step++;
          if (pause(attempt)) await hear(device);
        }
        const state = schedule.stateDict();
        return [t.values(), state, schedule.lrs, t.optimizer.steps];
      };
      const expected = await run(new Set(), () => false);
      const bad = new Set([0, 1, 4, 9, 10, 11, 20, 24]);
      // the host hears of nothing before the end, of everything at once, or now and then
      for (const pause of [() => false, () => true, (attempt: number) => attempt % 7 === 6]) {
        expect(await run(bad, pause)).toEqual(expected);
      }
    });
    test('a rate that somebody else has set stays', async () => {
      const t = trainer(device, adamw());
      const schedule = new optim.ExponentialLR(t.optimizer, { gamma: 0.5 });
      const scaler = new amp.GradScaler();
      t.take(0, scaler, INF);
      schedule.step();
      t.optimizer.groups[0]!.lr = 0.125;
      await hear(device);
      t.take(0, scaler);
      expect([t.optimizer.groups[0]!.lr, t.optimizer.skipped, schedule.count]).toEqual([0.125, 1, 0]);
      schedule.step();
      expect(t.optimizer.groups[0]!.lr).toBe(0.025);
    });
  });

  test.each(['float32', 'float16'] as const)('resumed with %s parameters: nothing changes', async (dtype) => {
    const options = { initScale: 4096, growthInterval: 3 };
    const begin = () => {
      const t = trainer(device, adamw(), dtype);
      return { ...t, schedule: new optim.CosineWithWarmup(t.optimizer, { warmup: 3, total: 30 }), scaler: new amp.GradScaler(options) };
    };
    const through = async (stopAt: number | null): Promise<unknown[]> => {
      let now = begin();
      for (let step = 0; step < 16; step++) {
        if (step === stopAt) {
          const saved = [now.optimizer.stateDict(), now.schedule.stateDict(), await now.scaler.stateDict()] as const;
          const values = now.params.map((p) => p.detach().clone());
          const next = begin();
          next.params.forEach((p, i) => p.detach().copy_(values[i]!));
          // in either order, through JSON where there are no tensors
          if (step % 2) next.schedule.loadStateDict(JSON.parse(JSON.stringify(saved[1])));
          next.optimizer.loadStateDict(saved[0]);
          next.schedule.loadStateDict(saved[1]);
          next.scaler.loadStateDict(JSON.parse(JSON.stringify(saved[2])));
          now = next;
        }
        now.take(step, now.scaler, [2, 3, 8].includes(step) ? INF : 0);
        now.schedule.step();
      }
      return [now.values(), await now.scaler.stateDict(), now.schedule.stateDict(), now.optimizer.steps];
    };
    const whole = await through(null);
    for (const stop of [4, 9]) expect(await through(stop)).toEqual(whole);
  });

  test('through a checkpoint', async () => {
    const root = mkdtempSync(join(tmpdir(), 'scaler-'));
    const begin = () => {
      const p = parameter([1, -2, 0.5, 3], device, 'bfloat16');
      const optimizer = new optim.AdamW([p], { lr: 0.05, stochasticRounding: true });
      return { p, optimizer, schedule: new optim.CosineWithWarmup(optimizer, { warmup: 3, total: 30 }), scaler: new amp.GradScaler({ growthInterval: 2 }) };
    };
    const train = (now: ReturnType<typeof begin>, from: number, to: number): void => {
      for (let step = from; step < to; step++) {
        now.scaler.scale(now.p.mul(sg.full([4], step === 1 ? INF : Math.sin(step), { device })).sum()).backward();
        now.optimizer.step({ scaler: now.scaler, maxNorm: 0.5 });
        now.scaler.update();
        now.schedule.step();
        now.optimizer.zeroGrad();
      }
    };
    sg.manualSeed(7);
    const whole = begin();
    train(whole, 0, 4);
    const { p, ...rest } = whole;
    await sg.io.saveCheckpoint(root, { ...rest, step: 4, p: p.detach() });
    train(whole, 4, 9);
    sg.manualSeed(8);
    const resumed = begin();
    const { p: q, ...into } = resumed;
    const saved = await sg.io.loadCheckpoint(`${root}/latest`, into, { device });
    q.detach().copy_(saved['p'] as sg.Tensor);
    train(resumed, 4, 9);
    expect([bits(q), resumed.schedule.lrs, await resumed.scaler.stateDict()]).toEqual([bits(p), whole.schedule.lrs, await whole.scaler.stateDict()]);
  });

  test('at the smallest scale a later call throws', async () => {
    const t = trainer(device, adamw());
    const scaler = new amp.GradScaler({ initScale: 4, minScale: 2 });
    t.take(0, scaler, INF); // to the smallest
    await hear(device);
    t.take(1, scaler, INF);
    await hear(device);
    const call = /GradScaler\.\w+: gradients were not finite at the smallest loss scale, 2, by step 2/;
    expect(() => scaler.scale(sg.ones([], { device }))).toThrow(call);
    expect(() => scaler.scale(sg.ones([], { device }))).toThrow(sg.LossScaleError);
    expect(() => scaler.step(t.optimizer)).toThrow(call);
    expect(await scaler.getScale()).toBe(2);
    scaler.update(8);
    t.take(2, scaler);
    await hear(device);
    t.take(3, scaler);
    expect([await scaler.getScale(), scaler.skipped]).toEqual([8, 2]);
  });

  test('misuse', async () => {
    const t = trainer(device, adamw());
    const scaler = new amp.GradScaler();
    expect(() => scaler.step(t.optimizer)).toThrow('GradScaler.step: no loss has been scaled yet');
    expect(() => scaler.update()).toThrow('GradScaler.update: no loss has been scaled yet');
    expect(await scaler.getScale()).toBe(65536);
    scaler.scale(sg.ones([], { device }));
    expect(() => scaler.update()).toThrow('neither step() nor unscale_() has run since the last update()');
    expect(() => scaler.step(t.optimizer)).toThrow('GradScaler.step: no parameter of the optimizer has a gradient');
    expect(() => scaler.unscale_(t.optimizer)).toThrow('GradScaler.unscale_: no parameter of the optimizer has a gradient');
    t.backward(0, scaler);
    scaler.unscale_(t.optimizer);
    expect(() => scaler.unscale_(t.optimizer)).toThrow('GradScaler.unscale_: it was already called on this optimizer since the last update()');
    scaler.step(t.optimizer);
    expect(() => scaler.unscale_(t.optimizer)).toThrow('GradScaler.unscale_: it is called after step()');
    expect(() => scaler.step(t.optimizer)).toThrow('GradScaler.step: it has already been called on this optimizer since the last update()');
    scaler.update();
    expect(() => scaler.step({} as never)).toThrow('GradScaler.step: expected an optimizer, got an object of class Object');
    expect(() => scaler.scale(1 as never)).toThrow('GradScaler.scale: expected a loss or an array of losses, got 1');
    expect(() => scaler.step(t.optimizer, { maxNorm: Number.NaN })).toThrow('GradScaler.step: maxNorm must be a number from 0, got NaN');
    expect(() => t.optimizer.step({ maxNorm: -1 })).toThrow('AdamW.step: maxNorm must be a number from 0, got -1');
    expect(() => scaler.update(0)).toThrow('GradScaler.update: the new scale must be more than 0, got 0');
    expect(() => scaler.update(0.5)).toThrow('GradScaler.update: the new scale must not be below minScale 1, got 0.5');
    expect(() => scaler.loadStateDict({})).toThrow('the state is empty; it may be that of a scaler that was not enabled');
    for (const wrong of [{ growthFactor: 1 }, { backoffFactor: 1 }, { growthInterval: 0 }, { initScale: 1e39 }, { minScale: -1 }, { enabled: 1 }]) {
      expect(() => new amp.GradScaler(wrong as never), JSON.stringify(wrong)).toThrow(sg.ValueError);
    }
  });

  test('not enabled, it passes on what it is given', async () => {
    const [t, plain] = [trainer(device, adamw()), trainer(device, adamw())];
    const scaler = new amp.GradScaler({ enabled: false });
    for (let step = 0; step < 3; step++) {
      t.backward(step, scaler);
      scaler.unscale_(t.optimizer);
      scaler.step(t.optimizer);
      scaler.update();
      t.optimizer.zeroGrad();
      plain.take(step, null);
    }
    expect(t.values()).toEqual(plain.values());
    expect([await scaler.getScale(), await scaler.stateDict(), scaler.isEnabled]).toEqual([1, {}, false]);
  });

  test('one scaler, several losses and optimizers; arrays of losses', async () => {
    const [a, b] = [trainer(device, adamw()), trainer(device, adamw())];
    const scaler = new amp.GradScaler({ initScale: 8 });
    const [x, [y]] = scaler.scale([sg.ones([], { device }), [sg.full([], 2, { device })]] as const);
    expect([x.itemSync(), y.itemSync()]).toEqual([8, 16]);
    a.backward(0, scaler);
    b.backward(0, scaler, INF);
    scaler.step(a.optimizer);
    b.optimizer.step({ scaler });
    scaler.update();
    expect([await scaler.getScale(), a.values().length > b.values().length]).toEqual([4, false]);
    expect(bits(b.params[0]!)).toEqual([1, -2, 0.5]);
    expect(bits(a.params[0]!)).not.toEqual([1, -2, 0.5]);
  });

  test('what the host reads in passing takes no fault from those who wait', async () => {
    const t = trainer(device, adamw());
    const scaler = new amp.GradScaler();
    t.take(0, scaler);
    await hear(device);
    sg.embedding(sg.tensor([7], { dtype: 'int64', device }), sg.ones([2, 2], { device }));
    t.take(1, scaler);
    await wait(20);
    await expect(t.params[0]!.toArray()).rejects.toThrow(/embedding: index 7 at position 0 is out of range/);
  });

  test('nothing is left behind', async () => {
    const t = trainer(device, adamw());
    const scaler = new amp.GradScaler();
    t.take(0, scaler, INF);
    t.take(0, scaler);
    await hear(device);
    const leaks = sg.checkLeaks(() => {
      for (let step = 1; step < 4; step++) sg.scope(() => t.take(step, scaler, step === 2 ? INF : 0, { maxNorm: 1 }));
    });
    expect(leaks).toEqual([]);
  });
});

describe.each(devices)('ranks on %s', (device) => {
  const type = device.startsWith('cuda') ? 'cuda' : 'cpu';
  const size = type === 'cuda' ? 2 : 4;

  async function train(bad: ReadonlySet<number>, grouped: boolean): Promise<number[][]> {
    return simulate(
      size,
      async ({ rank, device: on, world }) => {
        sg.manualSeed(5);
        const linear = new sg.nn.Linear(6, 2, { device: on });
        const net = grouped ? null : new DistributedDataParallel(linear, { group: world });
        const optimizer = new optim.AdamW([...linear.parameters()], { lr: 0.05 });
        const schedule = new optim.LambdaLR(optimizer, (step) => 1 / (1 + step));
        const scaler = new amp.GradScaler(grouped ? { group: world } : {});
        for (let attempt = 0, step = 0; step < 6; attempt++) {
          const skip = bad.has(attempt);
          const x = sg.fromTypedArray(
            Float32Array.from({ length: 12 }, (_, i) => Math.sin(i + step + (grouped ? 0 : rank))),
            [2, 6],
            { device: on },
          );
          const y = (net ?? linear).forward(x);
          // an overflow on one rank alone
          const loss = y
            .mul(y)
            .mean()
            .mul(skip && rank === 1 ? INF : 1);
          scaler.scale(loss).backward();
          scaler.step(optimizer, { maxNorm: 10 });
          scaler.update();
          schedule.step();
          optimizer.zeroGrad();
          if (!skip) step++;
          // each rank hears of skips at another time
          if ((attempt + rank) % size === 0) await wait(2);
        }
        const scale = await scaler.getScale();
        return [...(await flatten([...linear.parameters()])), grouped ? 0 : scale];
      },
      { device: type },
    );
  }

  test('under data parallelism an overflow on one rank skips the step on all', async () => {
    const clean = await train(new Set(), false);
    const results = await train(new Set([1, 2, 5]), false);
    for (const r of results) expect(r.slice(0, -1)).toEqual(clean[0]!.slice(0, -1));
    expect(results.map((r) => r.at(-1))).toEqual(new Array(size).fill(65536 / 8));
  });
  test('a group without data parallelism', async () => {
    const clean = await train(new Set(), true);
    const results = await train(new Set([0, 4]), true);
    for (const r of results) expect(r).toEqual(clean[0]);
  });
});

describe.each(devices.filter((d) => d.startsWith('cuda')))('a captured step on %s', (device) => {
  test('skips, scales and follows the schedule as the eager one', async () => {
    const run = async (captured: boolean, maxNorm: number | undefined): Promise<unknown[]> => {
      const t = trainer(device, adamw());
      const schedule = new optim.CosineWithWarmup(t.optimizer, { warmup: 3, total: 20 });
      const scaler = new amp.GradScaler({ growthInterval: 3 });
      const gain = sg.ones([1], { device });
      const step = (g: sg.Tensor): void => {
        const loss = t.params[0]!.mul(g).sum().add(t.params[1]!.mul(g).sum());
        scaler.scale(loss).backward();
        scaler.step(t.optimizer, { maxNorm });
        scaler.update();
        for (const p of t.params) p.grad = null;
      };
      const graph = captured ? sg.graph.capture(step, [gain]) : null;
      if (!captured) sg.scope(() => step(gain));
      for (let i = 1; i < 12; i++) {
        schedule.step();
        const value = sg.full([1], [3, 4, 8].includes(i) ? INF : 1 / i, { device });
        if (graph) graph.replay([value]);
        else sg.scope(() => step(value));
        if (i % 5 === 0) await hear(device);
      }
      const result = [t.values(), await scaler.stateDict(), schedule.stateDict(), t.optimizer.steps];
      graph?.dispose();
      return result;
    };
    for (const maxNorm of [undefined, 0.5]) expect(await run(true, maxNorm)).toEqual(await run(false, maxNorm));
  });
  test('a captured plain step is not what a prepared one before it was', () => {
    const p = parameter([1], device);
    const optimizer = new optim.SGD([p], { lr: 1 });
    p.grad = sg.ones([1], { device });
    const graph = sg.graph.capture(() => optimizer.step(), [], { device });
    const gradient = p.grad;
    p.grad = sg.full([1], INF, { device });
    optimizer.step({ maxNorm: 1 });
    p.grad = gradient;
    graph.replay();
    expect(p.itemSync()).toBe(-1);
    graph.dispose();
  });
});
