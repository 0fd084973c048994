// A linear layer whose inputs are spread over the ranks.
import { describe, ShapeError, ValueError } from '../../errors.js';
import { Linear, type LinearOptions } from '../../nn/linear.js';
import { Module, type Parameter } from '../../nn/module.js';
import { linear } from '../../ops/matmul.js';
import { checkNames, type Names } from '../../options.js';
import { Tensor } from '../../tensor.js';
import { declarePlacement, requirePlacement } from '../activation_placements.js';
import type { DeviceMesh } from '../device_mesh.js';
import { Layout } from '../layout.js';
import { type Block, Replicate, Shard } from '../placement.js';
import { convertBetween } from './convert_between.js';
import { rowParallel } from './products.js';
import { checkMesh, cutEvenly, type SourceOptions, shardParameter } from './shard_parameter.js';

/** How the ranks share a RowParallelLinear. */
export interface RowParallelOptions extends SourceOptions {
  /** The ranks of its axis `tp` share the layer. */
  readonly mesh: DeviceMesh;
  /** Parts of the input that are spread each by itself, as those of the layer that makes it. One part unless given. */
  readonly blocks?: readonly Block[];
  /** The output is this rank's piece of the sequence [.., ⌈T / ranks⌉, out]; the input is of the whole sequence. */
  readonly sequenceParallel?: boolean;
  /** The input has the features of this rank alone, as a column-parallel layer makes them (default); else every rank has all of them. */
  readonly inputIsParallel?: boolean;
}
const NAMES: Names<RowParallelOptions & LinearOptions> = {
  mesh: true,
  blocks: true,
  sequenceParallel: true,
  inputIsParallel: true,
  src: true,
  bias: true,
  dtype: true,
  device: true,
};

/**
 * y = x·Wᵀ + b, to which each rank contributes some of the inputs (Shoeybi et al., "Megatron-LM", 2019). `weight` holds this rank's columns; `bias`
 * is whole, and added after the sum over the ranks. Names and first values are those of a whole Linear.
 */
export class RowParallelLinear extends Module {
  /** This rank's columns [outFeatures, localFeatures]. */
  weight: Parameter;
  /** The whole bias [outFeatures], or null. */
  bias: Parameter | null;
  /** The ranks of its axis `tp` share the layer. */
  readonly mesh!: DeviceMesh;
  /** Whether the output is this rank's piece of the sequence. */
  readonly sequenceParallel: boolean;
  /** Whether the input has the features of this rank alone. */
  readonly inputIsParallel: boolean;
  private readonly columns: Shard;
  /** Inputs of this rank. */
  readonly localFeatures: number;
  /** All ranks' parts have one shape. @internal */
  readonly even: boolean;

  /** @param whole a layer whose parameters it takes over and cuts; a fresh one unless given */
  constructor(
    /** Features of the input of the whole layer. */
    readonly inFeatures: number,
    /** Features of the output of the whole layer. */
    readonly outFeatures: number,
    options: RowParallelOptions & LinearOptions,
    whole?: Linear,
  ) {
    super();
    const where = 'RowParallelLinear';
    const mesh = checkMesh(options?.mesh, where);
    checkNames(where, NAMES, options);
    const { blocks, src, sequenceParallel = false, inputIsParallel = true } = options;
    const full = whole ?? new Linear(inFeatures, outFeatures, { bias: options.bias, dtype: options.dtype, device: options.device ?? mesh.device });
    Object.defineProperty(this, 'mesh', { value: mesh, enumerable: false });
    this.sequenceParallel = sequenceParallel;
    this.inputIsParallel = inputIsParallel;
    this.columns = Shard(1, { blocks });
    this.training = full.training;
    this.weight = full.weight;
    this.bias = full.bias;
    shardParameter(this.weight, mesh, { tp: this.columns }, where, { src });
    this.localFeatures = this.weight.shape[1]!;
    this.even = cutEvenly(this.weight);
    if (this.bias) shardParameter(this.bias, mesh, {}, where, { src });
  }

  /** Spreads a whole layer: its parameters stay the same objects. */
  static from(whole: Linear, options: RowParallelOptions): RowParallelLinear {
    if (!(whole instanceof Linear)) throw new ValueError(`RowParallelLinear.from: expected a Linear, got ${describe(whole)}`);
    return new RowParallelLinear(whole.inFeatures, whole.outFeatures, options, whole);
  }

  /** `residual`, of the output's shape, is added to it. */
  override forward(x: Tensor, residual?: Tensor): Tensor {
    const group = this.mesh.group('tp');
    if (group.size === 1) return linear(x, this.weight, this.bias, { residual });
    const { sequenceParallel, even, label: name } = this;
    const features = this.inputIsParallel ? this.localFeatures : this.inFeatures;
    if (!(x instanceof Tensor) || x.shape[x.ndim - 1] !== features) {
      const hint = this.inputIsParallel ? `: this rank's part of ${this.inFeatures}` : '';
      throw new ShapeError(`${name}: expected [.., ${features}]${hint}, got ${x instanceof Tensor ? `[${x.shape}]` : describe(x)}`);
    }
    const given = this.inputIsParallel ? x : this.split(x);
    requirePlacement(given, Shard(x.ndim - 1), group, name);
    const around = sequenceParallel ? Shard(Math.max(0, x.ndim - 2)) : Replicate();
    if (residual) requirePlacement(residual, around, group, name);
    return declarePlacement(rowParallel(given, this.weight, this.bias, residual ?? null, { group, sequenceParallel, even, name }), around, group);
  }

  /** Whether it does no more than take what such a layer makes. */
  takes(mesh: DeviceMesh, sequenceParallel: boolean, features: number): boolean {
    const plain = this.constructor === RowParallelLinear && !this.hasHooks && this.inputIsParallel;
    return plain && this.mesh === mesh && this.sequenceParallel === sequenceParallel && this.localFeatures === features;
  }

  /** This rank's features of what every rank has. */
  private split(x: Tensor): Tensor {
    const whole = new Layout(this.mesh, x.shape, {});
    return convertBetween(x, whole, whole.with({ tp: { ...this.columns, dim: x.ndim - 1 } }));
  }
}
