// Tensor: an n-dimensional array as {storage, shape, strides, offset, dtype}. A view is another Tensor over the same storage and
// costs no native call. This file holds identity, reading and autograd state; the operations live in lib/ops as free
// functions, and lib/ops/methods.ts makes a method of each.

import type { Node } from './autograd/node.js';
import type { Device } from './device.js';
import { checkDType, type DType, dtypeSize, isFloating, type TypedArray } from './dtype.js';
import { AutogradError, DTypeError, describe, ShapeError, ValueError } from './errors.js';
import type { Methods } from './ops/methods.js';
import { decode, nest } from './read.js';
import { readBytes, readBytesSync, readItem, readItemSync } from './read_device.js';
import { contiguousStrides, isContiguous, numel, type Shape, showShape } from './shape.js';
import { META, nothingOf, type Storage, takeOut } from './storage.js';

/** What `registerHook` calls with a gradient: what it returns takes the gradient's place, nothing leaves it as it is. */
export type GradHook = (grad: Tensor) => Tensor | undefined | void;
/** What element-wise functions take: a tensor, or a JavaScript number that adapts to the tensor's dtype. */
export type Operand = Tensor | number;
/** Numbers (booleans of a bool tensor) in arrays as deep as the tensor has dimensions; without dimensions, the number alone. */
export type NestedArray = number | boolean | NestedArray[];

export interface Tensor extends Methods {}
/**
 * An n-dimensional array of one element type on one device. Views share their memory. Functions of a tensor are methods of it too:
 * `x.softmax(-1)` is `softmax(x, -1)`. A tensor's memory lives until `dispose()`, the end of the `scope` that made it, or the garbage
 * collector. Made by `tensor`, `zeros`, `randn` and the like, not by its constructor.
 */
// biome-ignore lint/suspicious/noUnsafeDeclarationMerging: methods.ts attaches exactly the interface's methods
export class Tensor {
  /** The accumulated gradient of a leaf (or of a tensor with retainGrad), else null. */
  grad: Tensor | null = null;
  /**
   * Of a gradient: a flag on the device that says, when it is not 0, that there is none, whatever the values. Optimizers skip its
   * parameter.
   * @internal
   */
  absent: Tensor | null = null;
  /** The node of the graph that made this tensor, whose `op` names the operation; null for leaves. */
  gradFn: Node | null = null;
  /** Which output of gradFn this is. @internal */
  outputIndex = 0;
  /** What this is an autocast's cast of: graphs lead there in its place. @internal */
  castOf: Tensor | null = null;
  /** A view of another tensor: in-place work on it cannot be recorded. @internal */
  isView = false;
  /** The storage's epoch when this view was taken. @internal */
  epoch = 0;
  /** @internal */
  hooks: GradHook[] | null = null;
  /** @internal */
  accumulateHooks: ((leaf: Tensor) => void)[] | null = null;
  private wantsGrad = false;
  private gradDType_: DType | null = null;

  /** Use `tensor`, `zeros`, … to make one. @internal */
  constructor(
    /** @internal */
    readonly storage: Storage,
    /** Size of each dimension; `[]` of a single number. */
    readonly shape: Shape,
    /** How many elements lie between neighbours of each dimension; 0 where one element stands for all. */
    readonly strides: Shape,
    /** Where the first element lies in the memory, counted in elements. */
    readonly offset: number,
    /** Element type. */
    readonly dtype: DType,
  ) {}

  /** Where the elements are. */
  get device(): Device {
    return this.storage.device;
  }
  /** Number of dimensions. */
  get ndim(): number {
    return this.shape.length;
  }
  /** Number of elements. */
  get numel(): number {
    return numel(this.shape);
  }
  /** Whether no recorded operation made this tensor: parameters and data are leaves, and gradients gather in theirs. */
  get isLeaf(): boolean {
    return this.gradFn === null;
  }
  /** Whether the tensor is on device `meta`: it has a shape and a dtype, but no memory. */
  get isMeta(): boolean {
    return this.storage.handle === META;
  }
  /** Whether the elements lie in row-major order without gaps. */
  get isContiguous(): boolean {
    return isContiguous(this.shape, this.strides);
  }
  /** Bytes of the elements; the storage of a view may be larger. */
  get nbytes(): number {
    return this.numel * dtypeSize[this.dtype];
  }
  /** Made in inferenceMode. */
  get inference(): boolean {
    return this.storage.inference;
  }
  /** Whether the memory was given back; using the tensor then throws DisposedError. */
  get disposed(): boolean {
    return !this.storage.alive;
  }

