// Activation checkpointing (Chen et al., "Training deep nets with sublinear memory cost", 2016): the forward of a segment keeps
// only its inputs, and backward runs it again. The random draws of the first run are repeated, so dropout masks are equal.
// The recomputed graph hangs on the original inputs and backward walks on into it, so grad(), createGraph, nesting and tensors
// that the function only closes over need nothing special.
import { context, withContext } from '../context.js';
import { zeros } from '../create.js';
import { describe, ValueError } from '../errors.js';
import { scope } from '../memory.js';
import type { KeyTape, RandomKey } from '../random.js';
import { Tensor } from '../tensor.js';
import { enableGrad, noGrad } from './modes.js';
import { record } from './node.js';

function checkOutputs(made: unknown): readonly Tensor[] {
  const outputs = Array.isArray(made) ? made : [made];
  for (const y of outputs) if (!(y instanceof Tensor)) throw new ValueError(`checkpoint: the function must return tensors, got ${describe(y)}`);
  return outputs;
}

/** Runs `fn` and notes the keys it drew. Inside another checkpoint they belong to that one's tape too. */
export function taped<T>(fn: () => T): [result: T, keys: RandomKey[]] {
  const tape: KeyTape = context().keyTape ?? { keys: [], next: null };
  const position = (): number => tape.next ?? tape.keys.length;
  const first = position();
  const result = withContext({ keyTape: tape }, fn);
  return [result, tape.keys.slice(first, position())];
}

/**
 * Runs `fn(...args)` without keeping what lies between its tensor arguments and its result; backward recomputes it. `fn` gives a
 * tensor or an array of them, and must be deterministic apart from this package's random ops. Parameters it uses get their
 * gradients as usual.
 */
export function checkpoint<A extends readonly unknown[], R extends Tensor | Tensor[]>(fn: (...args: A) => R, ...args: A): R {
  if (typeof fn !== 'function') throw new ValueError(`checkpoint: expected a function, got ${describe(fn)}`);
  const [made, keys] = taped(() => noGrad(() => scope(() => fn(...args))));
  const given = checkOutputs(made);
  if (!context().gradEnabled) return made;
  // what comes out as it went in keeps its own history
  const outputs = given.map((y, i) => (args.includes(y) || y.requiresGrad || given.indexOf(y) !== i ? y.detach() : y));
  const tensors = args.map((a) => (a instanceof Tensor ? a : null));
  // The parameters that fn uses are unknown here: an anchor makes the node even when no argument needs a gradient.
  const anchor = zeros([]);
  anchor.requiresGrad = true;
  const { autocast } = context();
  record('checkpoint', [...tensors, anchor], outputs, {
    recompute: () => checkOutputs(enableGrad(() => withContext({ keyTape: { keys, next: 0 }, autocast }, () => fn(...args)))),
  });
  return (Array.isArray(made) ? outputs : outputs[0]) as R;
}
