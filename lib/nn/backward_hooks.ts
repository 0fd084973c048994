// Backward hooks of modules. Inputs and outputs pass through functions that change nothing but see the gradients go by: first those
// of the outputs, later those of the inputs. Hooks get copies, which they may keep; the engine frees its own as it walks.

import { defineFunctions } from '../autograd/function.js';
import { describe, ShapeError, ValueError } from '../errors.js';
import { clone } from '../ops/copy.js';
import { sameShape, showShape } from '../shape.js';
import { Tensor } from '../tensor.js';
import type { Module } from './module.js';

/** Gets the gradients of the tensor arguments and of the outputs; an array returned replaces those of the arguments. */
export type BackwardHook = (
  module: Module,
  gradInput: readonly (Tensor | null)[],
  gradOutput: readonly Tensor[],
) => readonly (Tensor | null)[] | undefined | void;

const wanted = (x: unknown): x is Tensor => x instanceof Tensor && x.requiresGrad;
const copies = (grads: readonly Tensor[]): Tensor[] => grads.map((g) => clone(g.detach()).keep());

function replaced(result: unknown, grads: readonly Tensor[], where: string): Tensor[] {
  if (!Array.isArray(result) || result.length !== grads.length)
    throw new ValueError(`${where}: a backward hook must return nothing or ${grads.length} gradients, got ${describe(result)}`);
  return result.map((g, i) => {
    if (!(g instanceof Tensor) || !sameShape(g.shape, grads[i]!.shape)) {
      throw new ShapeError(
        `${where}: a backward hook must return ${showShape(grads[i]!.shape)} for argument ${i}, got ${g instanceof Tensor ? showShape(g.shape) : describe(g)}`,
      );
    }
    return g;
  });
}

/** One call of a module under watch: what to call it with, and what to make of its result. */
export class BackwardWatch {
  readonly args: unknown[];
  private readonly watched: number;
  private gradOutput: Tensor[] = [];

  constructor(
    private readonly module: Module,
    private readonly hooks: readonly BackwardHook[],
    given: readonly unknown[],
  ) {
    const inputs = given.filter(wanted);
    this.watched = inputs.length;
    const name = `backward hooks of ${module.label}`;
    const enter = defineFunctions({ name, forward: (_ctx, ...xs: Tensor[]) => xs, backward: (_ctx, ...grads) => this.fire(grads) });
    const aliases = inputs.length ? enter(...inputs) : [];
    this.args = given.map((a) => (wanted(a) ? aliases.shift() : a));
  }

  /** The result, whose gradients will be seen: a tensor, or arrays of them. */
  leave(output: unknown): unknown {
    const found: Tensor[] = [];
    const collect = (value: unknown): void => {
      if (wanted(value)) found.push(value);
      else if (Array.isArray(value)) value.forEach(collect);
    };
    collect(output);
    if (found.length === 0) return output;
    const pass = defineFunctions({
      name: `backward hooks of ${this.module.label}`,
      forward: (_ctx, ...ys: Tensor[]) => ys,
      backward: (_ctx, ...grads) => {
        this.gradOutput = copies(grads);
        if (this.watched === 0) this.fire([]);
        return grads;
      },
    });
    const aliases = pass(...found);
    const rebuild = (value: unknown): unknown => (wanted(value) ? aliases.shift() : Array.isArray(value) ? value.map(rebuild) : value);
    return rebuild(output);
  }

  private fire(grads: readonly Tensor[]): Tensor[] {
    let current = [...grads];
    for (const hook of this.hooks) {
      const result = hook(this.module, copies(current), this.gradOutput);
      if (result !== undefined && result !== null) current = replaced(result, grads, this.module.label);
    }
    return current;
  }
}
