// Distributed tensors as the user has them: a tensor holds what this rank has of it, and knows the layout of the whole.
import { defineFunction, type FunctionContext } from '../autograd/function.js';
import { noGrad } from '../autograd/modes.js';
import { describe, ShapeError, ValueError } from '../errors.js';
import { clone } from '../ops/copy.js';
import { sameShape, showShape } from '../shape.js';
import { Tensor } from '../tensor.js';
import { DeviceMesh, type MeshAxis } from './device_mesh.js';
import { Layout, type Placements } from './layout.js';
import { layoutOf, layouts } from './layout_of.js';
import { type Placement, Replicate } from './placement.js';
import { convert } from './redistribute.js';

export { layoutOf };

/** Says that `x` is this rank's part of a whole with this layout. */
export function setLayout<T extends Tensor>(x: T, layout: Layout): T {
  const expected = layout.localShape;
  if (!sameShape(x.shape, expected)) throw new ShapeError(`setLayout: this rank's part of ${layout} is ${showShape(expected)}, got ${showShape(x.shape)}`);
  layouts.set(x, layout);
  return x;
}

/** Options of `distributeTensor`. */
export interface DistributeOptions {
  /** The rank of the mesh whose values count; 0. Null: all have the same already, and nothing is sent. */
  readonly src?: number | null;
}

/**
 * This rank's part of a tensor that every rank has whole: that of rank `src`, so that what ranks disagree about does not spread.
 * @throws ValueError for Partial: a whole tensor is no contribution
 */
export function distributeTensor(x: Tensor, mesh: DeviceMesh, placements: Placements, options: DistributeOptions = {}): Tensor {
  const where = 'distributeTensor';
  if (!(x instanceof Tensor)) throw new ValueError(`${where}: expected a tensor, got ${describe(x)}`);
  if (!(mesh instanceof DeviceMesh)) throw new ValueError(`${where}: expected a mesh, got ${describe(mesh)}`);
  const layout = new Layout(mesh, x.shape, placements, where);
  const partial = layout.entries.find(([, p]) => p.kind === 'partial');
  if (partial) throw new ValueError(`${where}: ${layout}: a whole tensor cannot be distributed as contributions`);
  const { src = 0 } = options ?? {};
  return noGrad(() => {
    const whole = clone(x);
    if (src !== null)
      mesh
        .group()
        .broadcast(whole, { src, label: `of ${where}` })
        .wait();
    const part = convert(whole, new Layout(mesh, x.shape, {}), layout);
    if (part !== whole) whole.dispose();
    return setLayout(part, layout);
  });
}

/** Options of `redistribute`. */
export interface RedistributeOptions {
  /**
   * How the gradient of the result comes, where that is not as the result lies: Partial over an axis on which the ranks use a gathered tensor
   * for different things. By default the placements of the result, and Replicate in place of Partial.
   */
  readonly gradient?: Placements;
}

/**
 * The same tensor in other placements: axes that are not named keep theirs. Differentiable: the gradient comes back in the placements of `x`
 * (whole, where `x` is Partial). Nothing waits.
 * @throws ValueError when `x` has no layout
 */
export function redistribute(x: Tensor, placements: Placements, options: RedistributeOptions = {}): Tensor {
  const from = requireLayout(x, 'redistribute');
  const to = target(from, placements);
  const gradient = target(whole(to), options?.gradient ?? {});
  const y = between(x, from, to, gradient);
  return setLayout(y, to);
}

/** The whole tensor, on every rank. Differentiable, with a gradient that all ranks have. */
export function fullTensor(x: Tensor): Tensor {
  const { mesh } = requireLayout(x, 'fullTensor');
  return redistribute(x, Object.fromEntries(mesh.axes.map((axis) => [axis, Replicate()])));
}

function requireLayout(x: Tensor, where: string): Layout {
  if (!(x instanceof Tensor)) throw new ValueError(`${where}: expected a tensor, got ${describe(x)}`);
  const layout = layoutOf(x);
  if (!layout) throw new ValueError(`${where}: the tensor ${showShape(x.shape)} is this rank's own: distributeTensor gives it a layout`);
  return layout;
}

/** Placements that change; those that stay keep their order among the cuts. */
function target(from: Layout, placements: Placements): Layout {
  const asked = new Layout(from.mesh, from.shape, placements, 'redistribute');
  const changed = (Object.keys(placements) as MeshAxis[]).filter((axis) => JSON.stringify(asked.placement(axis)) !== JSON.stringify(from.placement(axis)));
  return from.with(Object.fromEntries(changed.map((axis) => [axis, asked.placement(axis)])));
}

/** The layout of a gradient: a contribution's gradient is that of the whole. */
function whole(layout: Layout): Layout {
  const partial = layout.entries.filter(([, p]) => p.kind === 'partial').map(([axis]) => [axis, Replicate() as Placement]);
  return layout.with(Object.fromEntries(partial));
}

const between = defineFunction({
  name: 'redistribute',
  forward: (ctx: FunctionContext, x: Tensor, from: Layout, to: Layout, gradient: Layout): Tensor => {
    Object.assign(ctx, { from, gradient });
    const y = convert(x, from, to);
    return y === x ? x.detach() : y;
  },
  backward: (ctx: FunctionContext, g: Tensor): (Tensor | null)[] => [convert(g, ctx['gradient'] as Layout, whole(ctx['from'] as Layout)), null, null, null],
});
