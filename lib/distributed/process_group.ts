// ProcessGroup: ranks that communicate, seen from one of them. Every rank of a group calls the same operations in the same order;
// they run on the device's communication stream, after what was enqueued before them, and return at once.
import type { Device } from '../device.js';
import type { DType } from '../dtype.js';
import { DeviceError, DistributedError, describe, fromNative, ValueError } from '../errors.js';
import { native } from '../native.js';
import { clone } from '../ops/copy.js';
import { fresh, invoke } from '../ops/door.js';
import { checkInteger, numel, type Shape } from '../shape.js';
import { Tensor } from '../tensor.js';
import { type Call, type CallName, launch, merged, settling } from './call.js';
import type { CallOptions, GroupOptions, ReduceOptions } from './group_options.js';
import { placeOf } from './place.js';
import { reductionOf } from './reduce_op.js';
import { elementsOf, evenRows, flat, gatheredRows, shaped, sum } from './rows.js';
import { sharedZeros } from './shared_zeros.js';
import { type Part, partition } from './split.js';
import type { Backend, Transport } from './transport.js';
import { COMMUNICATION, Work } from './work.js';

/** Ranks that communicate, seen from one of them: `init`, `simulate`, `split` and meshes make it. Collectives return at once. */
export class ProcessGroup {
  /** For errors: `world`, or the part's. */
  readonly name: string;
  /** This rank, from 0. */
  readonly rank: number;
  /** How many ranks there are. */
  readonly size: number;
  /** Where this rank computes. */
  readonly device: Device;
  /** What moves the tensors. */
  readonly backend: Backend;
  /** Each rank's place in the world. */
  readonly worldRanks: readonly number[];
  /** Number of the native half. @internal */
  readonly id: number;
  private readonly timeoutMs: number;
  private readonly transport: Transport;
  private open = true;
  private parts = 0;
  /** What split has made of it. */
  private readonly children: ProcessGroup[] = [];
  private batch: Call[] | null = null;

  /** @internal */
  constructor(options: GroupOptions) {
    this.name = options.name;
    this.rank = options.rank;
    this.size = options.size;
    this.device = options.device;
    this.backend = options.backend;
    this.timeoutMs = options.timeoutMs;
    this.id = options.id;
    this.transport = options.transport;
    this.worldRanks = options.worldRanks.length > 0 ? [...options.worldRanks] : Array.from({ length: options.size }, (_, r) => r);
  }

  /**
   * A tensor of zeros in memory shared by the ranks: allReduce works in place on it, without a copy. Every rank makes its own; a
   * tensor, or a part at the same place of it, takes part in that way when all ranks pass such a one. On a GPU, in ordinary memory.
   */
  sharedZeros(shape: readonly number[], options: { dtype?: DType } = {}): Tensor {
    return sharedZeros(this, shape, options.dtype);
  }

  /** Reduces over all ranks; every rank's `x` becomes the result. */
  allReduce(x: Tensor, options: ReduceOptions = {}): Work<Tensor> {
    return this.inPlace('allReduce', x, reductionOf('allReduce', options.op, x), -1, options, placeOf(options, this.allReduce));
  }

  /** Reduces over all ranks into `x` of the rank `dst`; the others keep theirs. */
  reduce(x: Tensor, options: ReduceOptions & { dst?: number } = {}): Work<Tensor> {
    const dst = this.peer(options.dst ?? 0, 'dst', 'reduce');
    return this.inPlace('reduce', x, [...reductionOf('reduce', options.op, x), dst], dst, options, placeOf(options, this.reduce));
  }

  /** Every rank's `x` becomes that of the rank `src`. */
  broadcast(x: Tensor, options: CallOptions & { src?: number } = {}): Work<Tensor> {
    const src = this.peer(options.src ?? 0, 'src', 'broadcast');
    return this.inPlace('broadcast', x, [src], src, options, placeOf(options, this.broadcast));
  }

  /**
   * All ranks' tensors, one after another along dimension 0.
   * @param options.rows rows of each rank, where they differ; every rank gives the same list
   */
  allGather(x: Tensor, options: CallOptions & { rows?: readonly number[] } = {}): Work<Tensor> {
    const { shape, counts } = this.gathered('allGather', x, options.rows);
    const records = [flat(x), fresh([numel(shape)], x.dtype)];
    return this.start('allGather', records, counts, { dtype: x.dtype, count: numel(shape) }, options, placeOf(options, this.allGather), (made) =>
      shaped(made!, shape),
    );
  }

