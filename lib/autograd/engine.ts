// backward: walks the nodes in descending id, applies their rules, adds gradients that meet, and frees as it goes. In two parts, as the
// zero-bubble schedules of pipelines want it (Qi et al., "Zero Bubble Pipeline Parallelism", 2023), it first makes the gradients of some leaves
// alone, and later those of all others: rules give what they need not compute at once as functions.
import { context, withContext } from '../context.js';
import { AutogradError, describe, ShapeError } from '../errors.js';
import { castGradient } from '../ops/autocast.js';
import { anyNaN } from '../ops/check.js';
import { clone, to } from '../ops/copy.js';
import { sumTo } from '../ops/reduce.js';
import { sameShape, showShape } from '../shape.js';
import { type Scope, type Storage, takeOut } from '../storage.js';
import { type GradHook, Tensor } from '../tensor.js';
import { accumulated, sumDType } from './accumulate.js';
import { type CurrentBackward, duringBackward, noteNormalizer } from './current.js';
import { Deferred } from './deferred.js';
import { type Edge, edgeOf, type Node, reachable } from './node.js';
import type { GradMaker, OpAttrs } from './rules/types.js';
import { WaitingGradients } from './waiting.js';

/** How `backward` runs. */
export interface BackwardOptions {
  /** The gradient of the root; needed unless it has one element. */
  gradient?: Tensor;
  /** Keep what was saved, so that backward can run again. */
  retainGraph?: boolean;
  /** Record the backward itself, for gradients of gradients. Implies retainGraph. */
  createGraph?: boolean;
}

export class Run {
  private readonly waiting: WaitingGradients;
  /** For leaves with accumulate hooks: contributions that are still to come, and whether one came. */
  private readonly expected = new Map<Tensor, { left: number; came: boolean }>();
  private readonly outer: Scope | null;
  private readonly anomaly: boolean;
  /** Nodes that may still get a gradient, the newest last. */
  private readonly pending: Node[] = [];
  private readonly seen = new Set<Node>();
  private deferred: Deferred | null = null;
  /** The newest node that was there when this run began. */
  private firstId = 0;
  private readonly current: CurrentBackward;
  /** For grad(): results by leaf; null: accumulate into .grad. */
  readonly captured: Map<Tensor, Tensor> | null;

  constructor(
    private readonly options: BackwardOptions,
    captured: Map<Tensor, Tensor> | null,
  ) {
    this.outer = context().scope;
    this.anomaly = context().anomaly;
    this.captured = captured;
    this.waiting = new WaitingGradients(options.createGraph ?? false);
    this.current = { endCalls: [], normalized: false, module: '', targets: captured };
  }

  /** With `inputs`, gradients of these leaves alone: `finish` makes the others, `abandon` gives up on them. */
  start(roots: readonly Tensor[], gradients: readonly Tensor[], inputs: ReadonlySet<Tensor> | null = null): void {
    if (inputs) this.deferred = new Deferred(inputs);
    this.within(() => {
      roots.forEach((root, i) => this.enter(root, root.gradDType ? gradients[i]! : to(gradients[i]!, root.dtype)));
      this.firstId = Math.max(...roots.map((root) => root.gradFn?.id ?? 0));
      this.walk();
    }, inputs === null);
  }

  finish(): void {
    const { products, nodes, kept } = this.deferred!;
    this.deferred = null;
    this.within(() => {
      products.forEach(({ node, index, make }, i) => {
        this.current.module = node.module;
        this.deliverMade(node, index, make);
        if (products[i + 1]?.node === node) return; // functions of one rule share what they make
        if (!this.options.retainGraph) node.free();
        this.waiting.collect(this.outer);
      });
      kept.end(this.outer);
      this.pending.push(...nodes.reverse());
      this.pending.sort((a, b) => a.id - b.id);
      this.walk();
    }, true);
  }

  abandon(): void {
    for (const { node } of this.deferred?.products ?? []) node.free();
    this.deferred?.kept.end(this.outer);
    this.waiting.scope.end(this.outer);
  }

  /** Runs a part with the run's context around it; `last`: nothing comes after it. */
  private within(part: () => void, last: boolean): void {
    const create = this.options.createGraph ?? false;
    const { scope } = this.waiting;
    withContext({ scope: create ? this.outer : scope, gradEnabled: create, autocast: null }, () => {
      let ended = last;
      try {
        duringBackward(this.current, part);
      } catch (error) {
        ended = true;
        for (const { failed } of this.current.endCalls) failed?.();
        throw error;
      } finally {
        if (ended) scope.end(this.outer);
      }
    });
    if (last) for (const call of this.current.endCalls) call.ended();
  }

