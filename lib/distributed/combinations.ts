// What goes together: one table of the pairs of features that have been run against one process. Constructors refuse a pair that is not in
// it, so that nothing is silently wrong; the test runs every entry, so none is there without its run. What a constructor brings is noted
// on the parameters, which stay the same objects through all of them.
import { describe, ValueError } from '../errors.js';
import type { Tensor } from '../tensor.js';
import { layoutOf } from './layout_of.js';

/** The features, as error texts call them. */
export const features = {
  ddp: 'DistributedDataParallel',
  zero1: 'ZeroRedundancyOptimizer',
  zero2: 'fullyShard with reshardAfterForward: false',
  zero3: 'fullyShard',
  hybrid: 'fullyShard over two axes',
  tensorParallel: 'tensor parallelism',
  sequenceParallel: 'sequence parallelism',
  syncBatchNorm: 'SyncBatchNorm',
  communicationHook: 'a communication hook',
  unusedParameters: 'findUnusedParameters',
  staticGraph: 'staticGraph',
  join: 'join',
  pipeline: 'Pipeline',
  zeroBubble: 'a schedule with separate gradients of the weights',
  accumulation: 'gradient accumulation',
  checkpoint: 'checkpointed activations',
  autocast: 'autocast',
  gradScaler: 'GradScaler',
  clipGradNorm: 'clipGradNorm',
  frozen: 'frozen parameters',
  shared: 'shared parameters',
  stochasticRounding: 'stochastic rounding',
} as const;
export type Feature = keyof typeof features;

/** What no constructor sees: it goes with everything. */
const anywhere = [
  'accumulation',
  'checkpoint',
  'autocast',
  'gradScaler',
  'clipGradNorm',
  'frozen',
  'shared',
  'stochasticRounding',
] as const satisfies readonly Feature[];
type Seen = Exclude<Feature, (typeof anywhere)[number]>;

/** Each feature with those below it that it has been run together with. */
const together: { readonly [F in Seen]: readonly Seen[] } = {
  ddp: ['zero1', 'tensorParallel', 'sequenceParallel', 'syncBatchNorm', 'communicationHook', 'unusedParameters', 'staticGraph', 'join'],
  zero1: [
    'zero2',
    'zero3',
    'hybrid',
    'tensorParallel',
    'sequenceParallel',
    'syncBatchNorm',
    'communicationHook',
    'unusedParameters',
    'staticGraph',
    'pipeline',
    'zeroBubble',
  ],
  zero2: ['zero3', 'hybrid', 'tensorParallel', 'sequenceParallel', 'syncBatchNorm', 'pipeline'],
  zero3: ['hybrid', 'tensorParallel', 'sequenceParallel', 'syncBatchNorm', 'pipeline'],
  hybrid: ['tensorParallel', 'sequenceParallel', 'syncBatchNorm', 'pipeline'],
  tensorParallel: ['sequenceParallel', 'syncBatchNorm', 'communicationHook', 'unusedParameters', 'staticGraph', 'pipeline', 'zeroBubble'],
  sequenceParallel: ['communicationHook', 'unusedParameters', 'staticGraph', 'pipeline', 'zeroBubble'],
  syncBatchNorm: ['communicationHook', 'unusedParameters', 'staticGraph', 'join'],
  communicationHook: ['unusedParameters', 'staticGraph', 'join'],
  unusedParameters: ['join'],
  staticGraph: ['join'],
  join: [],
  pipeline: ['zeroBubble'],
  zeroBubble: [],
};

