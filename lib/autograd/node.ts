// The tape. A node records one op that has a gradient: where its inputs came from, what its rule asked to save, and the
// attributes. Nodes point backwards only; ids grow with time, so descending ids are a valid order for backward.
import { type Context, context } from '../context.js';
import type { Device } from '../device.js';
import { type DType, isFloating } from '../dtype.js';
import { AutogradError } from '../errors.js';
import type { Shape } from '../shape.js';
import { type GradHook, Tensor } from '../tensor.js';
import { observeRecord } from './observe.js';
import { rules } from './rules/index.js';
import type { OpAttrs, OpName, Rule } from './rules/types.js';

/** Where the gradient of an input goes: a node's output, or a leaf. */
export type Edge = { readonly node: Node; readonly index: number } | { readonly leaf: Tensor } | null;

interface Saved {
  readonly tensor: Tensor;
  readonly version: number;
}

export interface Meta {
  readonly shape: Shape;
  readonly dtype: DType;
  readonly device: Device;
  /** Autocast gave the op the input in another dtype. */
  readonly cast: boolean;
}

let nextId = 0;

export class Node {
  readonly id: number = nextId++;
  /** Gradient hooks of the outputs. */
  hooks: Map<number, GradHook[]> | null = null;
  /** Outputs that keep their gradient. */
  retained: { readonly index: number; readonly tensor: Tensor }[] | null = null;
  /** Where the forward call was made; recorded under detectAnomaly. */
  stack: string | undefined;
  /** The backward under way frees the graph: nobody will ask for what was saved again. */
  lastUse = false;
  /** Lets go of what a custom function has saved by itself. */
  onFree: (() => void) | null = null;
  private freed = false;

  constructor(
    readonly op: OpName,
    readonly rule: Rule<OpName>,
    readonly edges: readonly Edge[],
    readonly inputMeta: readonly (Meta | null)[],
    private readonly inputs: readonly (Saved | number | null)[],
    private readonly outputs: readonly (Saved | null)[],
    readonly attrs: OpAttrs<OpName>,
    readonly module: string,
  ) {}

  get where(): string {
    return this.module ? `${this.op} in ${this.module}` : this.op;
  }

  addHook(index: number, hook: GradHook): () => void {
    this.hooks ??= new Map();
    const hooks = this.hooks;
    const others = (): GradHook[] => hooks.get(index)?.filter((h) => h !== own) ?? [];
    const own: GradHook = (g) => hook(g); // an identity of its own: the same function may be registered twice
    hooks.set(index, [...others(), own]);
    return () => {
      hooks.set(index, others());
    };
  }

  /** Has backward leave the gradient of output `index` in the tensor's `.grad`. */
  retain(index: number, tensor: Tensor): void {
    if (!this.retained?.some((r) => r.tensor === tensor)) this.retained = [...(this.retained ?? []), { index, tensor }];
  }

  /** The saved input i: a tensor, a number operand, or null when absent. */
  input(i: number): Tensor | number | null {
    const s = this.inputs[i]!;
    return s === null || typeof s === 'number' ? s : this.unpack(s);
  }
  /** The saved input i, which is a tensor. */
  in(i: number): Tensor {
    return this.input(i) as Tensor;
  }
  /** The saved output i. */
  out(i: number): Tensor {
    return this.unpack(this.outputs[i]!);
  }
  /** The saved output i, which nobody else sees, becomes the property of the backward under way; to be called when `lastUse` says so. */
  giveAway(i: number): void {
    const { storage } = this.out(i);
    storage.released = false;
    context().scope!.add(storage);
  }
  /** Whether input i leads to a leaf. */
  needs(i: number): boolean {
    return this.edges[i] !== null;
  }
  shapeOf(i: number): Shape {
    return this.inputMeta[i]!.shape;
  }
  inputDevice(i: number): Device {
    return this.inputMeta[i]!.device;
  }
  /** Whether this backward is itself recorded (createGraph). */
  differentiatesBackward(): boolean {
    return context().gradEnabled;
  }
  /** For rules made of native calls that have no second derivative. */
  refuseDouble(): void {
    if (context().gradEnabled) throw new AutogradError(`createGraph: no second derivative of ${this.where}`);
  }
  /** Throws if a saved input was changed in place since. */
  checkInputs(): void {
    for (const s of this.inputs) if (s !== null && typeof s !== 'number') this.unpack(s);
  }
  checkAlive(): void {
    if (this.freed) {
      throw new AutogradError(`backward: the graph of ${this.where} was freed by an earlier backward; pass retainGraph: true to the first one`);
    }
  }

