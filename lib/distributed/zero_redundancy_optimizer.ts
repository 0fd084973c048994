// ZeRO-1: every rank has all parameters and gradients, and a piece of the optimizer state. An optimizer of this package updates the rank's rows of
// each parameter, which are views of it, and the rows of all ranks are gathered. (PyTorch's class of this name gives whole parameters
// to ranks instead, which one large embedding puts out of balance.)
import { noGrad } from '../autograd/modes.js';
import { empty } from '../create.js';
import { DeviceError, describe, ValueError } from '../errors.js';
import { scope } from '../memory.js';
import { copy_ } from '../ops/copy.js';
import { narrow, reshape } from '../ops/view.js';
import { clipGradNorm } from '../optim/clip.js';
import { Optimizer } from '../optim/optimizer.js';
import { originals } from '../optim/original.js';
import type { StepOptions } from '../optim/step_options.js';
import { numel } from '../shape.js';
import { Tensor } from '../tensor.js';
import { assign } from './buckets.js';
import { type CombinationOptions, combine } from './combinations.js';
import { DeviceMesh, type MeshAxis } from './device_mesh.js';
import { setLayout } from './distribute.js';
import { eachBlock } from './fully_shard_group.js';
import { Layout } from './layout.js';
import { layoutOf, placeOnStage, stagePlaceOf } from './layout_of.js';
import { Shard } from './placement.js';
import type { ProcessGroup } from './process_group.js';

/** Any optimizer. @inline */
// biome-ignore lint/suspicious/noExplicitAny: an optimizer of any options
type AnyOptimizer = Optimizer<any>;

/** Options of ZeroRedundancyOptimizer. */
export interface ZeroRedundancyOptions extends CombinationOptions {
  /** The ranks. */
  readonly mesh: DeviceMesh;
  /** Ranks along it have the same parameters, and share their optimizer state; `dpReplicate` unless given. */
  readonly axis?: MeshAxis;
  /** Bytes of a gather of parameters; 25 MiB. */
  readonly bucketBytes?: number;
}

interface Part {
  readonly name: string;
  readonly parameter: Tensor;
  /** Rows of the first rank; later ones may have fewer. */
  readonly rows: number;
  /** This rank's rows: what the optimizer sees. */
  readonly piece: Tensor;
}

/**
 * Shards the state of an optimizer over the ranks that data parallelism gives the same gradients:
 *
 * ```ts
 * const ddp = new DistributedDataParallel(model, { group: mesh.group('dpReplicate') });
 * const zero = new ZeroRedundancyOptimizer(ddp.parameters(), (pieces) => new optim.AdamW(pieces, { lr: 1e-3 }), { mesh });
 * const schedule = new optim.CosineWithWarmup(zero.optimizer, { warmup: 100, total: 2000 });
 * ```
 *
 * `zero.optimizer` is the optimizer of this rank's pieces: for schedules, and for sharded checkpoints, which find their layouts.
 */
export class ZeroRedundancyOptimizer<O extends AnyOptimizer = AnyOptimizer> {
  /** The optimizer of this rank's pieces. */
  readonly optimizer: O;
  private readonly parts: readonly Part[];
  private readonly buckets: readonly (readonly Part[])[];
  private readonly mesh: DeviceMesh;
  private readonly axis: MeshAxis;

  /**
   * @param make makes the optimizer of the pieces, which come in the order of the parameters; not LAMB, which needs whole ones
   * @throws ValueError for parameters that are cut over the axis already
   */
  constructor(parameters: Iterable<Tensor>, make: (pieces: Tensor[]) => O, options: ZeroRedundancyOptions) {
    const where = 'ZeroRedundancyOptimizer';
    const { mesh, axis = 'dpReplicate', bucketBytes = 25 << 20 } = options ?? {};
    if (!(mesh instanceof DeviceMesh)) throw new ValueError(`${where}: give the mesh as { mesh }, got ${describe(mesh)}`);
    if (parameters instanceof Tensor || typeof parameters?.[Symbol.iterator] !== 'function')
      throw new ValueError(`${where}: expected a list of parameters, got ${describe(parameters)}`);
    if (!(typeof bucketBytes === 'number' && bucketBytes > 0)) throw new ValueError(`${where}: bucketBytes must be positive, got ${describe(bucketBytes)}`);
    this.mesh = mesh;
    this.axis = axis;
    const whole = [...new Set(parameters)];
    this.parts = whole.map((p, i) => partOf(p, String(i), mesh, axis));
    combine(where, whole, ['zero1'], options);
    this.buckets = assign(this.parts, (p) => p.parameter.dtype, bucketBytes, bucketBytes);
    this.optimizer = make(this.parts.map((p) => p.piece));
    if (!(this.optimizer instanceof Optimizer)) throw new ValueError(`${where}: the function must return an optimizer, got ${describe(this.optimizer)}`);
  }

