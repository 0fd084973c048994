// 20,000 random calls with wrong arguments. Each either succeeds or ends in a ShardgradError, at the call or at the next wait;
// the process lives and memory stays flat. Half of the calls are any public function or method with anything; half are the
// calls of the op table with one or two of their operands replaced, which get past the first checks.
import { expect, test } from 'vitest';
import type { DType } from '../lib/index.js';
import * as sg from '../lib/index.js';
import type { Row } from './helpers/op_table.js';
import { stream } from './helpers/random.js';
import { rows as attention } from './ops/attention.js';
import { rows as conv } from './ops/conv.js';
import { rows as indexing } from './ops/indexing.js';
import { rows as loss } from './ops/loss.js';
import { rows as matmul } from './ops/matmul.js';
import { rows as normalize } from './ops/normalize.js';
import { rows as pointwise } from './ops/pointwise.js';
import { rows as reduce } from './ops/reduce.js';
import { rows as shape } from './ops/shape.js';
import { rows as sort } from './ops/sort.js';

const CALLS = 20_000;
// Another seed makes another campaign.
const SEED = Number(process.env['SHARDGRAD_FUZZ_SEED'] ?? 1);
const table = [attention, conv, indexing, loss, matmul, normalize, pointwise, reduce, shape, sort].flat();

const next = stream(SEED);
const pick = <T>(list: readonly T[]): T => list[Math.floor(next() * list.length)]!;
const chance = (p: number): boolean => next() < p;

const dtypes: readonly DType[] = ['float32', 'float64', 'float16', 'bfloat16', 'int64', 'int32', 'uint8', 'bool', 'int8', 'uint16', 'float8_e4m3'];
const shapes: readonly number[][] = [[], [0], [1], [3], [2, 3], [3, 2], [3, 0], [1, 1, 1], [2, 3, 4], [2, 2, 3, 3], [1, 2, 1, 2, 1, 2, 1, 2]];

/** Tensors of every kind: strange dtypes and shapes, not finite, expanded, on device meta, without memory. */
function anyTensor(): sg.Tensor {
  const shape = pick(shapes);
  const dtype = pick(dtypes);
  if (chance(0.05)) return sg.zeros(shape, { dtype, device: 'meta' });
  const base = sg.full([shape.reduce((n, s) => n * s, 1)], pick([0, 1, 2, 100]), { dtype }).reshape(shape);
  if (chance(0.1)) base.dispose();
  else if (dtype.startsWith('float') && chance(0.2)) base.fill_(pick([Number.NaN, Number.POSITIVE_INFINITY, -1, 1e30]));
  else {
    const layout = chance(0.2) ? pick(['transposed', 'expanded']) : 'plain';
    if (layout === 'transposed' && shape.length > 1) return base.transpose(0, 1);
    if (layout === 'expanded' && shape.length < 7) return base.expand([2, ...shape]);
  }
  if (['float32', 'float64', 'bfloat16'].includes(dtype) && chance(0.3) && !base.disposed) base.requiresGrad = true;
  return base;
}

