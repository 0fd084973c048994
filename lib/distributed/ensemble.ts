// Ensemble: the collectives that data-parallel code makes, and who takes part in them with data. Inside a join, when some ranks have
// none left, each collective is announced first by a tiny one, so that those ranks can contribute nothing to it in the right
// place: they need to know neither the model nor its step. Outside of that tail a call costs nothing more than the group's own.
import { fromTypedArray, full, zeros } from '../create.js';
import type { Device } from '../device.js';
import { type DType, dtypeCode } from '../dtype.js';
import { InternalError } from '../errors.js';
import type { Tensor } from '../tensor.js';
import type { CallOptions, ReduceOptions } from './group_options.js';
import type { ProcessGroup } from './process_group.js';
import type { Backend } from './transport.js';
import type { Work } from './work.js';

/** What ranks without data are told: the kind of call, then its dtype, elements, reduction and root. */
const Call = { allReduce: 1, broadcast: 2, allGather: 3, stepEnds: 4, allToAll: 5, allGatherActive: 6 } as const;
const FIELDS = 5;
const REDUCTIONS = ['sum', 'avg', 'min', 'max', 'product', 'premulSum'] as const;
/** What changes nothing: a sum by zeros, a minimum by infinities. */
const NEUTRAL: Record<(typeof REDUCTIONS)[number], number> = {
  sum: 0,
  avg: 0,
  min: Number.POSITIVE_INFINITY,
  max: Number.NEGATIVE_INFINITY,
  product: 1,
  premulSum: 0,
};
const dtypeOf = (code: number): DType => (Object.keys(dtypeCode) as DType[]).find((name) => dtypeCode[name] === code)!;

const ensembles = new WeakMap<ProcessGroup, Ensemble>();

/** The collectives that hooks use, in place of the group's own: inside `join` they also work while some ranks have no data left. */
export class Ensemble {
  /** Ranks that have data, in order. */
  private players: readonly number[];
  /** Whose values are everybody's: in a join, as in PyTorch, the highest rank that has data. */
  private source = 0;

  /** @internal */
  private constructor(
    /** The group itself. */
    readonly group: ProcessGroup,
  ) {
    this.players = Array.from({ length: group.size }, (_, r) => r);
  }

  /** The one of a group: a join is seen by all who communicate in it. @internal */
  static of(group: ProcessGroup): Ensemble {
    let found = ensembles.get(group);
    if (!found) {
      found = new Ensemble(group);
      ensembles.set(group, found);
    }
    return found;
  }

  /** This rank in the group. */
  get rank(): number {
    return this.group.rank;
  }
  /** Ranks of the group, with and without data. */
  get size(): number {
    return this.group.size;
  }
  /** Where this rank computes. */
  get device(): Device {
    return this.group.device;
  }
  /** What moves the tensors. */
  get backend(): Backend {
    return this.group.backend;
  }
  /** Ranks that take part with data: all of them outside a join. */
  get active(): readonly number[] {
    return this.players;
  }
  private get tail(): boolean {
    return this.players.length < this.group.size;
  }

  /** As the group's; floating-point dtypes alone for min and max. */
  allReduce(x: Tensor, options: ReduceOptions = {}): Work<Tensor> {
    const { op = 'sum' } = options;
    this.announce(Call.allReduce, x, REDUCTIONS.indexOf(typeof op === 'object' ? 'premulSum' : op));
    return this.group.allReduce(x, options);
  }
  /** As the group's, from rank 0; inside a join from the highest rank that has data. */
  broadcast(x: Tensor, options: CallOptions = {}): Work<Tensor> {
    const src = this.source;
    this.announce(Call.broadcast, x, 0, src);
    return this.group.broadcast(x, { ...options, src });
  }
  /** As the group's; ranks without data give zeros. */
  allGather(x: Tensor, options: CallOptions = {}): Work<Tensor> {
    this.announce(Call.allGather, x);
    return this.group.allGather(x, options);
  }
  /** As the group's, among the ranks with data alone: `x`, of one dimension, has as many equal parts as there are of these. */
  allToAll(x: Tensor, options: CallOptions = {}): Work<Tensor> {
    this.announce(Call.allToAll, x);
    const rows = this.rowsOf(x.numel / this.players.length);
    return this.group.allToAll(x, { ...options, send: rows, receive: rows });
  }
  /** As the group's, of the ranks with data alone: `x` has one dimension. */
  allGatherActive(x: Tensor, options: CallOptions = {}): Work<Tensor> {
    this.announce(Call.allGatherActive, x);
    return this.group.allGather(x, { ...options, rows: this.rowsOf(x.numel) });
  }
  /** As the group's: zeros in memory that the ranks share. */
  sharedZeros(shape: readonly number[], dtype: DType): Tensor {
    return this.group.sharedZeros(shape, { dtype });
  }

