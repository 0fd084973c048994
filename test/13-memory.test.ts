// Lifetimes: scopes, keep, using, the safety net, reports. Resident memory is measured in processes of their own.
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { describe, expect, test } from 'vitest';
import * as sg from '../lib/index.js';
import { nn, optim } from '../lib/index.js';

const child = fileURLToPath(new URL('./children/flat_memory.mjs', import.meta.url));

function live(): number {
  sg.synchronizeSync();
  sg.collectGarbage();
  return sg.memory().live;
}

describe('scope', () => {
  test('frees what was made inside except what it returns, also in arrays and objects', () => {
    const before = live();
    const out = sg.scope(() => {
      const a = sg.ones([1000]);
      a.add(1).mul(2);
      return { list: [a.sub(1)], plain: 3 };
    });
    expect(out.list[0]!.toArraySync()).toEqual(new Array(1000).fill(0));
    expect(sg.memory().live - before).toBe(4000);
    out.list[0]!.dispose();
    expect(sg.memory().live).toBe(before);
  });

  test('takes async functions, which do not disturb each other', async () => {
    const before = live();
    const run = async (value: number): Promise<sg.Tensor> =>
      sg.scope(async () => {
        const a = sg.full([256], value);
        await new Promise((resolve) => setTimeout(resolve, 5));
        const b = a.add(1);
        await new Promise((resolve) => setTimeout(resolve, 5));
        return b.mul(1);
      });
    const results = await Promise.all([1, 2, 3].map(run));
    for (const [i, t] of results.entries()) expect(await t.sum().item()).toBe(256 * (i + 2));
    for (const t of results) t.dispose();
    expect(live()).toBe(before);
  });

  test('what runs on after its end belongs to the scope outside, or to the safety net', async () => {
    const before = live();
    const later: Promise<sg.Tensor>[] = [];
    const inner = async (): Promise<sg.Tensor> => {
      await new Promise((resolve) => setTimeout(resolve, 2));
      return sg.ones([256]).add(1);
    };
    sg.scope(() => {
      later.push(inner());
    });
    expect(() =>
      sg.scope(() => {
        later.push(inner());
        throw new Error('stop');
      }),
    ).toThrow('stop');
    const late = await Promise.all(later);
    for (const t of late) t.dispose();
    expect(live()).toBe(before);
    await sg.scope(async () => {
      sg.scope(() => {
        later.push(inner());
      });
      await later.at(-1);
    });
    expect(sg.memory().live).toBe(before);
  });

  test('looks for tensors in whatever is returned, however deep, and ends if that fails', () => {
    const before = live();
    type Nested = { inner: Nested | sg.Tensor };
    const deep = sg.scope(() => {
      let value: Nested = { inner: sg.ones([4]) };
      for (let i = 0; i < 50_000; i++) value = { inner: value };
      return new Map([['deep', new Set([value])]]);
    });
    let value: Nested | sg.Tensor = [...deep.get('deep')!][0]!;
    while (!(value instanceof sg.Tensor)) value = value.inner;
    expect(value.toArraySync()).toEqual([1, 1, 1, 1]);
    value.dispose();
    const broken = {
      get loss(): never {
        throw new Error('no loss');
      },
    };
    expect(() =>
      sg.scope(() => {
        sg.ones([4096]);
        return broken;
      }),
    ).toThrow('no loss');
    expect(sg.memory().live).toBe(before);
  });

  test('frees everything when the function throws', () => {
    const before = live();
    expect(() =>
      sg.scope(() => {
        sg.ones([4096]);
        throw new Error('stop');
      }),
    ).toThrow('stop');
    expect(sg.memory().live).toBe(before);
  });

  test('gradients, optimizer state and kept tensors outlive it', () => {
    const w = sg.ones([8], { requiresGrad: true });
    const optimizer = new optim.AdamW([w], { lr: 0.1 });
    let kept: sg.Tensor | undefined;
    sg.scope(() => {
      w.mul(2).sum().backward();
      optimizer.step();
      kept = sg.ones([4]).keep();
    });
    expect(w.grad!.toArraySync()).toEqual(new Array(8).fill(2));
    expect(kept!.toArraySync()).toEqual([1, 1, 1, 1]);
    sg.scope(() => {
      w.mul(3).sum().backward();
      optimizer.step();
    });
    expect(w.grad!.toArraySync()).toEqual(new Array(8).fill(5));
    optimizer.zeroGrad();
    expect(w.grad).toBeNull();
  });

  test('a tensor used after its scope says so', () => {
    let lost: sg.Tensor | undefined;
    sg.scope(() => {
      lost = sg.ones([3]);
    });
    expect(() => lost!.add(1)).toThrow(sg.DisposedError);
    expect(() => lost!.add(1)).toThrow(/add: the input \(\[3\] float32\) was disposed, or the scope that made it has ended/);
  });

  test('a module keeps what forward stores on this', () => {
    class Stash extends nn.Module {
      last: sg.Tensor | null = null;
      override forward(x: sg.Tensor): sg.Tensor {
        this.last = x.mul(2);
        return this.last.add(1);
      }
    }
    const m = new Stash();
    m.forward(sg.ones([2]));
    expect(m.last!.toArraySync()).toEqual([2, 2]);
  });
});

