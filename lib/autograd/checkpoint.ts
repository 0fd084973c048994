// Activation checkpointing (Chen et al., "Training deep nets with sublinear memory cost", 2016): the forward of a segment keeps
// only its inputs, and backward runs it again. The random draws of the first run are repeated, so dropout masks are equal.
import { context, withContext } from '../context.js';
import { zeros } from '../create.js';
import { describe, ValueError } from '../errors.js';
import { scope } from '../memory.js';
import type { KeyTape } from '../random.js';
import { Tensor } from '../tensor.js';
import { backward } from './engine.js';
import { enableGrad, noGrad } from './modes.js';
import { record } from './node.js';

/**
 * Runs `fn(...args)` without keeping what lies between its tensor arguments and its result; backward recomputes it. `fn` must be
 * deterministic apart from this package's random ops. Parameters it uses get their gradients as usual.
 */
export function checkpoint<A extends readonly unknown[]>(fn: (...args: A) => Tensor, ...args: A): Tensor {
  if (typeof fn !== 'function') throw new ValueError(`checkpoint: expected a function, got ${describe(fn)}`);
  const tape: KeyTape = { keys: [], next: null };
  const output = noGrad(() => scope(() => withContext({ keyTape: tape }, () => fn(...args))));
  if (!(output instanceof Tensor)) throw new ValueError(`checkpoint: the function must return a tensor, got ${describe(output)}`);
  const tensors = args.map((a) => (a instanceof Tensor ? a : null));
  if (!context().gradEnabled) return output;
  // The parameters that fn uses are unknown here: an anchor makes the node even when no argument needs a gradient.
  const anchor = zeros([]);
  anchor.requiresGrad = true;
  record('checkpoint', [...tensors, anchor], [output], {
    backward: (g) => {
      const copies = args.map((a) => {
        if (!(a instanceof Tensor)) return a;
        const copy = a.detach();
        copy.requiresGrad = a.requiresGrad;
        return copy;
      });
      const again = { keys: tape.keys, next: 0 };
      const recomputed = enableGrad(() => withContext({ keyTape: again }, () => fn(...(copies as unknown as A))));
      backward(recomputed, { gradient: g });
      const scope = context().scope; // the engine's: these gradients are its own now
      return copies.map((c) => {
        if (!(c instanceof Tensor) || c.grad === null) return null;
        scope?.add(c.grad.storage);
        return c.grad;
      });
    },
  });
  return output;
}
