// Backward in two parts: the gradients of a stage's inputs first, those of its weights later, and both as backward makes them at once.
import { describe, expect, test } from 'vitest';
import { backwardOf, inputsBackward } from '../lib/autograd/backward.js';
import * as sg from '../lib/index.js';
import { devices } from './helpers/devices.js';

const { nn } = sg;

class Stage extends nn.Module {
  norm: sg.nn.LayerNorm;
  attention: sg.nn.Linear;
  up: sg.nn.Linear;
  down: sg.nn.Linear;
  scale: sg.nn.Parameter;
  constructor(
    device: string,
    readonly recompute: boolean,
  ) {
    super();
    this.norm = new nn.LayerNorm(8, { device });
    this.attention = new nn.Linear(8, 8, { device });
    this.up = new nn.Linear(8, 12, { device });
    this.down = new nn.Linear(12, 8, { device });
    this.scale = new nn.Parameter(sg.full([8], 1.5, { device }));
  }
  override forward(x: sg.Tensor): [sg.Tensor, sg.Tensor] {
    const body = (y: sg.Tensor): sg.Tensor => this.attention.forward(this.norm.forward(y)).tanh();
    const h = x.add(this.recompute ? sg.checkpoint(body, x) : body(x));
    // a weight behind ops of its own, and one used twice
    const y = sg.mlp(h, this.up.weight, this.up.bias, this.down.weight, this.down.bias, { residual: h });
    return [y.mul(this.scale.square()), h.matmul(this.attention.weight.t())];
  }
}

const values = (t: sg.Tensor): number[] => Array.from(t.toTypedArraySync() as Float32Array);

describe.each(devices)('on %s', (device) => {
  test.each([false, true])('the bits of one backward, recomputed: %s', (recompute) => {
    sg.manualSeed(3);
    const stage = new Stage(device, recompute);
    const given = sg.randn([4, 8], { device });
    const gradients = [sg.randn([4, 8], { device }), sg.randn([4, 8], { device })];
    const run = (backward: (y: sg.Tensor[], x: sg.Tensor) => void): number[][] => {
      const x = given.clone();
      x.requiresGrad = true;
      backward(stage.forward(x), x);
      const found = [x, ...stage.parameters()].map((p) => values(p.grad!));
      for (const p of stage.parameters()) {
        p.grad!.dispose();
        p.grad = null;
      }
      return found;
    };
    const expected = run((y) => backwardOf(y, gradients));
    const one = run((y) => sg.scope(() => y[0]!.mul(gradients[0]!).sum().add(y[1]!.mul(gradients[1]!).sum()).backward()));
    one.forEach((g, i) => g.forEach((v, k) => expect(v).toBeCloseTo(expected[i]![k]!, 4)));
    expect(
      run((y, x) => {
        const { weights } = inputsBackward(y, gradients, [x]);
        expect(values(x.grad!)).toEqual(expected[0]);
        // products of layers wait, kernels that make all gradients at once do not
        expect(stage.up.weight.grad).toBeNull();
        expect(stage.down.bias!.grad).toBeNull();
        expect(stage.scale.grad).toBeNull();
        weights();
      }),
    ).toEqual(expected);
  });

  test('nothing is left over, whichever end it takes', () => {
    const stage = new Stage(device, true);
    const once = (end: 'weights' | 'abandon'): void =>
      sg.scope(() => {
        const x = sg.randn([4, 8], { device });
        x.requiresGrad = true;
        const y = stage.forward(x);
        inputsBackward(y, [sg.ones([4, 8], { device }), sg.ones([4, 8], { device })], [x])[end]();
        x.grad!.dispose();
        for (const p of stage.parameters()) {
          p.grad?.dispose();
          p.grad = null;
        }
      });
    once('weights');
    const before = sg.memory(device).count;
    for (let i = 0; i < 3; i++) once('weights');
    expect(sg.memory(device).count).toBe(before);
    for (let i = 0; i < 3; i++) once('abandon');
    expect(sg.memory(device).count).toBe(before);
  });

  test('the gradients that it was given may be disposed between', () => {
    const layer = new nn.Linear(3, 3, { device });
    const x = sg.ones([2, 3], { device });
    x.requiresGrad = true;
    for (const inputs of [[x], []]) {
      const gradient = sg.full([2, 3], 2, { device });
      const before = sg.memory(device).count;
      const { weights } = inputsBackward([layer.forward(x)], [gradient], inputs);
      gradient.dispose();
      weights();
      expect(values(layer.bias!.grad!)).toEqual([4, 4, 4]);
      for (const t of [x, ...layer.parameters()]) {
        t.grad?.dispose();
        t.grad = null;
      }
      expect(sg.memory(device).count).toBeLessThanOrEqual(before);
    }
  });

  test('hooks of leaves run once, when their gradient is complete', () => {
    const w = new nn.Parameter(sg.ones([3, 3], { device }));
    const x = sg.ones([2, 3], { device });
    x.requiresGrad = true;
    const calls: number[][] = [];
    w.registerPostAccumulateGradHook((p: sg.Tensor) => void calls.push(values(p.grad!)));
    const y = x.matmul(w).matmul(w);
    const { weights } = inputsBackward([y], [sg.ones([2, 3], { device })], [x]);
    expect(calls).toEqual([]);
    weights();
    expect(calls).toEqual([values(w.grad!)]);
    expect(values(w.grad!)).toEqual(new Array(9).fill(12));
  });
});
