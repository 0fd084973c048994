// Custom differentiable functions: a forward outside the graph and a backward of the user's own, under one node.

import { context, withContext } from '../context.js';
import { zerosLike } from '../create.js';
import { DeviceError, describe, ShapeError, ValueError } from '../errors.js';
import { broadcastShapes, sameShape, showShape } from '../shape.js';
import { Tensor } from '../tensor.js';
import { noGrad } from './modes.js';
import { type Node, record, recording } from './node.js';

/** What the forward leaves for the backward. */
export class FunctionContext {
  private saved: { tensor: Tensor; version: number }[] = [];
  /** In backward: the graph goes with it, so nobody will read what was saved again, and it may be overwritten. */
  lastUse = false;
  /** Anything that is not a tensor of the graph. */
  [key: string]: unknown;

  /** Keeps tensors for backward; changes in place between are found. */
  saveForBackward(...tensors: Tensor[]): void {
    for (const t of tensors) {
      if (!(t instanceof Tensor)) throw new ValueError(`saveForBackward: expected tensors, got ${describe(t)}`);
      t.storage.save();
      this.saved.push({ tensor: t, version: t.storage.version });
    }
  }
  /** What saveForBackward was given, in order. Throws ValueError if one was changed in place since. */
  get savedTensors(): Tensor[] {
    return this.saved.map(({ tensor, version }) => {
      if (!tensor.storage.alive) tensor.storage.restore?.();
      if (tensor.storage.version !== version) {
        throw new ValueError(`savedTensors: a saved tensor of shape [${tensor.shape}] was changed in place by ${tensor.storage.writer}`);
      }
      return tensor;
    });
  }
  /** Lets go of what was saved. */
  release(): void {
    for (const { tensor } of this.saved.splice(0)) tensor.storage.unsave();
  }
}

/** A forward and its backward, for `defineFunction`. */
export interface FunctionDefinition<A extends readonly unknown[]> {
  /** Shown in error texts. */
  name?: string;
  /** Computes the outputs; nothing inside is recorded. */
  forward(ctx: FunctionContext, ...args: A): Tensor | Tensor[];
  /** Gradients of the arguments, in order, from those of the outputs; null for arguments that are not tensors. */
  backward(ctx: FunctionContext, ...grads: Tensor[]): Tensor | null | (Tensor | null)[];
}

/**
 * Makes a differentiable function from a forward and a backward, as torch.autograd.Function:
 *
 *     const cube = defineFunction({
 *       forward: (ctx, x: Tensor) => { ctx.saveForBackward(x); return x.mul(x).mul(x); },
 *       backward: (ctx, g) => g.mul(ctx.savedTensors[0].square()).mul(3),
 *     });
 */
export function defineFunction<A extends readonly unknown[]>(definition: FunctionDefinition<A>): (...args: A) => Tensor {
  const call = defineFunctions(definition);
  return (...args) => call(...args)[0]!;
}

/** A gradient is absent, or a tensor of its argument's shape or of one that was broadcast from it. */
function checkGradient(g: unknown, node: Node, i: number, name: string): void {
  const meta = node.inputMeta[i];
  if (g === null || g === undefined || !meta) return;
  if (!(g instanceof Tensor)) throw new ValueError(`${name}: backward must return tensors or null, got ${describe(g)} for argument ${i}`);
  if (g.device !== meta.device) throw new DeviceError(`${name}: the gradient of argument ${i} is on ${g.device}, the argument on ${meta.device}`);
  if (!sameShape(broadcastShapes(g.shape, meta.shape, `${name}: gradient ${i}`), g.shape))
    throw new ShapeError(`${name}: backward gave ${showShape(g.shape)} as the gradient of argument ${i}, which is ${showShape(meta.shape)}`);
}

/** As defineFunction, for forwards with several outputs. */
export function defineFunctions<A extends readonly unknown[]>(definition: FunctionDefinition<A>): (...args: A) => Tensor[] {
  if (typeof definition?.forward !== 'function' || typeof definition.backward !== 'function') {
    throw new ValueError(`defineFunction: expected an object with forward and backward, got ${describe(definition)}`);
  }
  const name = definition.name ?? 'custom function';
  return (...args) => {
    const ctx = new FunctionContext();
    const made = noGrad(() => definition.forward(ctx, ...args));
    const outputs = (Array.isArray(made) ? made : [made]).map((y) => {
      if (!(y instanceof Tensor)) throw new ValueError(`${name}: forward must return tensors, got ${describe(y)}`);
      return args.includes(y) || y.gradFn ? y.detach() : y; // an argument returned as it is must not lose its own history
    });
    const inputs = args.map((a) => (a instanceof Tensor ? a : null));
    if (!recording(inputs)) {
      ctx.release();
      return outputs;
    }
    const { autocast } = context(); // the backward computes as the forward did
    record('custom', inputs, outputs, {
      name,
      backward: (node: Node, grads) => {
        ctx.lastUse = node.lastUse;
        const dense = outputs.map((like, i) => grads[i] ?? zerosLike(like));
        const result = withContext({ autocast }, () => definition.backward(ctx, ...dense));
        const list = Array.isArray(result) ? result : [result];
        if (list.length !== node.edges.length) {
          throw new ValueError(`${name}: backward must return ${node.edges.length} gradients, one for each argument, got ${list.length}`);
        }
        list.forEach((g, i) => checkGradient(g, node, i, name));
        return list;
      },
    });
    for (const y of outputs) if (y.gradFn) y.gradFn.onFree = () => ctx.release();
    return [...outputs]; // the caller's to change
  };
}
