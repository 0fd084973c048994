// Activation checkpointing (Chen et al., "Training deep nets with sublinear memory cost", 2016): the forward of a segment keeps
// only its inputs, and backward runs it again. The random draws of the first run are repeated, so dropout masks are equal.
// The recomputed graph hangs on the original inputs and backward walks on into it, so grad(), createGraph, nesting and tensors
// that the function only closes over need nothing special.
import { context, withContext } from '../context.js';
import { zeros } from '../create.js';
import { isFloating } from '../dtype.js';
import { AutogradError, describe, ValueError } from '../errors.js';
import { eachTensor, mapTensors, scope } from '../memory.js';
import type { KeyTape, RandomKey } from '../random.js';
import { sameShape, showShape } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { enableGrad, noGrad } from './modes.js';
import { record } from './node.js';
import { type CheckpointOptions, CheckpointPolicy, KeptResults } from './selective.js';

/** The tensors that a segment gives. */
function outputsOf(made: unknown, where: string): Tensor[] {
  const found: Tensor[] = [];
  if (!(made instanceof Promise)) {
    mapTensors(made, (t) => {
      found.push(t);
      return t;
    });
  }
  if (found.length === 0) throw new ValueError(`${where}: the function must return tensors, in arrays and plain objects or not, got ${describe(made)}`);
  return found;
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
 * tensor, or several in arrays and plain objects, and must be deterministic apart from this package's random ops. Parameters it uses get their
 * gradients as usual. The second run draws the same random numbers, in the same autocast region, and sends the same to other ranks.
 *
 * With options in front, the results of some ops are kept, and the second run takes them in place of computing (or sending) them:
 *
 * ```ts
 * sg.checkpoint({ keep: 'expensive' }, (x) => block.forward(x), x);      // products, attention and collectives run once
 * sg.checkpoint({ recompute: 'attention' }, (x) => block.forward(x), x); // attention alone runs twice
 * sg.checkpoint({ keep: ['linear', 'conv2d'] }, (x) => block.forward(x), x);
 * ```
 *
 * Fused ops keep what they have to: `mlp` is two products, of which the first gives what enters GELU, 4 of the 12 parts that a block of GPT
 * keeps. `{ keep: 'expensive', recompute: ['gelu'] }` runs this product again.
 * @throws ValueError for options that name no op; in backward AutogradError where the second run does something else than the first
 */
export function checkpoint<A extends readonly unknown[], R>(fn: (...args: A) => R, ...args: A): R;
export function checkpoint<A extends readonly unknown[], R>(options: CheckpointOptions, fn: (...args: A) => R, ...args: A): R;
export function checkpoint(...given: unknown[]): unknown {
  const options = typeof given[0] === 'function' || given.length === 1 ? {} : (given.shift() as CheckpointOptions);
  const [fn, ...args] = given;
  if (typeof fn !== 'function') throw new ValueError(`checkpoint: expected a function, got ${describe(fn)}`);
  return checkpointed(CheckpointPolicy.of(options, 'checkpoint'), fn as (...args: unknown[]) => unknown, args);
}

/** As `checkpoint`, by a policy that is ready. */
export function checkpointed(policy: CheckpointPolicy, fn: (...args: unknown[]) => unknown, args: readonly unknown[]): unknown {
  const { gradEnabled, autocast, module, sequenceLength } = context();
  const where = module ? `checkpoint in ${module}` : 'checkpoint';
  const kept = policy.full || !gradEnabled ? null : new KeptResults(policy, where);
  const release = (): void => kept?.release();
  try {
    const [made, keys] = taped(() => noGrad(() => withContext({ kept }, () => scope(() => fn(...args)))));
    const given = outputsOf(made, where);
    if (!gradEnabled) return made;
    kept?.seal();
    const tensors: Tensor[] = [];
    eachTensor(args, (t) => tensors.push(t));
    // what comes out as it went in keeps its own history
    const seen = new Set<Tensor>(tensors);
    const outputs: Tensor[] = [];
    const result = mapTensors(made, (y) => {
      outputs.push(seen.has(y) || y.requiresGrad ? y.detach() : y);
      seen.add(y);
      return outputs.at(-1)!;
    });
    if (!outputs.some((y) => isFloating(y.dtype))) {
      release(); // no gradient will come
      return result;
    }
    // The parameters that fn uses are unknown here: an anchor makes the node even when no argument needs a gradient.
    const anchor = zeros([]);
    anchor.requiresGrad = true;
    const expected = given.map(({ shape, dtype }) => ({ shape, dtype }));
    const recompute = (): readonly Tensor[] => {
      const tape: KeyTape = { keys, next: 0 };
      const again = enableGrad(() => withContext({ keyTape: tape, kept: kept?.rewind() ?? null, autocast, module, sequenceLength }, () => fn(...args)));
      kept?.finish();
      if (tape.next !== keys.length)
        throw new ValueError(`${where}: the recomputation drew fewer random numbers than the first run; the function must be deterministic`);
      return checkAgain(outputsOf(again, where), expected, where);
    };
    record('checkpoint', [...tensors, anchor], outputs, { recompute });
    outputs.find((y) => y.gradFn !== null)!.gradFn!.onFree = release;
    return result;
  } catch (error) {
    release();
    throw error;
  }
}

type Like = Pick<Tensor, 'shape' | 'dtype'>;
const show = ({ shape, dtype }: Like): string => `${showShape(shape)} ${dtype}`;

function checkAgain(outputs: readonly Tensor[], expected: readonly Like[], where: string): readonly Tensor[] {
  if (outputs.length !== expected.length)
    throw new AutogradError(`${where}: the recomputation gave ${outputs.length} tensors, the first run ${expected.length}; it must be deterministic`);
  outputs.forEach((y, i) => {
    const first = expected[i]!;
    if (!sameShape(y.shape, first.shape) || y.dtype !== first.dtype)
      throw new AutogradError(`${where}: the recomputation gave ${show(y)}, the first run ${show(first)}; it must be deterministic`);
  });
  return outputs;
}
