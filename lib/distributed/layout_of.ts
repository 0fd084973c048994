// Which layout a tensor has. By itself, so that what only asks (clipping, optimizers) does not load what distributes.
import type { Tensor } from '../tensor.js';
import type { Layout } from './layout.js';

/** By tensor; distribute.ts writes it. */
export const layouts = new WeakMap<Tensor, Layout>();

/** How the whole lies on the mesh of which `x` is this rank's part; null for a tensor of this rank alone. */
export function layoutOf(x: Tensor): Layout | null {
  return layouts.get(x) ?? null;
}
