// Parameters that several ranks hold although each sees a part of what they are applied to: norms whose rows are cut along the sequence, key heads
// that ranks share. Their gradients are summed where they arise, by a hook of the leaf: what comes after, whether accumulation, data parallelism,
// clipping or a scaler, meets complete gradients, and the order of the collectives is the tape's, which is the same on all ranks.
import { isGradEnabled } from '../../autograd/modes.js';
import { AutogradError, ShapeError } from '../../errors.js';
import { scope } from '../../memory.js';
import type { Parameter } from '../../nn/module.js';
import { clone, copy_ } from '../../ops/copy.js';
import { cat } from '../../ops/pieces.js';
import { add } from '../../ops/pointwise.js';
import { narrow } from '../../ops/view.js';
import type { GradHook } from '../../tensor.js';
import { layoutOf } from '../distribute.js';
import { cut, lengthOf } from '../layout.js';
import type { Shard } from '../placement.js';
import type { ProcessGroup } from '../process_group.js';
import { reduceFromTensorParallel } from './regions.js';

const summed = new WeakSet<Parameter>();

/** Once for a parameter that layers share. Also one that is frozen now has its hook, for when it is not. */
function hookOnce(p: Parameter, hook: GradHook): void {
  if (summed.has(p)) return;
  summed.add(p);
  const { requiresGrad } = p;
  p.requiresGrad = true;
  p.registerHook(hook);
  p.requiresGrad = requiresGrad;
}

/** Every gradient that reaches the parameter becomes the sum of those of all ranks. */
export function sumGradient(p: Parameter, group: ProcessGroup, name: string): void {
  if (group.size > 1) hookOnce(p, (g) => reduceFromTensorParallel(g, group, `of the gradient of ${name}`));
}

/** As sumGradient, for those rows that neighbouring ranks share: of blocks with `repeat`. */
export function sumSharedRows(p: Parameter, group: ProcessGroup, name: string): void {
  const layout = layoutOf(p);
  const shard = layout?.placement('tp');
  if (shard?.kind !== 'shard' || !shard.blocks?.some((b) => (b.repeat ?? 1) > 1)) return;
  if (shard.dim !== 0) throw new ShapeError(`${name}: blocks that ranks share are rows, and not of dimension ${shard.dim}`);
  const blocks = sharedBlocks(shard, group);
  const rows = Array.from({ length: group.size }, (_, r) => blocks.reduce((n, b) => n + b.rows[r]!, 0));
  const starts = rows.map((_, r) => rows.slice(0, r).reduce((a, b) => a + b, 0));
  hookOnce(p, (g) => {
    if (isGradEnabled()) throw new AutogradError(`createGraph: no second derivative of ${name}, whose rows ranks share`);
    return scope(() => {
      const { rank } = group;
      const mine = cat(blocks.map((b) => narrow(g, 0, b.at, b.rows[rank]!)));
      const all = group.allGather(mine, { label: `of the gradient of ${name}`, rows }).wait();
      const result = clone(g);
      let begin = 0;
      for (const { at, rows, repeat } of blocks) {
        const first = Math.floor(rank / repeat) * repeat;
        const parts = Array.from({ length: repeat }, (_, i) => narrow(all, 0, starts[first + i]! + begin, rows[rank]!));
        copy_(
          narrow(result, 0, at, rows[rank]!),
          parts.reduce((a, b) => add(a, b)),
        );
        begin += rows[rank]!;
      }
      return result;
    });
  });
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
