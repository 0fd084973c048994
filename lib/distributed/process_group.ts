// ProcessGroup: ranks that communicate, seen from one of them. Every rank of a group calls the same operations in the same order;
// they run on the device's communication stream, after what was enqueued before them, and return at once.
import { context } from '../context.js';
import type { Device } from '../device.js';
import { checkDType, type DType, dtypeSize } from '../dtype.js';
import { DeviceError, DistributedError, describe, fromNative, ShapeError, ValueError } from '../errors.js';
import { native } from '../native.js';
import { clone } from '../ops/copy.js';
import { type Fresh, fresh, invoke } from '../ops/door.js';
import { checkInteger, checkNumber, checkShape, numel, type Shape, showShape } from '../shape.js';
import { born } from '../storage.js';
import { Tensor, wrap } from '../tensor.js';
import { COMMUNICATION, COMPUTE, Work } from './work.js';

/** How contributions become one. Sums run in rank order and in float32 for 16-bit floats, so results are equal on every rank and from run to run. */
export type ReduceOp = 'sum' | 'avg' | 'min' | 'max' | 'product' | { readonly premulSum: number };
const REDUCTIONS = ['sum', 'avg', 'min', 'max', 'product'] as const;
const PREMUL_SUM = 5;

export interface GroupOptions {
  /** For error texts. */
  readonly name: string;
  readonly rank: number;
  readonly size: number;
  readonly device: Device;
  /** Name of the shared memory of this group; random, the same on every rank. Rank 0 must join first. */
  readonly segment: string;
  /** After this long a rank that does not come is an error. Default 10 minutes. */
  readonly timeoutMs?: number;
}

export class ProcessGroup {
  readonly name: string;
  readonly rank: number;
  readonly size: number;
  readonly device: Device;
  private readonly id: number;
  private open = true;

  /** Joins; waits for nobody. */
  constructor(options: GroupOptions) {
    const { name, rank, size, device, segment, timeoutMs = 600_000 } = options;
    this.name = name;
    this.rank = rank;
    this.size = size;
    this.device = device;
    if (device.type !== 'cpu') throw new DeviceError(`ProcessGroup: groups over shared memory are for cpu devices, got ${device}`);
    try {
      void device.slot; // opens it
      this.id = native.joinGroup(name, segment, rank, size, checkInteger(timeoutMs, 'timeoutMs', 'ProcessGroup', 1));
    } catch (error) {
      throw fromNative(error);
    }
  }

  /** Tells that every rank has joined: the shared memory loses its name, so that nothing is left behind whatever happens. */
  seal(): void {
    native.sealGroup(this.id);
  }

  /**
   * A tensor of zeros in memory shared by the ranks: allReduce works in place on it, without a copy. Every rank makes its own; a
   * tensor, or a part at the same place of it, takes part in that way when all ranks pass such a one.
   */
  sharedZeros(shape: readonly number[], options: { dtype?: DType } = {}): Tensor {
    const dtype = checkDType(options.dtype ?? 'float32', 'sharedZeros');
    const sizes = checkShape(shape, 'sharedZeros');
    const bytes = numel(sizes) * dtypeSize[dtype];
    try {
      return wrap(born(native.shareMemory(this.id, this.device.slot, bytes), this.device, bytes, context().scope), sizes, dtype);
    } catch (error) {
      throw fromNative(error);
    }
  }

  /** Reduces over all ranks; every rank's `x` becomes the result. */
  allReduce(x: Tensor, options: { op?: ReduceOp } = {}): Work<Tensor> {
    return this.inPlace('allReduce', x, reduction('allReduce', options.op));
  }

  /** Reduces over all ranks into `x` of the rank `dst`; the others keep theirs. */
  reduce(x: Tensor, options: { dst?: number; op?: ReduceOp } = {}): Work<Tensor> {
    return this.inPlace('reduceTo', x, [...reduction('reduce', options.op), this.peer(options.dst ?? 0, 'dst', 'reduce')]);
  }

  /** Every rank's `x` becomes that of the rank `src`. */
  broadcast(x: Tensor, options: { src?: number } = {}): Work<Tensor> {
    return this.inPlace('broadcastFrom', x, [this.peer(options.src ?? 0, 'src', 'broadcast')]);
  }

  /**
   * All ranks' tensors, one after another along dimension 0.
   * @param options.rows rows of each rank, where they differ; every rank gives the same list
   */
  allGather(x: Tensor, options: { rows?: readonly number[] } = {}): Work<Tensor> {
    const rows = this.rowsOf('allGather', x, options.rows);
    return this.collect('allGather', x, rows.shape, rows.counts, []);
  }