  private walk(): void {
    for (let node = this.pending.pop(); node !== undefined; node = this.pending.pop()) {
      if (this.deferred && !this.deferred.path.has(node)) {
        this.deferred.nodes.push(node);
        continue;
      }
      const grads = this.waiting.take(node);
      // what a checkpoint recomputed in this run serves this run alone
      if (grads !== undefined) this.step(node, grads, node.id > this.firstId);
      else this.settleLeaves(node);
    }
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
    this.deferred?.findPath(nodes);
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
    this.current.module = node.module;
    if (node.op === 'normalize') noteNormalizer();
    if (node.op === 'checkpoint') this.recompute(node, grads);
    else {
      node.lastUse = !this.options.retainGraph || temporary;
      this.differentiate(node, grads);
    }
    if (this.options.createGraph) return;
    if (this.deferred?.products.at(-1)?.node === node) {
      this.waiting.collect(this.outer, this.deferred.kept);
      return;
    }
    if (!this.options.retainGraph || temporary) node.free();
    for (const g of grads) if (g) this.waiting.drop(g);
    this.waiting.collect(this.outer);
  }

  /** Runs a checkpointed segment again and goes on through the graph that this records. */
  private recompute(node: Node, grads: readonly (Tensor | null)[]): void {
    node.checkInputs();
    (node.attrs as OpAttrs<'checkpoint'>).recompute().forEach((y, i) => {
      const g = grads[i];
      if (g && y.requiresGrad) this.enter(y, g);
    });
    this.settleLeaves(node); // after what the new graph expects of them has been counted
  }

  private differentiate(node: Node, grads: readonly (Tensor | null)[]): void {
    const results = node.rule.grad(node as never, grads[0]!, ...(grads.slice(1) as Tensor[]));
    for (let i = 0; i < node.edges.length; i++) {
      const [edge, result] = [node.edges[i]!, results[i]];
      if (edge === null) continue;
      if (typeof result !== 'function') this.deliverTo(node, i, result ?? null);
      else if (!this.deferred || this.deferred.leadsTo(edge)) this.deliverMade(node, i, result);
      else this.deferred.products.push({ node, index: i, make: result });
    }
  }

  private deliverMade(node: Node, i: number, make: GradMaker): void {
    const edge = node.edges[i]!;
    if (make.addTo && edge !== null && 'leaf' in edge && this.addInPlace(edge.leaf, make.addTo)) this.settle(edge.leaf);
    else this.deliverTo(node, i, make());
  }

  /** Adds a gradient that was not made as a tensor to the leaf's, unless somebody would see it on its way. */
  private addInPlace(leaf: Tensor, addTo: (sum: Tensor) => boolean): boolean {
    const { grad, gradDType, hooks, requiresGrad } = leaf;
    const seen = this.captured || this.options.createGraph || this.anomaly || hooks?.length;
    if (seen || !requiresGrad || !grad || grad.dtype !== (gradDType ?? sumDType(grad.dtype)) || !addTo(grad)) return false;
    const entry = this.expected.get(leaf);
    if (entry) entry.came = true;
    return true;
  }

  /** Sends what a rule made on its way, in the shape and dtype of the node's input. */
  private deliverTo(node: Node, i: number, made: Tensor | null): void {
    const edge = node.edges[i]!;
    if (!made) {
      if (edge !== null && 'leaf' in edge) this.settle(edge.leaf);
      return;
    }
    const meta = node.inputMeta[i]!;
    let g = sameShape(made.shape, meta.shape) ? made : sumTo(made, meta.shape);
    // a leaf with a dtype of its own for gradients adds them up as they come
    if (g.dtype !== meta.dtype && !(edge !== null && 'leaf' in edge && edge.leaf.gradDType))
      g = meta.cast ? castGradient(node.op, g, meta.dtype) : to(g, meta.dtype);
    if (this.anomaly && anyNaN(g)) {
      throw new AutogradError(
        `backward: ${node.where} gave NaN as the gradient of input ${i}; ${node.stack ?? 'run its forward inside detectAnomaly to see where'}`,
      );
    }
    this.send(edge, g);
    if (edge !== null && 'leaf' in edge) this.settle(edge.leaf);
  }

  private send(edge: Edge, g: Tensor): void {
    if (edge === null) return;
    if ('leaf' in edge) this.deliver(edge.leaf, g);
    else this.waiting.put(edge.node, edge.index, g);
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
    return createGraph || this.waiting.exclusive(first) ? first : clone(first);
  }

  private runHook(hook: GradHook, g: Tensor): Tensor {
    // the hook may keep what it sees
    if (this.waiting.owns(g)) handTo(g.storage, this.outer);
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