  /** Whether backward brings a gradient here. */
  get requiresGrad(): boolean {
    return this.gradFn !== null || this.wantsGrad || this.castOf?.requiresGrad === true;
  }
  /**
   * Makes a leaf gather a gradient, or not.
   * @throws AutogradError for false on what was computed (`detach()` gives it without the graph); DTypeError for true on whole numbers
   */
  set requiresGrad(on: boolean) {
    if (this.gradFn !== null) {
      if (!on) throw new AutogradError('requiresGrad: only a leaf can stop requiring a gradient; use detach()');
      return;
    }
    if (on && !this.dtype.includes('float')) {
      throw new DTypeError(`requiresGrad: only floating-point tensors have gradients, this one is ${this.dtype}`);
    }
    this.wantsGrad = on;
  }

  /**
   * The dtype of a leaf's gradient. Null, as it begins: the first one stays as it comes, and what is added to one of 16 bits is added in
   * float32, so `.grad` is float32 from the second contribution on. A dtype: always that one; `bfloat16` keeps all sums in 16 bits, `float32`
   * begins in 32. Views, copies and results do not inherit it.
   */
  get gradDType(): DType | null {
    return this.gradDType_;
  }
  /**
   * Of a leaf alone.
   * @throws DTypeError for what is no floating-point dtype of at least 16 bits; AutogradError for a tensor that is no leaf
   */
  set gradDType(dtype: DType | null) {
    if (this.gradFn !== null) throw new AutogradError('gradDType: only leaves accumulate gradients, and this tensor was computed; set it on the leaf');
    if (dtype !== null && (!isFloating(checkDType(dtype, 'gradDType')) || dtypeSize[dtype] < 2))
      throw new DTypeError(`gradDType: gradients are float16, bfloat16, float32 or float64, got ${dtype}`);
    this.gradDType_ = dtype;
  }

  /**
   * Size of one dimension, negative counting from the end, or the shape.
   * @throws ShapeError for a dimension that the tensor does not have
   */
  size(): Shape;
  size(dim: number): number;
  size(dim?: number): number | Shape {
    if (dim === undefined) return this.shape;
    if (typeof dim !== 'number') throw new ShapeError(`size: a dimension is a whole number, got ${describe(dim)}`);
    const size = this.shape[dim < 0 ? dim + this.ndim : dim];
    if (size === undefined) throw new ShapeError(`size: dimension ${dim} is out of range of ${showShape(this.shape)}`);
    return size;
  }

  /** The same data outside every graph. Shares storage; an in-place change of either is seen by both. */
  detach(): Tensor {
    const t = new Tensor(this.storage, this.shape, this.strides, this.offset, this.dtype);
    t.isView = this.isView;
    t.epoch = this.epoch;
    return t;
  }

  /** Keeps the gradient of a non-leaf in `.grad` after backward. Throws AutogradError where no gradient will come. */
  retainGrad(): this {
    if (!this.requiresGrad) throw new AutogradError('retainGrad: the tensor does not require a gradient');
    this.gradFn?.retain(this.outputIndex, this);
    return this;
  }

  /** Calls `hook` with each gradient that reaches this tensor; a returned tensor replaces it. Returns the remover. */
  registerHook(hook: GradHook): () => void {
    if (!this.requiresGrad) throw new AutogradError('registerHook: the tensor does not require a gradient');
    this.hooks ??= [];
    // hooks of a non-leaf belong to the node, which outlives this object
    if (this.gradFn) return this.gradFn.addHook(this.outputIndex, hook);
    this.hooks.push(hook);
    return () => {
      this.hooks = this.hooks!.filter((h) => h !== hook);
    };
  }

