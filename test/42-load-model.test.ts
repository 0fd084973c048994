// Weights read straight into a model: what loadStateDict would have made of the file, and nothing changed when they do not fit.
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { CheckpointError, empty, io, nn, noGrad, randn, ShapeError, type Tensor, ValueError } from '../lib/index.js';
import { faultyFs } from './helpers/faulty_fs.js';
import { expectSame, failure, scratchFolder, writeRawSafetensors } from './helpers/files.js';

const dir = scratchFolder();
const path = (name: string): string => join(dir, name);
const net = (): nn.Module => new nn.Sequential(new nn.Linear(300, 200), new nn.BatchNorm1d(200), new nn.Linear(200, 10));

async function expectEqual(actual: nn.Module, expected: nn.Module): Promise<void> {
  const [a, b] = [actual.stateDict(), expected.stateDict()];
  expect(Object.keys(a)).toEqual(Object.keys(b));
  for (const [key, t] of Object.entries(b)) await expectSame(a[key]!, t);
}

describe('loadModel', () => {
  test('one file, several, and a file system that is not node’s', async () => {
    const saved = net();
    await io.saveSafetensors(path('net.safetensors'), saved.stateDict());
    const folder = await io.saveShardedSafetensors(path('sharded'), saved.stateDict(), { maxShardBytes: 100_000 });
    expect(folder).toMatch(/index\.json$/);
    for (const [from, fs] of [
      [path('net.safetensors'), undefined],
      [folder, undefined],
      [path('net.safetensors'), faultyFs(-1).fs],
    ] as const) {
      const model = net();
      const { weight } = (model as nn.Sequential).get(0) as nn.Linear;
      const version = weight.storage.version;
      expect(await io.loadModel(model, from, fs ? { fs } : {})).toEqual({ missing: [], unexpected: [] });
      await expectEqual(model, saved);
      expect(weight.storage.version).toBeGreaterThan(version);
    }
  });

  test('in other dtypes, and into tensors that do not lie in order', async () => {
    const saved = net();
    await io.saveSafetensors(path('net.safetensors'), saved.stateDict());
    const model = net().to('bfloat16');
    await io.loadModel(model, path('net.safetensors'));
    await expectEqual(model, saved.to('bfloat16'));
    class Turned extends nn.Module {
      readonly w = new nn.Parameter(randn([30, 20]).t());
      override forward(): void {}
    }
    const w = randn([20, 30]);
    await io.saveSafetensors(path('w.safetensors'), { w });
    const turned = new Turned();
    await io.loadModel(turned, path('w.safetensors'));
    await expectSame(turned.w.contiguous(), w);
  });

  test('of a tensor with two names, one is enough', async () => {
    const make = (): nn.GPT => new nn.GPT({ vocabSize: 11, layers: 1, heads: 2, dim: 8, context: 4 });
    const [saved, model] = [make(), make()];
    const { 'lm_head.weight': head, ...rest } = saved.stateDict();
    expect(head).toBeDefined();
    await io.saveSafetensors(path('gpt.safetensors'), rest);
    expect(await io.loadModel(model, path('gpt.safetensors'))).toEqual({ missing: [], unexpected: [] });
    await expectEqual(model, saved);
    await io.saveSafetensors(path('gpt.safetensors'), saved.stateDict());
    await io.loadModel(model, path('gpt.safetensors'));
    await expectEqual(model, saved);
  });

  test('what does not fit is said, and nothing is changed', async () => {
    const model = net();
    const before = Object.fromEntries(Object.entries(model.stateDict()).map(([key, t]) => [key, t.clone()]));
    const fails = async (tensors: Record<string, Tensor>, kind: new (...args: never[]) => Error, text: RegExp): Promise<void> => {
      await io.saveSafetensors(path('bad.safetensors'), tensors);
      const error = await failure(io.loadModel(model, path('bad.safetensors')));
      expect(error).toBeInstanceOf(kind);
      expect(error.message).toMatch(text);
    };
    const other = net().stateDict();
    const { '2.bias': bias, ...less } = other;
    await fails(less, ValueError, /^loadModel: keys do not match Sequential: missing 2\.bias; unexpected none$/);
    await fails({ ...other, extra: bias! }, ValueError, /missing none; unexpected extra$/);
    await fails({ ...other, '2.bias': randn([11]) }, ShapeError, /^loadModel: "2\.bias" has shape \[11\], the module's is \[10\]$/);
    expect(await failure(io.loadModel(model, path('absent')))).toBeInstanceOf(CheckpointError);
    expect(await failure(io.loadModel({} as nn.Module, path('bad.safetensors')))).toBeInstanceOf(ValueError);
    for (const [key, t] of Object.entries(model.stateDict())) await expectSame(t, before[key]!);
    // as far as it fits
    await io.saveSafetensors(path('part.safetensors'), { '2.bias': bias!, extra: empty([1]) });
    const { missing, unexpected } = await io.loadModel(model, path('part.safetensors'), { strict: false });
    expect([missing.length, unexpected]).toEqual([Object.keys(other).length - 1, ['extra']]);
    await expectSame(model.stateDict()['2.bias']!, bias!);
    // no dtype of ours
    class One extends nn.Module {
      readonly w = new nn.Parameter(randn([1]));
      override forward(): void {}
    }
    const complex = writeRawSafetensors(path('complex.safetensors'), { w: { dtype: 'C64', shape: [1], data_offsets: [0, 8] } }, 8);
    expect((await failure(io.loadModel(new One(), complex))).message).toBe('loadModel: tensor "w": dtype C64 has no counterpart here');
  });

  test('a module that loads in its own way does so', async () => {
    class Own extends nn.Linear {
      override loadStateDict(dict: nn.StateDict): nn.LoadResult {
        noGrad(() => this.weight.copy_(dict['weight']!.mul(2)));
        return { missing: ['bias'], unexpected: [] };
      }
    }
    const own = new Own(3, 3);
    const weight = randn([3, 3]);
    await io.saveSafetensors(path('own.safetensors'), { weight });
    expect(await io.loadModel(own, path('own.safetensors'))).toEqual({ missing: ['bias'], unexpected: [] });
    await expectSame(own.weight.detach(), weight.mul(2));
  });
});

test('a checkpoint of other tensors than the model has changes nothing', async () => {
  const root = path('checkpoints');
  await io.saveCheckpoint(root, { step: 1, model: net() });
  const model = new nn.Sequential(new nn.Linear(300, 200));
  const before = Object.fromEntries(Object.entries(model.stateDict()).map(([key, t]) => [key, t.clone()]));
  expect((await failure(io.loadCheckpoint(root, { model }))).message).toMatch(/^loadStateDict: keys do not match Sequential: missing none; unexpected 1\./);
  for (const [key, t] of Object.entries(model.stateDict())) await expectSame(t, before[key]!);
});
