// backward: walks the nodes in descending id, applies their rules, adds gradients that meet, and frees as it goes. The engine
// counts its own uses of every gradient storage, so a gradient is freed, or added to in place, exactly when nothing else
// can see it.
import { context, withContext } from '../context.js';
import { onesLike } from '../create.js';
import { AutogradError, describe, ShapeError, ValueError } from '../errors.js';
import { anyNaN } from '../ops/check.js';
import { addInto, clone, to } from '../ops/copy.js';
import { add } from '../ops/pointwise.js';
import { sumTo } from '../ops/reduce.js';
import { sameShape, showShape } from '../shape.js';
import { Scope, type Storage, takeOut } from '../storage.js';
import { type GradHook, Tensor } from '../tensor.js';
import type { Edge, Node } from './node.js';

export interface BackwardOptions {
  /** The gradient of the root; needed unless it has one element. */
  gradient?: Tensor;
  /** Keep what was saved, so that backward can run again. */
  retainGraph?: boolean;
  /** Record the backward itself, for gradients of gradients. Implies retainGraph. */
  createGraph?: boolean;
}

class Run {
  /** Gradients that wait for their node, by output. */
  private readonly waiting = new Map<Node, (Tensor | null)[]>();
  /** Storages that only this run can see, with the number of waiting gradients that use them. */
  private readonly uses = new Map<Storage, number>();
  private readonly scope = new Scope();
  private readonly outer: Scope | null;
  private readonly anomaly: boolean;
  /** For grad(): results by leaf; null: accumulate into .grad. */
  readonly captured: Map<Tensor, Tensor> | null;

  constructor(
    private readonly options: BackwardOptions,
    captured: Map<Tensor, Tensor> | null,
  ) {
    this.outer = context().scope;
    this.anomaly = context().anomaly;
    this.captured = captured;
  }

  start(root: Tensor, gradient: Tensor): void {
    const create = this.options.createGraph ?? false;
    withContext({ scope: create ? this.outer : this.scope, gradEnabled: create }, () => {
      try {
        this.send(edgeTo(root), gradient, root);
        for (const node of root.gradFn ? reachable(root.gradFn) : []) {
          const grads = this.waiting.get(node);
          if (grads === undefined) continue;
          this.waiting.delete(node);
          this.step(node, grads);
        }
      } finally {
        this.scope.end(this.outer);
      }
    });
  }

  private step(node: Node, grads: (Tensor | null)[]): void {
    for (let i = 0; i < grads.length; i++) {
      if (grads[i] === null || grads[i] === undefined) continue;
      for (const hook of node.hooks?.get(i) ?? []) grads[i] = this.runHook(hook, grads[i]!);
    }
    for (const { index, tensor } of node.retained ?? []) if (grads[index]) this.keepGrad(tensor, clone(grads[index]!));
    node.checkAlive();
    const results = node.rule.grad(node as never, grads[0]!, ...grads.slice(1));
    for (let i = 0; i < node.edges.length; i++) {
      const edge = node.edges[i]!;
      if (edge === null) continue;
      const result = results[i];
      let g = typeof result === 'function' ? result() : result;
      if (!g) continue;
      const meta = node.inputMeta[i]!;
      if (!sameShape(g.shape, meta.shape)) g = sumTo(g, meta.shape);
      if (g.dtype !== meta.dtype) g = to(g, meta.dtype);
      if (this.anomaly && anyNaN(g)) {
        throw new AutogradError(
          `backward: ${node.where} gave NaN as the gradient of input ${i}; ${node.stack ?? 'run its forward inside detectAnomaly to see where'}`,
        );
      }
      this.send(edge, g, null);
    }
    if (this.options.createGraph) return;
    if (!this.options.retainGraph) node.free();
    for (const g of grads) if (g) this.drop(g);
    this.collect();
  }

  /** What the last rule made and nothing waiting uses goes. */
  private collect(): void {
    for (const s of this.scope.take()) {
      if (this.uses.has(s)) this.scope.add(s);
      else s.release(this.outer);
    }
  }

  private drop(g: Tensor): void {
    const left = (this.uses.get(g.storage) ?? 1) - 1;
    if (left > 0) this.uses.set(g.storage, left);
    else this.uses.delete(g.storage);
  }

  private owns(g: Tensor): boolean {
    return g.storage.scope === this.scope;
  }

  private send(edge: Edge, g: Tensor, root: Tensor | null): void {
    if (edge === null) return;
    if ('leaf' in edge) {
      this.deliver(edge.leaf, g);
      return;
    }
    const slots = this.waiting.get(edge.node) ?? [];
    this.waiting.set(edge.node, slots);
    const old = slots[edge.index];
    if (!old) {
      slots[edge.index] = g;
      this.uses.set(g.storage, (this.uses.get(g.storage) ?? 0) + 1);
    } else if (this.mayAddInto(old)) addInto(old, g);
    else {
      const sum = add(old, g);
      this.drop(old);
      slots[edge.index] = sum;
      this.uses.set(sum.storage, 1);
    }
    if (root?.retainsGrad) this.keepGrad(root, clone(g));
  }

  private mayAddInto(g: Tensor): boolean {
    return !this.options.createGraph && this.owns(g) && this.uses.get(g.storage) === 1 && g.isContiguous && g.storage.bytes === g.nbytes;
  }

