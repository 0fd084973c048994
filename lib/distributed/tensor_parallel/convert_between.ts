// Activations from one layout to another, differentiably, without their having to know their layout.
import { defineFunction, type FunctionContext } from '../../autograd/function.js';
import { clone } from '../../ops/copy.js';
import type { Tensor } from '../../tensor.js';
import { declarePlacement, requirePlacement } from '../activation_placements.js';
import type { Layout } from '../layout.js';
import { convert } from '../redistribute.js';

/** `x`, which lies as `from`, as it lies in `to`; its gradient comes as `to` and goes as `from`. Neither is a sum that is still to be made. */
export function convertBetween(x: Tensor, from: Layout, to: Layout): Tensor {
  const group = from.mesh.group('tp');
  requirePlacement(x, from.placement('tp'), group, 'redistribute');
  return declarePlacement(converted(x, from, to), to.placement('tp'), group);
}

const converted: (x: Tensor, from: Layout, to: Layout) => Tensor = defineFunction({
  name: 'redistribute',
  forward: (ctx: FunctionContext, x: Tensor, from: Layout, to: Layout): Tensor => {
    Object.assign(ctx, { from, to });
    const y = convert(x, from, to);
    return y === x ? clone(x) : y;
  },
  backward: (ctx, g) => [convertBetween(g, ctx['to'] as Layout, ctx['from'] as Layout), null, null],
});
