// What is CUDA's alone: devices, copies, faults that kernels find, memory, captured graphs. Runs where device cuda answers: on a
// GPU, or under emulation (npm run test:emulated). The operations have the tests of all devices.
import { describe, expect, test } from 'vitest';
import {
  amp,
  cuda,
  DeviceError,
  DisposedError,
  device,
  emptyCache,
  fromTypedArray,
  Generator,
  graph,
  memory,
  nn,
  noGrad,
  ones,
  optim,
  randn,
  resetPeakMemory,
  ShapeError,
  scope,
  type Tensor,
  tensor,
  ValueError,
  withGenerator,
  zeros,
} from '../lib/index.js';
import { native } from '../lib/native.js';
import { devices } from './helpers/devices.js';

const there = devices.includes('cuda:0');

describe('without a look at the device', () => {
  test('report, availability and properties agree', () => {
    const report = cuda.report();
    expect(cuda.isAvailable()).toBe(there);
    expect(cuda.deviceCount()).toBe(report.gpus.length);
    expect(report.problem === '').toBe(there);
    expect(() => cuda.deviceProperties(report.gpus.length)).toThrow(DeviceError);
  });
  test('a device that is not there is one sentence', () => {
    expect(() => zeros([1], { device: 'cuda:99' })).toThrow(there ? /^no device cuda:99: this machine has \d+ GPU/ : /^no device cuda:99: /);
  });
  test('a precision that does not exist', () => {
    expect(() => cuda.setFloat32MatmulPrecision('medium' as 'high')).toThrow(ValueError);
  });
  test('graphs are for cuda', () => {
    expect(() => graph.capture((x) => x.add(1), [ones([2])])).toThrow(/graphs are for cuda, got cpu:0/);
    expect(() => graph.capture(() => ones([2]))).toThrow(/needs the option device/);
  });
});

describe.skipIf(!there)('on cuda:0', () => {
  const on = { device: 'cuda:0' };

  test('values go to the GPU and come back, in pieces and by views', async () => {
    const count = 5_000_003; // more than one piece of staging memory
    const host = Float32Array.from({ length: count }, (_, i) => i % 1013);
    const x = fromTypedArray(host, undefined, on);
    const same = (read: ArrayBufferView): boolean => Buffer.from(read.buffer, read.byteOffset, read.byteLength).equals(Buffer.from(host.buffer));
    expect(same(await x.toTypedArray())).toBe(true);
    expect(same(x.toTypedArraySync())).toBe(true);
    const part = x.narrow(0, 1_234_567, 9);
    expect(await part.toArray()).toEqual([...host.subarray(1_234_567, 1_234_576)]);
    expect(await x.at(77).item()).toBe(77);
    expect(x.at(78).itemSync()).toBe(78);
    expect(await part.to('cpu').add(1).to('cuda:0').sub(1).toArray()).toEqual([...host.subarray(1_234_567, 1_234_576)]);
    x.dispose();
  });

  test('reads are settled in order, and none waits for what is given later', async () => {
    const x = zeros([4], on);
    const seen: number[] = [];
    const reads = Array.from({ length: 20 }, (_, i) => {
      noGrad(() => x.add_(1));
      return x
        .at(0)
        .item()
        .then((v) => seen.push(v) && i);
    });
    await Promise.all(reads);
    expect(seen).toEqual(Array.from({ length: 20 }, (_, i) => i + 1));
  });

  test('a fault in the data is raised at the next wait, and the stream goes on', async () => {
    const a = tensor([4, 2], { ...on, dtype: 'int64' });
    const q = a.floorDivide(tensor([2, 0], { ...on, dtype: 'int64' }));
    await expect(q.toArray()).rejects.toThrow(/^floorDivide: integer division by zero/);
    expect(await a.add(1).toArray()).toEqual([5, 3]);
    expect(() => a.remainder(zeros([2], { ...on, dtype: 'int64' })).toArraySync()).toThrow(/^remainder: integer division by zero/);
    expect(a.toArraySync()).toEqual([4, 2]);
  });

  test('tensors of two devices do not mix', () => {
    expect(() => ones([2], on).add(ones([2]))).toThrow(DeviceError);
  });

  test('memory is counted, cached and given back', () => {
    emptyCache('cuda:0');
    const before = memory('cuda:0');
    resetPeakMemory('cuda:0');
    const x = zeros([1 << 20], on);
    expect(memory('cuda:0').live - before.live).toBe(4 << 20);
    x.dispose();
    expect(memory('cuda:0').live).toBe(before.live);
    expect(memory('cuda:0').peak).toBeGreaterThanOrEqual(4 << 20);
    emptyCache('cuda:0');
    expect(memory('cuda:0').reserved).toBeLessThanOrEqual(before.reserved);
  });

  test('one stream waits for another on the device', async () => {
    const slot = device('cuda:0').slot;
    const x = ones([1 << 16], on);
    const y = x.mul(3);
    native.waitEvent(slot, 1, slot, 0, native.recordEvent(slot, 0));
    await native.streamDone(slot, 1);
    native.waitEvent(slot, 0, slot, 1, native.recordEvent(slot, 1));
    expect(await y.sum().item()).toBe(3 << 16);
  });
});

