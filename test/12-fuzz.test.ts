// 20,000 random calls with wrong arguments, and every argument of every function wrong in turn. Each call either succeeds or
// ends in a ShardgradError, at the call or at the next wait; the process lives and memory stays flat. Half of the random calls
// are any public function or method with anything; half are calls of the op table with one or two of their operands replaced,
// which get past the first checks.
import { expect, test } from 'vitest';
import type { DType } from '../lib/index.js';
import * as sg from '../lib/index.js';
import { attempt, type Callable, callables, Judge, show } from './helpers/callables.js';
import type { Row } from './helpers/op_table.js';
import { stream } from './helpers/random.js';
import { families } from './ops/families.js';

const CALLS = 20_000;
// Another seed makes another campaign.
const SEED = Number(process.env['SHARDGRAD_FUZZ_SEED'] ?? 1);
const table = Object.values(families).flat();

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

/** A call of the op table with some operands replaced. */
function mutated(): { shown: string; call: () => unknown } {
  const row: Row = pick(table);
  const operands = row.inputs.map((input) => sg.full([...input.shape], 1, { dtype: input.dtype ?? 'float32' }));
  for (let i = 0; i < 1 + Math.floor(next() * 2); i++) {
    operands[Math.floor(next() * operands.length)] = chance(0.8) ? anyTensor() : (anything() as sg.Tensor);
  }
  return { shown: `${row.name}(${operands.map(show).join(', ')})`, call: () => row.fn(...operands) };
}

/** A call of anything with anything. */
function arbitrary(target: Callable): { shown: string; call: () => unknown } {
  const args = Array.from({ length: Math.floor(next() * 5) }, argument);
  if (target.isMethod) args.unshift(anyTensor());
  return { shown: `${target.name}(${args.map(show).join(', ')})`, call: () => target.call(args) };
}

const all = callables();

/** Runs `calls` and asserts that none ends in the wrong error and that nothing is left behind. */
async function campaign(calls: (judge: Judge) => Promise<void>): Promise<Judge> {
  const judge = new Judge();
  const before = sg.memory().live;
  const resident = process.memoryUsage.rss();
  await calls(judge);
  expect(judge.complaints).toEqual([]);
  sg.collectGarbage();
  expect(sg.memory().live - before, 'live bytes').toBeLessThan(100_000);
  expect(process.memoryUsage.rss() - resident, 'resident bytes').toBeLessThan(400 * 2 ** 20);
  return judge;
}

test('there is much to call', () => {
  expect(all.length).toBeGreaterThan(350);
});

test(`${CALLS} random calls of seed ${SEED} succeed or end in a typed error`, async () => {
  let succeeded = 0;
  const judge = await campaign(async (j) => {
    for (let i = 0; i < CALLS; i++) {
      if (await attempt('a random call', () => (chance(0.5) ? arbitrary(pick(all)) : mutated()), j)) succeeded++;
    }
  });
  expect(succeeded, 'calls that succeed').toBeGreaterThan(CALLS / 20);
  expect(judge.refused, 'calls that are refused').toBeGreaterThan(CALLS / 4);
});

// Arguments that fit many functions, then one wrong one.
const templates: readonly (() => unknown[])[] = [
  () => Array.from({ length: 4 }, () => sg.ones([2, 3])),
  () => [sg.ones([2, 3]), 1, 1, 1],
  () => [[2, 3], 1, 1, 1],
  () => [2, 2, 2, 2],
];
const wrongs: readonly unknown[] = [null, undefined, Symbol('s'), '', Number.NaN, -1, {}, [], [null], true, 3n, () => 0];

test('every argument of everything, wrong in every way', async () => {
  await campaign(async (judge) => {
    for (const target of all) {
      for (const template of target.isMethod ? templates.slice(0, 2) : templates) {
        for (let place = target.isMethod ? 1 : 0; place < 4; place++) {
          for (const wrong of wrongs) {
            await attempt(
              target.name,
              () => {
                const args = [...template().slice(0, place), wrong];
                return { shown: `${target.name}(${args.map(show).join(', ')})`, call: () => target.call(args) };
              },
              judge,
            );
          }
        }
      }
    }
  });
});
