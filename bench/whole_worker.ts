// Our side of whole.ts: data loaders, files and the network for digits, in the terms of a user's script. A line asks, a line answers.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import * as sg from '../lib/index.js';
import { data, io, nn, optim } from '../lib/index.js';
import type { DigitsSetup, WholeQuestion } from './whole.js';

const folder = mkdtempSync(join(tmpdir(), 'shardgrad-bench-'));
const seconds = async (fn: () => unknown): Promise<number> => {
  const start = performance.now();
  await fn();
  return (performance.now() - start) / 1000;
};

type Batch = Record<string, sg.Tensor>;

function loader(kind: string): AsyncIterable<unknown> {
  switch (kind) {
    case 'memory':
      return new data.DataLoader(data.digits({ test: 0 }).train, { batchSize: 64, shuffle: true, dropLast: true });
    case 'augmented':
      return new data.DataLoader(
        { module: new URL('./loading_data.js', import.meta.url), export: 'AugmentedDigits' },
        { batchSize: 64, shuffle: true, dropLast: true, workers: 2 },
      );
    default: {
      const tokens = Uint16Array.from({ length: 1 << 20 }, (_, i) => (i * 2654435761) & 0xffff);
      return new data.DataLoader(new data.TokenDataset(tokens, { context: 256 }), { batchSize: 12, shuffle: true, dropLast: true });
    }
  }
}
const loaders = new Map<string, AsyncIterable<unknown>>();

/** Samples a second of an epoch, its first batch waited for already. */
async function load(kind: string): Promise<object> {
  const made = loaders.get(kind) ?? loader(kind);
  loaders.set(kind, made);
  let [samples, start] = [0, 0];
  for await (const batch of made) {
    const tensors = Object.values(batch as Batch);
    if (start === 0) start = performance.now();
    else samples += tensors[0]!.shape[0]!;
    for (const t of tensors) t.dispose();
  }
  return { value: (1000 * samples) / (performance.now() - start) };
}

let model: nn.GPT | null = null;
let optimizer: optim.AdamW | null = null;

async function files(kind: string, layers: number): Promise<object> {
  if (!model) {
    model = new nn.GPT({ layers, dim: 512, heads: 8, context: 256, vocabSize: 16384 });
    optimizer = new optim.AdamW(model.parameters(), { lr: 1e-3 });
    for (const p of model.parameters()) p.grad = sg.onesLike(p.detach());
    optimizer.step();
    optimizer.zeroGrad();
    await sg.synchronize();
  }
  const [weights, root] = [join(folder, 'weights.safetensors'), join(folder, 'checkpoints')];
  const state = { model, optimizer: optimizer! };
  const calls: Record<string, () => Promise<unknown>> = {
    'save weights': () => io.saveSafetensors(weights, model!.stateDict()),
    'load weights': async () => model!.loadStateDict(await io.loadSafetensors(weights)),
    'load model': () => io.loadModel(model!, weights),
    'save all': async () => {
      rmSync(root, { recursive: true, force: true });
      await io.saveCheckpoint(root, { ...state, step: 1 });
    },
    'load all': async () => io.loadCheckpoint((await io.latestCheckpoint(root))!, state),
  };
  return {
    value: await seconds(async () => {
      await sg.scope(calls[kind]!);
      await sg.synchronize();
    }),
  };
}

class DigitNet extends nn.Module {
  conv1 = new nn.Conv2d(1, 16, 3, { padding: 1 });
  conv2 = new nn.Conv2d(16, 32, 3, { padding: 1 });
  norm = new nn.BatchNorm2d(32);
  fc = new nn.Linear(32 * 7 * 7, 10);

  override forward(x: sg.Tensor): sg.Tensor {
    const h = sg.maxPool2d(this.conv1.forward(x).relu(), 2);
    const g = sg.maxPool2d(this.norm.forward(this.conv2.forward(h)).relu(), 2);
    return this.fc.forward(g.flatten(1));
  }
}

let train: ((steps: number) => Promise<object>) | null = null;

async function prepareDigits({ file, batch }: DigitsSetup): Promise<typeof train> {
  const { images, labels, ...weights } = await io.loadSafetensors(file);
  const net = new DigitNet();
  net.loadStateDict(weights);
  const adam = new optim.AdamW(net.parameters(), { lr: 1e-3 });
  let at = 0;
  return async (steps) => {
    const losses: number[] = [];
    const value = await seconds(async () => {
      for (let i = 0; i < steps; i++, at = (at + batch) % (images!.shape[0]! - batch)) {
        const loss = sg.scope(() => {
          const loss = sg.crossEntropy(net.forward(images!.narrow(0, at, batch)), labels!.narrow(0, at, batch));
          loss.backward();
          adam.step();
          adam.zeroGrad();
          return loss.detach();
        });
        losses.push(await loss.item());
        loss.dispose();
      }
    });
    return { value: (steps * batch) / value, losses };
  };
}

async function answer(question: WholeQuestion): Promise<object> {
  if ('load' in question) return load(question.load);
  if ('file' in question) {
    train = await prepareDigits(question);
    return {};
  }
  if ('steps' in question) return train!(question.steps);
  return files(question.files, question.layers);
}

for await (const line of createInterface({ input: process.stdin })) console.log(JSON.stringify(await answer(JSON.parse(line) as WholeQuestion)));
rmSync(folder, { recursive: true });
