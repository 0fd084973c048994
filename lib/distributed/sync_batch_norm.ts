// SyncBatchNorm: batch normalisation by the statistics of all ranks' batches together. One collective forward, of each rank's count, mean
// and squared deviations, which join without cancellation (Chan et al., 1983), and one backward, of the sums that every element's
// gradient depends on. Counts stay on the device: ranks may have batches of different sizes, or empty ones, and nobody waits.
import { defineFunction, type FunctionContext } from '../autograd/function.js';
import { full, zeros } from '../create.js';
import { describe, ValueError } from '../errors.js';
import { BatchNorm, type BatchNormOptions } from '../nn/batch_norm.js';
import { Module } from '../nn/module.js';
import { copy_, to } from '../ops/copy.js';
import { fresh, invoke, like } from '../ops/door.js';
import { wideType } from '../ops/matmul.js';
import { batchNorm } from '../ops/norm.js';
import { cat } from '../ops/pieces.js';
import type { Tensor } from '../tensor.js';
import { takers } from './combinations.js';
import { DeviceMesh, type MeshAxis } from './device_mesh.js';
import { Ensemble } from './ensemble.js';
import { ProcessGroup } from './process_group.js';

/** Along which ranks have different data. */
const DATA_AXES = ['dpReplicate', 'dpShard', 'cp'] as const satisfies readonly MeshAxis[];

/** As BatchNormOptions, with the ranks. */
export interface SyncBatchNormOptions extends BatchNormOptions {
  /** The ranks whose batches are one. */
  group: ProcessGroup;
}

/** Per-channel statistics of all ranks. */
interface Statistics {
  readonly mean: Tensor;
  readonly variance: Tensor;
  /** With n − 1, for the running variance. */
  readonly unbiased: Tensor;
  /** Values per channel, [1]. */
  readonly count: Tensor;
}

/** Batch normalisation of [N, C, …] over a group of ranks: what one rank with all their batches would do. In evaluation, BatchNorm. */
export class SyncBatchNorm extends BatchNorm {
  protected override readonly dims = [2, 3, 4, 5];
  /** The ranks whose batches are one. */
  readonly group!: ProcessGroup;

  constructor(numFeatures: number, options: SyncBatchNormOptions) {
    const { group, ...rest } = options ?? {};
    super(numFeatures, rest);
    if (!(group instanceof ProcessGroup)) throw new ValueError(`SyncBatchNorm: give the process group as { group }, got ${describe(group)}`);
    Object.defineProperty(this, 'group', { value: group, enumerable: false });
  }

  /**
   * Replaces every batch normalisation of a module by this one; parameters, buffers and modes stay the same objects. Returns the module,
   * or what replaces it where it is one itself.
   * @param over the ranks whose batches are one; of a mesh, all that have data of their own
   * @throws ValueError after fullyShard, which has wrapped what would be replaced
   */
  static convert<M extends Module>(module: M, over: ProcessGroup | DeviceMesh): M | SyncBatchNorm {
    const where = 'SyncBatchNorm.convert';
    if (!(module instanceof Module)) throw new ValueError(`${where}: expected a module, got ${describe(module)}`);
    const group = over instanceof DeviceMesh ? over.group(...DATA_AXES.filter((axis) => over.axes.includes(axis))) : over;
    if (takers(module.modules().flatMap((m) => (m instanceof BatchNorm ? m.parameters() : []))).includes('fullyShard'))
      throw new ValueError(`${where}: fullyShard has taken the parameters already; convert before it`);
    const made = new Map<Module, SyncBatchNorm>();
    const converted = (m: Module): Module => {
      if (!(m instanceof BatchNorm) || m instanceof SyncBatchNorm) return m;
      if (!made.has(m)) made.set(m, SyncBatchNorm.from(m, group));
      return made.get(m)!;
    };
    for (const parent of module.modules()) {
      for (const [name, child] of parent.namedChildren()) {
        const other = converted(child);
        if (other !== child) (parent as unknown as Record<string, Module>)[name] = other;
      }
    }
    return converted(module) as M | SyncBatchNorm;
  }

  private static from(old: BatchNorm, group: ProcessGroup): SyncBatchNorm {
    const { numFeatures, eps, momentum, training } = old;
    const made = new SyncBatchNorm(numFeatures, { group, eps, momentum, affine: false, trackRunningStats: false });
    const { weight, bias, running_mean, running_var, num_batches_tracked } = old;
    Object.assign(made, { weight, bias, running_mean, running_var, num_batches_tracked, training });
    return made;
  }