const oneReduces = 'fullyShard reduces the gradients itself: leave DistributedDataParallel out';
const stagesReduce = 'Pipeline reduces the gradients over the data axes itself: leave DistributedDataParallel out';
const twoParts = 'the gradients of a sharded module are reduced in one backward: take 1f1b or interleaved';
/** What cannot go together, and what to do instead. */
const never: { readonly [F in Seen]?: { readonly [G in Seen]?: string } } = {
  ddp: { zero2: oneReduces, zero3: oneReduces, hybrid: oneReduces, pipeline: stagesReduce, zeroBubble: stagesReduce },
  zero2: { zeroBubble: twoParts },
  zero3: { zeroBubble: twoParts },
  hybrid: { zeroBubble: twoParts },
  zero1: { join: 'a rank whose data have ended takes no step, and the others would wait for its pieces' },
  unusedParameters: { staticGraph: 'staticGraph leaves out what the first step does not use; findUnusedParameters is for graphs that change' },
};

export type Pair = readonly [Feature, Feature];
const all = Object.keys(features) as Feature[];
const isSeen = (f: Feature): f is Seen => !(anywhere as readonly Feature[]).includes(f);

export function refusal(a: Feature, b: Feature): string | null {
  if (!isSeen(a) || !isSeen(b)) return null;
  return never[a]?.[b] ?? never[b]?.[a] ?? null;
}

function isTested(a: Feature, b: Feature): boolean {
  if (!isSeen(a) || !isSeen(b)) return true;
  return together[a].includes(b) || together[b].includes(a);
}

/** Every entry of the table; the test runs them all. */
export function testedPairs(): Pair[] {
  return all.flatMap((a, i) => all.slice(i + 1).flatMap((b): Pair[] => (isTested(a, b) ? [[a, b]] : [])));
}

/** What wrappers and plans take that may meet on one model. */
export interface CombinationOptions {
  /**
   * Go on, with one warning, where this and what the parameters take part in already have not been tested together. Without it that is a
   * ValueError. Pairs that cannot work stay errors.
   */
  readonly allowUntested?: boolean;
}

/** By parameter: what each constructor brought. A later one of the same kind takes the place of an earlier. */
const noted = new WeakMap<Tensor, Map<string, readonly Feature[]>>();
const warned = new Set<string>();

/** Checks that what `where` brings goes with what these parameters take part in, and notes it on them. */
export function combine(where: string, parameters: readonly Tensor[], brought: readonly Feature[], { allowUntested }: CombinationOptions = {}): void {
  if (allowUntested !== undefined && typeof allowUntested !== 'boolean')
    throw new ValueError(`${where}: allowUntested must be true or false, got ${describe(allowUntested)}`);
  const there = new Set(brought);
  for (const p of parameters) for (const [from, had] of noted.get(p) ?? []) if (from !== where) for (const f of had) there.add(f);
  if (parameters.some((p) => layoutOf(p)?.entries.some(([axis]) => axis === 'tp'))) there.add('tensorParallel');
  const found = all.filter((f) => there.has(f));
  found.forEach((a, i) => {
    for (const b of found.slice(i + 1)) if (brought.includes(a) || brought.includes(b)) check(where, a, b, allowUntested ?? false);
  });
  for (const p of parameters) noted.set(p, new Map(noted.get(p)).set(where, brought));
}

/** The constructors that have taken these parameters. */
export function takers(parameters: readonly Tensor[]): string[] {
  return [...new Set(parameters.flatMap((p) => [...(noted.get(p)?.keys() ?? [])]))];
}

function check(where: string, a: Feature, b: Feature, allowUntested: boolean): void {
  if (isTested(a, b)) return;
  const [one, other] = [features[a], features[b]];
  const reason = refusal(a, b);
  if (reason) throw new ValueError(`${where}: ${one} and ${other} do not go together: ${reason}`);
  const text = `${where}: ${one} and ${other} have not been tested together`;
  if (!allowUntested) throw new ValueError(`${text}; compare a run with one process, and pass allowUntested: true`);
  if (warned.has(`${a} ${b}`)) return;
  warned.add(`${a} ${b}`);
  process.emitWarning(`${text}; compare a run with one process`, { code: 'SHARDGRAD_UNTESTED' });
}
