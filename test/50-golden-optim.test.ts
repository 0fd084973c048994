// Optimizers step by step, schedules over 200 steps and gradient clipping, against PyTorch (LAMB and Lion: their papers). Every
// optimizer and schedule is also stopped, saved and resumed half-way: nothing may change.
import { describe, expect, test } from 'vitest';
import * as sg from '../lib/index.js';
import { native } from '../lib/native.js';
import type { OptimizerState } from '../lib/optim/index.js';
import { executed } from './helpers/coverage.js';
import { devices } from './helpers/devices.js';
import { type Case, Golden } from './helpers/golden.js';
import { expectClose, relativeError } from './helpers/metric.js';
import { map, nd } from './helpers/reference.js';
import { make, read, rounded } from './helpers/tensors.js';

const { optim } = sg;
const STEPS = 10;
const PARAMETERS = 3;

type AnyOptimizer = sg.optim.Optimizer<any>;
type Make = new (params: any, options: any) => AnyOptimizer;

const golden = new Golden('optimizers');

/** Row `step` of a tensor [steps, ...]. */
function at(name: string, step: number): { shape: readonly number[]; data: Float64Array } {
  const [, ...shape] = golden.shape(name);
  const values = golden.values(name) as Float32Array;
  const size = values.length / golden.shape(name)[0]!;
  return nd(shape, values.subarray(step * size, (step + 1) * size));
}

/** The optimizer of a case over these parameters. */
function build(c: Case, parameters: sg.Tensor[]): AnyOptimizer {
  const Class = (optim as unknown as Record<string, Make>)[c.kind]!;
  const groups = c.groups as Record<string, unknown>[] | undefined;
  if (!groups) return new Class(parameters, c.options);
  return new Class(
    [
      { params: parameters.slice(0, 1), ...groups[0] },
      { params: parameters.slice(1), ...groups[1] },
    ],
    c.options,
  );
}

function startOf(c: Case, device: string): sg.Tensor[] {
  return Array.from({ length: PARAMETERS }, (_, i) => {
    const p = golden.tensor(`initial${i}`, 'float32', device).to(c.dtype);
    p.requiresGrad = true;
    return p;
  });
}

function takeStep(c: Case, optimizer: AnyOptimizer, parameters: readonly sg.Tensor[], step: number): void {
  parameters.forEach((p, i) => (p.grad = make(at(`gradients${i}`, step), c.dtype, `${p.device}`)));
  optimizer.step();
  optimizer.zeroGrad();
}

/** float32 parameters follow the reference in every step; 16-bit ones are its masters, rounded. */
function compare(c: Case, parameters: readonly sg.Tensor[], step: number, state: OptimizerState): void {
  parameters.forEach((p, i) => {
    const expected = at(`${c.name}/after${i}`, step);
    const label = `${c.name} ${c.dtype}: parameter ${i} after step ${step + 1}`;
    if (c.dtype === 'float32') {
      const initial = golden.values(`initial${i}`) as Float32Array;
      const moved = (x: ArrayLike<number>): Float64Array => Float64Array.from(x, (v, k) => v - initial[k]!);
      expectClose(moved(read(p).data), moved(expected.data), 2e-5, `${label}, distance from the start`);
      return;
    }
    expect(p.dtype).toBe(c.dtype);
    const master = state.state[i]!['master'] as sg.Tensor;
    expect(master.dtype, `${label}: master`).toBe('float32');
    expectClose(read(master).data, expected.data, 1e-6, `${label}: master`);
    expectClose(read(p).data, rounded(read(master), c.dtype, 'cpu').data, 0, `${label} against its own master, rounded`);
  });
}