  protected override normalize(x: Tensor): Tensor {
    if (!this.training || this.group.size === 1) return super.normalize(x);
    const ensemble = Ensemble.of(this.group);
    const { weight, bias, eps } = this;
    const apply = defineFunction({
      name: this.label,
      forward: (ctx, z: Tensor, w: Tensor | null, b: Tensor | null) => {
        const all = statisticsOf(z, ensemble);
        this.track(all);
        ctx.saveForBackward(z, all.mean, all.variance, all.count);
        return batchNorm(z, all.mean, all.variance, w, b, false, 0, eps);
      },
      backward: (ctx, dy) => gradients(ctx, dy, weight, bias !== null, eps, ensemble),
    });
    return apply(x, weight, bias);
  }

  /** Moves the running statistics, the same way on every rank. */
  private track({ mean, unbiased, count }: Statistics): void {
    if (this.running_mean === null || this.running_var === null) return;
    const momentum = this.momentum ?? to(this.num_batches_tracked!, 'float64').reciprocal();
    const share = count.clamp(0, 1).mul(momentum); // nothing moves when no rank has a value
    copy_(this.running_mean, this.running_mean.lerp(mean, share));
    copy_(this.running_var, this.running_var.lerp(unbiased, share));
  }
}

/** The dimensions that a channel's values are spread over. */
const spread = (x: Tensor): number[] => x.shape.flatMap((_, d) => (d === 1 ? [] : [d]));

function statisticsOf(x: Tensor, ensemble: Ensemble): Statistics {
  const channels = x.shape[1]!;
  const dtype = wideType(x.dtype);
  const on = { dtype, device: x.device };
  const mine = channels === 0 ? 0 : x.numel / channels;
  const wide = to(x, dtype);
  const none = mine === 0 ? zeros([channels], on) : null;
  const center = none ?? wide.mean(spread(x));
  const squares = none ?? wide.sub(wide.mean(spread(x), true)).sumSquares(spread(x));
  const row = cat([center, squares, full([1], mine, on)]).reshape([1, 2 * channels + 1]);
  const rows = ensemble.allGather(row, { label: 'of batch statistics' }).wait();
  const [means, deviations, counts] = [rows.slice(1, 0, channels), rows.slice(1, channels, 2 * channels), rows.slice(1, 2 * channels)];
  const count = counts.sum([0]);
  const mean = means.mul(counts).sum([0]).div(count.clamp(1, null));
  const total = deviations.sum([0]).add(means.sub(mean).square().mul(counts).sum([0]));
  return { mean, variance: total.div(count.clamp(1, null)), unbiased: total.div(count.sub(1).clamp(1, null)), count };
}

/**
 * dx = w·rstd·(dy − Σdy/n − x̂·Σ(dy·x̂)/n) with sums over all ranks; those of this rank are the gradients of weight and bias, which
 * data parallelism reduces like any other.
 */
function gradients(ctx: FunctionContext, dy: Tensor, weight: Tensor | null, hasBias: boolean, eps: number, ensemble: Ensemble): (Tensor | null)[] {
  const [x, mean, variance, count] = ctx.savedTensors as [Tensor, Tensor, Tensor, Tensor];
  const dtype = wideType(x.dtype);
  const channels = x.shape[1]!;
  const [wide, dyWide] = [to(x, dtype), to(dy, dtype)];
  const rstd = variance.add(eps).rsqrt();
  // with the statistics taken for constants
  const [direct, dw, db] = invoke(
    'batchNormBackward',
    x.device,
    [dyWide, wide, weight?.detach() ?? null, mean, rstd, like(wide), fresh([channels], dtype), fresh([channels], dtype)],
    [0],
  ) as [Tensor, Tensor, Tensor];
  const sums = cat([dw, db]);
  ensemble.allReduce(sums, { label: 'of batch gradients' }).wait();
  const scale = rstd.div(count.clamp(1, null)).mul(weight?.detach() ?? 1);
  const slope = sums.slice(0, 0, channels).mul(rstd).mul(scale);
  const shift = sums.slice(0, channels).mul(scale).sub(slope.mul(mean));
  const column = [1, channels, ...x.shape.slice(2).map(() => 1)];
  const dx = direct.sub(wide.mul(slope.reshape(column))).sub(shift.reshape(column));
  return [to(dx, x.dtype), weight ? to(dw, weight.dtype) : null, hasBias ? db : null];
}