// Sizes are small or beyond every memory: those between would only slow the machine down.
const sizes: readonly number[] = [-5, -2, -1, 0, 1, 2, 3, 4, 7, 2 ** 50, -(2 ** 50), 2 ** 53, 1e300];
const numbers: readonly number[] = [...sizes, 0.5, -0.1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
const words: readonly string[] = [
  '',
  'mean',
  'none',
  'float32',
  'int64',
  'cpu',
  'cpu:1',
  'cuda:7',
  'meta',
  '...',
  'ij,jk->ik',
  'ii',
  'a,b',
  '__proto__',
  'constructor',
];
const keys: readonly string[] = [
  'dtype',
  'device',
  'dim',
  'keepdim',
  'reduction',
  'eps',
  'correction',
  'stride',
  'padding',
  'groups',
  'scale',
  'mask',
  'causal',
  'weight',
  'ignoreIndex',
  'largest',
  'descending',
  'gradient',
  'alpha',
  'value',
  'mode',
  'generator',
  'lr',
  'betas',
  'momentum',
  'approximate',
  'min',
  'max',
  'p',
];

function anything(depth = 0): unknown {
  const kind = Math.floor(next() * (depth > 1 ? 9 : 13));
  switch (kind) {
    case 0:
    case 1:
    case 2:
      return anyTensor();
    case 3:
    case 4:
      return pick(numbers);
    case 5:
      return pick(words);
    case 6:
      return pick([null, undefined, true, false, 7n, Symbol('s')]);
    case 7:
      return pick([() => 3, (x: unknown) => x, () => sg.ones([2]), () => undefined, new Float32Array(4), new BigInt64Array(2), new Map(), new Date(0)]);
    case 8:
      return sg.slice(pick([null, 0, 1, -1]), pick([null, 2, -1]), pick([1, 2, -1]));
    case 9:
    case 10:
      return Array.from({ length: Math.floor(next() * 4) }, () => (chance(0.7) ? pick(numbers) : anything(depth + 1)));
    default:
      return Object.fromEntries(Array.from({ length: Math.floor(next() * 3) }, () => [pick(keys), anything(depth + 1)]));
  }
}

/** An argument that is right more often than not, so that several must be wrong at once rarely. */
function argument(): unknown {
  return chance(0.5) ? pick<() => unknown>([anyTensor, () => pick([0, 1, 2, -1]), () => pick(shapes), () => ({ dtype: pick(dtypes) })])() : anything();
}

// Those that print, that stop or reconfigure what other calls rely on, or that run what they are given for as long as it likes.
const left = new Set(['collectGarbage', 'emptyCache', 'resetPeakMemory', 'setNumThreads', 'checkLeaks', 'print', 'constructor']);

interface Target {
  readonly name: string;
  readonly call: () => unknown;
}

function targets(): (() => Target)[] {
  const list: (() => Target)[] = [];
  const args = (): unknown[] => Array.from({ length: Math.floor(next() * 5) }, argument);
  const add = (space: string, members: object): void => {
    for (const [name, member] of Object.entries(members)) {
      if (typeof member !== 'function' || left.has(name)) continue;
      const isClass = /^class\b/.test(Function.prototype.toString.call(member));
      if (isClass && space === '') continue; // Tensor, Device, Scope: not made by hand
      list.push(() => {
        const given = args();
        const call = isClass ? () => new (member as new (...a: unknown[]) => unknown)(...given) : () => member(...given);
        return { name: `${space}${name}(${given.map(show).join(', ')})`, call };
      });
    }
  };
  add('', sg);
  add('nn.', sg.nn);
  add('optim.', sg.optim);
  const methods = Object.getOwnPropertyNames(sg.Tensor.prototype).filter((name) => {
    const member = Object.getOwnPropertyDescriptor(sg.Tensor.prototype, name)!;
    return typeof member.value === 'function' && !left.has(name) && !name.startsWith('check') && !name.startsWith('read');
  });
  for (const name of methods) {
    list.push(() => {
      const x = anyTensor();
      const given = args();
      return {
        name: `${show(x)}.${name}(${given.map(show).join(', ')})`,
        call: () => (x as unknown as Record<string, (...a: unknown[]) => unknown>)[name]!(...given),
      };
    });
  }
  for (const make of layers) {
    list.push(() => {
      const layer = make();
      const given = args();
      return {
        name: `${layer.constructor.name}.forward(${given.map(show).join(', ')})`,
        call: () => (layer.forward as (...a: unknown[]) => unknown)(...given),
      };
    });
  }
  return list;
}

const { nn } = sg;
const layers: readonly (() => sg.nn.Module)[] = [
  () => new nn.Linear(3, 2),
  () => new nn.Embedding(5, 3),
  () => new nn.LayerNorm(3),
  () => new nn.RMSNorm([3, 4]),
  () => new nn.GroupNorm(1, 3),
  () => new nn.BatchNorm1d(3),
  () => new nn.BatchNorm2d(2),
  () => new nn.Conv1d(3, 2, 2),
  () => new nn.Conv2d(2, 2, 2),
  () => new nn.MaxPool2d(2),
  () => new nn.MultiheadAttention(4, 2, { rotary: true }),
  () => new nn.TransformerEncoderLayer(4, 2, { dimFeedforward: 4 }),
  () => new nn.LSTM(4, 2),
  () => new nn.GRU(4, 2, { batchFirst: true }),
  () => new nn.CrossEntropyLoss(),
  () => new nn.Sequential(new nn.Linear(3, 3), new nn.GELU()),
  () => new nn.GPT({ vocabSize: 5, layers: 1, heads: 1, dim: 4, context: 4 }),
];

/** A call of the op table with some operands replaced. */
function mutated(): Target {
  const row: Row = pick(table);
  const operands = row.inputs.map((input) => sg.full([...input.shape], 1, { dtype: input.dtype ?? 'float32' }));
  for (let i = 0; i < 1 + Math.floor(next() * 2); i++) {
    operands[Math.floor(next() * operands.length)] = chance(0.8) ? anyTensor() : (anything() as sg.Tensor);
  }
  return { name: `${row.name}(${operands.map(show).join(', ')})`, call: () => row.fn(...operands) };
}

function show(x: unknown): string {
  if (x instanceof sg.Tensor) return `${x.dtype}[${x.shape}]${x.disposed ? ' disposed' : x.isMeta ? ' meta' : ''}`;
  if (Array.isArray(x)) return `[${x.map(show).join(', ')}]`;
  if (x && typeof x === 'object')
    return Object.getPrototypeOf(x) === Object.prototype ? `{${Object.entries(x).map(([k, v]) => `${k}: ${show(v)}`)}}` : (x.constructor?.name ?? 'object');
  return typeof x === 'bigint' ? `${x}n` : typeof x === 'function' ? 'function' : String(x);
}

/** What a wrong call may end in. */
function judge(name: string, error: unknown, wrong: Map<string, string>): void {
  if (error instanceof sg.ShardgradError) {
    if (error.message.length < 8 || error.code !== error.constructor.name) wrong.set(`${error.code} "${error.message}"`, name);
    return;
  }
  const place =
    error instanceof Error
      ? error.stack
          ?.split('\n')
          .find((line) => line.includes('/lib/'))
          ?.trim()
      : undefined;
  wrong.set(place ?? String(error), `${name} → ${String(error)}`);
}

test(`${CALLS} random calls of seed ${SEED} succeed or end in a typed error`, async () => {
  const any = targets();
  expect(any.length).toBeGreaterThan(150);
  const wrong = new Map<string, string>();
  const outcomes = { succeeded: 0, refused: 0 };
  const before = sg.memory().live;
  const resident = process.memoryUsage.rss();

  for (let i = 0; i < CALLS; i++) {
    let name = 'the arguments';
    try {
      const result = sg.scope(() => {
        const target = chance(0.5) ? pick(any)() : mutated();
        name = target.name;
        const made = target.call();
        return made instanceof Promise ? made.catch((error: unknown) => judge(name, error, wrong)) : undefined;
      });
      await result;
      sg.synchronizeSync();
      outcomes.succeeded++;
    } catch (error) {
      outcomes.refused++;
      judge(name, error, wrong);
    }
  }

  expect([...wrong].map(([place, call]) => `${call} ${place}`)).toEqual([]);
  expect(outcomes.succeeded, 'calls that succeed').toBeGreaterThan(CALLS / 20);
  expect(outcomes.refused, 'calls that are refused').toBeGreaterThan(CALLS / 4);
  sg.collectGarbage();
  expect(sg.memory().live - before, 'live bytes').toBeLessThan(100_000);
  expect(process.memoryUsage.rss() - resident, 'resident bytes').toBeLessThan(400 * 2 ** 20);
});
