// autocast in use: how regions nest with everything that runs ops, what is kept for how long, and that gradients are those of the
// computation that was cast.
import { describe, expect, test } from 'vitest';
import type { Tensor } from '../lib/index.js';
import * as sg from '../lib/index.js';
import { devices } from './helpers/devices.js';
import { expectClose } from './helpers/metric.js';
import { read } from './helpers/tensors.js';

const { amp, nn, optim } = sg;
const flat = (t: Tensor): number[] => Array.from(read(t).data);
const sameBits = (a: Tensor, b: Tensor): boolean =>
  a.dtype === b.dtype && Buffer.from(a.toTypedArraySync({ raw: true }).buffer).equals(Buffer.from(b.toTypedArraySync({ raw: true }).buffer));
const casts = (op: string): number => amp.castCounts().reduce((n, c) => n + (c.op === op ? c.count : 0), 0);

class Net extends nn.Module {
  first: sg.nn.Linear;
  second: sg.nn.Linear;
  constructor(device: string) {
    super();
    this.first = new nn.Linear(8, 16, { device });
    this.second = new nn.Linear(16, 4, { device });
  }
  override forward(x: Tensor): Tensor {
    return this.second.forward(sg.relu(this.first.forward(x)));
  }
}

describe.each(devices)('autocast on %s', (device) => {
  const random = (shape: number[], seed = 1): Tensor => sg.randn(shape, { device, generator: new sg.Generator(seed) });
  const leaf = (shape: number[], seed = 1): Tensor => {
    const t = random(shape, seed);
    t.requiresGrad = true;
    return t;
  };

  test('computes products in the region and leaves the rest', () => {
    const [x, w] = [random([3, 8]), leaf([4, 8], 2)];
    const y = amp.autocast('bfloat16', () => sg.linear(x, w));
    expect(y.dtype).toBe('bfloat16');
    expect(sameBits(y, sg.linear(x.to('bfloat16'), w.detach().to('bfloat16')))).toBe(true);
    amp.autocast('float16', () => {
      expect(amp.autocastDType()).toBe('float16');
      expect(sg.matmul(x, w.t()).dtype).toBe('float16');
      expect(sg.add(x, x).dtype).toBe('float32');
      expect(sg.softmax(x.to('float16'), -1).dtype).toBe('float32');
      expect(sg.matmul(x.to('float64'), w.t().to('float64')).dtype).toBe('float64');
      expect(sg.matmul(sg.ones([2, 2], { dtype: 'int32', device }), sg.ones([2, 2], { dtype: 'int32', device })).dtype).toBe('int32');
    });
    expect(amp.autocastDType()).toBe(null);
  });

  test('gives a float32 weight the unrounded gradient of the cast product, in and outside of the region', () => {
    const [x, w, b] = [leaf([5, 8]), leaf([4, 8], 2), leaf([4], 3)];
    const run = (inside: boolean): Tensor[] => {
      const back = (y: Tensor): void => y.backward({ gradient: random(y.shape as number[], 4).to(y.dtype) });
      amp.autocast('bfloat16', () => {
        const y = sg.linear(x, w, b);
        if (inside) back(y);
        else amp.autocast(null, () => back(y));
      });
      return [x, w, b].map((t) => {
        const g = t.grad!;
        t.grad = null;
        return g;
      });
    };
    const [dx, dw, db] = run(false) as [Tensor, Tensor, Tensor];
    run(true).forEach((g, i) => expect(sameBits(g, [dx, dw, db][i]!)).toBe(true));
    expect([dx.dtype, dw.dtype, db.dtype]).toEqual(['float32', 'float32', 'float32']);
    const [g, xs] = [random([5, 4], 4).to('bfloat16').to('float64'), x.detach().to('bfloat16').to('float64')];
    expectClose(flat(dw), flat(g.t().matmul(xs)), 1e-6, 'the gradient of the weight');
    expectClose(flat(dx), flat(g.matmul(w.detach().to('bfloat16').to('float64'))), 1e-6, 'the gradient of the input');
    expect(flat(dw)).not.toEqual(flat(dw.to('bfloat16').to('float32')));
  });

  test('adds a float32 residual unrounded, and casts the gradient for the product alone', () => {
    const [x, w, r] = [random([5, 8]), leaf([8, 8], 2), leaf([5, 8], 3)];
    amp.resetCastCounts();
    const y = amp.autocast('bfloat16', () => sg.linear(x, w, null, { residual: r }));
    expect(y.dtype).toBe('float32');
    const exact = x.to('bfloat16').to('float64').matmul(w.detach().to('bfloat16').to('float64').t()).add(r.detach().to('float64'));
    expectClose(flat(y.detach()), flat(exact), 1e-6, 'the sum');
    y.sum().backward();
    expect(flat(r.grad!)).toEqual(new Array(40).fill(1));
    expect([casts('linear'), casts('linear backward')]).toEqual([2, 1]);
  });

  test('keeps the cast of a parameter until it changes', () => {
    const net = new Net(device);
    const x = random([3, 8]);
    const step = (): Tensor => amp.autocast('bfloat16', () => net.forward(x));
    const made = (fn: () => void): number => {
      amp.resetCastCounts();
      fn();
      return casts('linear');
    };
    expect(made(step)).toBe(3); // x and two weights; the second input is bfloat16 already
    expect(made(step)).toBe(1);
    expect(made(() => sg.noGrad(step))).toBe(1);
    const opt = new optim.SGD(net.parameters(), { lr: 0.1 });
    step().sum().backward();
    opt.step();
    expect(made(step)).toBe(3);
    sg.noGrad(() => net.second.weight.mul_(2));
    expect(made(step)).toBe(2);
    const kept = step().detach();
    amp.clearCasts(net.parameters());
    expect(sameBits(step().detach(), kept)).toBe(true);
    net.loadStateDict(new Net(device).stateDict());
    expect(made(step)).toBe(3);
    amp.clearCasts(net.parameters());
    expect(made(step)).toBe(3);
    expect(made(() => amp.autocast('float16', () => net.forward(x)))).toBe(3);
  });

  test('what was kept is freed, and a graph keeps what it needs', async () => {
    const net = new Net(device);
    const x = random([3, 8]);
    const leaks = await sg.checkLeaks(() => {
      const y = amp.autocast('bfloat16', () => net.forward(x));
      sg.noGrad(() => net.first.weight.add_(1)); // between forward and backward: the graph has the cast of before
      sg.noGrad(() => amp.autocast('bfloat16', () => net.forward(x))).dispose();
      sg.scope(() => y.sum().backward());
      y.dispose();
      for (const p of net.parameters()) {
        p.grad!.dispose();
        p.grad = null;
      }
      amp.clearCasts(net.parameters());
    });
    expect(leaks).toEqual([]);
  });

  test('regions nest, also across await', async () => {
    const [x, w] = [random([2, 8]), random([4, 8], 2)];
    const dtype = (): string => sg.linear(x, w).dtype;
    const seen = await amp.autocast('bfloat16', async () => {
      const before = dtype();
      await Promise.resolve();
      return [
        before,
        amp.autocast(null, dtype),
        amp.autocast('float16', dtype),
        amp.autocast('float32', dtype),
        sg.scope(() => dtype()),
        sg.noGrad(dtype),
        dtype(),
      ];
    });
    expect(seen).toEqual(['bfloat16', 'float32', 'float16', 'float32', 'bfloat16', 'bfloat16', 'bfloat16']);
    expect(dtype()).toBe('float32');
    const later = (): Promise<string> => Promise.resolve().then(dtype);
    const [a, b] = await Promise.all([amp.autocast('float16', later), later()]);
    expect([a, b]).toEqual(['float16', 'float32']);
  });

  test('a float32 region takes 16-bit activations back', () => {
    const y = amp.autocast('bfloat16', () => {
      const low = sg.matmul(random([2, 8]), random([8, 8], 2));
      return amp.autocast('float32', () => sg.matmul(low, random([8, 8], 3)));
    });
    expect(y.dtype).toBe('float32');
  });

  test('a module may compute in another dtype, inside regions alone', () => {
    const net = new Net(device);
    const x = random([2, 8]);
    net.second.autocast = 'float32';
    expect(amp.autocast('bfloat16', () => net.forward(x)).dtype).toBe('float32');
    net.second.autocast = 'float16';
    expect(amp.autocast('bfloat16', () => net.forward(x)).dtype).toBe('float16');
    expect(net.forward(x).dtype).toBe('float32');
    net.second.autocast = undefined;
    expect(amp.autocast('bfloat16', () => net.forward(x)).dtype).toBe('bfloat16');
    net.autocast = null;
    expect(amp.autocast('bfloat16', () => net.forward(x)).dtype).toBe('float32');
  });

  test('a checkpointed segment recomputes what it computed', () => {
    const results = [false, true].map((checkpointed) => {
      sg.manualSeed(3);
      const net = new Net(device);
      const x = leaf([3, 8]);
      const y = amp.autocast('bfloat16', () => {
        const forward = (z: Tensor): Tensor => net.forward(z);
        return (checkpointed ? sg.checkpoint(forward, x) : forward(x)).sum();
      });
      y.backward();
      return [y.detach(), x.grad!, ...net.parameters().map((p) => p.grad!)];
    });
    results[0]!.forEach((t, i) => expect(sameBits(t, results[1]![i]!), `tensor ${i}`).toBe(true));
  });

  test('hooks see the cast activations, and a custom function computes backward as forward', () => {
    const net = new Net(device);
    const seen: string[] = [];
    net.first.registerForwardHook((_, __, y) => void seen.push((y as Tensor).dtype, sg.matmul(y as Tensor, (y as Tensor).t()).dtype));
    const inBackward: string[] = [];
    const twice = sg.defineFunction({
      forward: (ctx: sg.FunctionContext, x: Tensor) => {
        ctx.saveForBackward(x);
        return x.mul(2);
      },
      backward: (_: sg.FunctionContext, g: Tensor) => {
        inBackward.push(String(amp.autocastDType()));
        return g.mul(2);
      },
    });
    const y = amp.autocast('bfloat16', () => twice(net.forward(random([2, 8]))).sum());
    y.backward();
    expect(seen).toEqual(['bfloat16', 'bfloat16']);
    expect(inBackward).toEqual(['bfloat16']);
  });

  test('a transposed weight stays one, and its gradient arrives', () => {
    const [x, w] = [random([3, 8]), leaf([4, 8], 2)];
    const y = amp.autocast('bfloat16', () => sg.matmul(x, w.t()));
    y.sum().backward();
    const expected = sg.ones([4, 3], { device }).matmul(x.to('bfloat16').to('float32'));
    expectClose(flat(w.grad!), flat(expected), 4e-3, 'the gradient');
    expect(w.grad!.dtype).toBe('float32');
  });

  test('the cast of a view of a parameter ends with its scope', () => {
    const w = new nn.Parameter(random([64, 64], 2));
    const x = random([3, 64]);
    const step = (): void => {
      sg.scope(() =>
        amp
          .autocast('bfloat16', () => sg.matmul(x, w.t()))
          .sum()
          .backward(),
      );
      w.grad!.dispose();
      w.grad = null;
      sg.scope(() => void sg.noGrad(() => amp.autocast('bfloat16', () => sg.matmul(x, w.t()))));
    };
    step();
    const before = sg.memory(device).count;
    for (let i = 0; i < 5; i++) step();
    expect(sg.memory(device).count).toBe(before);
  });

  test('gradients of gradients lead to the weights', () => {
    const w = leaf([4, 4], 2);
    const x = random([2, 4]);
    const y = amp.autocast('bfloat16', () => sg.square(sg.matmul(x, w)).sum());
    const [g] = sg.grad(y, [w], { createGraph: true });
    g!.square().sum().backward();
    const exact = w.detach();
    exact.requiresGrad = true;
    const [h] = sg.grad(sg.square(sg.matmul(x, exact)).sum(), [exact], { createGraph: true });
    h!.square().sum().backward();
    expectClose(flat(w.grad!), flat(exact.grad!), 2e-2, 'the second gradient');
  });

  test('recurrent networks run in the region', () => {
    for (const net of [new nn.LSTM(4, 6, { device }), new nn.GRU(4, 6, { device })]) {
      const [y] = amp.autocast('bfloat16', () => net.forward(random([3, 2, 4]))) as [Tensor, unknown];
      expect(y.dtype).toBe('bfloat16');
      y.sum().backward();
      for (const p of net.parameters()) expect(p.grad!.dtype).toBe('float32');
      expectClose(flat(y.detach()), flat((net.forward(random([3, 2, 4])) as [Tensor, unknown])[0].detach()), 2e-2, 'the outputs');
    }
  });

  test('a GPT generates with a cache in the dtype of the region', () => {
    sg.manualSeed(1);
    const gpt = new nn.GPT({ vocabSize: 16, layers: 2, heads: 2, dim: 16, context: 16 }).to(device);
    const prompt = sg.tensor([[1, 2, 3]], { dtype: 'int64', device });
    amp.autocast('bfloat16', () => {
      expect(gpt.makeCache(1).layers[0]!.key.dtype).toBe('bfloat16');
      expect(gpt.generate(prompt, { maxNewTokens: 6, temperature: 0 }).shape).toEqual([1, 9]);
    });
  });

  test('an operation that may give back its input does not lose its history', () => {
    const x = leaf([3, 3]);
    const y = amp.autocast('bfloat16', () => sg.einsum('ij->ij', x));
    expect([y.dtype, y.isLeaf]).toEqual(['bfloat16', false]);
    y.sum().backward();
    expect(flat(x.grad!)).toEqual(new Array(9).fill(1));
  });

  test('misuse is named', () => {
    expect(() => amp.autocast('float64' as never, () => 0)).toThrow(/autocast: the dtype must be bfloat16, float16, float32 or null, got a string "float64"/);
    expect(() => amp.autocast('bfloat16', 3 as never)).toThrow(/expected a function to run, got /);
    expect(() => amp.autocast('bfloat16', () => sg.binaryCrossEntropy(sg.ones([2], { device }), sg.ones([2], { device })))).toThrow(
      /binaryCrossEntropyWithLogits/,
    );
    expect(() => amp.clearCasts(3 as never)).toThrow(/clearCasts: expected tensors, got /);
    expect(() => amp.autocast('bfloat16', () => sg.matmul(3 as never, random([2, 2])))).toThrow(/matmul: a must be a tensor, got /);
    expect(sg.matmul(random([2, 2]), random([2, 2])).dtype).toBe('float32'); // an error leaves no region behind
    expect(amp.autocast('bfloat16', () => sg.matmul(random([2, 2]), random([2, 2]))).dtype).toBe('bfloat16');
  });
});
