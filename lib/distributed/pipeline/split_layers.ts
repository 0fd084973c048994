// Which layers make a stage. Given costs, the cut is the one whose most expensive stage is cheapest; among those, stages at the end are
// lighter, since the last ones of a pipeline have the loss besides.
import { describe, ValueError } from '../../errors.js';
import type { PipelineLayer } from '../../nn/layered.js';
import type { LayerCosts } from './measure_layers.js';

/** How many layers the model's first and last one count as; what the model says of them unless given, else 1. */
export interface LayerWeights {
  /** How many layers the first one counts as. */
  readonly inputWeight?: number;
  /** How many layers the last one counts as. */
  readonly outputWeight?: number;
}

/**
 * `layers`: equally many layers a stage, where a model may say that some count more or less: nn.GPT counts its head by arithmetic, and its embeddings
 * not at all. `{ inputWeight, outputWeight }`: as `layers`, with weights of one's own for the ends. `parameters`: by the number of parameters. `{ costs }`:
 * by costs of the layers, as `measureLayers` finds them. A list: how many layers each stage has.
 */
export type Split = 'layers' | LayerWeights | 'parameters' | Pick<LayerCosts, 'costs'> | readonly number[];

/**
 * Cuts layers into stages.
 * @returns by stage: its first layer, and the one behind its last
 * @throws ValueError for more stages than layers, or a list that does not fit
 */
export function splitLayers(layers: readonly PipelineLayer[], stages: number, split: Split = 'layers'): [first: number, end: number][] {
  const where = 'Pipeline: split';
  if (layers.length < stages) throw new ValueError(`Pipeline: ${layers.length} layers cannot make ${stages} stages; take fewer ranks or stages a rank`);
  const sizes = isList(split) ? checkedSizes(split, layers.length, stages, where) : balanced(costsOf(layers, split, where), stages);
  let at = 0;
  return sizes.map((size) => {
    at += size;
    return [at - size, at];
  });
}

const isList = (split: Split): split is readonly number[] => Array.isArray(split);

function checkedSizes(sizes: readonly number[], layers: number, stages: number, where: string): readonly number[] {
  const total = sizes.reduce((a, b) => a + b, 0);
  if (sizes.length !== stages || total !== layers || !sizes.every((n) => Number.isSafeInteger(n) && n > 0))
    throw new ValueError(`${where}: [${sizes}] is not a number of layers from 1 for each of ${stages} stages, ${layers} in all`);
  return sizes;
}

function costsOf(layers: readonly PipelineLayer[], split: Exclude<Split, readonly number[]>, where: string): readonly number[] {
  if (split === 'layers') return weighted(layers, {}, where);
  if (split === 'parameters') return layers.map(({ modules }) => modules.flatMap((m) => m.parameters()).reduce((n, p) => n + p.numel, 0));
  if (typeof split === 'object' && split !== null && ('inputWeight' in split || 'outputWeight' in split)) return weighted(layers, split, where);
  const costs = (split as { costs?: readonly number[] } | undefined)?.costs;
  if (!Array.isArray(costs)) {
    const kinds = "'layers', { inputWeight, outputWeight }, 'parameters', { costs } or a list of sizes";
    throw new ValueError(`${where} must be ${kinds}, got ${describe(split)}`);
  }
  if (costs.length !== layers.length || !costs.every((c) => Number.isFinite(c) && c >= 0))
    throw new ValueError(`${where}: costs must be ${layers.length} numbers from 0, one for each layer, got ${costs.length}`);
  return costs;
}

function weighted(layers: readonly PipelineLayer[], { inputWeight, outputWeight }: LayerWeights, where: string): number[] {
  for (const [name, weight] of Object.entries({ inputWeight, outputWeight })) {
    if (weight !== undefined && !(Number.isFinite(weight) && weight >= 0))
      throw new ValueError(`${where}: ${name} must be a number from 0, got ${describe(weight)}`);
  }
  const weights = layers.map(({ weight = 1 }) => weight);
  weights[0] = inputWeight ?? weights[0]!;
  weights[weights.length - 1] = outputWeight ?? weights.at(-1)!;
  return weights;
}

/** Sizes of the stages, none of which is empty. */
function balanced(costs: readonly number[], stages: number): number[] {
  const sums = [0];
  for (const c of costs) sums.push(sums.at(-1)! + c);
  const n = costs.length;
  // worst[k][i]: the most expensive stage when the first i layers make k stages; from[k][i]: where the last of them begins
  const worst = [sums.map((_, i) => (i === 0 ? 0 : Number.POSITIVE_INFINITY))];
  const from: number[][] = [[]];
  for (let k = 1; k <= stages; k++) {
    worst.push(new Array(n + 1).fill(Number.POSITIVE_INFINITY));
    from.push([]);
    for (let i = k; i <= n; i++) {
      for (let j = k - 1; j < i; j++) {
        const cost = Math.max(worst[k - 1]![j]!, sums[i]! - sums[j]!);
        if (cost > worst[k]![i]! || (cost === worst[k]![i]! && j < from[k]![i]!)) continue;
        worst[k]![i] = cost;
        from[k]![i] = j;
      }
    }
  }
  const sizes: number[] = [];
  for (let k = stages, i = n; k > 0; k--) {
    sizes.unshift(i - from[k]![i]!);
    i = from[k]![i]!;
  }
  return sizes;
}
