// Random numbers. Every draw is a Philox key (seed, stream) with the element's global index as counter, so a value depends on
// what is drawn and not on threads, devices or ranks. A generator hands out streams one after another; layers that must not
// depend on the order of calls (dropout) derive their stream from the step, the module's path and the call within it.

import { record, recording } from './autograd/node.js';
import { context, withContext } from './context.js';
import { empty, type TensorOptions } from './create.js';
import { deferFill } from './deferred.js';
import type { DeviceLike } from './device.js';
import { isFloating } from './dtype.js';
import { DTypeError, describe, ShapeError, ValueError } from './errors.js';
import { checkFloat, checkTensor } from './ops/arguments.js';
import { checkInPlace, invoke, like } from './ops/door.js';
import { checkInteger, checkNumber, checkShape, contiguousStrides, type Shape, showShape } from './shape.js';
import { Tensor } from './tensor.js';

/** seedLow, seedHigh, streamLow, streamHigh: unsigned 32-bit numbers. In a captured graph −1 − place: the key is in the graph's table. */
export type RandomKey = readonly [number, number, number, number];

/** Where a generator stands, as numbers that JSON keeps. */
export interface GeneratorState {
  /** The seed, as decimal digits: it may have 64 bits. */
  seed: string;
  /** Keys that were drawn since the seed. */
  draws: number;
  /** Optimizer steps since the seed. */
  step: number;
}

/** A source of random keys. Two generators with the same seed give the same numbers. */
export class Generator {
  private seedValue = 0n;
  private draws = 0;
  /** Optimizer steps taken; part of dropout's keys. */
  step = 0;

  constructor(seed: number | bigint = 0) {
    this.manualSeed(seed);
  }
  /** The seed, in 64 bits without a sign. */
  get seed(): bigint {
    return this.seedValue;
  }
  /** Starts again from a seed (a whole number, taken modulo 2^64). */
  manualSeed(seed: number | bigint): this {
    if (typeof seed !== 'bigint' && !Number.isSafeInteger(seed)) throw new ValueError(`manualSeed: the seed must be a whole number, got ${describe(seed)}`);
    this.seedValue = BigInt.asUintN(64, BigInt(seed));
    this.draws = 0;
    this.step = 0;
    return this;
  }
  /** The key of the next draw. */
  nextKey(): RandomKey {
    return this.keyOf(this.draws++, 0);
  }
  /** The key of a named draw of this step: the same wherever and in whatever order it is asked for. */
  namedKey(path: string, call: number): RandomKey {
    const low = hash(`${this.step}:${call}:${path}`, 0x811c9dc5);
    // the top bit keeps named streams apart from counted ones
    return this.keyOf(low, (hash(path, 0x9e3779b9 ^ low) | 0x80000000) >>> 0);
  }
  /** Where the generator stands, for checkpoints. */
  getState(): GeneratorState {
    return { seed: this.seedValue.toString(), draws: this.draws, step: this.step };
  }
  /** Goes on from where another stood. */
  setState(state: GeneratorState): void {
    this.manualSeed(BigInt(state.seed));
    this.draws = checkInteger(state.draws, 'draws', 'setState', 0);
    this.step = checkInteger(state.step, 'step', 'setState', 0);
  }
  private keyOf(low: number, high: number): RandomKey {
    return [Number(this.seedValue & 0xffffffffn), Number(this.seedValue >> 32n), low % 2 ** 32, high || Math.floor(low / 2 ** 32)];
  }
}

/** FNV-1a with a final mix: the streams of different paths must differ, no more. */
function hash(text: string, basis: number): number {
  let h = basis >>> 0;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  return (h ^ (h >>> 13)) >>> 0;
}

const fallback = new Generator();

/** The generator in force: that of withGenerator, else this thread's default. */
export function defaultGenerator(): Generator {
  return context().generator ?? fallback;
}
/** Seeds the generator in force. */
export function manualSeed(seed: number | bigint): Generator {
  return defaultGenerator().manualSeed(seed);
}
/** Runs `fn` with another default generator. */
export function withGenerator<T>(generator: Generator, fn: () => T): T {
  return withContext({ generator }, fn);
}