  // ---- for join

  /** Every rank says whether it has a batch; the ranks that do. Waits for all. @internal */
  async meet(present: boolean): Promise<readonly number[]> {
    const mine = new Uint8Array(this.size);
    mine[this.rank] = Number(present);
    const all = await this.exchange(mine);
    this.players = Array.from(all.keys()).filter((r) => all[r] !== 0);
    this.source = this.players.at(-1) ?? this.source;
    return this.players;
  }

  /** Tells the ranks that shadow this step that it is over. @internal */
  endStep(): void {
    if (this.tail) this.announce(Call.stepEnds, null);
  }

  /** Takes part, without data, in what the others call until they end their step. @internal */
  async shadowStep(): Promise<void> {
    for (;;) {
      const [kind, dtype, numel, op, src] = await this.exchange(new Float64Array(FIELDS));
      if (kind === Call.stepEnds) return;
      this.shadow(kind!, dtypeOf(dtype!), numel!, REDUCTIONS[op!]!, src!);
    }
  }

  /** After the join, whichever way it ended. @internal */
  everybody(): void {
    this.players = Array.from({ length: this.size }, (_, r) => r);
    this.source = 0;
  }

  private shadow(kind: number, dtype: DType, numel: number, op: (typeof REDUCTIONS)[number], src: number): void {
    const { group, device } = this;
    if (kind === Call.allReduce) {
      const x = full([numel], NEUTRAL[op], { dtype, device });
      group.allReduce(x, { op: op === 'premulSum' ? { premulSum: 0 } : op });
      x.dispose();
    } else if (kind === Call.broadcast) {
      const x = zeros([numel], { dtype, device });
      group.broadcast(x, { src });
      x.dispose();
    } else if (kind === Call.allGather) {
      const x = zeros([numel], { dtype, device });
      group.allGather(x).wait().dispose();
      x.dispose();
    } else if (kind === Call.allToAll || kind === Call.allGatherActive) {
      const x = zeros([0], { dtype, device });
      const none = new Array<number>(group.size).fill(0);
      const work = kind === Call.allToAll ? group.allToAll(x, { send: none, receive: none }) : group.allGather(x, { rows: this.rowsOf(numel) });
      work.wait().dispose();
      x.dispose();
    } else throw new InternalError(`join: unknown announcement ${kind}`);
  }

  /** So many rows of each rank that has data. */
  private rowsOf(each: number): number[] {
    return Array.from({ length: this.size }, (_, r) => (this.players.includes(r) ? each : 0));
  }

  private announce(kind: number, x: Tensor | null, op = 0, src = 0): void {
    if (!this.tail) return;
    const fields = Float64Array.of(kind, x ? dtypeCode[x.dtype] : 0, x?.numel ?? 0, op, src);
    const sent = fromTypedArray(fields, undefined, { device: this.device });
    this.group.allReduce(sent, { op: 'max' });
    sent.dispose();
  }

  /** The elementwise maximum over all ranks, on the host. */
  private async exchange<A extends Uint8Array | Float64Array>(values: A): Promise<A> {
    const x = fromTypedArray(values, undefined, { device: this.device }).keep();
    try {
      await this.group.allReduce(x, { op: 'max' });
      return (await x.toTypedArray()) as A;
    } finally {
      x.dispose();
    }
  }
}