describe.each(devices)('optimizers on %s', (device) => {
  test.each(golden.cases.map((c) => [`${c.kind} ${c.dtype} ${JSON.stringify(c.options)}${c.groups ? ', two groups' : ''}`, c] as const))('%s', (_, c) => {
    const parameters = startOf(c, device);
    const optimizer = build(c, parameters);
    for (let step = 0; step < STEPS; step++) {
      takeStep(c, optimizer, parameters, step);
      compare(c, parameters, step, optimizer.stateDict());
    }
  });

  test.each(golden.cases.map((c) => [`${c.kind} ${c.dtype} ${JSON.stringify(c.options)}`, c] as const))('resumed: %s', (_, c) => {
    const parameters = startOf(c, device);
    let optimizer = build(c, parameters);
    for (let step = 0; step < STEPS; step++) {
      takeStep(c, optimizer, parameters, step);
      if (step === 4) {
        const saved = optimizer.stateDict();
        optimizer = build({ ...c, options: { ...c.options, lr: 77 } }, parameters);
        optimizer.loadStateDict(saved);
      }
    }
    compare(c, parameters, STEPS - 1, optimizer.stateDict());
  });

  test('a parameter without a gradient stays, and takes its first step when it gets one', () => {
    const c = golden.cases.find((x) => x.kind === 'Adam')!;
    const parameters = startOf(c, device);
    const optimizer = build(c, parameters);
    takeStep(c, optimizer, parameters.slice(0, 2), 0);
    expectClose(read(parameters[2]!).data, golden.values('initial2') as Float32Array, 0, 'untouched');
    parameters[2]!.grad = make(at('gradients2', 0), c.dtype, device);
    optimizer.step();
    expectClose(read(parameters[2]!).data, at(`${c.name}/after2`, 0).data, 1e-6, 'its own first step');
    optimizer.zeroGrad();
  });

  test('a step does not touch what the fp16 rounding would lose', () => {
    const p = sg.ones([4], { dtype: 'bfloat16', device });
    p.requiresGrad = true;
    const optimizer = new optim.SGD([p], { lr: 1e-4 });
    for (let i = 0; i < 100; i++) {
      p.grad = sg.ones([4], { dtype: 'bfloat16', device });
      optimizer.step();
    }
    // each step is a fortieth of the spacing below 1; a hundred of them are not lost
    expect(relativeError(read(p).data, [0.99, 0.99, 0.99, 0.99])).toBeLessThan(0.003);
    optimizer.zeroGrad();
  });
});

describe.each(devices)('groups and options that change on %s', (device) => {
  const one = (): sg.Tensor => sg.tensor([1], { dtype: 'float64', device, requiresGrad: true });
  const grad = (): sg.Tensor => sg.tensor([1], { dtype: 'float64', device });
  const step = (optimizer: AnyOptimizer, ...params: sg.Tensor[]): void => {
    for (const p of params) p.grad = grad();
    optimizer.step();
  };

  test('a momentum that begins later starts from zero', () => {
    const p = one();
    const optimizer = new optim.SGD([p], { lr: 0.1 });
    step(optimizer, p);
    optimizer.groups[0]!.momentum = 0.9;
    step(optimizer, p);
    step(optimizer, p);
    expect(p.itemSync()).toBeCloseTo(0.61, 12);
  });
  test('a group that needs more state joins one that needs less', () => {
    const [p, q] = [one(), one()];
    const optimizer = new optim.Adam([p], { lr: 0.1 });
    step(optimizer, p);
    optimizer.addGroup({ params: [q], amsgrad: true });
    step(optimizer, p, q);
    expect([p.itemSync(), q.itemSync()]).toEqual([expect.closeTo(0.8, 6), expect.closeTo(0.9, 6)]);
  });
  test('a group that is refused leaves no trace', () => {
    const [p, q] = [one(), one()];
    const optimizer = new optim.SGD([p]);
    expect(() => optimizer.addGroup({ params: [q], lr: -1 })).toThrow(sg.ValueError);
    expect(() => optimizer.addGroup({ params: [q, q] })).toThrow(/appears twice/);
    optimizer.addGroup({ params: [q], lr: 1 });
    expect(optimizer.groups.map((g) => g.params)).toEqual([[p], [q]]);
  });
  test('options given as undefined are the defaults', () => {
    const { lr, betas, weightDecay } = new optim.AdamW([one()], { lr: undefined, betas: undefined, weightDecay: undefined }).groups[0]!;
    expect({ lr, betas, weightDecay }).toEqual({ lr: 1e-3, betas: [0.9, 0.999], weightDecay: 0.01 });
  });
  test('an option that stops being finite is found before anything changes', () => {
    const p = one();
    const optimizer = new optim.AdamW([p]);
    optimizer.groups[0]!.weightDecay = Number.NaN;
    expect(() => step(optimizer, p)).toThrow(/AdamW: group 0: weightDecay must be a finite number/);
    expect([p.itemSync(), optimizer.steps]).toEqual([1, 0]);
  });
  test('going back to an earlier state goes back in all of it', () => {
    const p = one();
    const optimizer = new optim.Adam([p], { lr: 0.1 });
    const fresh = optimizer.stateDict();
    step(optimizer, p);
    optimizer.loadStateDict(fresh);
    expect([optimizer.steps, optimizer.stateDict().state]).toEqual([0, {}]);
    step(optimizer, p);
    expect(p.itemSync()).toBeCloseTo(0.8, 6); // twice a first step
  });
  test.each([
    ['no state', { state: null }],
    ['a count that is no number', { state: { 0: { step: 'x' } } }],
    ['a rate that is none', { paramGroups: [{ lr: Number.NaN, params: [0] }] }],
    ['betas out of range', { paramGroups: [{ betas: [2, 2], params: [0] }] }],
  ])('a state dict with %s', (_, part) => {
    const p = one();
    const optimizer = new optim.Adam([p]);
    step(optimizer, p);
    const options = { ...optimizer.groups[0]! };
    expect(() => optimizer.loadStateDict({ ...optimizer.stateDict(), ...part } as never)).toThrow(sg.ValueError);
    expect(optimizer.groups[0]).toEqual(options);
  });
});

