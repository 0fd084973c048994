// A misspelt option is an error in every module, as in optimizers: it would be left at its default without a word.
import { describe, expect, test } from 'vitest';
import * as dist from '../lib/distributed/index.js';
import * as sg from '../lib/index.js';

const { nn } = sg;
type Wrong = { readonly biass: boolean };
const layer = { vocabSize: 4, layers: 1, heads: 1, dim: 4, context: 4 };

const makers: Record<string, (wrong: Wrong) => sg.nn.Module> = {
  Linear: (o) => new nn.Linear(3, 4, o as object),
  Embedding: (o) => new nn.Embedding(3, 4, o as object),
  LayerNorm: (o) => new nn.LayerNorm(3, o as object),
  RMSNorm: (o) => new nn.RMSNorm(3, o as object),
  GroupNorm: (o) => new nn.GroupNorm(1, 3, o as object),
  BatchNorm1d: (o) => new nn.BatchNorm1d(3, o as object),
  BatchNorm2d: (o) => new nn.BatchNorm2d(3, o as object),
  Conv1d: (o) => new nn.Conv1d(3, 4, 2, o as object),
  Conv2d: (o) => new nn.Conv2d(3, 4, 2, o as object),
  ConvTranspose1d: (o) => new nn.ConvTranspose1d(3, 4, 2, o as object),
  ConvTranspose2d: (o) => new nn.ConvTranspose2d(3, 4, 2, o as object),
  MaxPool1d: (o) => new nn.MaxPool1d(2, o as object),
  MaxPool2d: (o) => new nn.MaxPool2d(2, o as object),
  AvgPool1d: (o) => new nn.AvgPool1d(2, o as object),
  AvgPool2d: (o) => new nn.AvgPool2d(2, o as object),
  Upsample: (o) => new nn.Upsample({ size: 2, ...o }),
  Unfold: (o) => new nn.Unfold(2, o as object),
  Fold: (o) => new nn.Fold(2, 2, o as object),
  GELU: (o) => new nn.GELU(o as object),
  PReLU: (o) => new nn.PReLU(1, 0.25, o as object),
  SwiGLU: (o) => new nn.SwiGLU(2, 3, o as object),
  LSTM: (o) => new nn.LSTM(2, 3, o as object),
  GRU: (o) => new nn.GRU(2, 3, o as object),
  MultiheadAttention: (o) => new nn.MultiheadAttention(4, 2, o as object),
  TransformerEncoderLayer: (o) => new nn.TransformerEncoderLayer(4, 2, o as object),
  TransformerDecoderLayer: (o) => new nn.TransformerDecoderLayer(4, 2, o as object),
  Transformer: (o) => new nn.Transformer(4, 2, o as object),
  GPT: (o) => new nn.GPT({ ...layer, ...o }),
  GPTBlock: (o) => new nn.GPTBlock({ ...layer, ...o }),
};
type Loss = new (o: object) => sg.nn.Module;
const losses = Object.entries(nn).filter(([name]) => name.endsWith('Loss')) as [string, Loss][];
for (const [name, Loss] of losses) makers[name] = (o) => new Loss(o);

describe('a misspelt option', () => {
  test.each(Object.keys(makers))('of %s', (name) => {
    expect(() => makers[name]!({ biass: false })).toThrow(new RegExp(`^${name}: there is no option biass; there are (\\w+, )*\\w+$`));
  });

  test('every module that takes options is above', () => {
    const takes = (c: object): boolean => /constructor\([^)]*\b(options|given|o)\b/.test(Function.prototype.toString.call(c)) || takesAbove(c);
    const takesAbove = (c: object): boolean => {
      const above = Object.getPrototypeOf(c) as object;
      return !/constructor\(/.test(Function.prototype.toString.call(c)) && above !== Function.prototype && above !== nn.Module && takes(above);
    };
    const classes = Object.entries(nn).filter(([, c]) => typeof c === 'function' && c.prototype instanceof nn.Module);
    expect(classes.length).toBeGreaterThan(80);
    expect(classes.filter(([name, c]) => takes(c) && !(name in makers)).map(([name]) => name)).toEqual([]);
  });
});

test('an option that is undefined has its default, and null stands for no options', () => {
  expect(new nn.Linear(2, 3, { bias: undefined }).bias).not.toBeNull();
  expect(new nn.Linear(2, 3, null as never).weight.shape).toEqual([3, 2]);
});

test('what is no object is refused', () => {
  expect(() => new nn.Linear(2, 3, false as never)).toThrow('Linear: options must be an object, got false');
  expect(() => new nn.LayerNorm(3, 1e-6 as never)).toThrow('LayerNorm: options must be an object, got 0.000001');
});

test('modules of several ranks', async () => {
  const { ColumnParallelLinear, DistributedDataParallel, Pipeline, RowParallelLinear, SyncBatchNorm, VocabParallelEmbedding } = dist;
  await dist.simulate(1, async ({ world }) => {
    const mesh = await dist.initDeviceMesh({ pp: 1, tp: 1 }, { group: world });
    const wrong = { biass: true } as object;
    const made: [string, () => unknown][] = [
      ['DistributedDataParallel', () => new DistributedDataParallel(new nn.Linear(2, 2), { group: world, ...wrong })],
      ['SyncBatchNorm', () => new SyncBatchNorm(2, { group: world, ...wrong })],
      ['ColumnParallelLinear', () => new ColumnParallelLinear(2, 2, { mesh, ...wrong })],
      ['RowParallelLinear', () => new RowParallelLinear(2, 2, { mesh, ...wrong })],
      ['VocabParallelEmbedding', () => new VocabParallelEmbedding(4, 2, { mesh, ...wrong })],
      ['Pipeline', () => new Pipeline(new nn.Sequential(new nn.Linear(2, 2)), { mesh, microBatches: 1, ...wrong })],
    ];
    for (const [name, make] of made) expect(make).toThrow(`${name}: there is no option biass; there are `);
  });
});
