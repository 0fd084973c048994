// What an op makes of the placements of its inputs, along one axis of a mesh, and which of them give wrong numbers. A Shard is of the dimension as
// this rank sees it; what comes from outside (data, masks, positions) fits anything. Ops that nothing is known of make `unknown`, which is
// never wrong: a missing rule loses sight of a tensor and raises no false alarm.
import type { OpAttrs } from '../autograd/rules/types.js';
import { ValueError } from '../errors.js';
import { native } from '../native.js';
import { numel, type Shape } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { Partial, type Placement, Replicate, Shard, showPlacement } from './placement.js';

/** `any`: from outside, and what is made of it. */
export type State = Placement | 'unknown' | 'any';

type Inputs = readonly (Tensor | number | null)[];
interface Case {
  readonly op: string;
  readonly inputs: Inputs;
  /** Null for what is no tensor. */
  readonly states: readonly (State | null)[];
  readonly outputs: readonly Tensor[];
  readonly attrs: unknown;
  readonly where: string;
}
type Rule = (c: Case) => State;

const kindOf = (s: State | null | undefined): string => (typeof s === 'object' && s !== null ? s.kind : (s ?? 'absent'));
const tensorAt = (c: Case, i: number): Tensor => c.inputs[i] as Tensor;
/** The dimension that a state cuts, from the end: 1 is the last; null where it cuts none. */
const fromEnd = (s: State | null, x: Tensor | number | null | undefined): number | null =>
  typeof s === 'object' && s?.kind === 'shard' && typeof x === 'object' && x ? x.ndim - s.dim : null;
const shardFromEnd = (end: number, y: Tensor): State => (end >= 1 && end <= y.ndim ? Shard(y.ndim - end) : 'unknown');
const show = (s: State | null): string => (typeof s === 'object' && s ? showPlacement(s) : s === null ? 'a number' : s === 'any' ? 'a tensor from outside' : s);

function wrong({ where, states }: Case, because: string): never {
  const shown = states.filter((s) => s !== null).map(show);
  throw new ValueError(`${where}: inputs with ${shown.join(' and ')} over the ranks of tensor parallelism give a wrong result: ${because}`);
}

// ---- one input

const keeps: Rule = ({ states }) => states[0] ?? 'unknown';

/** What is not linear cannot be done to the parts of a sum. */
const nonlinear: Rule = (c) => {
  if (kindOf(c.states[0]) === 'partial') wrong(c, `the sum has to be made before ${c.op}`);
  return keeps(c);
};

/** Works along the last dimension, which has to be whole. */
const alongLast: Rule = (c) => {
  nonlinear(c);
  if (fromEnd(c.states[0]!, tensorAt(c, 0)) === 1) wrong(c, `${c.op} needs all of the last dimension; gather it, or take the parallel form`);
  return keeps(c);
};

function reduction(inner: Partial['op'] | null): Rule {
  return (c) => {
    const [state, x, y] = [c.states[0]!, tensorAt(c, 0), c.outputs[0]!];
    const { dims } = c.attrs as OpAttrs<'sum'>;
    if (kindOf(state) === 'partial') return inner === 'sum' || inner === 'avg' ? state : wrong(c, `the sum has to be made before ${c.op}`);
    if (typeof state !== 'object' || state.kind !== 'shard') return state;
    if (dims.includes(state.dim)) return inner === null ? 'unknown' : Partial(inner);
    return Shard(y.ndim === x.ndim ? state.dim : state.dim - dims.filter((d) => d < state.dim).length);
  };
}

/** Row-major regrouping: the cut stays where the dimension, or the one that leads its group, is. */
const reshaped: Rule = (c) => {
  const [state, x, y] = [c.states[0]!, tensorAt(c, 0), c.outputs[0]!];
  if (typeof state !== 'object' || state.kind !== 'shard') return state;
  const before = numel(x.shape.slice(0, state.dim));
  let passed = 1;
  for (let d = 0; d < y.ndim; d++) {
    // begins in the same place, or contains it as a slower dimension's rows
    if (y.shape[d] !== 1 && (passed === before || (passed < before && passed * y.shape[d]! > before))) return Shard(d);
    passed *= y.shape[d]!;
  }
  return 'unknown';
};

const permuted: Rule = ({ states: [state], attrs }) => {
  if (typeof state !== 'object' || state?.kind !== 'shard') return state ?? 'unknown';
  return Shard((attrs as OpAttrs<'permute'>).dims.indexOf(state.dim));
};

