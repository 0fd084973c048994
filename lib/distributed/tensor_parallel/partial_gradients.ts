// Parameters that several ranks hold although each sees a part of what they are applied to: norms whose rows are cut along the sequence, key heads
// that ranks share. Their gradients are summed within the graph, before they reach the leaf: what comes after, whether accumulation, data
// parallelism in its forms, clipping or a scaler, meets complete gradients, and the order of the collectives is the tape's, the same on all ranks.
import { defineFunctions } from '../../autograd/function.js';
import { isGradEnabled } from '../../autograd/modes.js';
import { scope } from '../../memory.js';
import type { Module } from '../../nn/module.js';
import { clone, copy_ } from '../../ops/copy.js';
import { cat, split } from '../../ops/pieces.js';
import { add } from '../../ops/pointwise.js';
import { narrow, reshape, select } from '../../ops/view.js';
import type { Tensor } from '../../tensor.js';
import { cut, lengthOf } from '../layout.js';
import type { Shard } from '../placement.js';
import type { ProcessGroup } from '../process_group.js';
import { reduceFromTensorParallel } from './regions.js';

type AnyFunction = (...args: unknown[]) => unknown;

/** Modules that are done: a second sum would be one too many. */
const summing = new WeakSet<Module>();

/** Whatever gradients the module's own parameters get from its forward become sums over the ranks, by one collective for all of them. */
export function sumGradients(module: Module, group: ProcessGroup, path: string): void {
  if (group.size === 1 || summing.has(module)) return;
  summing.add(module);
  const label = `of the gradients of ${path}`;
  const copies = defineFunctions({
    name: label,
    forward: (_ctx, ...parameters: Tensor[]) => parameters,
    backward: (_ctx, ...gradients) => {
      const flat = cat(gradients.map((g) => reshape(g, [g.numel])));
      const sizes = gradients.map((g) => g.numel);
      return split(reduceFromTensorParallel(flat, group, label), sizes).map((g, i) => reshape(g, gradients[i]!.shape));
    },
  });
  const fields = module as unknown as Record<string, Tensor>;
  const inner = module.forward as unknown as AnyFunction;
  const forward: AnyFunction = (...args) => {
    const own = isGradEnabled() ? [...module.ownParameters()].filter(([, p]) => p.requiresGrad) : [];
    if (own.length === 0) return inner(...args);
    const put = (values: readonly Tensor[]): void => {
      own.forEach(([name], i) => {
        fields[name] = values[i]!;
      });
    };
    const parameters = own.map(([, p]) => p);
    put(copies(...parameters));
    let result: unknown;
    try {
      result = inner(...args);
    } catch (error) {
      put(parameters);
      throw error;
    }
    if (result instanceof Promise) return result.finally(() => put(parameters));
    put(parameters);
    return result;
  };
  Object.defineProperty(module, 'forward', { value: forward, writable: true, configurable: true, enumerable: false });
}

/** The gradients of weight and bias, with those rows summed that neighbouring ranks share. */
export type SharedRows = (weight: Tensor | null, bias: Tensor | null) => [Tensor | null, Tensor | null];

/** For a weight whose blocks have `repeat`; null where none does. */
export function sharedRows(shard: Shard, group: ProcessGroup, name: string): SharedRows | null {
  if (!shard.blocks?.some((b) => (b.repeat ?? 1) > 1)) return null;
  const blocks = sharedBlocks(shard, group);
  const { rank } = group;
  const rows = Array.from({ length: group.size }, (_, r) => blocks.reduce((n, b) => n + b.rows[r]!, 0));
  const starts = rows.map((_, r) => rows.slice(0, r).reduce((a, b) => a + b, 0));
  const label = `of the gradient of ${name}`;
  const summed = (g: Tensor): Tensor =>
    scope(() => {
      const mine = cat(blocks.map((b) => narrow(g, 0, b.at, b.rows[rank]!)));
      const all = group.allGather(mine, { label, rows }).wait();
      const result = clone(g);
      let begin = 0;
      for (const block of blocks) {
        const length = block.rows[rank]!;
        const first = Math.floor(rank / block.repeat) * block.repeat;
        const parts = Array.from({ length: block.repeat }, (_, i) => narrow(all, 0, starts[first + i]! + begin, length));
        copy_(
          narrow(result, 0, block.at, length),
          parts.reduce((a, b) => add(a, b)),
        );
        begin += length;
      }
      return result;
    });
  return (weight, bias) => {
    // the bias as one more column
    const columns = [weight, bias && reshape(bias, [bias.numel, 1])].filter((c) => c !== null);
    if (columns.length < 2) return [weight && summed(weight), bias && summed(bias)];
    const both = summed(cat(columns, 1));
    return [clone(narrow(both, 1, 0, weight!.shape[1]!)), clone(select(both, 1, weight!.shape[1]!))];
  };
}

interface SharedBlock {
  /** Where it begins among the rows of this rank. */
  readonly at: number;
  /** Of each rank. */
  readonly rows: readonly number[];
  readonly repeat: number;
}

function sharedBlocks(shard: Shard, group: ProcessGroup): SharedBlock[] {
  let at = 0;
  const found: SharedBlock[] = [];
  for (const block of shard.blocks ?? []) {
    const one = { ...shard, blocks: [block] };
    const rows = Array.from({ length: group.size }, (_, r) => lengthOf(cut([{ start: 0, length: block.size }], one, group.size, r)));
    const { repeat = 1 } = block;
    if (repeat > 1) found.push({ at, rows, repeat });
    at += rows[group.rank]!;
  }
  return found;
}