describe('backward', () => {
  test('frees saved activations as it walks, so the peak is that of the forward', () => {
    const layers = Array.from({ length: 8 }, () => new nn.Linear(256, 256));
    const model = new nn.Sequential(...layers.flatMap((l) => [l, new nn.Tanh()]));
    const step = (): void =>
      sg.scope(() => {
        const loss = model.forward(sg.ones([2048, 256])).sum();
        loss.backward();
        model.zeroGrad();
      });
    step();
    sg.synchronizeSync();
    sg.resetPeakMemory();
    const before = sg.memory().live;
    step();
    const activation = 2048 * 256 * 4;
    // 16 outputs, the input, and a few gradients in flight
    expect(sg.memory().peak - before).toBeLessThan(24 * activation);
    expect(sg.memory().live).toBe(before);
  });

  test('retainGraph keeps them, a second backward without it explains itself', () => {
    const x = sg.ones([3], { requiresGrad: true });
    const y = x.exp().sum();
    y.backward({ retainGraph: true });
    y.backward();
    expect(() => y.backward()).toThrow(/the graph of .* was freed by an earlier backward/);
  });
});

describe('safety net', () => {
  test('using disposes at the end of the block', () => {
    const before = live();
    {
      using t = sg.ones([1024]);
      expect(t.disposed).toBe(false);
    }
    expect(sg.memory().live).toBe(before);
  });

  test('forgotten tensors are freed in a loop that never awaits, and live ones are never touched', () => {
    const ring: sg.Tensor[] = [];
    const values: number[] = [];
    sg.synchronizeSync();
    sg.resetPeakMemory();
    const before = sg.memory().live;
    for (let i = 0; i < 60_000; i++) {
      const t = sg.full([256], i);
      t.add(1);
      if (i % 7 === 0) {
        ring[(i / 7) % 300] = t;
        values[(i / 7) % 300] = i;
      }
    }
    expect(sg.memory().peak - before).toBeLessThan(64 * 2 ** 20);
    for (const [k, t] of ring.entries()) if (k % 29 === 0) expect(t.at(255).itemSync()).toBe(values[k]);
  });

  test('checkLeaks names where a leak was made', () => {
    const held: sg.Tensor[] = [];
    const leaks = sg.checkLeaks(() => {
      sg.scope(() => {
        sg.ones([10]).add(1);
      });
      held.push(sg.ones([16]));
    });
    expect(leaks).toHaveLength(1);
    expect(leaks[0]!.bytes).toBe(64);
    expect(leaks[0]!.site).toContain('13-memory.test');
  });

  test('checkLeaks inside checkLeaks, below many modules, and what it does not take', async () => {
    const held: sg.Tensor[] = [];
    let inner: sg.Leak[] = [];
    const outer = sg.checkLeaks(() => {
      held.push(sg.ones([4]));
      inner = sg.checkLeaks(() => held.push(sg.ones([8])));
      held.push(sg.ones([16]));
    });
    expect([inner, outer].map((leaks) => leaks.map((l) => l.bytes))).toEqual([[32], [16, 32, 64]]);
    let model: nn.Module & { forward(x: sg.Tensor): sg.Tensor } = new nn.Tanh();
    for (let i = 0; i < 10; i++) model = new nn.Sequential(model) as typeof model;
    const below = sg.checkLeaks(() => held.push(model.forward(sg.ones([2]))));
    for (const { site } of below) expect(site).toContain('13-memory.test');
    expect(() => sg.checkLeaks(3 as never)).toThrow(sg.ValueError);
    // its rejection is not left unhandled, which would end the process
    expect(() => sg.checkLeaks(async () => Promise.reject(new Error('later')))).toThrow(/expected a synchronous function/);
    await new Promise((resolve) => setTimeout(resolve, 1));
    for (const t of held) t.dispose();
  });

  test('device meta has no memory to report or free', () => {
    sg.emptyCache('meta');
    sg.resetPeakMemory('meta');
    expect(sg.memory('meta')).toEqual({ live: 0, count: 0, reserved: 0, peak: 0, peakReserved: 0 });
  });

  const cases: [string, number, number, number][] = [
    ['plain', 10_000, 0, 0],
    ['with 1 MB of garbage a step', 10_000, 1 << 20, 0],
    ['with a heap of 150 MB', 10_000, 0, 150e6],
  ];
  test.each(cases)('resident memory of a synchronous loop stays flat, %s', (_, steps, garbage, heap) => {
    const run = spawnSync(process.execPath, [child, String(steps), String(garbage), String(heap)], { encoding: 'utf8' });
    expect(run.stderr).toBe('');
    const { early, late, live } = JSON.parse(run.stdout) as { early: number; late: number; live: number };
    expect(late - early).toBeLessThan(40);
    expect(live).toBeLessThan(300);
  });

  test('and in a worker thread', async () => {
    const worker = new Worker(child, { workerData: [10_000, 0, 0] });
    const result = await new Promise<{ early: number; late: number }>((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
    });
    await worker.terminate();
    expect(result.late - result.early).toBeLessThan(40);
  });
});

