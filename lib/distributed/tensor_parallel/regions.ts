// Differentiable collectives with an explicit backward: what a gradient means depends on what the ranks do with a tensor, not on how it came to
// them. (The conjugate operators f and g of Shoeybi et al., "Megatron-LM", 2019; those along the sequence of Korthikanti et al., 2022.)
// The backward of each is another one of them, so they can be differentiated as often as one likes.
import { defineFunction, type FunctionContext } from '../../autograd/function.js';
import type { NativeOpName } from '../../autograd/rules/types.js';
import { keptAs } from '../../autograd/selective.js';
import { describe, ValueError } from '../../errors.js';
import { clone } from '../../ops/copy.js';
import { Tensor } from '../../tensor.js';
import { declarePlacement, requirePlacement } from '../activation_placements.js';
import { Partial, type Placement, Replicate, Shard } from '../placement.js';
import { ProcessGroup } from '../process_group.js';
import { pieceOfSequence, sizesOf, startGather, startReduceScatter } from './sequence.js';
import { lengthOfWhole } from './sequence_length.js';

/** A differentiable collective. `label` names it in errors and in the flight recorder: `of gradients of ln_f`. @inline */
type Region = (x: Tensor, group: ProcessGroup, label?: string) => Tensor;
/** Where backward makes a whole of pieces: of the sequence that forward has cut, or null to find out. */
type Direction = (x: Tensor, group: ProcessGroup, label: string, length: number | null) => Tensor;

/** A collective whose result a checkpoint may keep. */
const kept = (op: NativeOpName, make: () => Tensor): Tensor => keptAs(op, () => [make()])[0]!;

/** How a region's input and its output lie on the ranks. */
interface Lies {
  readonly takes: (x: Tensor) => Placement;
  /** Null: what it is for differs between the ranks. */
  readonly gives: (y: Tensor) => Placement | null;
}
const whole = (): Placement => Replicate();
const summands = (): Placement => Partial('sum');
const piece = (x: Tensor): Placement => Shard(Math.max(0, x.ndim - 2));

/** In a group of one rank a region is the identity. */
function region(name: string, { takes, gives }: Lies, forward: Direction, backward: Direction): Region & Direction {
  const apply = defineFunction({
    name,
    forward: (ctx: FunctionContext, x: Tensor, group: ProcessGroup, label: string, length: number | null) => {
      Object.assign(ctx, { group, label, time: x.shape[x.ndim - 2] ?? null });
      return forward(x, group, label, length);
    },
    backward: (ctx, g) => [backward(g, ctx['group'] as ProcessGroup, ctx['label'] as string, ctx['time'] as number | null), null, null, null],
  });
  return (x: Tensor, group: ProcessGroup, label = `of ${name}`, length: number | null = null) => {
    if (!(x instanceof Tensor)) throw new ValueError(`${name}: expected a tensor, got ${describe(x)}`);
    if (!(group instanceof ProcessGroup)) throw new ValueError(`${name}: expected a process group, got ${describe(group)}`);
    if (group.size === 1) return x;
    requirePlacement(x, takes(x), group, name);
    const y = apply(x, group, label, length);
    return declarePlacement(y, gives(y), group);
  };
}

/** Into computation that differs between the ranks: the same tensor on each; its gradients are summed. */
export const copyToTensorParallel: Region = region(
  'copyToTensorParallel',
  { takes: whole, gives: () => null },
  (x) => x,
  (g, group, label) => reduceFromTensorParallel(g, group, label),
);

/** Out of it: the sum of what the ranks have made, on each; they all have its gradient. */
export const reduceFromTensorParallel: Region = region(
  'reduceFromTensorParallel',
  { takes: summands, gives: whole },
  (x, group, label) => kept('allReduce', () => group.allReduce(clone(x), { label }).wait()),
  (g, group, label) => copyToTensorParallel(g, group, label),
);

/**
 * Of a sequence that every rank has whole, its own piece: [.., T, C] to [.., ⌈T / ranks⌉, C]. The last ranks have what is left, which may be fewer or
 * none.
 */
export const scatterToSequence: Region = region(
  'scatterToSequence',
  { takes: whole, gives: piece },
  (x, group) => clone(pieceOfSequence(x, group)),
  (g, group, label, length) => gatherReplicated(g, group, label, length),
);

/** Of the sum of what the ranks have made, each one's piece of the sequence, as of scatterToSequence. */
export const reduceScatterToSequence: Region = region(
  'reduceScatterToSequence',
  { takes: summands, gives: piece },
  (x, group, label) => kept('reduceScatter', () => startReduceScatter(x, group, label)()),
  (g, group, label, length) => gatherParallel(g, group, label, length),
);

const gather: Direction = (x, group, label, given) => {
  const length = given ?? lengthOfWhole(sizesOf(x).time, group);
  return kept('allGather', () => startGather(x, group, length, label)());
};
const gatherParallel: Direction = region('gatherFromSequence', { takes: piece, gives: whole }, gather, (g, group, label) =>
  reduceScatterToSequence(g, group, label),
);
const gatherReplicated: Direction = region('gatherFromSequence', { takes: piece, gives: whole }, gather, (g, group, label) =>
  scatterToSequence(g, group, label),
);

/**
 * The whole sequence on every rank: [.., T, C] of the pieces that scatterToSequence makes of it.
 * @param options.gradient `sum` (default): the ranks compute different things with it, and their gradients are summed. `slice`: they all compute
 * the same, and have the same gradient, of which each keeps its piece. The wrong one is wrong by a factor or a missing sum.
 */
export function gatherFromSequence(x: Tensor, group: ProcessGroup, options: { readonly gradient?: 'sum' | 'slice' } = {}): Tensor {
  const gradient = options?.gradient ?? 'sum';
  if (gradient !== 'sum' && gradient !== 'slice') throw new ValueError(`gatherFromSequence: gradient must be sum or slice, got ${describe(gradient)}`);
  return (gradient === 'sum' ? gatherParallel : gatherReplicated)(x, group, 'of gatherFromSequence', null);
}