  private deliver(leaf: Tensor, gradient: Tensor): void {
    let g = gradient;
    for (const hook of leaf.hooks ?? []) g = this.runHook(hook, g);
    if (this.captured) {
      if (!this.captured.has(leaf)) return;
      const old = this.captured.get(leaf);
      const sum = old ? add(old, g) : this.exclusive(g) ? g : this.options.createGraph ? g : clone(g);
      if (!this.options.createGraph) handTo(sum.storage, this.outer);
      this.captured.set(leaf, sum);
      return;
    }
    if (leaf.grad === null) {
      leaf.grad = this.exclusive(g) || this.options.createGraph ? g : clone(g);
      takeOut(leaf.grad.storage, 'gradient');
    } else if (this.options.createGraph) {
      leaf.grad = add(leaf.grad, g);
      takeOut(leaf.grad.storage);
    } else addInto(leaf.grad, g);
    for (const hook of leaf.accumulateHooks ?? []) hook(leaf);
  }

  /** No one else can see it, and it fills its storage: it may become a .grad without a copy. */
  private exclusive(g: Tensor): boolean {
    return this.owns(g) && !this.uses.has(g.storage) && g.isContiguous && g.storage.bytes === g.nbytes;
  }

  private runHook(hook: GradHook, g: Tensor): Tensor {
    // the hook may keep what it sees
    if (this.owns(g)) handTo(g.storage, this.outer);
    const replaced = withContext({ scope: this.outer }, () => hook(g));
    if (replaced === undefined || replaced === null) return g;
    if (!(replaced instanceof Tensor) || !sameShape(replaced.shape, g.shape)) {
      throw new ShapeError(
        `backward: a hook must return a tensor of shape ${showShape(g.shape)} or nothing, got ${replaced instanceof Tensor ? showShape(replaced.shape) : describe(replaced)}`,
      );
    }
    return replaced;
  }

  private keepGrad(t: Tensor, g: Tensor): void {
    t.grad = t.grad ? add(t.grad, g) : g;
    takeOut(t.grad.storage);
  }
}

function handTo(s: Storage, scope: Scope | null): void {
  if (scope) scope.add(s);
  else takeOut(s);
}

function edgeTo(t: Tensor): Edge {
  return t.gradFn ? { node: t.gradFn, index: t.outputIndex } : { leaf: t };
}

/** All nodes that lead to the root, newest first. */
function reachable(root: Node): Node[] {
  const seen = new Set<Node>([root]);
  const stack = [root];
  while (stack.length > 0) {
    for (const edge of stack.pop()!.edges) {
      if (edge === null || 'leaf' in edge || seen.has(edge.node)) continue;
      seen.add(edge.node);
      stack.push(edge.node);
    }
  }
  return [...seen].sort((a, b) => b.id - a.id);
}

function rootGradient(root: Tensor, gradient: Tensor | undefined, where: string): Tensor {
  if (!(root instanceof Tensor)) throw new ValueError(`${where}: expected a tensor, got ${describe(root)}`);
  if (!root.requiresGrad) throw new AutogradError(`${where}: the tensor does not require a gradient: no input of its graph does, or it was made under noGrad`);
  if (gradient !== undefined && gradient !== null) {
    if (!(gradient instanceof Tensor)) throw new ValueError(`${where}: the gradient must be a tensor, got ${describe(gradient)}`);
    if (!sameShape(gradient.shape, root.shape)) {
      throw new ShapeError(`${where}: the gradient has shape ${showShape(gradient.shape)}, the tensor ${showShape(root.shape)}`);
    }
    return gradient;
  }
  if (root.numel !== 1) throw new ShapeError(`${where}: the tensor has ${root.numel} elements; only one-element tensors need no gradient argument`);
  return onesLike(root);
}

function checkOptions(options: unknown, where: string): void {
  if (typeof options !== 'object' || options === null || options instanceof Tensor)
    throw new ValueError(`${where}: options must be an object, got ${describe(options)}`);
}

/**
 * Adds the gradient of `root` with respect to every leaf that led to it to the leaf's `.grad`. Frees what the graph saved
 * as it walks, unless retainGraph.
 */
export function backward(root: Tensor, options: BackwardOptions = {}): void {
  checkOptions(options, 'backward');
  const gradient = rootGradient(root, options.gradient, 'backward');
  new Run(options, null).start(root, gradient);
}

/** The gradients of `output` with respect to `inputs`, without touching any `.grad`. Unreached inputs give null. */
export function grad(output: Tensor, inputs: readonly Tensor[], options: BackwardOptions = {}): (Tensor | null)[] {
  checkOptions(options, 'grad');
  if (!Array.isArray(inputs)) throw new ValueError(`grad: inputs must be an array of tensors, got ${describe(inputs)}`);
  const captured = new Map<Tensor, Tensor>();
  for (const x of inputs) {
    if (!(x instanceof Tensor)) throw new ValueError(`grad: inputs must be tensors, got ${describe(x)}`);
    if (!x.requiresGrad) throw new AutogradError('grad: an input does not require a gradient');
    captured.set(x, undefined as unknown as Tensor);
  }
  const inner = inputs.filter((x) => x.gradFn !== null);
  const removers = inner.map((x) =>
    x.gradFn!.addHook(x.outputIndex, (g: Tensor) => {
      captured.set(x, options.createGraph ? g : clone(g));
    }),
  );
  try {
    new Run(options, captured).start(output, rootGradient(output, options.gradient, 'grad'));
  } finally {
    for (const remove of removers) remove();
  }
  return inputs.map((x) => captured.get(x) ?? null);
}
