// Our side of kernels.ts on a CPU: as pytorch/kernels.py, one JSON line names a case, one answers with milliseconds a call (wall time of many,
// until the last has run), or with the host's nanoseconds of a small call.
import { createInterface } from 'node:readline';
import * as sg from '../lib/index.js';
import { hostCalls } from './host_calls.js';
import { ours, type Sizes } from './kernel_cases.js';

type Question =
  | { readonly forget: true }
  | { readonly host: string }
  | { readonly kind: string; readonly dtype: sg.DType; readonly sizes: Sizes; readonly runMs: number };

let made: { readonly call: () => unknown; readonly count: number } | null = null;
let kept: sg.Tensor[] = [];

async function milliseconds(call: () => unknown, count: number): Promise<number> {
  const start = performance.now();
  for (let i = 0; i < count; i++) sg.scope(() => void call());
  await sg.synchronize();
  return (performance.now() - start) / count;
}

async function answer(question: Question): Promise<object> {
  if ('forget' in question) {
    made = null;
    for (const t of kept) t.dispose();
    kept = [];
    return {};
  }
  if ('host' in question) return { ns: await hostCalls(question.host) };
  const { kind, dtype, sizes, runMs } = question;
  if (!made) {
    const on = { dtype, device: sg.device('cpu') };
    const make = (...shape: number[]): sg.Tensor => {
      const t = sg.randn(shape, on);
      kept.push(t);
      return t;
    };
    const call = ours[kind]!(sizes, make, on);
    await milliseconds(call, 2);
    made = { call, count: Math.min(1000, Math.max(1, Math.ceil(runMs / Math.max(await milliseconds(call, 1), 1e-3)))) };
  }
  return { ms: await milliseconds(made.call, made.count) };
}

for await (const line of createInterface({ input: process.stdin })) console.log(JSON.stringify(await answer(JSON.parse(line) as Question)));
