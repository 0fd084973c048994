// Small calls, whose kernels take no time: what the host spends until the call returns, by name; pytorch/kernels.py has the same names. Ours
// run on the stream's own thread meanwhile; a pause between rounds lets it catch up, so that no round measures a full queue.
import * as sg from '../lib/index.js';

const COUNT = 2000;
const ROUNDS = 9;
/** Before those that count: V8 compiles what it has seen often. */
const WARM_UP = 4;

const one = (value: number, options: sg.TensorOptions = {}): sg.Tensor => sg.full([1], value, options).keep();

const calls: Readonly<Record<string, () => () => unknown>> = {
  'a.add(b)': () => {
    const [a, b] = [one(1), one(2)];
    return () => a.add(b);
  },
  'a.mul(2)': () => {
    const a = one(1);
    return () => a.mul(2);
  },
  'a.exp()': () => {
    const a = one(1);
    return () => a.exp();
  },
  'a.sum()': () => {
    const a = one(1);
    return () => a.sum();
  },
  'a.reshape([1, 1])': () => {
    const a = one(1);
    return () => a.reshape([1, 1]);
  },
  'a.matmul(b)': () => {
    const [a, b] = [sg.ones([1, 1]).keep(), sg.ones([1, 1]).keep()];
    return () => a.matmul(b);
  },
  'a.softmax(-1)': () => {
    const a = one(1);
    return () => a.softmax(-1);
  },
  'p.mul(b), recorded': () => {
    const [p, b] = [one(1, { requiresGrad: true }), one(2)];
    return () => p.mul(b);
  },
  '(p·b).sum().backward()': () => {
    const [p, b] = [one(1, { requiresGrad: true }), one(2)];
    return () => {
      p.mul(b).sum().backward();
      p.grad!.dispose();
      p.grad = null;
    };
  },
  'a.add(b), read at once': () => {
    const [a, b] = [one(1), one(2)];
    return () => a.add(b).itemSync();
  },
};

export const HOST_CALLS: readonly string[] = Object.keys(calls);

/** Nanoseconds of a call, the median of a few rounds. */
export async function hostCalls(name: string): Promise<number> {
  const call = calls[name]!();
  const times: number[] = [];
  for (let r = -WARM_UP; r < ROUNDS; r++) {
    sg.scope(() => {
      const start = process.hrtime.bigint();
      for (let i = 0; i < COUNT; i++) call();
      if (r >= 0) times.push(Number(process.hrtime.bigint() - start) / COUNT);
    });
    await sg.synchronize();
  }
  return times.toSorted((a, b) => a - b)[ROUNDS >> 1]!;
}
