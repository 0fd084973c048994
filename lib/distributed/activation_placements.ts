// Placements of activations, in debug mode (SHARDGRAD_DEBUG=1): every tensor of a graph knows how it lies on the ranks, from the parameters, which have
// layouts, and the regions of tensor parallelism on. An op that would give a wrong number says so with both placements: a sum that is still to
// be made and is squared, a normalisation over features of which this rank has some. Nothing is communicated, and nothing changes.
import { backwardRuns } from '../autograd/current.js';
import { type RecordObserver, setRecordObserver } from '../autograd/observe.js';
import { debugMode } from '../debug.js';
import { isFloating } from '../dtype.js';
import { ValueError } from '../errors.js';
import { Tensor } from '../tensor.js';
import { layoutOf } from './layout_of.js';
import { type Placement, Replicate, showPlacement } from './placement.js';
import { rules, type State } from './placement_rules.js';
import type { ProcessGroup } from './process_group.js';

/** Of activations, along the axis `tp`. */
const traces = new WeakMap<Tensor, State>();
let on = false;

/**
 * How an activation lies on the ranks of tensor parallelism, while placements are followed: `unknown` after ops that nothing is known of, null for
 * what comes from outside.
 */
export function placementOf(x: Tensor): Placement | 'unknown' | null {
  const state = stateOf(x);
  return state === 'any' ? null : state;
}

function stateOf(given: Tensor): State {
  const x = given.castOf ?? given;
  const traced = traces.get(x);
  if (traced) return traced;
  const layout = layoutOf(x);
  if (layout) return layout.placement('tp');
  // what comes from outside may be a piece of what all ranks have, made where it is needed
  return x.storage.kind === 'parameter' ? Replicate() : 'any';
}

/** Says how what a region or a layer has made lies on the ranks; null where nobody can know. */
export function declarePlacement<T extends Tensor>(x: T, placement: Placement | null, group: ProcessGroup): T {
  if (on && group.size > 1) traces.set(x, placement ?? 'unknown');
  return x;
}

/** @throws ValueError where `x` lies in another way than `where` takes it, with both ways */
export function requirePlacement(x: Tensor, expected: Placement, group: ProcessGroup, where: string): void {
  if (!on || group.size === 1 || backwardRuns()) return;
  const state = stateOf(x);
  if (state === 'any' || state === 'unknown') return;
  const same = state.kind === expected.kind && (state.kind !== 'shard' || (expected.kind === 'shard' && state.dim === expected.dim));
  if (!same)
    throw new ValueError(`${where}: expected an input with ${showPlacement(expected)} over the ranks of tensor parallelism, got ${showPlacement(state)}`);
}

const observe: RecordObserver = (op, inputs, outputs, attrs, module) => {
  if (backwardRuns()) return; // gradients lie in other ways
  const states = inputs.map((x): State | null => (x instanceof Tensor ? stateOf(x) : null));
  if (states.every((s) => s === 'any' || s === null)) return;
  let state: State = 'unknown'; // regions declare what they make; of others' functions nothing is known
  if (op !== 'custom' && op !== 'checkpoint' && !states.includes('unknown'))
    state = rules(op, inputs, states, outputs, attrs, module ? `${op} in ${module}` : op);
  const foreign = inputs.some((x, i) => states[i] === 'any' && isFloating((x as Tensor).dtype));
  if (typeof state === 'object' && state.kind === 'replicate' && foreign) state = 'any';
  for (const y of outputs) traces.set(y, state);
};

function enable(value: boolean): void {
  on = value;
  setRecordObserver(value ? observe : null);
}

function during<T>(value: boolean, fn: () => T): T {
  const before = on;
  enable(value);
  try {
    return fn();
  } finally {
    enable(before);
  }
}

/** Runs `fn`, which waits for nothing, with placements on activations outside of debug mode too. */
export function withPlacements<T>(fn: () => T): T {
  return during(true, fn);
}

/** Runs what is made of pieces in a way that the ops do not show; its result has to be declared. */
export function withoutPlacements<T>(fn: () => T): T {
  return on ? during(false, fn) : fn();
}

if (debugMode) enable(true);
