// The door's part in mixed precision: reads the policy table and casts. A cast tensor stands in for its source (`castOf`): a graph that uses
// it leads to the source, so a product's backward gives a float32 weight its gradient in float32, rounded nowhere, and no
// node of its own casts it back. Casts of weights are kept until the weight changes.
import { type AutocastDType, type AutocastOp, policy, policyOf } from '../amp/policy.js';
import { context, withContext } from '../context.js';
import { type DType, dtypeSize } from '../dtype.js';
import { DTypeError } from '../errors.js';
import { contiguousStrides } from '../shape.js';
import { type Storage, takeOut } from '../storage.js';
import { Tensor } from '../tensor.js';
import { to } from './copy.js';
import { fresh, invoke } from './door.js';

/** Above 0 while an operation of the table runs: what it calls in turn gets its inputs as they are. Operations never await. */
let inside = 0;

/** The dtype of the region that surrounds this call, or null. */
function region(): AutocastDType | null {
  return inside > 0 ? null : context().autocast;
}

function castable(x: Tensor): boolean {
  return x.dtype === 'float32' || x.dtype === 'bfloat16' || x.dtype === 'float16';
}

/** Result dtype under autocast of an operation that reads any floating-point dtype: nothing has to be cast. */
export function wideResult(op: string, dtype: DType): DType {
  return (dtype === 'bfloat16' || dtype === 'float16') && region() !== null && policyOf(op) === 'float32' ? 'float32' : dtype;
}

/**
 * Gives an operation its row of the table: `fn` then gets its tensors cast as the row says. `which`: the arguments to cast, by
 * position, and by name in an object of options; all tensors and arrays of them by default.
 */
export function autocasts<F extends (...args: never[]) => unknown>(op: AutocastOp, fn: F, which?: readonly (number | string)[]): F {
  const call = fn as unknown as (...args: unknown[]) => unknown;
  const plain = (args: unknown[]): unknown => {
    const dtype = region();
    if (dtype === null) return call(...args);
    inside++;
    try {
      return owned(call(...castArguments(op, dtype, args, which)));
    } finally {
      inside--;
    }
  };
  const wrapped = (...args: unknown[]): unknown => {
    const { kept } = context();
    return kept === null ? plain(args) : kept.during(op, () => plain(args));
  };
  return wrapped as unknown as F;
}

/** The tensors in the dtype that the operation's row asks for. */
export function castInputs(op: AutocastOp, inputs: readonly Tensor[]): Tensor[] {
  const dtype = region();
  return dtype === null ? [...inputs] : (castArguments(op, dtype, [...inputs]) as Tensor[]);
}

function castArguments(op: AutocastOp, dtype: AutocastDType, args: unknown[], which?: readonly (number | string)[]): unknown[] {
  if (policy[op] === 'refused') {
    throw new DTypeError(`${op}: under autocast its gradient can overflow; use binaryCrossEntropyWithLogits, or leave autocast for it: autocast(null, …)`);
  }
  if (policy[op] === 'input') return args;
  const target = policy[op] === 'low' ? dtype : policy[op] === 'float32' ? 'float32' : widest(dtype, args);
  const cast = (x: unknown): unknown => {
    if (x instanceof Tensor) return x.storage.alive && castable(x) ? castTo(op, x, target) : x;
    return Array.isArray(x) ? x.map(cast) : x;
  };
  const named = (options: object): object =>
    Object.fromEntries(Object.entries(options).map(([name, value]) => [name, which!.includes(name) ? cast(value) : value]));
  return args.map((a, i) => {
    if (which === undefined || which.includes(i)) return cast(a);
    return isOptions(a) && which.some((w) => typeof w === 'string') ? named(a) : a;
  });
}

function isOptions(a: unknown): a is object {
  return typeof a === 'object' && a !== null && !(a instanceof Tensor) && !Array.isArray(a);
}

function widest(low: AutocastDType, args: readonly unknown[]): AutocastDType {
  const dtypes = args.flat().flatMap((a) => (a instanceof Tensor && castable(a) ? [a.dtype as AutocastDType] : []));
  return dtypes.every((d) => d === low) ? low : dtypes.every((d) => d === dtypes[0]) ? dtypes[0]! : 'float32';
}

