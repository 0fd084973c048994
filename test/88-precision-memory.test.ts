// What mixed precision saves: bytes of activations between forward and backward, and of gradients after it, beside float32's.
import { describe, expect, test } from 'vitest';
import * as sg from '../lib/index.js';
import { devices } from './helpers/devices.js';

const { amp, nn } = sg;

interface Run {
  readonly dtype: sg.DType;
  readonly autocast: sg.amp.AutocastDType | null;
}
interface Bytes {
  readonly activations: number;
  readonly gradients: number;
  readonly casts: number;
}

function measure(device: string, { dtype, autocast }: Run): Bytes {
  sg.manualSeed(1);
  const model = new nn.GPT({ vocabSize: 64, layers: 3, heads: 4, dim: 64, context: 32 }).to(dtype).to(device);
  const tokens = sg.randint(0, 64, [8, 33], { dtype: 'int32', device });
  const live = (): number => sg.memory(device).live;
  const before = live();
  const loss = amp.autocast(autocast, () => model.forward(tokens.narrow(1, 0, 32), tokens.narrow(1, 1, 32)));
  const forward = live();
  loss.backward();
  const backward = live();
  loss.dispose();
  const held = live();
  amp.clearCasts(model.parameters());
  const casts = held - live();
  const gradients = model.parameters().reduce((n, p) => n + p.grad!.nbytes, 0);
  // blocks are rounded up to 512 bytes
  expect(backward - before - casts).toBeLessThan(1.02 * gradients + 512 * model.parameters().length);
  for (const p of model.parameters()) {
    p.grad!.dispose();
    p.dispose();
  }
  return { activations: forward - before - casts, gradients, casts };
}

describe.each(devices)('a step on %s', (device) => {
  const full = measure(device, { dtype: 'float32', autocast: null });

  test('takes half of the bytes with bfloat16 parameters', () => {
    const half = measure(device, { dtype: 'bfloat16', autocast: null });
    expect(half.activations / full.activations).toBeLessThan(0.6);
    expect(half.gradients / full.gradients).toBeLessThan(0.6);
    expect(half.casts).toBe(0);
  });

  test('takes half of the activations under autocast, and a cast of each weight', () => {
    const mixed = measure(device, { dtype: 'float32', autocast: 'bfloat16' });
    expect(mixed.activations / full.activations).toBeLessThan(0.6);
    expect(mixed.gradients).toBe(full.gradients);
    expect(mixed.casts).toBeGreaterThan(0);
    expect(mixed.casts / full.gradients).toBeLessThan(0.55);
  });
});