const schedulers = new Golden('schedulers');

type AnySchedule = sg.optim.Schedule | sg.optim.ReduceLROnPlateau;

function makeSchedule(c: Case, optimizer: AnyOptimizer): AnySchedule {
  if (c.kind === 'LambdaLR') return new optim.LambdaLR(optimizer, (step) => 1 / (1 + 0.05 * step));
  if (c.kind === 'SequentialLR') {
    return new optim.SequentialLR(optimizer, {
      schedules: [
        new optim.LinearLR(optimizer, { startFactor: 0.1, endFactor: 1, totalIters: 20 }),
        new optim.ExponentialLR(optimizer, { gamma: 0.98 }),
        new optim.StepLR(optimizer, { stepSize: 10, gamma: 0.5 }),
      ],
      milestones: [20, 100],
    });
  }
  return new (optim as unknown as Record<string, new (optimizer: AnyOptimizer, options: object) => AnySchedule>)[c.kind]!(optimizer, c.options);
}

function rates(c: Case, resumeAt: number | null): number[] {
  const begin = (): [AnyOptimizer, AnySchedule] => {
    const optimizer = new optim.SGD([sg.zeros([1], { requiresGrad: true })], { lr: c.lr });
    return [optimizer, makeSchedule(c, optimizer)];
  };
  let [optimizer, schedule] = begin();
  const seen = [optimizer.groups[0]!.lr as number];
  for (let step = 0; step < 200; step++) {
    if (step === resumeAt) {
      const saved = JSON.parse(JSON.stringify([optimizer.stateDict(), schedule.stateDict()]));
      [optimizer, schedule] = begin();
      optimizer.loadStateDict(saved[0]);
      schedule.loadStateDict(saved[1]);
    }
    optimizer.step();
    if (schedule instanceof optim.ReduceLROnPlateau) schedule.step(c.metrics[step]);
    else schedule.step();
    seen.push(optimizer.groups[0]!.lr);
  }
  return seen;
}

describe('schedules', () => {
  test.each(schedulers.cases.map((c) => [`${c.kind} ${JSON.stringify(c.options)}`, c] as const))('%s', (_, c) => {
    const expected = c.rates as number[];
    for (const [label, seen] of [
      ['from the start', rates(c, null)],
      ['resumed', rates(c, 77)],
    ] as const) {
      seen.forEach((lr, step) => {
        expect(Math.abs(lr - expected[step]!), `${label}, step ${step}: ${lr}, expected ${expected[step]}`).toBeLessThanOrEqual(1e-9 * c.lr);
      });
    }
    expect(new Set(expected).size, 'the rate changes').toBeGreaterThan(2);
  });
});

test('ConstantLR', () => {
  const optimizer = new optim.SGD([sg.zeros([1], { requiresGrad: true })], { lr: 1 });
  const schedule = new optim.ConstantLR(optimizer, { factor: 0.25, totalIters: 2 });
  const seen = [0, 1, 2, 3].map(() => {
    const [lr] = schedule.lrs;
    schedule.step();
    return lr;
  });
  expect(seen).toEqual([0.25, 0.25, 1, 1]);
});

test('a plateau schedule that has seen nothing yet comes through JSON', () => {
  const optimizer = new optim.SGD([sg.zeros([1], { requiresGrad: true })], { lr: 1 });
  const schedule = new optim.ReduceLROnPlateau(optimizer, { patience: 0 });
  schedule.loadStateDict(JSON.parse(JSON.stringify(schedule.stateDict())));
  schedule.step(5);
  schedule.step(4);
  expect(schedule.lrs).toEqual([1]);
  expect(() => schedule.loadStateDict(null as never)).toThrow(sg.ValueError);
});