  /**
   * Updates this rank's pieces and gathers those of all. Nothing waits. With `maxNorm` the gradients of the pieces are clipped before, by the
   * norm of all. A `scaler` needs `{ group }`, since each rank looks at its own pieces.
   * @returns with maxNorm the norm before clipping (and after unscaling)
   */
  step(options: StepOptions = {}): Tensor | undefined {
    const { maxNorm, scaler } = options ?? {};
    for (const { parameter, piece, rows } of this.parts) {
      const { grad } = parameter;
      piece.grad = grad && noGrad(() => this.mine(grad.detach(), rows));
      if (piece.grad) piece.grad.absent = grad!.absent;
    }
    if (scaler && maxNorm !== undefined) scaler.unscale_(this.optimizer);
    const pieces = this.parts.map((p) => p.piece);
    const norm = maxNorm === undefined ? undefined : clipGradNorm(pieces, maxNorm);
    this.optimizer.step({ scaler });
    for (const piece of pieces) piece.grad = null;
    noGrad(() => this.gather());
    return norm;
  }

  /** Drops the gradients of the parameters and frees them. */
  zeroGrad(): void {
    for (const { parameter } of this.parts) {
      // a view of a larger buffer is not ours to free
      if (parameter.grad && !parameter.grad.isView) parameter.grad.dispose();
      parameter.grad = null;
    }
  }

  private mine(x: Tensor, rows: number): Tensor {
    return rowsOf(x, this.mesh.rank(this.axis), rows);
  }

  /** Every rank's rows to all: one bucket is copied while the next is on its way. */
  private gather(): void {
    const group = this.mesh.group(this.axis);
    if (group.size === 1) return;
    scope(() => {
      let before: (() => void) | null = null;
      for (const parts of this.buckets) {
        const finish = this.start(parts, group);
        before?.();
        before = finish;
      }
      before?.();
    });
  }

  private start(parts: readonly Part[], group: ProcessGroup): () => void {
    const each = parts.map(({ parameter, rows }) => rows * numel(parameter.shape.slice(1)));
    const length = each.reduce((a, b) => a + b, 0);
    const mine = empty([length], { dtype: parts[0]!.parameter.dtype, device: this.mesh.device });
    let at = 0;
    parts.forEach(({ piece }, i) => {
      if (piece.numel > 0) copy_(reshape(narrow(mine, 0, at, piece.numel), piece.shape), piece);
      at += each[i]!;
    });
    const work = group.allGather(mine, { label: 'of the updated parameters' });
    return () => {
      const all = work.wait();
      mine.dispose();
      const byRank = reshape(all, [group.size, length]);
      let from = 0;
      parts.forEach(({ parameter, rows }, i) => {
        const whole = parameter.detach();
        const tail = whole.shape.slice(1);
        eachBlock(whole.shape[0] ?? 1, rows, (rank, ranks, n) => {
          const source = narrow(narrow(byRank, 0, rank, ranks), 1, from, n * numel(tail));
          const target = whole.ndim === 0 ? whole : narrow(whole, 0, rank * rows, ranks * n);
          copy_(reshape(target, [ranks, n, ...tail]), reshape(source, [ranks, n, ...tail]));
        });
        from += each[i]!;
      });
      all.dispose();
    };
  }
}

/** The rows of one rank; of a number, a list of one. */
function rowsOf(x: Tensor, rank: number, rows: number): Tensor {
  const list = x.ndim === 0 ? reshape(x, [1]) : x;
  const begin = Math.min(list.shape[0]!, rank * rows);
  return narrow(list, 0, begin, Math.min(list.shape[0]! - begin, rows));
}

function partOf(parameter: unknown, name: string, mesh: DeviceMesh, axis: MeshAxis): Part {
  const where = 'ZeroRedundancyOptimizer';
  if (!(parameter instanceof Tensor)) throw new ValueError(`${where}: parameters must be tensors, got ${describe(parameter)}`);
  if (parameter.device !== mesh.device)
    throw new DeviceError(`${where}: a parameter of shape [${parameter.shape}] is on ${parameter.device}, the mesh on ${mesh.device}`);
  const shape = parameter.ndim === 0 ? [1] : parameter.shape;
  const layout = layoutOf(parameter) ?? new Layout(mesh, shape, {});
  if (layout.placement(axis).kind !== 'replicate')
    throw new ValueError(`${where}: the ranks along ${axis} have different pieces of a parameter already: ${layout}; nothing is left to shard`);
  const rows = Math.ceil(shape[0]! / mesh.size(axis));
  const piece = setLayout(rowsOf(parameter.detach(), mesh.rank(axis), rows), layout.with({ [axis]: Shard(0) }));
  const place = stagePlaceOf(parameter);
  if (place) placeOnStage(piece, place);
  originals.set(piece, parameter);
  return { name, parameter, rows, piece };
}