describe('out of memory', () => {
  test('an impossible allocation is a typed error, and the next op works', () => {
    expect(() => sg.zeros([2 ** 40])).toThrow(sg.OutOfMemoryError);
    expect(sg.ones([2]).sum().itemSync()).toBe(2);
  });

  test('the report says what fills the memory and, in debug mode, the user’s line that made it', () => {
    const script = `
      import { nn, ones, OutOfMemoryError } from '${new URL('../dist/bundle/index.js', import.meta.url).href}';
      const model = new nn.Sequential(new nn.Sequential(new nn.Linear(256, 1024)));
      const held = [];
      try {
        for (;;) held.push(model.forward(ones([512, 256])));
      } catch (error) {
        console.log(error instanceof OutOfMemoryError, error.message);
      }`;
    const env = { ...process.env, SHARDGRAD_DEBUG: '1', SHARDGRAD_MEMORY_LIMIT: String(64 * 2 ** 20) };
    const run = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8', env });
    expect(run.stderr).toBe('');
    expect(run.stdout).toMatch(/^true \w+: out of memory on cpu:0: requested \S+ [KM]iB, live \S+ MiB, reserved \S+ MiB, limit 64\.00 MiB/);
    expect(run.stdout).toMatch(/\n {2}activation +\d+\.\d MiB\n/);
    expect(run.stdout.match(/2\.0 MiB {2}temporary made at file:.*\[eval1\]:6:\d+/g)).toHaveLength(5);
  });
});