// ---- recomputation: a checkpointed segment draws the same keys again

export interface KeyTape {
  readonly keys: RandomKey[];
  /** Position of the next key to repeat; null while recording. */
  next: number | null;
}

/** Every random op asks here, so that a recomputed segment can repeat its draws. */
export function drawKey(draw: () => RandomKey): RandomKey {
  const { keyTape: tape, capture } = context();
  const make = capture ? (): RandomKey => capture.placeOfKey(draw) : draw;
  if (tape === null) return make();
  if (tape.next !== null) {
    const key = tape.keys[tape.next++];
    if (key === undefined)
      throw new ValueError('checkpoint: the recomputation drew more random numbers than the first run; the function must be deterministic');
    return key;
  }
  const key = make();
  tape.keys.push(key);
  return key;
}

/** A number that does not only depend on tensors: a recomputed segment finds the one of its first run, whatever has been run since. */
export function recall(find: () => number): number {
  const { keyTape: tape } = context();
  if (tape === null) return find();
  if (tape.next !== null) return tape.keys[tape.next++]![0];
  const found = find();
  tape.keys.push([found, 0, 0, 0]);
  return found;
}

/** As TensorOptions, with the source of the numbers. */
export interface RandomOptions extends TensorOptions {
  /** Source of the numbers; by default the one in force. */
  generator?: Generator;
}

function key(options: { generator?: Generator } | undefined): RandomKey {
  const g = options?.generator;
  if (g !== undefined && !(g instanceof Generator)) throw new ValueError(`generator: expected a Generator, got ${describe(g)}`);
  return drawKey(() => (g ?? defaultGenerator()).nextKey());
}

function floating(shape: readonly number[], options: RandomOptions | undefined, op: string): Tensor {
  const t = empty(checkShape(shape, op), { ...options, requiresGrad: false });
  if (!isFloating(t.dtype)) throw new DTypeError(`${op}: expects a floating-point dtype, got ${t.dtype}`);
  return t;
}
function withGrad(t: Tensor, options: RandomOptions | undefined): Tensor {
  if (options?.requiresGrad) t.requiresGrad = true;
  return t;
}

/** Standard normal numbers. */
export function randn(shape: readonly number[], options?: RandomOptions): Tensor {
  return withGrad(normal_(floating(shape, options, 'randn'), 0, 1, options), options);
}
/** Uniform numbers in [0, 1). */
export function rand(shape: readonly number[], options?: RandomOptions): Tensor {
  return withGrad(uniform_(floating(shape, options, 'rand'), 0, 1, options), options);
}
/** Standard normal numbers of the same shape, dtype and device. */
export function randnLike(x: Tensor, options?: RandomOptions): Tensor {
  checkTensor(x, 'randnLike');
  return randn(x.shape, { dtype: x.dtype, device: x.device, ...options });
}
/** Uniform numbers in [0, 1) of the same shape, dtype and device. */
export function randLike(x: Tensor, options?: RandomOptions): Tensor {
  checkTensor(x, 'randLike');
  return rand(x.shape, { dtype: x.dtype, device: x.device, ...options });
}
/** Whole numbers in [low, high), int64 unless said otherwise. */
export function randint(low: number, high: number, shape: readonly number[], options?: RandomOptions): Tensor {
  checkInteger(low, 'low', 'randint');
  checkInteger(high, 'high', 'randint', low + 1);
  const t = empty(checkShape(shape, 'randint'), { dtype: 'int64', ...options, requiresGrad: false });
  invoke('randint', t.device, [t], [low, high, ...key(options)]);
  return t;
}
/** A random order of 0 … n − 1 (int64). */
export function randperm(n: number, options?: RandomOptions & { device?: DeviceLike }): Tensor {
  checkInteger(n, 'n', 'randperm', 0);
  const draws = rand([n], { ...options, dtype: 'float64', requiresGrad: false });
  return draws.argsort(-1).to(options?.dtype ?? 'int64');
}
/** 1 with the probability in each element of p, else 0. */
export function bernoulli(p: Tensor, options?: { generator?: Generator }): Tensor {
  checkFloat(p, 'bernoulli', 'the probabilities');
  return randLike(p, options).lt(p).to(p.dtype);
}

