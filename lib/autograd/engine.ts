// backward: walks the nodes in descending id, applies their rules, adds gradients that meet, and frees as it goes. The engine
// counts its own uses of every gradient storage, so a gradient is freed, or added to in place, exactly when nothing else
// can see it.
import { context, withContext } from '../context.js';
import { AutogradError, describe, ShapeError } from '../errors.js';
import { castGradient } from '../ops/autocast.js';
import { anyNaN } from '../ops/check.js';
import { addInto, clone, to } from '../ops/copy.js';
import { add } from '../ops/pointwise.js';
import { sumTo } from '../ops/reduce.js';
import { sameShape, showShape } from '../shape.js';
import { Scope, type Storage, takeOut } from '../storage.js';
import { type GradHook, Tensor } from '../tensor.js';
import { accumulated } from './accumulate.js';
import { type Edge, edgeOf, type Node, reachable } from './node.js';
import type { OpAttrs } from './rules/types.js';

export interface BackwardOptions {
  /** The gradient of the root; needed unless it has one element. */
  gradient?: Tensor;
  /** Keep what was saved, so that backward can run again. */
  retainGraph?: boolean;
  /** Record the backward itself, for gradients of gradients. Implies retainGraph. */
  createGraph?: boolean;
}

/** Of the innermost backward under way; dropped with it when it throws. */
let endCalls: { readonly ended: () => void; readonly failed: (() => void) | undefined }[] = [];

/** Runs `ended` when the backward that is under way has ended: what data parallelism does with the last gradients. `failed`: when it throws. */
export function afterBackward(ended: () => void, failed?: () => void): void {
  endCalls.push({ ended, failed });
}

let running = 0;
let normalized = false;
let targets: ReadonlyMap<Tensor, unknown> | null = null;

/** Whether the loss of the backward under way was divided by a normalizer, which counts over all ranks. */
export function lossIsNormalized(): boolean {
  return normalized;
}

/** Of the backward under way: the leaves whose gradients `grad` gives back, while `.grad` of all stays as it is; null when they go there. */
export function gradTargets(): ReadonlyMap<Tensor, unknown> | null {
  return targets;
}

/** Whether a backward is under way. */
export function backwardRuns(): boolean {
  return running > 0;
}

