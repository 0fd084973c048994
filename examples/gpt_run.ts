// What the GPT examples share around their recipes: options, the text, the groups of the optimizer, how ranks stop together, and the last words.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as sg from 'shardgrad';
import { amp, data, type nn } from 'shardgrad';
import type * as dist from 'shardgrad/distributed';
import { curve } from './report.js';

export const gptOptions = {
  steps: { type: 'string', default: '1200' },
  seconds: { type: 'string', default: '0' },
  batch: { type: 'string', default: '16' },
  layers: { type: 'string', default: '4' },
  heads: { type: 'string', default: '4' },
  dim: { type: 'string', default: '128' },
  context: { type: 'string', default: '128' },
  lr: { type: 'string', default: '3e-3' },
  dropout: { type: 'string', default: '0' },
  dtype: { type: 'string', default: 'float32' },
  autocast: { type: 'string', default: 'none' },
  device: { type: 'string', default: 'cpu' },
  seed: { type: 'string', default: '1337' },
  out: { type: 'string', default: 'runs/gpt' },
  'eval-every': { type: 'string', default: '100' },
  'save-every': { type: 'string', default: '500' },
  resume: { type: 'boolean', default: false },
} as const;

/** The dtype of the parameters, that of autocast, and whether gradients are float16, which need a loss that is scaled. */
export function precisionOf(args: { dtype: string; autocast: string }): { dtype: sg.DType; autocast: amp.AutocastDType | null; scaled: boolean } {
  if (!['float32', 'float64', 'float16', 'bfloat16'].includes(args.dtype))
    throw new sg.ValueError(`--dtype must be float32, float64, float16 or bfloat16, got "${args.dtype}"`);
  if (!['none', 'float16', 'bfloat16'].includes(args.autocast)) throw new sg.ValueError(`--autocast must be none, float16 or bfloat16, got "${args.autocast}"`);
  const autocast = args.autocast === 'none' ? null : (args.autocast as amp.AutocastDType);
  return { dtype: args.dtype as sg.DType, autocast, scaled: autocast === 'float16' || args.dtype === 'float16' };
}

/** Moby Dick, character by character, in random windows: the first nine tenths train, the last tenth validates. */
export function mobyDick(context: number): {
  tokenizer: data.CharTokenizer;
  text: data.TextDataset;
  heldOut: (windows: number) => data.TextDataset;
} {
  const { train, validation } = data.mobyDick();
  const tokenizer = data.CharTokenizer.fit(train + validation);
  const windows = (part: string, length?: number): data.TextDataset => new data.TextDataset(part, tokenizer, { context, windows: 'random', length });
  return { tokenizer, text: windows(train), heldOut: (length) => windows(validation, length) };
}

/** Biases and norms are not decayed, as usual. */
export function decayGroups(parameters: readonly nn.Parameter[]): { params: nn.Parameter[]; weightDecay: number }[] {
  return [
    { params: parameters.filter((p) => p.ndim >= 2), weightDecay: 0.1 },
    { params: parameters.filter((p) => p.ndim < 2), weightDecay: 0 },
  ];
}

/**
 * Why to stop. A signal may reach one rank a step before the others: what each has heard (1 or 0 a reason) goes around with the loss, and all
 * stop at the same step, for the first reason that any of them has.
 */
export function listen(seconds: number): { heard(): number[]; reason(all: readonly number[]): string | undefined } {
  const reasons = ['interrupted', 'terminated', 'time is up'];
  const heard = [0, 0, 0];
  const deadline = seconds > 0 ? Date.now() + 1000 * seconds : Number.POSITIVE_INFINITY;
  let since = Number.POSITIVE_INFINITY;
  for (const [i, signal] of (['SIGINT', 'SIGTERM'] as const).entries()) {
    process.on(signal, () => {
      // Slurm and the launcher may both signal a rank: that is no second Ctrl-C
      if (Date.now() - since > 1000) process.exit(130 + 13 * i);
      since = Math.min(since, Date.now());
      heard[i] = 1;
    });
  }
  return {
    heard: () => [heard[0]!, heard[1]!, Date.now() > deadline ? 1 : 0],
    reason: (all) => reasons.find((_, i) => all[i]! > 0),
  };
}

/** The mean over the ranks of what each of them gives: numbers, and a last one that is still being computed. */
export function meanOverRanks(world: dist.ProcessGroup, numbers: number[], last?: sg.Tensor): Promise<number[]> {
  return sg.scope(async () => {
    const mine = sg.tensor(numbers, { device: world.device });
    const all = world.allReduce(last ? sg.cat([mine, last.reshape([1])]) : mine, { op: 'avg' }).wait();
    return (await all.toArray()) as number[];
  });
}

export type History = { step: number; loss: number; validation?: number }[];

/** What the first rank says at the end: a text that the model writes, and how the run goes on. */
export async function lastWords(run: {
  model: nn.GPT;
  tokenizer: data.CharTokenizer;
  autocast: amp.AutocastDType | null;
  history: History;
  path: string;
  /** The run's options, as they were given and as they are without. */
  args: Readonly<Record<string, string | boolean>>;
  options: Readonly<Record<string, { default: string | boolean }>>;
  command: string;
  step: number;
  steps: number;
  stop: string | undefined;
}): Promise<void> {
  const { model, tokenizer, autocast, history, path, args, options, command, step, steps, stop } = run;
  const out = String(args['out']);
  writeFileSync(join(out, 'loss.svg'), curve(history));
  if (stop) console.log(`${stop} at step ${step}`);
  const { device } = model.transformer.wte.weight;
  const prompts = sg.tensor([Array.from(tokenizer.encode('CHAPTER '))], { dtype: 'int64', device });
  const sample = amp.autocast(autocast, () => model.generate(prompts, { maxNewTokens: 400, temperature: 0.8, topK: 40, seed: 1 }));
  console.log(`\n${tokenizer.decode(((await sample.toArray()) as number[][])[0]!)}\n`);
  const kept = Object.keys(options)
    .filter((name) => name !== 'resume' && name !== 'steps' && args[name] !== options[name]!.default)
    .map((name) => ` --${name}${args[name] === true ? '' : ` ${/\s/.test(String(args[name])) ? JSON.stringify(args[name]) : args[name]}`}`);
  console.log(`checkpoint  ${path}`);
  console.log(`loss curve  ${join(out, 'loss.svg')}`);
  console.log(`resume      ${command} --resume --steps ${stop ? steps : steps + 1000}${kept.join('')}`);
}