  /** Lets go of everything saved. */
  free(): void {
    if (this.freed) return;
    this.freed = true;
    for (const s of this.inputs) if (s !== null && typeof s !== 'number') s.tensor.storage.unsave();
    for (const s of this.outputs) s?.tensor.storage.unsave();
    this.onFree?.();
  }

  private unpack(s: Saved): Tensor {
    const { storage } = s.tensor;
    if (!storage.alive) storage.restore?.();
    if (storage.version !== s.version) {
      throw new AutogradError(
        `backward: ${this.where} needs a tensor of shape [${s.tensor.shape}] that was changed in place by ${storage.writer} ` +
          `(version ${storage.version}, expected ${s.version})`,
      );
    }
    return s.tensor;
  }
}

function save(t: Tensor, target: Tensor | null): Saved {
  t.storage.save();
  // what an in-place op overwrote can never be read again: one version less than any later check finds
  return { tensor: t, version: t === target ? -1 : t.storage.version };
}

export function edgeOf(t: Tensor): Edge {
  if (t.gradFn !== null) return { node: t.gradFn, index: t.outputIndex };
  return t.requiresGrad ? { leaf: t } : null;
}

/** Whether a call with these inputs is recorded. */
export function recording(inputs: readonly (Tensor | number | null)[], around: Context = context()): boolean {
  if (!around.gradEnabled) return false;
  for (const x of inputs) if (x instanceof Tensor && x.requiresGrad) return true;
  return false;
}

/** Whether ops that are given leaves are recorded, now or when backward runs this again. */
export function mayRecord(): boolean {
  const { gradEnabled, keyTape } = context();
  return gradEnabled || keyTape !== null;
}

export function checkInference(op: string, inputs: readonly (Tensor | number | null)[]): void {
  for (const x of inputs) {
    if (x instanceof Tensor && (x.castOf ?? x).inference) {
      throw new AutogradError(`${op}: a tensor made in inferenceMode cannot be part of a graph; clone() it outside`);
    }
  }
}

/**
 * Records an op. `outputs` are tensors that already exist; those of floating dtype become part of the graph. `target` is the
 * input that an in-place op has overwritten. Call it only when `recording(inputs)`.
 */
export function record<K extends OpName>(
  op: K,
  inputs: readonly (Tensor | number | null)[],
  outputs: readonly Tensor[],
  attrs: OpAttrs<K>,
  target: Tensor | null = null,
): void {
  const rule = rules[op] as unknown as Rule<OpName> | null;
  if (rule === null) return;
  checkInference(op, inputs);
  const { anomaly, module } = context();
  const edges: Edge[] = [];
  const meta: (Meta | null)[] = [];
  for (const input of inputs) {
    if (!(input instanceof Tensor)) {
      edges.push(null);
      meta.push(null);
      continue;
    }
    const x = input.castOf ?? input;
    if (x.gradFn !== null && x.isView && x.epoch !== x.storage.epoch) {
      throw new AutogradError(`${op}: this view was taken before ${x.storage.writer} changed its base in place; take the view again`);
    }
    edges.push(isFloating(x.dtype) ? edgeOf(x) : null);
    meta.push({ shape: input.shape, dtype: x.dtype, device: x.device, cast: x !== input });
  }
  const wanted = typeof rule.inputs === 'function' ? rule.inputs(edges.map((e) => e !== null)) : (rule.inputs ?? []);
  const saved = inputs.map((x, i) => (x instanceof Tensor ? (wanted.includes(i) ? save(x, target) : null) : x));
  if (target !== null) target.storage.epoch++;
  const savedOut = outputs.map((y, i) => (rule.outputs?.includes(i) ? save(y, null) : null));
  const node = new Node(op, rule, edges, meta, saved, savedOut, attrs as OpAttrs<OpName>, module);
  if (anomaly) node.stack = new Error('forward call').stack;
  for (let i = 0; i < outputs.length; i++) {
    const y = outputs[i]!;
    if (!isFloating(y.dtype) || rule.constant?.includes(i)) continue;
    y.gradFn = node;
    y.outputIndex = i;
    y.epoch = y.storage.epoch;
  }
  observeRecord(op, inputs, outputs, attrs, module);
}

/** All nodes that lead to the root and have not been seen, in any order. */
export function reachable(root: Node, seen: Set<Node>): Node[] {
  const found = [root];
  seen.add(root);
  for (const node of found) {
    for (const edge of node.edges) {
      if (edge === null || 'leaf' in edge || seen.has(edge.node)) continue;
      seen.add(edge.node);
      found.push(edge.node);
    }
  }
  return found;
}