export class Run {
  /** Gradients that wait for their node, by output. */
  private readonly waiting = new Map<Node, (Tensor | null)[]>();
  /** Storages that only this run can see, with the number of waiting gradients that use them. */
  private readonly uses = new Map<Storage, number>();
  /** For leaves with accumulate hooks: contributions that are still to come, and whether one came. */
  private readonly expected = new Map<Tensor, { left: number; came: boolean }>();
  private readonly scope = new Scope();
  private readonly outer: Scope | null;
  private readonly anomaly: boolean;
  /** Nodes that may still get a gradient, the newest last. */
  private readonly pending: Node[] = [];
  private readonly seen = new Set<Node>();
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
    const outer = [endCalls, normalized, targets] as const;
    const calls: typeof endCalls = [];
    endCalls = calls;
    normalized = false;
    targets = this.captured;
    running++;
    withContext({ scope: create ? this.outer : this.scope, gradEnabled: create, autocast: null }, () => {
      try {
        this.enter(root, root.gradDType ? gradient : to(gradient, root.dtype));
        for (let node = this.pending.pop(); node !== undefined; node = this.pending.pop()) {
          const grads = this.waiting.get(node);
          this.waiting.delete(node);
          // what a checkpoint recomputed in this run serves this run alone
          if (grads !== undefined) this.step(node, grads, node.id > (root.gradFn?.id ?? 0));
          else this.settleLeaves(node);
        }
      } catch (error) {
        for (const { failed } of calls) failed?.();
        throw error;
      } finally {
        this.scope.end(this.outer);
        [endCalls, normalized, targets] = outer;
        running--;
      }
    });
    for (const { ended } of calls) ended();
  }

  /** Counts how often each leaf with hooks will be asked: its hooks run once, when its gradient is complete. */
  private expect(root: Tensor, nodes: readonly Node[]): void {
    const one = (leaf: Tensor): void => {
      if (!leaf.accumulateHooks?.length) return;
      const entry = this.expected.get(leaf) ?? { left: 0, came: false };
      entry.left++;
      this.expected.set(leaf, entry);
    };
    if (!root.gradFn) one(root);
    for (const node of nodes) for (const edge of node.edges) if (edge !== null && 'leaf' in edge) one(edge.leaf);
  }

  private settle(leaf: Tensor): void {
    const entry = this.expected.get(leaf);
    if (!entry || --entry.left > 0 || !entry.came) return;
    for (const hook of leaf.accumulateHooks ?? []) hook(leaf);
  }

  /** Nothing more comes through this node. */
  private settleLeaves(node: Node): void {
    for (const edge of node.edges) if (edge !== null && 'leaf' in edge) this.settle(edge.leaf);
  }

  /** Lets a gradient into the graph behind a tensor. */
  private enter(root: Tensor, gradient: Tensor): void {
    const nodes = root.gradFn && !this.seen.has(root.gradFn) ? reachable(root.gradFn, this.seen) : [];
    this.expect(root, nodes);
    for (const node of nodes) this.pending.push(node);
    this.pending.sort((a, b) => a.id - b.id);
    this.send(edgeOf(root), gradient);
    if (!root.gradFn) this.settle(root);
  }

  private step(node: Node, grads: (Tensor | null)[], temporary: boolean): void {
    for (let i = 0; i < grads.length; i++) {
      if (grads[i] === null || grads[i] === undefined) continue;
      for (const hook of node.hooks?.get(i) ?? []) grads[i] = this.runHook(hook, grads[i]!);
    }
    for (const { index, tensor } of node.retained ?? []) if (grads[index]) this.keepGrad(tensor, clone(grads[index]!));
    node.checkAlive();
    if (node.op === 'normalize') normalized = true;
    if (node.op === 'checkpoint') this.recompute(node, grads);
    else this.differentiate(node, grads);
    if (this.options.createGraph) return;
    if (!this.options.retainGraph || temporary) node.free();
    for (const g of grads) if (g) this.drop(g);
    this.collect();
  }

  /** Runs a checkpointed segment again and goes on through the graph that this records. */
  private recompute(node: Node, grads: readonly (Tensor | null)[]): void {
    node.checkInputs();
    (node.attrs as OpAttrs<'checkpoint'>).recompute().forEach((y, i) => {
      const g = grads[i];
      if (!g || !y.requiresGrad) return;
      if (!sameShape(g.shape, y.shape))
        throw new AutogradError(`checkpoint: the recomputation gave ${showShape(y.shape)}, the first run ${showShape(g.shape)}; it must be deterministic`);
      this.enter(y, g);
    });
    this.settleLeaves(node); // after what the new graph expects of them has been counted
  }

  private differentiate(node: Node, grads: readonly (Tensor | null)[]): void {
    const results = node.rule.grad(node as never, grads[0]!, ...(grads.slice(1) as Tensor[]));
    for (let i = 0; i < node.edges.length; i++) {
      const edge = node.edges[i]!;
      if (edge === null) continue;
      const result = results[i];
      let g = typeof result === 'function' ? result() : result;
      if (!g) {
        if ('leaf' in edge) this.settle(edge.leaf);
        continue;
      }
      const meta = node.inputMeta[i]!;
      if (!sameShape(g.shape, meta.shape)) g = sumTo(g, meta.shape);
      // a leaf with a dtype of its own for gradients adds them up as they come
      if (g.dtype !== meta.dtype && !('leaf' in edge && edge.leaf.gradDType)) g = meta.cast ? castGradient(node.op, g, meta.dtype) : to(g, meta.dtype);
      if (this.anomaly && anyNaN(g)) {
        throw new AutogradError(
          `backward: ${node.where} gave NaN as the gradient of input ${i}; ${node.stack ?? 'run its forward inside detectAnomaly to see where'}`,
        );
      }
      this.send(edge, g);
      if ('leaf' in edge) this.settle(edge.leaf);
    }
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

  private send(edge: Edge, g: Tensor): void {
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
  }

  private mayAddInto(g: Tensor): boolean {
    return !this.options.createGraph && this.owns(g) && this.uses.get(g.storage) === 1 && g.isContiguous && g.storage.bytes === g.nbytes;
  }

  private deliver(leaf: Tensor, gradient: Tensor): void {
    if (!leaf.requiresGrad) return; // no longer
    let g = gradient;
    for (const hook of leaf.hooks ?? []) g = this.runHook(hook, g);
    if (this.captured) {
      if (!this.captured.has(leaf)) return;
      const sum = this.sum(leaf, this.captured.get(leaf) ?? null, g);
      if (!this.options.createGraph) handTo(sum.storage, this.outer, 'gradient');
      this.captured.set(leaf, sum);
      return;
    }
    const sum = this.sum(leaf, leaf.grad, g);
    if (sum !== leaf.grad) takeOut(sum.storage, 'gradient');
    leaf.grad = sum;
    const entry = this.expected.get(leaf);
    if (entry) entry.came = true;
  }

  /** A leaf's gradient after a contribution. */
  private sum({ gradDType }: Tensor, old: Tensor | null, g: Tensor): Tensor {
    const { createGraph = false } = this.options;
    if (old) return accumulated(old, g, gradDType, createGraph);
    const first = gradDType ? to(g, gradDType) : g;
    return createGraph || this.exclusive(first) ? first : clone(first);
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
    t.grad = t.grad ? accumulated(t.grad, g, null, true) : g;
    takeOut(t.grad.storage);
  }
}

function handTo(s: Storage, scope: Scope | null, kind = s.kind): void {
  s.kind = kind;
  if (scope) scope.add(s);
  else takeOut(s);
}
