// Which layout a tensor has, and which stage of a pipeline. By itself, so that what only asks (clipping, optimizers) does not load what
// distributes.
import type { Tensor } from '../tensor.js';
import type { DeviceMesh } from './device_mesh.js';
import type { Layout } from './layout.js';

/** By tensor; distribute.ts writes it. */
export const layouts = new WeakMap<Tensor, Layout>();

/** How the whole lies on the mesh of which `x` is this rank's part; null for a tensor of this rank alone. */
export function layoutOf(x: Tensor): Layout | null {
  return layouts.get(x) ?? null;
}

/** A parameter of a pipeline's stage: other ranks along `pp` have others. */
export interface StagePlace {
  readonly mesh: DeviceMesh;
  /** False where another rank has the same parameter too, and counts it. */
  readonly counted: boolean;
  /** Of a parameter: its place among all of the model, those of other stages included. */
  readonly number?: number;
}

const places = new WeakMap<Tensor, StagePlace>();

export function placeOnStage(parameter: Tensor, place: StagePlace): void {
  places.set(parameter, place);
}

/** Null for a tensor that is in no pipeline. */
export function stagePlaceOf(x: Tensor): StagePlace | null {
  return places.get(x) ?? null;
}