describe.each(devices)('clipping on %s', (device) => {
  const clipping = new Golden('clipping');
  const gradients = (c: Case): sg.Tensor[] =>
    clipping.names(`${c.name}/in`).map((i) => {
      const p = sg.zeros(clipping.shape(`${c.name}/in${i}`), { device, requiresGrad: true });
      p.grad = clipping.tensor(`${c.name}/in${i}`, 'float32', device);
      return p;
    });

  test.each(clipping.cases.map((c) => [`${c.kind} ${c.maxNorm ?? ''} ${c.normType ?? ''}`, c] as const))('%s', (_, c) => {
    const parameters = gradients(c);
    if (c.kind === 'clipGradValue') optim.clipGradValue(parameters, c.clipValue);
    else {
      const norm = optim.clipGradNorm(parameters, c.maxNorm, { normType: Number(c.normType === 'inf' ? Number.POSITIVE_INFINITY : c.normType) });
      expectClose(read(norm).data, clipping.values(`${c.name}/norm`) as Float32Array, 1e-6, 'the norm before');
    }
    parameters.forEach((p, i) => expectClose(read(p.grad!).data, clipping.values(`${c.name}/out${i}`) as Float32Array, 2e-6, `gradient ${i}`));
  });

  const byNorm = clipping.cases.filter((c) => c.kind === 'clipGradNorm' && Number(c.normType) === 2);
  test.each(byNorm.map((c) => [c.maxNorm, c] as const))('within a step, to %s', (_, c) => {
    const parameters = gradients(c);
    const norm = new optim.SGD(parameters, { lr: 1 }).step({ maxNorm: c.maxNorm });
    expectClose(read(norm).data, clipping.values(`${c.name}/norm`) as Float32Array, 1e-6, 'the norm before');
    parameters.forEach((p, i) =>
      expectClose(
        read(p).data.map((x) => -x),
        clipping.values(`${c.name}/out${i}`) as Float32Array,
        2e-6,
        `parameter ${i}`,
      ),
    );
  });

  // torch.nn.utils.clip_grad_norm_ of [3, 0, -4] and [1, 2]
  test.each([
    [3, 4.641588833612779],
    [0.5, 37.7765657052182],
    [Number.NEGATIVE_INFINITY, 0],
    [0, 2],
  ])('norm of order %s', (normType, expected) => {
    const parameters = [
      [3, 0, -4],
      [1, 2],
    ].map((g) => {
      const p = sg.zeros([g.length], { dtype: 'float64', device, requiresGrad: true });
      p.grad = sg.tensor(g, { dtype: 'float64', device });
      return p;
    });
    expect(optim.gradNorm(parameters, normType).itemSync()).toBeCloseTo(expected, 4);
  });

  test('float64 gradients are clipped in float64', () => {
    const p = sg.zeros([2], { dtype: 'float64', device, requiresGrad: true });
    p.grad = sg.tensor([0.1, 0.7], { dtype: 'float64', device });
    const size = Math.hypot(0.1, 0.7);
    expect(Math.abs(optim.clipGradNorm([p], 0.3).itemSync() - size)).toBeLessThan(1e-15);
    expect(
      relativeError(
        read(p.grad).data,
        [0.1, 0.7].map((g) => (g * 0.3) / (size + 1e-6)),
      ),
    ).toBeLessThan(1e-14);
  });

  test('without gradients the norm is 0', () => {
    expect(optim.clipGradNorm([sg.zeros([2], { device, requiresGrad: true })], 1).itemSync()).toBe(0);
  });

  test('16-bit gradients are clipped by their common norm', () => {
    const p = sg.zeros([3], { dtype: 'bfloat16', device, requiresGrad: true });
    p.grad = sg.tensor([3, 0, 4], { dtype: 'bfloat16', device });
    expect(optim.clipGradNorm([p], 1).itemSync()).toBeCloseTo(5, 5);
    expectClose(read(p.grad).data, map((x) => x / 5, nd([3], [3, 0, 4])).data, 4e-3, 'clipped');
  });
});

test('every optimizer op of the addon has run', () => {
  const ops = native.ops.map((op) => op.name).filter((name) => name.endsWith('Step') || ['globalNorm', 'scaleMany', 'clampMany'].includes(name));
  expect(ops.length).toBeGreaterThanOrEqual(9);
  expect(ops.filter((name) => !executed.has(name))).toEqual([]);
});
