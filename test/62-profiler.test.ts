// Profiles: what is recorded is what was called, traces hold together, shares add up, and nothing is left behind. Metrics are read back from the files.
import { mkdtempSync, readdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import * as dist from '../lib/distributed/index.js';
import * as sg from '../lib/index.js';
import { native } from '../lib/native.js';
import { breakdownOf } from '../lib/profiler/breakdown.js';
import type { TraceEvent, TraceFile } from '../lib/profiler/chrome_trace.js';
import { crc32c } from '../lib/profiler/crc32c.js';
import { scalarRecord, versionRecord } from '../lib/profiler/event_file.js';
import type { CommandEvent, OpEvent } from '../lib/profiler/events.js';
import { difference, union } from '../lib/profiler/intervals.js';
import { mergeTraces, parseTrace } from '../lib/profiler/merge.js';
import { Capture, idleSync } from '../lib/profiler/profiler.js';

const { nn, optim, profiler } = sg;
const folder = mkdtempSync(join(tmpdir(), 'shardgrad-profiler-'));

/** A step of a small GPT. */
function training(options: { device?: string; checkpoint?: boolean } = {}): () => Promise<number> {
  const { device = 'cpu' } = options;
  const model = new nn.GPT({ vocabSize: 50, layers: 2, heads: 2, dim: 32, context: 16, device });
  if (options.checkpoint) sg.checkpointModules(model, ['transformer.h.*']);
  const optimizer = new optim.AdamW(model.parameters(), { lr: 1e-3 });
  const x = sg.randint(0, 50, [4, 16], { device });
  return async () => {
    const loss = sg.scope(() => {
      const loss = model.forward(x, x);
      loss.backward();
      optimizer.step();
      optimizer.zeroGrad();
      return loss.detach();
    });
    return loss.item();
  };
}

const parsed = (p: { chromeTrace(): string }): TraceFile => JSON.parse(p.chromeTrace()) as TraceFile;
const byThread = (events: readonly TraceEvent[]): Map<string, TraceEvent[]> => {
  const threads = new Map<string, TraceEvent[]>();
  for (const e of events) if (e.ph === 'X') threads.set(`${e.pid} ${e.tid}`, [...(threads.get(`${e.pid} ${e.tid}`) ?? []), e]);
  return threads;
};
/** On each thread events lie in each other or beside each other, or a viewer shows nonsense. */
function expectNested(events: readonly TraceEvent[]): void {
  for (const [thread, list] of byThread(events)) {
    const open: number[] = [];
    for (const e of list.sort((a, b) => a.ts! - b.ts! || b.dur! - a.dur!)) {
      while (open.length > 0 && open.at(-1)! <= e.ts! + 0.01) open.pop();
      if (open.length > 0) expect(e.ts! + e.dur!, `${e.name} on ${thread}`).toBeLessThanOrEqual(open.at(-1)! + 0.01);
      open.push(e.ts! + e.dur!);
    }
  }
}

describe('recording', () => {
  test('each call of an op, with module, shapes, bytes and FLOPs, and the command that carried it out', async () => {
    const linear = new nn.Sequential(new nn.Linear(3, 5), new nn.Tanh());
    const x = sg.ones([2, 3]);
    const p = await profiler.profile(() => void linear.forward(x).sum().backward(), { warmup: 1, active: 2 });
    expect(p.steps).toBe(2);
    const [product] = p.ops;
    expect(product).toMatchObject({ name: 'matmul', module: 'Linear "0"', phase: 'forward', stream: 'compute', device: 'cpu:0', flops: 2 * 2 * 3 * 5 });
    expect(product!.tensors).toEqual(['float32[2,3]', 'float32[3,5]', 'float32[5]', 'float32[2,5]']);
    expect(product!.bytes).toBe(4 * (6 + 15 + 5 + 10));
    const backward = p.ops.filter((op) => op.phase === 'backward').map((op) => op.module);
    expect(backward).toContain('Linear "0"');
    expect(backward).toContain('Tanh "1"');
    for (const op of p.ops) {
      const [command, ...others] = p.commands.filter((c) => c.op === op);
      expect(others).toEqual([]);
      expect(command!.begin).toBeGreaterThanOrEqual(op.begin - 1);
      expect(command!.end).toBeGreaterThanOrEqual(command!.begin);
    }
    expect(p.spans.filter((s) => s.kind === 'step').map((s) => s.name)).toEqual(['step 1', 'step 2']);
    expect(p.spans.filter((s) => s.name === 'Linear "0"')).toHaveLength(2);
    const count = (name: string): number => p.ops.filter((op) => op.name === name).length;
    expect(count('matmul') % 2).toBe(0);
    expect(p.lost).toBe(0);
  });

  test('FLOPs of a GPT are those of its products; what a checkpoint computes again is none of the model', async () => {
    const plain = await profiler.profile(training(), { warmup: 1 });
    const again = await profiler.profile(training({ checkpoint: true }), { warmup: 1 });
    const sum = (ops: readonly OpEvent[]): number => ops.reduce((n, op) => n + op.flops, 0);
    const of = (p: sg.profiler.Profile, phase: string): number => sum(p.ops.filter((op) => op.phase === phase));
    const tokens = 4 * 16;
    const weights = 2 * (12 * 32 * 32) + 50 * 32;
    const attention = 2 * 4 * 4 * 16 * 16 * 32 * 0.5;
    expect(of(plain, 'forward')).toBe(2 * tokens * weights + attention);
    expect(of(plain, 'recompute')).toBe(0);
    expect(of(again, 'recompute')).toBeGreaterThan(0.5 * of(plain, 'forward'));
    const [a, b] = [plain.utilization[0]!, again.utilization[0]!];
    const seconds = (p: sg.profiler.Profile): number => (p.end - p.begin) * 1e-6;
    expect(b.modelFlops * seconds(again)).toBeCloseTo(a.modelFlops * seconds(plain), -1);
    expect(b.hardwareFlops).toBeGreaterThan(1.1 * b.modelFlops);
  });

  test('bytes count what is broadcast once', async () => {
    const [x, row] = [sg.ones([2, 3]), sg.ones([3])];
    const p = await profiler.profile(() => void x.add(row).add(1));
    expect(p.ops.map((op) => op.bytes)).toEqual([4 * (6 + 3 + 6), 4 * (6 + 6)]);
  });

  test('live bytes at each op are those of memory()', async () => {
    const before = sg.memory().live;
    const kept: sg.Tensor[] = [];
    const p = await profiler.profile(() => {
      for (let i = 0; i < 3; i++) kept.push(sg.zeros([256]).add(1));
    });
    const live = p.ops.filter((op) => op.name === 'add').map((op) => op.liveBytes);
    expect(live[0]).toBeGreaterThanOrEqual(before + 1024);
    expect(live[2]! - live[1]!).toBeGreaterThanOrEqual(1024);
    expect(p.memory[0]!.peakLive).toBe(Math.max(...p.ops.map((op) => op.liveBytes)));
    expect(p.memory[0]!.peakReserved).toBeGreaterThanOrEqual(p.memory[0]!.peakLive);
    for (const t of kept) t.dispose();
  });

  test('nothing is left of it, whatever happens; a second one at the same time is refused', async () => {
    const addon = native;
    await profiler.profile(() => sg.ones([2]).add(1));
    expect(native).toBe(addon);
    await expect(
      profiler.profile(() => {
        throw new Error('mine');
      }),
    ).rejects.toThrow('mine');
    expect(native).toBe(addon);
    await expect(profiler.profile(() => profiler.profile(() => {}))).rejects.toThrow('another profile of this process is being recorded');
    expect(native).toBe(addon);
    await expect(profiler.profile(() => sg.ones([2]).index(sg.tensor([7], { dtype: 'int64' })))).rejects.toThrow(/7/);
    expect(native).toBe(addon);
    expect((await profiler.profile(() => sg.ones([2]).add(1))).ops.map((op) => op.name)).toEqual(['fill', 'add']);
  });

  test('ranges, of interleaved functions too; errors of the arguments', async () => {
    const p = await profiler.profile(() =>
      Promise.all([
        profiler.range('a', () => sleep(20)),
        (async () => {
          await sleep(10);
          await profiler.range('b', () => sleep(20));
        })(),
      ]),
    );
    const [a, b] = ['a', 'b'].map((name) => p.spans.find((s) => s.name === name)!);
    expect(b!.begin).toBeLessThan(a!.end);
    expect(b!.end).toBeGreaterThan(a!.end);
    const { traceEvents } = parsed(p);
    expectNested(traceEvents);
    expect(traceEvents.find((e) => e.name === 'a')!.tid).not.toBe(traceEvents.find((e) => e.name === 'b')!.tid);
    expect(profiler.range('none', () => 3)).toBe(3);
    expect(() => profiler.range('', () => 3)).toThrow('profiler.range: the name must be a text that is not empty, got a string ""');
    await expect(profiler.profile(3 as never)).rejects.toThrow('profiler.profile: expected a function, got 3');
    await expect(profiler.profile(() => {}, { active: 0 })).rejects.toThrow('profiler.profile: active must be a whole number from 1, got 0');
  });
});

describe('schedules', () => {
  test('phases, as PyTorch has them', () => {
    const phases = (options: sg.profiler.ScheduleOptions, n: number): string[] => Array.from({ length: n }, (_, i) => profiler.schedule(options)(i));
    const cycle = ['none', 'warmup', 'record', 'recordAndSave'];
    expect(phases({ wait: 1, warmup: 1, active: 2, repeat: 2, skipFirst: 1 }, 11)).toEqual(['none', ...cycle, ...cycle, 'none', 'none']);
    expect(phases({}, 2)).toEqual(['recordAndSave', 'recordAndSave']);
    expect(() => profiler.schedule({ active: 0 })).toThrow('profiler.schedule: active must be a whole number from 1, got 0');
  });

  test('a profiler that is told of steps', async () => {
    const made: sg.profiler.Profile[] = [];
    const p = new profiler.Profiler({
      schedule: profiler.schedule({ wait: 1, warmup: 1, active: 2, repeat: 2 }),
      onTraceReady: (profile) => made.push(profile),
    });
    await expect(p.step()).rejects.toThrow('Profiler.step: start() comes first');
    await p.start();
    for (let step = 0; step < 10; step++) {
      sg.full([2], step);
      await p.step();
    }
    await p.stop();
    expect(made.map((m) => m.spans.filter((s) => s.kind === 'step').map((s) => s.name))).toEqual([
      ['step 2', 'step 3'],
      ['step 6', 'step 7'],
    ]);
    expect(made.map((m) => m.ops.length)).toEqual([2, 2]);
    expect(p.profile).toBe(made[1]);
  });

  test('without a schedule everything between start and stop is one profile', async () => {
    const p = new profiler.Profiler();
    await p.start();
    await expect(p.start()).rejects.toThrow('it was started before');
    sg.ones([2]);
    await p.step();
    sg.ones([2]);
    await p.stop();
    expect(p.profile!.ops).toHaveLength(2);
    expect(p.profile!.steps).toBe(1);
  });
});

describe('shares of time', () => {
  const command = (stream: 'compute' | 'communication', begin: number, end: number, enqueued: number | null = null, name = 'x'): CommandEvent => ({
    kind: 'command',
    name,
    begin,
    end,
    device: 'cpu:0',
    stream,
    number: 0,
    timedByDevice: false,
    op: enqueued === null ? null : ({ end: enqueued } as OpEvent),
  });

  test('sets of intervals', () => {
    const a = union([
      [5, 7],
      [0, 2],
      [1, 3],
      [7, 8],
    ]);
    expect(a).toEqual([
      [0, 3],
      [5, 8],
    ]);
    expect(
      difference(a, [
        [1, 2],
        [6, 9],
      ]),
    ).toEqual([
      [0, 1],
      [2, 3],
      [5, 6],
    ]);
  });

  test('computing, communicating, exposed, host and idle', () => {
    const commands = [
      command('compute', 10, 30, 5), // enqueued at 5, begun at 10: 5 of the host, 5 idle
      command('communication', 20, 50, 15), // 10 behind computing, 20 exposed
      command('compute', 30, 50, 25, 'waitEvent'), // stands still
      command('compute', 60, 80, 70), // the clocks of threads: enqueued as it began
      command('compute', 85, 90), // a copy
    ];
    expect(breakdownOf('cpu:0', commands, [0, 100])).toEqual({
      device: 'cpu:0',
      total: 100,
      compute: 45,
      communication: 30,
      exposedCommunication: 20,
      host: 5 + 10 + 5 + 10,
      idle: 5,
    });
  });

  test('of a training they are all of its time, on every rank', async () => {
    const p = await profiler.profile(() =>
      dist.simulate(2, async ({ world, device }) => {
        const ddp = new dist.DistributedDataParallel(new nn.Sequential(new nn.Linear(64, 64, { device }), new nn.Linear(64, 64, { device })), { group: world });
        for (let i = 0; i < 3; i++) {
          ddp
            .forward(sg.ones([8, 64], { device }))
            .sum()
            .backward();
          ddp.zeroGrad();
        }
      }),
    );
    expect(p.breakdowns.map((b) => b.device)).toEqual(['cpu:0', 'cpu:1']);
    for (const b of p.breakdowns) {
      expect(b.compute + b.exposedCommunication + b.host + b.idle).toBeCloseTo(b.total, 3);
      for (const part of [b.compute, b.communication, b.exposedCommunication, b.host]) expect(part).toBeGreaterThan(0);
      expect(b.idle).toBeGreaterThan(-1e-6);
      expect(b.exposedCommunication).toBeLessThanOrEqual(b.communication);
    }
    const collectives = p.ops.filter((op) => op.collective);
    const calls = (device: string): string[] =>
      collectives.filter((op) => op.device === device).map((op) => `${op.name} ${op.collective!.group} ${op.collective!.sequence}`);
    expect(calls('cpu:0')).toEqual(calls('cpu:1'));
    expect(new Set(calls('cpu:0')).size).toBe(calls('cpu:0').length);
    const text = p.summary({ top: 3 });
    expect(text).toMatch(/^op +stream +calls +time/m);
    expect(text).toMatch(/… and \d+ more/);
    expect(text).toMatch(/cpu:1 +[\d.]+% +[\d.]+% +[\d.]+% +[\d.]+% +[\d.]+%/);
    expect(text).toMatch(/FLOP\/s in products, MFU/);
  });
});

describe('traces', () => {
  test('host, streams, arrows, modules and memory', async () => {
    const p = await profiler.profile(training(), { warmup: 1, active: 2 });
    const path = join(folder, 'trace.json');
    await p.saveChromeTrace(path);
    const { traceEvents, shardgrad } = JSON.parse(readFileSync(path, 'utf8')) as TraceFile;
    expect(shardgrad).toMatchObject({ rank: 0, worldSize: 1 });
    expectNested(traceEvents);
    const complete = traceEvents.filter((e) => e.ph === 'X');
    for (const e of complete) {
      expect(e.dur).toBeGreaterThanOrEqual(0);
      expect(e.ts).toBeGreaterThan(-1);
    }
    const threads = new Map(traceEvents.filter((e) => e.name === 'thread_name').map((e) => [e.tid, e.args!['name']]));
    expect([...threads.values()]).toEqual(expect.arrayContaining(['host', 'cpu:0 compute']));
    expect(new Set(complete.map((e) => e.cat))).toEqual(new Set(['step', 'module', 'op', 'wait', 'compute']));
    const modules = complete.filter((e) => e.cat === 'module').map((e) => e.name);
    expect(modules).toEqual(expect.arrayContaining(['GPT', 'Linear "transformer.h.1.attn.c_attn"']));

    const starts = traceEvents.filter((e) => e.ph === 's');
    const ends = new Map(traceEvents.filter((e) => e.ph === 'f').map((e) => [e.id, e]));
    expect(starts).toHaveLength(p.ops.length);
    expect(ends.size).toBe(starts.length);
    for (const start of starts) {
      const end = ends.get(start.id)!;
      const lies = (flow: TraceEvent, cat: string): TraceEvent | undefined => complete.find((e) => e.cat === cat && e.tid === flow.tid && e.ts === flow.ts);
      expect(lies(start, 'op')!.name).toBe(lies(end, 'compute')!.name);
      expect(end.ts).toBeGreaterThanOrEqual(start.ts!);
    }
    expect(traceEvents.filter((e) => e.ph === 'C').map((e) => e.args!['live'])).toContain(p.memory[0]!.peakLive);
  });

  test('of hosts with other clocks are put where their collectives ended', () => {
    const end = (sequence: number, ts: number): TraceEvent => ({
      ph: 'X',
      name: 'allReduce',
      cat: 'communication',
      pid: 0,
      tid: 1,
      ts: ts - 5,
      dur: 5,
      args: { group: 'world', sequence },
    });
    const rank = (n: number, host: string, origin: number, ends: readonly number[]): TraceFile => ({
      displayTimeUnit: 'ms',
      shardgrad: { rank: n, worldSize: 3, host, origin, wallOrigin: 5_000_000 + 40 * n },
      traceEvents: ends.map((ts, i) => end(i + 1, ts)),
    });
    // rank 1's clock shows 900,000 less, rank 2 has rank 1's; the third collective is late there
    const traces = [rank(0, 'a', 1_000_000, [100, 200, 300]), rank(1, 'b', 100_050, [50, 150, 260]), rank(2, 'b', 100_000, [100, 200, 301])];
    const { text, hosts, ranks } = mergeTraces([traces[2]!, traces[0]!, traces[1]!]);
    expect(ranks).toEqual([0, 1, 2]);
    expect(hosts).toEqual([
      { host: 'a', ranks: [0], collectives: 0, spread: 0 },
      { host: 'b', ranks: [1, 2], collectives: 6, spread: 0 },
    ]);
    const { traceEvents } = JSON.parse(text) as TraceFile;
    expect(traceEvents.map((e) => e.ts! + e.dur!)).toEqual([100, 200, 300, 100, 200, 310, 100, 200, 301]);
    // nothing in common: by the wall clock, which is 40 us later
    const alone = mergeTraces([rank(0, 'a', 1_000_000, [100]), rank(1, 'b', 7, [])]);
    expect(alone.hosts[1]).toMatchObject({ collectives: 0 });
    const empty = rank(1, 'b', 7, []);
    const marked = mergeTraces([rank(0, 'a', 1_000_000, [100]), { ...empty, traceEvents: [{ ph: 'X', name: 'x', pid: 1, ts: 0, dur: 1 }] }]);
    expect((JSON.parse(marked.text) as TraceFile).traceEvents.map((e) => e.ts)).toEqual([95, 40]);
    expect(() => mergeTraces([traces[0]!, traces[0]!])).toThrow('trace merge: there are two traces of rank 0');
    expect(() => mergeTraces([])).toThrow('there are no traces');
    expect(() => parseTrace('{"traceEvents":[]}', 'x.json')).toThrow('x.json: it is not a trace of one rank that shardgrad has written');
    expect(() => parseTrace('{', 'x.json')).toThrow(/^x\.json: /);
  });
});

describe('metrics', () => {
  test('event files have the bytes that TensorBoard writes', () => {
    expect(crc32c(Buffer.from('123456789'))).toBe(0xe3069283);
    const ours = Buffer.concat([
      versionRecord(1732290000.25),
      scalarRecord(1732290001.5, 123456789012, { 'loss/train': 2.5, lr: 3e-4 }),
      scalarRecord(1732290002, 0, { zero: 0 }),
    ]);
    // by tensorboard 2.21: RecordWriter.write(event_pb2.Event(...).SerializeToString())
    const theirs =
      '1800000000000000a37f4b22090000107429d0d9411a0d627261696e2e4576656e743a32a5511dfd300000000000000095f5d05f090000607429d0d9411094b4e4f4cb032a1e0a110a0a6c6f73732f747261696e15000020400a090a026c721552499d39dfffcccf1800000000000000a37f4b22090000807429d0d9412a0d0a0b0a047a65726f15000000009248419d';
    expect(ours.toString('hex')).toBe(theirs);
  });

  test('writers: a new event file, lines that are continued, mistakes', async () => {
    const board = new profiler.TensorBoardWriter(join(folder, 'runs', 'a'));
    const lines = new profiler.JsonLinesWriter(join(folder, 'runs', 'a.jsonl'));
    for (const writer of [board, lines] as sg.profiler.MetricsWriter[]) {
      writer.addScalar('loss', 2.5, 1);
      writer.addScalars({ loss: Number.NaN, lr: 0.5 }, 2);
      await writer.flush();
      expect(() => writer.addScalar('loss', sg.ones([]) as never, 3)).toThrow(
        'the value of "loss" must be a number, got an object of class Tensor; read a tensor with item()',
      );
      expect(() => writer.addScalar('loss', 1, -1)).toThrow('step must be a whole number from 0, got -1');
      await writer.close();
      await writer.close();
      expect(() => writer.addScalar('loss', 1, 3)).toThrow('the writer was closed');
    }
    const [file] = readdirSync(join(folder, 'runs', 'a'));
    expect(file).toMatch(/^events\.out\.tfevents\.\d+\./);
    const bytes = readFileSync(join(folder, 'runs', 'a', file!));
    const lengths: number[] = [];
    for (let at = 0; at < bytes.length; at += 16 + lengths.at(-1)!) lengths.push(Number(bytes.readBigUInt64LE(at)));
    expect(lengths).toHaveLength(3);
    const again = new profiler.JsonLinesWriter(join(folder, 'runs', 'a.jsonl'));
    again.addScalar('loss', 1, 3);
    await again.close();
    const rows = readFileSync(join(folder, 'runs', 'a.jsonl'), 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(rows.map(({ time, ...row }) => row)).toEqual([
      { step: 1, loss: 2.5 },
      { step: 2, loss: 'NaN', lr: 0.5 },
      { step: 3, loss: 1 },
    ]);
  });
});

describe('cost', () => {
  test('processor time of a step with and without', { timeout: 300_000 }, async () => {
    const step = training();
    const block = async (): Promise<number> => {
      const before = process.cpuUsage();
      for (let i = 0; i < 10; i++) await step();
      idleSync();
      const { user, system } = process.cpuUsage(before);
      return (user + system) / 10;
    };
    for (let i = 0; i < 5; i++) await block();
    const [without, withProfile]: [number[], number[]] = [[], []];
    for (let i = 0; i < 15; i++) {
      without.push(await block());
      const capture = new Capture(0);
      withProfile.push(await block());
      capture.finish();
    }
    const median = (list: number[]): number => list.sort((a, b) => a - b)[list.length >> 1]!;
    const overhead = median(withProfile) / median(without) - 1;
    console.log(`a step of a tiny GPT takes ${median(without).toFixed(0)} us of processor time, ${(100 * overhead).toFixed(1)}% more while it is recorded`);
    // other work on the machine, and tests' slower imports, are in it
    expect(overhead).toBeLessThan(0.5);
  });
});

const cuda = sg.cuda.isAvailable();
describe.skipIf(!cuda)(`on a GPU${cuda ? '' : ', skipped: there is none'}`, () => {
  test('commands are timed by the device, and a captured graph is one of them', async () => {
    const p = await profiler.profile(training({ device: 'cuda:0' }), { warmup: 1, active: 2 });
    const own = p.commands.filter((c) => c.device === 'cuda:0' && c.op);
    expect(own.length).toBe(p.ops.filter((op) => op.device === 'cuda:0').length);
    let last = p.begin - 2000;
    for (const c of own.filter((c) => c.stream === 'compute')) {
      expect(c.timedByDevice).toBe(true);
      expect(c.begin).toBeGreaterThanOrEqual(last - 1);
      expect(c.end).toBeGreaterThanOrEqual(c.begin);
      last = c.end;
    }
    expectNested(parsed(p).traceEvents);
    const x = sg.ones([4, 4], { device: 'cuda:0' });
    const doubled = await profiler.profile(async () => {
      const graph = sg.graph.capture(() => x.mul_(2), [], { device: 'cuda:0', warmup: 0 });
      graph.replay();
      graph.replay();
      await sg.synchronize('cuda:0');
      graph.dispose();
    });
    expect(doubled.commands.some((c) => /graph/i.test(c.name))).toBe(true);
    expect(await x.sum().item()).toBe(16 * 4);
  });
});