/** An operation may give back what it was given: a stand-in leaves as a tensor of its own. */
function owned(result: unknown): unknown {
  return result instanceof Tensor && result.castOf !== null ? to(result.castOf, result.dtype) : result;
}

/** `x` in another floating-point dtype; its gradient goes to `x` itself. */
export function castTo(op: string, x: Tensor, dtype: DType): Tensor {
  if (x.dtype === dtype) return x;
  const source = x.castOf ?? x;
  // a view of one is made anew at every step: nothing would ever ask for its cast again
  if (source.storage.kind !== 'parameter' || !source.isLeaf || source.isView) return cast(op, source, x, dtype);
  const { capture } = context();
  const old = kept.get(source);
  const valid = old?.dtype === dtype && old.storage === source.storage && old.version === source.storage.version && old.capture === capture;
  if (valid && !old.cast.disposed) return old.cast;
  // outlives the segment of a checkpoint, which will not make it again
  const made = withContext({ kept: null }, () => cast(op, source, x, dtype));
  takeOut(made.storage, 'autocast');
  old?.cast.storage.release(null);
  kept.set(source, { cast: made, dtype, storage: source.storage, version: source.storage.version, capture });
  return made;
}

interface Kept {
  readonly cast: Tensor;
  readonly dtype: DType;
  /** Of the weight when it was cast. */
  readonly storage: Storage;
  readonly version: number;
  /** What a graph captured is made again at each replay, and belongs to its memory. */
  readonly capture: unknown;
}
const kept = new WeakMap<Tensor, Kept>();

/** Frees the casts kept of these weights. */
export function dropCasts(weights: Iterable<Tensor>): void {
  for (const w of weights) {
    kept.get(w)?.cast.storage.release(null);
    kept.delete(w);
  }
}

function cast(op: string, source: Tensor, x: Tensor, dtype: DType): Tensor {
  count(op, x, dtype);
  const y = like(x, dtype);
  y.castOf = source;
  return y;
}

/** A cast laid out as its source is, when that fills its memory: a transposed weight stays a transposed one. */
function like(x: Tensor, dtype: DType): Tensor {
  const order = x.shape.map((_, d) => d).sort((a, b) => x.strides[b]! - x.strides[a]! || a - b);
  const shape = order.map((d) => x.shape[d]!);
  const dense = contiguousStrides(shape).every((s, i) => s === x.strides[order[i]!]);
  if (!dense || order.every((d, i) => d === i)) return invoke('copy', x.device, [x, fresh(x.shape, dtype)])[0]!;
  const inOrder = new Tensor(x.storage, shape, contiguousStrides(shape), x.offset, x.dtype);
  const y = invoke('copy', x.device, [inOrder, fresh(shape, dtype)])[0]!;
  return new Tensor(y.storage, x.shape, x.strides, 0, dtype);
}

/** Casts of one kind that autocast has made. */
export interface CastCount {
  /** The operation that wanted it, or whose gradient did: `linear`, `linear backward`. */
  readonly op: string;
  /** The dtype before. */
  readonly from: DType;
  /** The dtype after. */
  readonly to: DType;
  /** How many casts there were. */
  count: number;
  /** Elements times the bytes read and written. */
  bytes: number;
}
const counts = new Map<string, CastCount>();

function count(op: string, x: Tensor, to: DType): void {
  const key = `${op} ${x.dtype} ${to}`;
  let entry = counts.get(key);
  if (!entry) {
    entry = { op, from: x.dtype, to, count: 0, bytes: 0 };
    counts.set(key, entry);
  }
  entry.count++;
  entry.bytes += x.numel * (dtypeSize[x.dtype] + dtypeSize[to]);
}

export function castCounts(): CastCount[] {
  return [...counts.values()].map((c) => ({ ...c }));
}
export function resetCastCounts(): void {
  counts.clear();
}

/** A gradient in the dtype of what it belongs to, or that backward computes in. */
export function castGradient(op: string, g: Tensor, dtype: DType): Tensor {
  if (g.dtype === dtype) return g;
  count(`${op} backward`, g, dtype);
  return to(g, dtype);
}