/**
 * In place: normal numbers of this mean and standard deviation.
 * @param options.generator source of the numbers; by default the one in force
 */
export function normal_(t: Tensor, mean = 0, std = 1, options?: { generator?: Generator }): Tensor {
  checkFillable(t, 'normal_');
  checkNumber(mean, 'mean', 'normal_');
  checkNumber(std, 'std', 'normal_', 0);
  const drawn = key(options);
  const fill = (x: Tensor): unknown => invoke('normal', x.device, [x], [mean, std, ...drawn]);
  fill(t);
  t.storage.wrote('normal_');
  if (t.isMeta) deferFill(t, fill);
  return t;
}
/**
 * In place: uniform numbers in [low, high).
 * @param options.generator source of the numbers; by default the one in force
 */
export function uniform_(t: Tensor, low = 0, high = 1, options?: { generator?: Generator }): Tensor {
  checkFillable(t, 'uniform_');
  checkNumber(low, 'low', 'uniform_');
  checkNumber(high, 'high', 'uniform_', low);
  const drawn = key(options);
  const fill = (x: Tensor): unknown => invoke('uniform', x.device, [x], [low, high, ...drawn]);
  fill(t);
  t.storage.wrote('uniform_');
  if (t.isMeta) deferFill(t, fill);
  return t;
}
function checkFillable(t: unknown, op: string): asserts t is Tensor {
  if (!(t instanceof Tensor)) throw new ValueError(`${op}: expected a tensor, got ${describe(t)}`);
  checkInPlace(op, t);
  if (!isFloating(t.dtype)) throw new DTypeError(`${op}: expects a floating-point tensor, got ${t.dtype}`);
}

/** Where a local tensor lies in the global one; makes dropout independent of sharding. */
export interface Layout {
  /** Shape of the whole tensor. */
  readonly globalShape: Shape;
  /** Where the local tensor begins in it, one number a dimension. */
  readonly offset: Shape;
}

/** When and by which random numbers `dropout` drops. */
export interface DropoutOptions {
  /** Dropout is the identity outside training. Default true. */
  training?: boolean;
  /** Source of the numbers; by default the one in force. */
  generator?: Generator;
  /** A key of the caller's instead of the generator's next. */
  key?: () => RandomKey;
  /** Where a sharded tensor lies in the whole one, so that what is dropped does not depend on the sharding. */
  layout?: Layout;
}

/** Zeroes each element with probability p and scales the others by 1/(1 − p) (Srivastava et al., 2014). */
export function dropout(x: Tensor, p = 0.5, options: DropoutOptions = {}): Tensor {
  if (!(x instanceof Tensor)) throw new ValueError(`dropout: expected a tensor, got ${describe(x)}`);
  checkNumber(p, 'p', 'dropout', 0, 1);
  if (!isFloating(x.dtype)) throw new DTypeError(`dropout: expects a floating-point tensor, got ${x.dtype}`);
  if (!(options?.training ?? true) || p === 0) return x;
  const drawn = drawKey(options?.key ?? (() => (options?.generator ?? defaultGenerator()).nextKey()));
  const layout = layoutNumbers(x, options?.layout);
  const y = invoke('dropout', x.device, [x, like(x)], [p, ...drawn, ...layout])[0]!;
  if (recording([x])) record('dropout', [x], [y], { p, key: drawn, layout });
  return y;
}

/** Base and strides of the element counter: those of the global shape. */
function layoutNumbers(x: Tensor, layout: Layout | undefined): number[] {
  const shape = layout?.globalShape ?? x.shape;
  const strides = contiguousStrides(shape);
  if (!layout) return [0, ...strides];
  if (shape.length !== x.ndim || layout.offset.length !== x.ndim || !x.shape.every((s, i) => layout.offset[i]! + s <= shape[i]!)) {
    throw new ShapeError(`dropout: layout ${showShape(shape)} at ${showShape(layout.offset)} does not hold the tensor ${showShape(x.shape)}`);
  }
  return [layout.offset.reduce((sum, o, i) => sum + o * strides[i]!, 0), ...strides];
}
