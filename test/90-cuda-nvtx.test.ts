// Ranges for a profiler: operations on the thread that launches them, modules and the user's own around them and on JavaScript's thread.
// The profiler is a library that NVTX itself loads and that writes down what it is told; under emulation it lies beside the runtime.
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { afterAll, describe, expect, test, vi } from 'vitest';

const { log, profiler } = vi.hoisted(() => {
  const profiler = (process.env['SHARDGRAD_ADDON'] ?? '').replace(/[^/]*\/[^/]*$/, 'emulated/libnvtx.so.1');
  const log = `${process.env['TMPDIR'] ?? '/tmp'}/shardgrad-nvtx-${process.pid}`;
  // read when the first module is made, and when the first GPU is opened
  if (profiler) Object.assign(process.env, { SHARDGRAD_NVTX: '1', NVTX_INJECTION64_PATH: profiler, SHARDGRAD_EMULATED_NVTX_LOG: log });
  return { log, profiler };
});

import * as sg from '../lib/index.js';

const { nvtx } = sg.cuda;
const there = sg.cuda.isAvailable() && existsSync(profiler);
const on = { device: 'cuda:0' };

/** A range: its name, and what lies in it; a mark is its name alone. */
type Told = string | [string, ...Told[]];

/** What the threads were told while `fn` ran, JavaScript's first, and of the operations only those that are named. */
async function told(operations: RegExp, fn: () => unknown): Promise<Told[][]> {
  sg.zeros([1], on);
  await sg.synchronize('cuda:0');
  const before = readFileSync(log).length;
  await fn();
  await sg.synchronize('cuda:0');
  const stacks = new Map<string, Told[][]>([[String(process.pid), [[]]]]);
  for (const line of readFileSync(log).subarray(before).toString().trim().split('\n')) {
    const [, thread, what, name] = /^(\d+) (\w+) ?(.*)$/.exec(line) as unknown as [string, string, string, string];
    const stack = stacks.get(thread) ?? [[]];
    stacks.set(thread, stack);
    if (what === 'mark') stack.at(-1)!.push(name);
    else if (what === 'push') stack.push([name]);
    else {
      expect(stack.length, `a range ends that was not begun: ${line}`).toBeGreaterThan(1);
      const ended = stack.pop() as [string, ...Told[]];
      if (!/^[a-z][\w.]*$/.test(ended[0]) || operations.test(ended[0])) stack.at(-1)!.push(ended);
    }
  }
  for (const stack of stacks.values()) expect(stack, 'ranges that do not end').toHaveLength(1);
  return [...stacks.values()].map(([ranges]) => ranges!);
}

describe.skipIf(!there)(`ranges${there ? '' : ', skipped: it takes the profiler of the emulation'}`, () => {
  afterAll(() => rmSync(log, { force: true }));

  test('operations lie in modules, and modules in what the user named', async () => {
    const model = new sg.nn.Sequential(new sg.nn.Linear(4, 4, on), new sg.nn.Tanh());
    const x = sg.ones([2, 4], on);
    const [host, stream] = await told(/^(matmul|tanh|exp)$/, () => {
      nvtx.rangePush('Step 1');
      model.forward(x);
      nvtx.mark('half way');
      x.exp();
      nvtx.rangePop();
    });
    const modules: Told = ['Sequential', ['Linear "0"'], ['Tanh "1"']];
    expect(host).toEqual([['Step 1', modules, 'half way']]);
    const launched: Told = ['Sequential', ['Linear "0"', ['matmul']], ['Tanh "1"', ['tanh']]];
    expect(stream).toEqual([['Step 1', launched, 'half way', ['exp']]]);
  });

  test('copies, replays of graphs, and operations that fail', async () => {
    const graph = sg.graph.capture((x: sg.Tensor) => x.add(1), [sg.ones([2], on)]);
    const [, stream] = await told(/^(graph\.replay|upload|embedding|readAsync)$/, async () => {
      nvtx.range('Replay', () => graph.replay());
      const one = sg.tensor([7], { ...on, dtype: 'int64' });
      await expect(nvtx.range('Fault', () => sg.embedding(one, sg.ones([3, 2], on)).toArray())).rejects.toThrow(/index/);
    });
    expect(stream).toEqual([['Replay', ['graph.replay']], ['upload'], ['Fault', ['embedding'], ['readAsync']]]);
  });

  test('range() gives what its function gives, and ends with it', async () => {
    const mistake = new Error('mistake');
    const [host] = await told(/^$/, async () => {
      expect(nvtx.range('One', () => 1)).toBe(1);
      expect(await nvtx.range('Later', async () => nvtx.range('Two', () => 2))).toBe(2);
      const thrown = (): never => {
        throw mistake;
      };
      expect(() => nvtx.range('Thrown', thrown)).toThrow(mistake);
      await expect(nvtx.range('Rejected', async () => thrown())).rejects.toThrow(mistake);
    });
    expect(host).toEqual([['One'], ['Later', ['Two']], ['Thrown'], ['Rejected']]);
  });
});

test('names must be texts, and without a profiler nothing happens', () => {
  expect(() => nvtx.rangePush('')).toThrow(/^nvtx\.rangePush: the name must be a text that is not empty, got/);
  expect(() => nvtx.mark(3 as unknown as string)).toThrow(/^nvtx\.mark: the name must be a text/);
  expect(nvtx.range('alone', () => 5)).toBe(5);
});