  /** Calls `hook` with this leaf once a backward, when its gradient is complete. Returns the remover. */
  registerPostAccumulateGradHook(hook: (leaf: Tensor) => void): () => void {
    if (!this.isLeaf || !this.requiresGrad) throw new AutogradError('registerPostAccumulateGradHook: not a leaf that requires a gradient');
    this.accumulateHooks ??= [];
    this.accumulateHooks.push(hook);
    return () => {
      this.accumulateHooks = this.accumulateHooks!.filter((h) => h !== hook);
    };
  }

  /**
   * Gives the memory back now. Views share it and end with it; a graph that saved the contents keeps them until backward. A gradient of
   * data parallelism, which lies in a bucket with others, ends alone: the bucket is used again.
   */
  dispose(): void {
    if (this.isView && this.storage.divided) Object.assign(this, { storage: nothingOf(this.storage) });
    else this.storage.release(null);
  }
  /** For `using` declarations: `dispose()`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Takes the tensor out of the scope that made it, so that it lives on. Returns it. */
  keep(): this {
    takeOut(this.storage);
    return this;
  }

  // ---- reading: the only places that wait for the device

  /**
   * The one element as a number, without blocking the event loop. Faults of earlier kernels reject here.
   * @throws ShapeError unless there is exactly one; DTypeError for an int64 beyond 2^53
   */
  async item(): Promise<number> {
    return await readItem(this);
  }
  /** The one element as a number; blocks until it is there. Throws ShapeError unless there is exactly one. */
  itemSync(): number {
    return readItemSync(this);
  }

  /**
   * The elements in row-major order: Float32Array for 16-bit floats, BigInt64Array for int64.
   * @param options.raw the bits as they are stored: Uint16Array for 16-bit floats, Uint8Array for 8-bit ones
   */
  async toTypedArray(options: { raw?: boolean } = {}): Promise<TypedArray> {
    return decode(await readBytes(this, 'toTypedArray'), this.dtype, options?.raw ?? false);
  }
  /** As toTypedArray, blocking until the elements are there. */
  toTypedArraySync(options: { raw?: boolean } = {}): TypedArray {
    return decode(readBytesSync(this, 'toTypedArraySync'), this.dtype, options?.raw ?? false);
  }

  /** Nested arrays of numbers (booleans for bool). Throws for int64 beyond 2^53. */
  async toArray(): Promise<NestedArray> {
    return nest(await this.toTypedArray(), this.shape, this.dtype);
  }
  /** As toArray, blocking until the elements are there. */
  toArraySync(): NestedArray {
    return nest(this.toTypedArraySync(), this.shape, this.dtype);
  }

  /** Shape, dtype, device and whether it is in a graph, in one line; the values are not read. */
  toString(): string {
    const grad = this.gradFn ? `, gradFn=${this.gradFn.op}` : this.requiresGrad ? ', requiresGrad' : '';
    return `Tensor(${showShape(this.shape)} ${this.dtype} ${this.device}${grad}${this.disposed ? ', disposed' : ''})`;
  }
  /** As text, so that `loss ${x}` says what x is. JavaScript's arithmetic and comparisons, which would see NaN, are refused: `x.mul(2)`, `x.gt(0)`. */
  [Symbol.toPrimitive](hint: string): string {
    if (hint === 'number')
      throw new ValueError('operators of JavaScript do not work on tensors; use methods, as x.mul(y), x.lt(0), or read a number with item()');
    return this.toString();
  }
  [Symbol.for('nodejs.util.inspect.custom')](): string {
    return this.toString();
  }
  /** Prints the values (waits for them). */
  async print(): Promise<void> {
    console.log(`${this.toString()}\n${JSON.stringify(await this.toArray())}`);
  }
}

/** A Tensor over all of a storage. */
export function wrap(storage: Storage, shape: Shape, dtype: DType): Tensor {
  return new Tensor(storage, shape, contiguousStrides(shape), 0, dtype);
}