const sliced: Rule = (c) => {
  const [state] = c.states as [State];
  if (typeof state !== 'object' || state.kind !== 'shard') return state;
  const { dim } = c.attrs as OpAttrs<'slice'>;
  if (dim === state.dim) return c.outputs[0]!.shape[dim] === tensorAt(c, 0).shape[dim] ? state : 'unknown';
  return c.outputs[0]!.ndim === tensorAt(c, 0).ndim ? state : Shard(state.dim - Number(dim < state.dim));
};

const expanded: Rule = (c) => {
  const end = fromEnd(c.states[0]!, c.inputs[0]);
  return end === null ? c.states[0]! : shardFromEnd(end, c.outputs[0]!);
};

// ---- several inputs

/** Elements side by side: pieces with pieces of the same dimension, or with what is broadcast along it. */
function sideBySide(c: Case): State {
  const cuts = c.states.flatMap((s, i) => fromEnd(s, c.inputs[i]) ?? []);
  if (cuts.length === 0) return c.states.some((s) => kindOf(s) === 'partial') ? 'unknown' : Replicate();
  const [end] = cuts as [number];
  if (cuts.some((e) => e !== end)) wrong(c, 'they are pieces along different dimensions');
  c.states.forEach((s, i) => {
    const x = c.inputs[i];
    if (kindOf(s) !== 'replicate' || typeof x !== 'object' || x === null) return;
    if (x.ndim >= end && x.shape[x.ndim - end] !== 1) wrong(c, 'one has a piece of a dimension of which the other has all');
  });
  return shardFromEnd(end, c.outputs[0]!);
}

/** Sums: parts of a sum with parts of a sum. */
const added: Rule = (c) => {
  const partial = c.states.filter((s) => kindOf(s) === 'partial');
  if (partial.length === 0) return sideBySide(c);
  if (partial.length < c.states.length || c.states.some((s) => show(s) !== show(partial[0]!)))
    wrong(c, 'what is not a part of the sum would be counted once for every rank; make the sum first');
  return partial[0] as State;
};

/** Linear in each of its inputs. */
const multiplied: Rule = (c) => {
  const partial = c.states.filter((s) => kindOf(s) === 'partial');
  if (partial.length > 1) wrong(c, 'the product of two sums is not the sum of the products of their parts; make the sums first');
  if (partial.length === 0) return sideBySide(c);
  return c.states.some((s) => kindOf(s) === 'shard') ? 'unknown' : (partial[0] as State);
};

const divided: Rule = (c) => {
  if (kindOf(c.states[1]) === 'partial') wrong(c, 'the sum has to be made before one divides by it');
  return multiplied(c);
};

const elementwise: Rule = (c) => {
  if (c.states.some((s) => kindOf(s) === 'partial')) wrong(c, `the sum has to be made before ${c.op}`);
  return sideBySide(c);
};

/** a [.., m, k] · b [.., k, n]; `end`: where k and n are in b, from its end. */
function product(c: Case, a: number, b: number, ends: { readonly k: number; readonly n: number }): State {
  const [sa, sb] = [c.states[a]!, c.states[b]!];
  if ([sa, sb].some((s) => kindOf(s) === 'partial')) return multiplied({ ...c, inputs: [c.inputs[a]!, c.inputs[b]!], states: [sa, sb] });
  const [ea, eb] = [fromEnd(sa, c.inputs[a]), fromEnd(sb, c.inputs[b])];
  const y = c.outputs[0]!;
  if (ea === 1 && eb === ends.k) return Partial('sum');
  if ((ea === 1 && eb === null && sb !== 'any') || (eb === ends.k && ea === null && sa !== 'any'))
    wrong(c, 'one has a piece of the dimension that is summed over, the other all of it');
  if (ea === null) return eb === null ? Replicate() : eb === ends.n ? shardFromEnd(1, y) : 'unknown';
  if (eb === null) return shardFromEnd(ea, y);
  if (ea > 2 && ea === eb) return shardFromEnd(ea, y);
  return wrong(c, 'each rank would multiply its rows by its columns alone');
}

const matmul: Rule = (c) => (tensorAt(c, 0).ndim < 2 || tensorAt(c, 1).ndim < 2 ? 'unknown' : product(c, 0, 1, { k: 2, n: 1 }));

/** x, weight, bias, residual. */
const linear: Rule = (c) => {
  const made = product({ ...c, states: c.states.slice(0, 2) }, 0, 1, { k: 1, n: 2 });
  const rest = c.states.slice(2).filter((s) => s !== null);
  if (rest.length === 0 || made === 'unknown') return made;
  return added({ ...c, op: 'adding bias or residual', inputs: [c.outputs[0]!, ...c.inputs.slice(2).filter((x) => x !== null)], states: [made, ...rest] });
};