  /** As allGather, on the rank `dst` alone; the others get null. */
  gather(x: Tensor, options: { dst?: number; rows?: readonly number[] } = {}): Work<Tensor | null> {
    const dst = this.peer(options.dst ?? 0, 'dst', 'gather');
    const rows = this.rowsOf('gather', x, options.rows);
    return this.collect('gatherTo', x, this.rank === dst ? rows.shape : null, rows.counts, [dst]);
  }

  /**
   * The rank `src` hands out its `x` by rows of dimension 0; the others pass null and say what they expect.
   * @param options.like shape and dtype of a part: needed where x is null
   */
  scatter(
    x: Tensor | null,
    options: { src?: number; rows?: readonly number[]; like?: { readonly shape: Shape; readonly dtype: Tensor['dtype'] } } = {},
  ): Work<Tensor> {
    const op = 'scatter';
    const src = this.peer(options.src ?? 0, 'src', op);
    if (this.rank === src) this.check(op, x);
    else if (!options.like) throw new ValueError(`${op}: a rank that is not the source gives { like: { shape, dtype } } of its part`);
    const tail = x ? x.shape.slice(1) : options.like!.shape.slice(1);
    const rows = options.rows ?? this.evenRows(op, x ? x.shape[0]! : options.like!.shape[0]! * this.size);
    const counts = this.countsOf(op, rows, tail);
    const shape = [rows[this.rank]!, ...tail];
    return this.start('scatterFrom', [x ? flat(x) : null, fresh([counts[this.rank]!], x ? x.dtype : options.like!.dtype)], [src, ...counts], (made) =>
      shaped(made!, shape),
    );
  }

  /** Reduces over all ranks; each keeps its rows of dimension 0 of the result. */
  reduceScatter(x: Tensor, options: { op?: ReduceOp; rows?: readonly number[] } = {}): Work<Tensor> {
    const op = 'reduceScatter';
    this.check(op, x);
    const rows = options.rows ?? this.evenRows(op, x.shape[0] ?? 0);
    const counts = this.countsOf(op, rows, x.shape.slice(1));
    const shape = [rows[this.rank]!, ...x.shape.slice(1)];
    return this.start('reduceScatter', [flat(x), fresh([counts[this.rank]!], x.dtype)], [...reduction(op, options.op), ...counts], (made) =>
      shaped(made!, shape),
    );
  }

  /**
   * Rank i's r-th block of rows goes to rank r as its i-th block.
   * @param options.send rows for each rank; equal blocks unless given
   * @param options.receive rows from each rank; needed with `send`
   */
  allToAll(x: Tensor, options: { send?: readonly number[]; receive?: readonly number[] } = {}): Work<Tensor> {
    const op = 'allToAll';
    this.check(op, x);
    if (!options.send !== !options.receive) throw new ValueError(`${op}: give both send and receive, or neither`);
    const tail = x.shape.slice(1);
    const send = options.send ?? this.evenRows(op, x.shape[0] ?? 0);
    const receive = options.receive ?? send;
    const counts = [...this.countsOf(op, send, tail), ...this.countsOf(op, receive, tail)];
    const rows = receive.reduce((a, b) => a + b, 0);
    return this.start(op, [flat(x), fresh([rows * numel(tail)], x.dtype)], counts, (made) => shaped(made!, [rows, ...tail]));
  }

  /** Sends to one rank, which calls recv with a tensor of the same dtype and number of elements. */
  send(x: Tensor, dst: number): Work<Tensor> {
    this.check('send', x);
    return this.start('sendTo', [flat(x)], [this.peer(dst, 'dst', 'send')], () => x);
  }
  /** Receives into `x`. */
  recv(x: Tensor, src: number): Work<Tensor> {
    return this.inPlace('receiveFrom', x, [this.peer(src, 'src', 'recv')]);
  }

  /** Done when every rank has come. */
  barrier(): Work<void> {
    return this.start('barrier', [], [], () => undefined);
  }

  /** Ends every wait of every rank with a DistributedError that gives the reason. */
  abort(reason: string): void {
    native.abortGroup(this.id, reason);
  }

  /** Waits for what was started and leaves. Collectives of other ranks that still expect this one fail. */
  async close(): Promise<void> {
    if (!this.open) return;
    this.open = false;
    try {
      await native.streamDone(this.device.slot, COMMUNICATION);
    } catch (error) {
      throw fromNative(error);
    } finally {
      native.leaveGroup(this.id);
    }
  }

