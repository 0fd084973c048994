// The norm of gradients of which ranks have pieces, from layouts alone: what is cut is added up over the axes that cut it, what every rank
// has counts once, what other stages of a pipeline have is added. All ranks get the same number, and none waits.
import { zeros } from '../create.js';
import type { DeviceMesh, MeshAxis } from '../distributed/device_mesh.js';
import type { Layout } from '../distributed/layout.js';
import { layoutOf, stagePlaceOf } from '../distributed/layout_of.js';
import { to } from '../ops/copy.js';
import { fresh, invoke } from '../ops/door.js';
import { stack } from '../ops/pieces.js';
import { pow } from '../ops/pointwise.js';
import { max, norm, sum } from '../ops/reduce.js';
import { narrow } from '../ops/view.js';
import type { Tensor } from '../tensor.js';

/** Whether ranks have different pieces of `x`. */
export function isSharded(x: Tensor): boolean {
  return layoutOf(x)?.entries.some(([, p]) => p.kind === 'shard') ?? false;
}

/** Whether the norm of all parameters needs other ranks: they have other pieces, or other stages. */
export function isSpread(x: Tensor): boolean {
  return isSharded(x) || stagePlaceOf(x) !== null;
}

/** Parameters that are cut over the same axes, with those axes. */
interface Family {
  readonly mesh: DeviceMesh | null;
  readonly axes: readonly MeshAxis[];
  readonly parameters: Tensor[];
}

function families(parameters: readonly Tensor[]): Family[] {
  const found = new Map<string, Family>();
  for (const p of parameters) {
    const layout = layoutOf(p);
    const axes = layout?.mesh.axes.filter((axis) => layout.placement(axis).kind === 'shard') ?? [];
    const key = axes.join(' ');
    const old = found.get(key);
    if (old) old.parameters.push(p);
    else found.set(key, { mesh: axes.length > 0 ? layout!.mesh : null, axes, parameters: [p] });
  }
  return [...found.values()];
}

/** The norm of the gradients of all parameters, each once. Every rank gives its pieces in the same order, also of those without a gradient. */
export function globalNorm(parameters: readonly Tensor[], order: number): Tensor {
  const dtype = parameters.every((p) => (p.grad ?? p).dtype === 'float64') ? 'float64' : 'float32';
  const all = families(parameters);
  const pipeline = parameters.flatMap((p) => stagePlaceOf(p)?.mesh ?? [])[0];
  if (!pipeline && all.every((f) => f.mesh === null))
    return localNorm(
      parameters.flatMap((p) => p.grad?.detach() ?? []),
      order,
      dtype,
      parameters[0]!,
    );
  const largest = order === Number.POSITIVE_INFINITY;
  // sums of powers are float64: the square of a large norm is beyond float32
  const powers = all.map(({ mesh, axes, parameters: cut }) => {
    const pieces = cut.flatMap((p) => (p.grad && stagePlaceOf(p)?.counted !== false ? counted(p.grad.detach(), layoutOf(p)) : []));
    const own = to(localNorm(pieces, order, dtype, cut[0]!), 'float64');
    const power = largest ? own : pow(own, order);
    if (mesh === null) return power;
    return mesh
      .group(...axes)
      .allReduce(power, { op: largest ? 'max' : 'sum', label: 'of the norm of gradients' })
      .wait();
  });
  const own = stack(powers);
  const total = largest ? max(own) : sum(own);
  pipeline
    ?.group('pp')
    .allReduce(total, { op: largest ? 'max' : 'sum', label: 'of the norm of gradients of the stages' })
    .wait();
  return to(largest ? total : pow(total, 1 / order), dtype);
}

function localNorm(grads: readonly Tensor[], order: number, dtype: 'float32' | 'float64', like: Tensor): Tensor {
  if (grads.length === 0) return zeros([], { dtype, device: like.device });
  if (order === 1 || order === 2 || order === Number.POSITIVE_INFINITY)
    return invoke('globalNorm', grads[0]!.device, [fresh([], dtype), ...grads], [order])[0]!;
  const parts = grads.map((g) => norm(to(g, dtype), order));
  return norm(stack(parts), order);
}

/** What this rank counts of its piece: of parts that neighbours share (`repeat`), the first of them. */
function counted(x: Tensor, layout: Layout | null): Tensor[] {
  let parts = [x];
  for (const [axis, placement] of layout?.entries ?? []) {
    if (placement.kind !== 'shard' || !placement.blocks) continue;
    let begin = 0;
    const shared: { start: number; end: number }[] = [];
    for (const { size, repeat = 1 } of placement.blocks) {
      if (layout!.mesh.rank(axis) % repeat !== 0) shared.push({ start: begin, end: begin + size });
      begin += size;
    }
    if (shared.length === 0) continue;
    const ranges = layout!.ranges()[placement.dim]!;
    const kept: Tensor[] = [];
    let at = 0;
    for (const { start, length } of ranges) {
      if (!shared.some((b) => start >= b.start && start < b.end)) for (const part of parts) kept.push(narrow(part, placement.dim, at, length));
      at += length;
    }
    parts = kept;
  }
  return parts;
}