const joined: Rule = (c) => {
  const { dim } = c.attrs as OpAttrs<'cat'>;
  const special = c.states.filter((s) => s !== 'any');
  if (special.some((s) => show(s) !== show(special[0]!))) wrong(c, 'the pieces that are joined lie differently');
  const [state] = special as [State];
  return typeof state === 'object' && state.kind === 'shard' && state.dim === dim ? 'unknown' : state;
};

/** q, k, v [B, H, T, D]: pieces are of heads. */
const attention: Rule = (c) => {
  for (const [i, s] of c.states.slice(0, 3).entries()) {
    if (kindOf(s) === 'partial') wrong(c, 'the sums have to be made before attention');
    if ([1, 2].includes(fromEnd(s, c.inputs[i]) ?? 0)) wrong(c, 'attention needs the whole sequence and all features of a head; gather them');
  }
  return sideBySide({ ...c, inputs: c.inputs.slice(0, 3), states: c.states.slice(0, 3) });
};

/** [B, T, 3·C]. */
const attentionPacked: Rule = (c) => {
  nonlinear(c);
  if (fromEnd(c.states[0]!, c.inputs[0]) === 2) wrong(c, 'attention needs the whole sequence; gather it');
  return keeps(c);
};

const embedding: Rule = (c) => {
  const end = fromEnd(c.states[0]!, c.inputs[0]);
  if (end === 2) wrong(c, 'this rank has some rows of the table alone; VocabParallelEmbedding sums over the ranks');
  return end === 1 ? shardFromEnd(1, c.outputs[0]!) : (c.states[0] ?? 'unknown');
};

const crossEntropy: Rule = (c) => {
  nonlinear(c);
  if (fromEnd(c.states[0]!, c.inputs[0]) === 1) wrong(c, 'this rank has some of the classes alone; vocabParallelCrossEntropy has all');
  return kindOf(c.states[0]) === 'shard' ? 'unknown' : keeps(c);
};

/** x, weight, bias, targets, class weights. */
const linearCrossEntropy: Rule = (c) => {
  const [x, weight] = [0, 1].map((i) => fromEnd(c.states[i]!, c.inputs[i]));
  if (weight === 2) wrong(c, 'this rank has some of the classes alone; vocabParallelCrossEntropy has all');
  if (x === 1 || weight === 1) wrong(c, 'this rank has some of the features alone; the logits are sums over all');
  return crossEntropy(c);
};

const pointwiseNames = new Set(native.ops.filter((op) => op.kind === 'pointwise').map((op) => op.name));
const LINEAR = ['neg', 'copy', 'dropout'];
const table: Readonly<Record<string, Rule>> = {
  ...Object.fromEntries(LINEAR.map((op) => [op, keeps])),
  add: added,
  sub: added,
  mul: multiplied,
  div: divided,
  matmul,
  linear,
  mlp: (c) =>
    c.states.every((s, i) => i === 0 || i === 5 || s === null || kindOf(s) !== 'shard')
      ? elementwise({ ...c, states: [c.states[0]!], inputs: [c.inputs[0]!] })
      : 'unknown',
  cat: joined,
  attention,
  attentionPacked,
  embedding,
  crossEntropy,
  linearCrossEntropy,
  softmax: alongLast,
  logSoftmax: alongLast,
  layerNorm: alongLast,
  rmsNorm: alongLast,
  sum: reduction('sum'),
  mean: reduction('avg'),
  max: reduction('max'),
  min: reduction('min'),
  prod: reduction(null),
  norm1: reduction(null),
  norm2: reduction(null),
  sumSquares: reduction(null),
  reshape: reshaped,
  permute: permuted,
  slice: sliced,
  expand: expanded,
};

/** Whether all inputs and outputs have one shape, up to broadcasting: then an op without a row counts as one on elements. */
function isElementwise({ inputs, outputs }: Case): boolean {
  const y: Shape | undefined = outputs.length === 1 ? outputs[0]!.shape : undefined;
  return y !== undefined && inputs.some((x) => typeof x === 'object' && x !== null && x.shape.join() === y.join());
}

/** The placement of what an op makes. @throws ValueError where that is not what the op makes of whole tensors */
export function rules(op: string, inputs: Inputs, states: readonly (State | null)[], outputs: readonly Tensor[], attrs: unknown, where: string): State {
  const c: Case = { op, inputs, states, outputs, attrs, where };
  const rule = Object.hasOwn(table, op) ? table[op]! : null;
  if (rule) return rule(c);
  return pointwiseNames.has(op) && isElementwise(c) ? elementwise(c) : 'unknown';
}