  private check(op: string, x: unknown): asserts x is Tensor {
    if (!(x instanceof Tensor)) throw new ValueError(`${op}: expected a tensor, got ${describe(x)}`);
    if (x.device !== this.device) throw new DeviceError(`${op}: the tensor is on ${x.device}, rank ${this.rank} of ${this.name} is on ${this.device}`);
  }

  private peer(rank: number, name: string, op: string): number {
    return checkInteger(rank, name, op, 0, this.size - 1);
  }

  private evenRows(op: string, rows: number): readonly number[] {
    if (rows % this.size !== 0) throw new ShapeError(`${op}: ${rows} rows are not a multiple of ${this.size} ranks; give the rows of each`);
    return new Array<number>(this.size).fill(rows / this.size);
  }

  private countsOf(op: string, rows: readonly number[], tail: Shape): number[] {
    if (!Array.isArray(rows) || rows.length !== this.size) {
      throw new ShapeError(`${op}: expected the rows of each of ${this.size} ranks, got ${Array.isArray(rows) ? showShape(rows) : describe(rows)}`);
    }
    return rows.map((r) => checkInteger(r, 'a number of rows', op, 0) * numel(tail));
  }

  private rowsOf(op: string, x: Tensor, given: readonly number[] | undefined): { shape: number[]; counts: number[] } {
    this.check(op, x);
    if (x.ndim === 0) throw new ShapeError(`${op}: expected at least one dimension, got []; use reshape([1])`);
    const tail = x.shape.slice(1);
    const rows = given ?? new Array<number>(this.size).fill(x.shape[0]!);
    const counts = this.countsOf(op, rows, tail);
    if (rows[this.rank] !== x.shape[0])
      throw new ShapeError(`${op}: the rows say ${rows[this.rank]} for rank ${this.rank}, the tensor is ${showShape(x.shape)}`);
    return { shape: [rows.reduce((a, b) => a + b, 0), ...tail], counts };
  }

  private collect<T extends Tensor | null>(
    op: 'allGather' | 'gatherTo',
    x: Tensor,
    shape: readonly number[] | null,
    counts: readonly number[],
    numbers: readonly number[],
  ): Work<T> {
    return this.start(
      op,
      [flat(x), shape ? fresh([numel(shape)], x.dtype) : null],
      [...numbers, ...counts],
      (made) => (shape ? shaped(made!, shape) : null) as T,
    );
  }

  /** Collectives that overwrite x. One that is not contiguous is worked on as a copy and written back. */
  private inPlace(op: 'allReduce' | 'reduceTo' | 'broadcastFrom' | 'receiveFrom', x: Tensor, numbers: readonly number[]): Work<Tensor> {
    this.check(op, x);
    const dense = x.isContiguous ? x.detach() : clone(x.detach());
    return this.start(op, [dense.reshape([x.numel])], numbers, () => {
      if (dense.storage !== x.storage) {
        invoke('copy', this.device, [dense, x.detach()], [], COMMUNICATION);
        dense.dispose();
      }
      x.storage.wrote(op);
      return x;
    });
  }

  private start<T>(
    op: Parameters<typeof invoke>[0],
    records: readonly (Tensor | Fresh | null)[],
    numbers: readonly number[],
    result: (made: Tensor | undefined) => T,
  ): Work<T> {
    if (!this.open) throw new DistributedError(`${op}: process group ${this.name} was closed`);
    const { slot } = this.device;
    try {
      native.waitEvent(slot, COMMUNICATION, slot, COMPUTE, native.recordEvent(slot, COMPUTE));
      const made = invoke(op, this.device, records, [this.id, ...numbers], COMMUNICATION);
      const value = result(made[0]);
      return new Work(this.device, native.recordEvent(slot, COMMUNICATION), value);
    } catch (error) {
      throw fromNative(error);
    }
  }
}

/** The elements in row-major order, as collectives take them. */
function flat(x: Tensor): Tensor {
  return x.detach().contiguous().reshape([x.numel]);
}

function shaped(made: Tensor, shape: Shape): Tensor {
  return wrap(made.storage, shape, made.dtype);
}

function reduction(op: string, given: ReduceOp = 'sum'): [number, number] {
  if (typeof given === 'object' && given !== null && 'premulSum' in given) return [PREMUL_SUM, checkNumber(given.premulSum, 'premulSum', op)];
  const code = REDUCTIONS.indexOf(given as (typeof REDUCTIONS)[number]);
  if (code < 0) throw new ValueError(`${op}: op must be one of ${REDUCTIONS.join(', ')} or { premulSum: factor }, got ${describe(given)}`);
  return [code, 1];
}
