// Training curves of 100 steps under autocast beside PyTorch's: the same weights, tokens, AdamW and clipping; float16 with a GradScaler
// that also takes PyTorch's scales.
import { describe, expect, test } from 'vitest';
import type { Tensor } from '../lib/index.js';
import * as sg from '../lib/index.js';
import { devices } from './helpers/devices.js';
import { Golden } from './helpers/golden.js';

const { amp, nn, optim } = sg;
const golden = new Golden('autocast_curves');
/** Hugging Face keeps these weights as [in, out], the transpose of ours. */
const turned = (key: string, t: Tensor): Tensor => (/\.(c_attn|c_proj|c_fc)\.weight$/.test(key) ? t.t() : t);

describe.each(devices)('autocast curves on %s', (device) => {
  test.each(golden.cases.map((c) => [c.kind as 'bfloat16' | 'float16', c] as const))('%s', async (dtype, c) => {
    const model = new nn.GPT(c.sizes);
    const dict = Object.fromEntries(golden.names('state/').map((key) => [key, turned(key, golden.tensor(`state/${key}`))]));
    model.loadStateDict({ ...dict, 'lm_head.weight': dict['transformer.wte.weight']! });
    model.to(device);
    const optimizer = new optim.AdamW(model.parameters(), { lr: 3e-3, betas: [0.9, 0.95], weightDecay: 0.1 });
    const scaler = new amp.GradScaler({ enabled: dtype === 'float16', initScale: 2 ** 12, growthInterval: 20 });
    const tokens = golden.tensor('tokens', 'float32', device);
    const length = tokens.size(2);
    const expected = c.losses as number[];
    expect(expected.length).toBe(100);
    for (let step = 0; step < expected.length; step++) {
      const loss = sg.scope(() => {
        const batch = tokens.at(step);
        const loss = amp.autocast(dtype, () => model.forward(batch.narrow(1, 0, length - 1), batch.narrow(1, 1, length - 1)));
        scaler.scale(loss).backward();
        scaler.step(optimizer, { maxNorm: 1 });
        scaler.update();
        optimizer.zeroGrad();
        return loss.itemSync();
      });
      expect(Math.abs(loss / expected[step]! - 1), `step ${step}: ${loss}, PyTorch's ${expected[step]}`).toBeLessThanOrEqual(c.bound);
      expect(await scaler.getScale(), `the scale after step ${step}`).toBe(c.scales[step]);
    }
  });
});