  /** As allGather, on the rank `dst` alone; the others get null. */
  gather(x: Tensor, options: CallOptions & { dst?: number; rows?: readonly number[] } = {}): Work<Tensor | null> {
    const dst = this.peer(options.dst ?? 0, 'dst', 'gather');
    const { shape, counts } = this.gathered('gather', x, options.rows);
    const records = [flat(x), this.rank === dst ? fresh([numel(shape)], x.dtype) : null];
    const what = { dtype: x.dtype, count: numel(shape), root: dst };
    return this.start('gather', records, [dst, ...counts], what, options, placeOf(options, this.gather), (made) => (made ? shaped(made, shape) : null));
  }

  /**
   * The rank `src` hands out its `x` by rows of dimension 0; the others pass null and say what they expect.
   * @param options.like shape and dtype of a part: needed where x is null
   */
  scatter(
    x: Tensor | null,
    options: CallOptions & { src?: number; rows?: readonly number[]; like?: { readonly shape: Shape; readonly dtype: Tensor['dtype'] } } = {},
  ): Work<Tensor> {
    const op = 'scatter';
    const src = this.peer(options.src ?? 0, 'src', op);
    if (this.rank === src) this.check(op, x);
    else if (!options.like) throw new ValueError(`${op}: a rank that is not the source gives { like: { shape, dtype } } of its part`);
    const { shape: full, dtype } = x ?? options.like!;
    const rows = options.rows ?? evenRows(op, x ? full[0]! : full[0]! * this.size, this.size);
    const counts = elementsOf(op, rows, full.slice(1), this.size);
    const shape = [rows[this.rank]!, ...full.slice(1)];
    const what = { dtype, count: sum(counts), root: src };
    const records = [x ? flat(x) : null, fresh([counts[this.rank]!], dtype)];
    return this.start(op, records, [src, ...counts], what, options, placeOf(options, this.scatter), (made) => shaped(made!, shape));
  }

  /** Reduces over all ranks; each keeps its rows of dimension 0 of the result. */
  reduceScatter(x: Tensor, options: ReduceOptions & { rows?: readonly number[] } = {}): Work<Tensor> {
    const op = 'reduceScatter';
    this.check(op, x);
    const rows = options.rows ?? evenRows(op, x.shape[0] ?? 0, this.size);
    const counts = elementsOf(op, rows, x.shape.slice(1), this.size);
    const shape = [rows[this.rank]!, ...x.shape.slice(1)];
    const numbers = [...reductionOf(op, options.op, x), ...counts];
    const records = [flat(x), fresh([counts[this.rank]!], x.dtype)];
    return this.start(op, records, numbers, { dtype: x.dtype, count: x.numel }, options, placeOf(options, this.reduceScatter), (made) => shaped(made!, shape));
  }

  /**
   * Rank i's r-th block of rows goes to rank r as its i-th block.
   * @param options.send rows for each rank; equal blocks unless given
   * @param options.receive rows from each rank; needed with `send`
   */
  allToAll(x: Tensor, options: CallOptions & { send?: readonly number[]; receive?: readonly number[] } = {}): Work<Tensor> {
    const op = 'allToAll';
    this.check(op, x);
    if (!options.send !== !options.receive) throw new ValueError(`${op}: give both send and receive, or neither`);
    const tail = x.shape.slice(1);
    const send = options.send ?? evenRows(op, x.shape[0] ?? 0, this.size);
    const receive = options.receive ?? send;
    const numbers = [...elementsOf(op, send, tail, this.size), ...elementsOf(op, receive, tail, this.size)];
    const shape = [sum(receive), ...tail];
    const records = [flat(x), fresh([numel(shape)], x.dtype)];
    return this.start(op, records, numbers, { dtype: x.dtype, count: x.numel }, options, placeOf(options, this.allToAll), (made) => shaped(made!, shape));
  }

  /** Sends to one rank, which calls recv with a tensor of the same dtype and number of elements. */
  send(x: Tensor, dst: number, options: CallOptions = {}): Work<Tensor> {
    this.check('send', x);
    const root = this.peer(dst, 'dst', 'send');
    return this.start('send', [flat(x)], [root, 1], { dtype: x.dtype, count: x.numel, root }, options, placeOf(options, this.send), () => x);
  }
  /** Receives into `x`. */
  recv(x: Tensor, src: number, options: CallOptions = {}): Work<Tensor> {
    const root = this.peer(src, 'src', 'recv');
    return this.inPlace('recv', x, [root, 0], root, options, placeOf(options, this.recv));
  }

  /** Done when every rank has come. */
  barrier(options: CallOptions = {}): Work<void> {
    return this.start('barrier', [], [], { dtype: 'uint8', count: 0 }, options, placeOf(options, this.barrier), () => undefined);
  }

