// GPT-2 against transformers: a checkpoint that save_pretrained wrote, its logits, loss, gradients and greedy continuation; and
// three training runs of 50 steps in float32 that must follow PyTorch's within 1e-4 at every step.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Tensor } from '../lib/index.js';
import * as sg from '../lib/index.js';
import { devices } from './helpers/devices.js';
import { type Case, Golden, goldenPath } from './helpers/golden.js';
import { expectAllClose, expectClose } from './helpers/metric.js';
import { read } from './helpers/tensors.js';

const { nn, optim } = sg;
type GPT = sg.nn.GPT;

/** Hugging Face keeps these weights as [in, out], the transpose of ours. */
const isTransposed = (key: string): boolean => /\.(c_attn|c_proj|c_fc)\.weight$/.test(key);
const turned = (key: string, t: Tensor): Tensor => (isTransposed(key) ? t.t() : t);

/** Parameters under GPT2LMHeadModel's names, without the tied head. */
function parameters(model: GPT): [string, Tensor][] {
  return [...model.namedParameters()].filter(([key]) => key !== 'lm_head.weight');
}

describe.each(devices)('a GPT-2 checkpoint on %s', (device) => {
  const golden = new Golden('gpt2');
  const { vocabSize, context, dim, layers, heads, newTokens } = golden.cases[0]!;
  const load = async (dtype: 'float32' | 'float64' = 'float32'): Promise<GPT> => {
    const model = new nn.GPT({ vocabSize, context, dim, layers, heads, dtype });
    await model.loadHuggingFace(goldenPath('gpt2/model.safetensors'));
    return model.to(device);
  };

  test.each([
    ['float32', 2e-6, 2e-5],
    ['float64', 3e-7, 3e-7],
  ] as const)('logits, loss and gradients in %s', async (dtype, forward, gradient) => {
    const model = await load(dtype);
    const tokens = golden.tensor('tokens', 'float32', device);
    const time = tokens.size(1);
    const inputs = tokens.narrow(1, 0, time - 1);
    const targets = tokens.narrow(1, 1, time - 1);
    expectClose(read(model.forward(inputs)).data, golden.values('logits'), forward, 'logits');
    const loss = model.forward(inputs, targets);
    expectClose(read(loss).data, golden.values('loss'), forward, 'loss');
    loss.backward();
    const gradients = Object.fromEntries(parameters(model).map(([key, p]) => [key, read(turned(key, p.grad!)).data]));
    const expected = Object.fromEntries(golden.names('grad/').map((key) => [key, golden.values(`grad/${key}`) as Float32Array]));
    expectAllClose(gradients, expected, gradient, 'gradient of');
  });

  test('continues a prompt as generate(do_sample=False) does, with and without room in the context', async () => {
    const model = await load();
    const made = model.generate(golden.tensor('prompt', 'float32', device), { maxNewTokens: newTokens, temperature: 0 });
    expect(Array.from(read(made).data)).toEqual(Array.from(golden.values('greedy') as BigInt64Array, Number));
    expect(model.generate(golden.tensor('prompt', 'float32', device), { maxNewTokens: 2 * context, temperature: 0 }).shape).toEqual([1, 5 + 2 * context]);
  });

  test('is written back as it was read', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'shardgrad-gpt2-'));
    try {
      const model = await load();
      await model.saveHuggingFace(join(folder, 'model.safetensors'));
      const tensors = (path: string): Map<string, string> => {
        const file = readFileSync(path);
        const body = 8 + Number(file.readBigUInt64LE(0));
        const header = JSON.parse(file.toString('utf8', 8, body)) as Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;
        return new Map(
          Object.entries(header)
            .filter(([key]) => key !== '__metadata__')
            .map(([key, e]) => [key, `${e.dtype} ${e.shape} ${file.toString('base64', body + e.data_offsets[0], body + e.data_offsets[1])}`]),
        );
      };
      expect(tensors(join(folder, 'model.safetensors'))).toEqual(tensors(goldenPath('gpt2/model.safetensors')));
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

describe.each(devices)('training curves on %s', (device) => {
  const golden = new Golden('curves');

  function model(c: Case): GPT {
    const made = new nn.GPT(c.sizes);
    const dict = Object.fromEntries(golden.names(`${c.name}/state/`).map((key) => [key, turned(key, golden.tensor(`${c.name}/state/${key}`))]));
    made.loadStateDict({ ...dict, 'lm_head.weight': dict['transformer.wte.weight']! });
    return made.to(device);
  }

  function optimizer(c: Case, m: GPT): sg.optim.SGD | sg.optim.AdamW {
    if (c.kind === 'accumulation') return new optim.SGD(m.parameters(), c.optimizer);
    if (!c.decayMatrices) return new optim.AdamW(m.parameters(), c.optimizer);
    const matrices = (wanted: boolean): Tensor[] => m.parameters().filter((p) => p.ndim > 1 === wanted);
    return new optim.AdamW(
      [
        { params: matrices(true), weightDecay: c.decayMatrices },
        { params: matrices(false), weightDecay: 0 },
      ],
      c.optimizer,
    );
  }

  test.each(golden.cases.map((c) => [c.kind, c] as const))('%s', (_, c) => {
    const gpt = model(c);
    const opt = optimizer(c, gpt);
    const schedule = c.schedule ? new optim.CosineWithWarmup(opt, c.schedule) : null;
    const [steps, parts, , length] = golden.shape(`${c.name}/tokens`) as [number, number, number, number];
    const tokens = golden.tensor(`${c.name}/tokens`, 'float32', device);
    const expected = c.losses as number[];
    expect(steps).toBe(expected.length);
    for (let step = 0; step < steps; step++) {
      const loss = sg.scope(() => {
        let total = 0;
        for (let part = 0; part < parts; part++) {
          const batch = tokens.at(step, part);
          const share = gpt.forward(batch.narrow(1, 0, length - 1), batch.narrow(1, 1, length - 1)).div(parts);
          share.backward();
          total += share.itemSync();
        }
        if (c.clip !== null) optim.clipGradNorm(gpt.parameters(), c.clip);
        opt.step();
        opt.zeroGrad();
        schedule?.step();
        return total;
      });
      expect(Math.abs(loss - expected[step]!) / expected[step]!, `step ${step}: ${loss}, PyTorch's ${expected[step]}`).toBeLessThanOrEqual(1e-4);
    }
    expect(expected.at(-1)!).toBeLessThan(0.6 * expected[0]!);
  });
});