describe.skipIf(!there)('captured graphs', () => {
  const on = { device: 'cuda:0' };

  test('a replay computes anew with the inputs it is given', async () => {
    const x = tensor([1, 2, 3, 4], on);
    const total = zeros([], on);
    const captured = graph.capture(
      (x) => {
        noGrad(() => total.add_(x.sum()));
        return x.mul(2);
      },
      [x],
    );
    expect(await total.item()).toBe(10); // of the run before the capture
    expect(await captured.replay().toArray()).toEqual([2, 4, 6, 8]);
    expect(await captured.replay([tensor([5, 6, 7, 8], on)]).toArray()).toEqual([10, 12, 14, 16]);
    expect(await captured.replay([tensor([1, 0, 0, 0])]).toArray()).toEqual([2, 0, 0, 0]); // from the CPU
    expect(await total.item()).toBe(10 + 10 + 26 + 1);
    captured.dispose();
    expect(() => captured.replay()).toThrow(DisposedError);
  });

  test('what a graph uses stays as it is when JavaScript frees it', async () => {
    const w = ones([1000], on);
    const captured = graph.capture((x) => x.add(w), [zeros([1000], on)]);
    w.dispose();
    const others = Array.from({ length: 50 }, (_, i) => ones([1000], on).mul(i));
    expect((await captured.replay().toTypedArray()).every((v) => v === 1)).toBe(true);
    for (const t of others) t.dispose();
    const { live, reserved } = memory('cuda:0');
    captured.outputs.dispose();
    captured.dispose();
    emptyCache('cuda:0');
    expect(memory('cuda:0').live).toBeLessThan(live);
    expect(memory('cuda:0').reserved).toBeLessThanOrEqual(reserved);
  });

  test('what cannot be part of a graph is said, and leaves the device usable', async () => {
    const x = ones([3], on);
    expect(() => graph.capture((x) => x.at(0).itemSync(), [x])).toThrow(/itemSync: while a graph was captured, a value was read/);
    expect(() => graph.capture((x) => x.add(tensor([1, 2, 3], on)), [x])).toThrow(/host data was copied to the device/);
    expect(() => graph.capture(async (x) => x.add(1), [x])).toThrow(/must not be async/);
    expect(() => graph.capture((x) => graph.capture((x) => x.add(1), [x]) && x, [x], { warmup: 0 })).toThrow(/a graph is being captured/);
    const captured = graph.capture((x) => x.add(1), [x]);
    expect(() => captured.replay([ones([4], on)])).toThrow(ShapeError);
    expect(() => captured.replay([x, x])).toThrow(ValueError);
    expect(await captured.replay().toArray()).toEqual([2, 2, 2]);
    captured.dispose();
  });

  /** A small network with dropout, trained for some steps; the weights after each. */
  async function train(steps: number, captured: boolean, autocast: amp.AutocastDType | null = null): Promise<number[][]> {
    return withGenerator(new Generator(5), async () => {
      const model = new nn.Sequential(new nn.Linear(8, 16, on), new nn.Dropout(0.3), new nn.Linear(16, 1, on));
      const optimizer = new optim.AdamW(model.parameters(), { lr: 1e-2 });
      const schedule = new optim.CosineWithWarmup(optimizer, { warmup: 2, total: 10, minLr: 1e-4 });
      // the first steps in float16 overflow and are skipped
      const scaler = new amp.GradScaler({ enabled: autocast === 'float16', initScale: 2 ** 22 });
      const step = (x: Tensor, y: Tensor): Tensor => {
        const loss = amp
          .autocast(autocast, () => model.forward(x))
          .sub(y)
          .square()
          .mean();
        scaler.scale(loss).backward();
        scaler.step(optimizer, { maxNorm: 0.5 });
        scaler.update();
        optimizer.zeroGrad();
        return loss.detach();
      };
      const batches = Array.from({ length: steps }, () => [randn([4, 8], on), randn([4, 1], on)] as const);
      const weights: number[][] = [];
      let replay: graph.CapturedGraph<Tensor> | null = null;
      for (const [x, y] of batches) {
        if (captured && replay === null)
          replay = graph.capture(step, [x, y], { warmup: 1 }); // the first step, for real
        else if (replay) replay.replay([x, y]);
        else scope(() => void step(x, y));
        schedule.step();
        const flat = await Promise.all([...model.parameters()].map((p) => p.detach().toTypedArray()));
        weights.push(flat.flatMap((t) => [...(t as Float32Array)]));
      }
      replay?.dispose();
      return weights;
    });
  }

  test.each([null, 'bfloat16', 'float16'] as const)(
    'a captured training step is the eager one, to the bit: dropout, clipping, AdamW, schedule, autocast %s',
    async (dtype) => {
      const steps = dtype === 'float16' ? 16 : 5;
      const eager = await train(steps, false, dtype);
      const replayed = await train(steps, true, dtype);
      expect(eager.at(-1)).not.toEqual(eager[0]);
      expect(replayed).toEqual(eager);
      if (dtype === 'float16') expect(eager[1]).toEqual(eager[0]);
    },
  );
});