  /**
   * Starts what `fn` calls on this group together: messages between pairs of ranks go both ways at once, whatever order they are
   * called in, and small all-reduces or broadcasts of one kind become one. What the calls return can be waited for as soon as `coalesce` has returned.
   */
  coalesce<T>(fn: () => T): T {
    if (this.batch) throw new ValueError('coalesce: it is already under way on this group');
    const batch: Call[] = [];
    this.batch = batch;
    let result: T;
    try {
      result = fn();
    } finally {
      this.batch = null;
    }
    if (result instanceof Promise) throw new ValueError('coalesce: the function must not be asynchronous');
    for (const call of merged(batch, this.device)) launch(this.id, this.device, call);
    return result;
  }

  /**
   * Cuts the group up: ranks that give the same colour form a group, ordered by `key`, then by their rank here. All ranks must call
   * it, also those that give null and belong to none. (As MPI_Comm_split.)
   * @param color a whole number from 0, or null
   * @param options.key this rank's place among those of its colour; its rank here unless given
   * @param options.name for errors; made of this group's name and the colour unless given
   */
  async split(color: number | null, options: { key?: number; name?: string; timeoutMs?: number } = {}): Promise<ProcessGroup | null> {
    const part: Part | null = await partition(this, color, options.key ?? this.rank);
    const name = options.name ?? `${this.name}.${this.parts++}/${color}`;
    const timeoutMs = checkInteger(options.timeoutMs ?? this.timeoutMs, 'timeoutMs', 'split', 1);
    const worldRanks = part && Int32Array.from(part.members, (r) => this.worldRanks[r]!);
    const membership = part && { name, rank: part.rank, size: part.members.length, timeoutMs, parent: this.id, recorder: '', worldRanks: worldRanks! };
    const id = await this.transport.join(this, membership);
    if (!membership) return null;
    const made = new ProcessGroup({ ...membership, device: this.device, backend: this.backend, id, transport: this.transport });
    this.children.push(made);
    return made;
  }

  /** Tells that every rank has joined: what they found it by loses its name, so that nothing is left behind whatever happens. @internal */
  seal(): void {
    native.sealGroup(this.id);
  }

  /** Ends every wait of every rank with a DistributedError that gives the reason. */
  abort(reason: string): void {
    if (this.open) native.abortGroup(this.id, reason);
  }
  /** The same in the parts that this rank belongs to. @internal */
  abortParts(reason: string): void {
    for (const part of this.children) {
      part.abort(reason);
      part.abortParts(reason);
    }
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
    if (rank === this.rank && (op === 'send' || op === 'recv')) throw new ValueError(`${op}: rank ${rank} is this rank itself`);
    return checkInteger(rank, name, op, 0, this.size - 1);
  }

  private gathered(op: string, x: Tensor, given: readonly number[] | undefined): { shape: number[]; counts: number[] } {
    this.check(op, x);
    return gatheredRows(op, x, given, this.size, this.rank);
  }

  /** Collectives that overwrite x. One that is not contiguous is worked on as a copy and written back. */
  private inPlace(
    name: 'allReduce' | 'reduce' | 'broadcast' | 'recv',
    x: Tensor,
    numbers: readonly number[],
    root: number,
    options: CallOptions,
    place: number,
  ): Work<Tensor> {
    this.check(name, x);
    const dense = x.isContiguous ? x.detach() : clone(x.detach());
    return this.start(name, [dense.reshape([x.numel])], numbers, { dtype: x.dtype, count: x.numel, root }, options, place, () => {
      if (dense.storage !== x.storage) {
        invoke('copy', this.device, [dense, x.detach()], [], COMMUNICATION);
        dense.dispose();
      }
      x.storage.wrote(name);
      return x;
    });
  }

  private start<T>(
    name: CallName,
    records: Call['records'],
    numbers: readonly number[],
    what: { dtype: DType; count: number; root?: number },
    { timeoutMs = 0 }: CallOptions,
    place: number,
    result: (made: Tensor | undefined) => T,
  ): Work<T> {
    if (!this.open) throw new DistributedError(`${name}: process group ${this.name} was closed`);
    if (timeoutMs !== 0) checkInteger(timeoutMs, 'timeoutMs', name, 1);
    const work = new Work<T>(this.device);
    const call: Call = { name, records, numbers, root: -1, ...what, place, timeoutMs, enqueued: settling(work, result) };
    if (this.batch) this.batch.push(call);
    else launch(this.id, this.device, call);
    return work;
  }
}
