// A linear layer whose outputs are spread over the ranks.
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
import { feedForward } from './feed_forward.js';
import { type SharedRows, sharedRows } from './partial_gradients.js';
import { columnParallel } from './products.js';
import { RowParallelLinear } from './row_linear.js';
import { checkMesh, type SourceOptions, shardParameter } from './shard_parameter.js';

/** How the ranks share a ColumnParallelLinear. */
export interface ColumnParallelOptions extends SourceOptions {
  /** The ranks of its axis `tp` share the layer. */
  readonly mesh: DeviceMesh;
  /**
   * Parts of the output that are spread each by itself, such as query, key and value (`qkvBlocks`), or gate and up (`gateUpBlocks`), so that
   * every rank has its heads of each. One part unless given.
   */
  readonly blocks?: readonly Block[];
  /** The input is this rank's piece of the sequence [.., ⌈T / ranks⌉, in]; the output is of the whole sequence. */
  readonly sequenceParallel?: boolean;
  /** Give every rank the whole output, in its order; off by default. */
  readonly gatherOutput?: boolean;
}
const NAMES: Names<ColumnParallelOptions & LinearOptions> = {
  mesh: true,
  blocks: true,
  sequenceParallel: true,
  gatherOutput: true,
  src: true,
  bias: true,
  dtype: true,
  device: true,
};

/**
 * y = x·Wᵀ + b, of which each rank has some of the outputs (Shoeybi et al., "Megatron-LM", 2019). `weight` and `bias` hold this rank's rows, under
 * the names that Linear has, and start with the values of a whole layer that is made from the same seed, on every mesh.
 */
export class ColumnParallelLinear extends Module {
  /** This rank's rows [localFeatures, inFeatures]. */
  weight: Parameter;
  /** This rank's part [localFeatures], or null. */
  bias: Parameter | null;
  /** The ranks of its axis `tp` share the layer. */
  readonly mesh!: DeviceMesh;
  /** Whether the input is this rank's piece of the sequence. */
  readonly sequenceParallel: boolean;
  /** Whether every rank gets the whole output. */
  readonly gatherOutput: boolean;
  private readonly rows: Shard;
  private readonly shared!: SharedRows | null;
  /** Outputs of this rank. */
  readonly localFeatures: number;

  /** @param whole a layer whose parameters it takes over and cuts; a fresh one unless given */
  constructor(
    /** Features of the input of the whole layer. */
    readonly inFeatures: number,
    /** Features of the output of the whole layer. */
    readonly outFeatures: number,
    options: ColumnParallelOptions & LinearOptions,
    whole?: Linear,
  ) {
    super();
    const where = 'ColumnParallelLinear';
    const mesh = checkMesh(options?.mesh, where);
    checkNames(where, NAMES, options);
    const { blocks, src, sequenceParallel = false, gatherOutput = false } = options;
    checkUnits(blocks, mesh.size('tp'), where);
    const full = whole ?? new Linear(inFeatures, outFeatures, { bias: options.bias, dtype: options.dtype, device: options.device ?? mesh.device });
    Object.defineProperty(this, 'mesh', { value: mesh, enumerable: false });
    this.sequenceParallel = sequenceParallel;
    this.gatherOutput = gatherOutput;
    this.rows = Shard(0, { blocks });
    this.training = full.training;
    this.weight = full.weight;
    this.bias = full.bias;
    for (const [, p] of this.ownParameters()) shardParameter(p, mesh, { tp: this.rows }, where, { src });
    Object.defineProperty(this, 'shared', { value: sharedRows(this.rows, mesh.group('tp'), where), enumerable: false });
    this.localFeatures = this.weight.shape[0]!;
  }

  /** Spreads a whole layer: its parameters stay the same objects. */
  static from(whole: Linear, options: ColumnParallelOptions): ColumnParallelLinear {
    if (!(whole instanceof Linear)) throw new ValueError(`ColumnParallelLinear.from: expected a Linear, got ${describe(whole)}`);
    return new ColumnParallelLinear(whole.inFeatures, whole.outFeatures, options, whole);
  }

  /** x `[.., inFeatures]` to `[.., localFeatures]`, or with `gatherOutput` to `[.., outFeatures]`. */
  override forward(x: Tensor): Tensor {
    const y = this.part(x);
    if (!this.gatherOutput || this.mesh.size('tp') === 1) return y;
    const shape = [...y.shape.slice(0, -1), this.outFeatures];
    const split = new Layout(this.mesh, shape, { tp: { ...this.rows, dim: y.ndim - 1 } });
    return convertBetween(y, split, split.with({ tp: Replicate() }));
  }

  /**
   * down(gelu(this(x))) + residual, with GELU's tanh form within the products; null where that is not what these layers would do, so that
   * the caller calls them. @internal
   */
  intoGelu(x: Tensor, down: Module, residual?: Tensor): Tensor | null {
    const { mesh, sequenceParallel, label: name } = this;
    const plain = this.constructor === ColumnParallelLinear && !this.hasHooks && !this.gatherOutput && !this.shared;
    if (!plain || !(down instanceof RowParallelLinear) || !down.takes(mesh, sequenceParallel, this.localFeatures)) return null;
    if (mesh.size('tp') === 1) return null;
    checkInput(x, this.inFeatures, name);
    const group = mesh.group('tp');
    const around = sequenceParallel ? Shard(Math.max(0, x.ndim - 2)) : Replicate();
    for (const t of residual ? [x, residual] : [x]) requirePlacement(t, around, group, name);
    const y = feedForward([x, this.weight, this.bias, down.weight, down.bias, residual ?? null], { group, sequenceParallel, even: down.even, name });
    return declarePlacement(y, around, group);
  }

  /** The outputs of this rank. */
  protected part(x: Tensor): Tensor {
    const group = this.mesh.group('tp');
    if (group.size === 1) return linear(x, this.weight, this.bias);
    const { sequenceParallel, shared, label: name } = this;
    checkInput(x, this.inFeatures, name);
    requirePlacement(x, sequenceParallel ? Shard(Math.max(0, x.ndim - 2)) : Replicate(), group, name);
    const y = columnParallel(x, this.weight, this.bias, { group, sequenceParallel, name, shared, even: true });
    return declarePlacement(y, { ...this.rows, dim: y.ndim - 1 }, group);
  }
}

function checkInput(x: unknown, features: number, name: string): void {
  if (!(x instanceof Tensor) || x.shape[x.ndim - 1] !== features)
    throw new ShapeError(`${name}: expected [.., ${features}], got ${x instanceof Tensor ? `[${x.shape}]` : describe(x)}`);
}

/** Every rank needs a unit of every block, such as a head. */
function checkUnits(blocks: readonly Block[] | undefined, ranks: number, where: string): void {
  for (const { size, unit = 1, repeat = 1 } of blocks ?? []) {
    const parts = ranks / repeat;
    if (unit > 1 && Math.ceil(size / unit / parts) * (parts - 1) >= size / unit)
      throw new ShapeError(`${where}: ${size / unit} units of ${unit} leave one of ${parts} ranks without any; let ranks share them with { repeat }`);
  }
}

/**
 * Blocks of a packed projection to queries, keys and values, cut by heads. Where ranks are a multiple of the key heads, neighbours share one.
 * @throws ValueError where heads do not spread over the ranks evenly
 */
export function qkvBlocks(mesh: DeviceMesh, sizes: { readonly heads: number; readonly keyValueHeads?: number; readonly headDim: number }): Block[] {
  const ranks = checkMesh(mesh, 'qkvBlocks').size('tp');
  const { heads, keyValueHeads = heads, headDim } = sizes;
  if (heads % ranks !== 0) throw new ValueError(`qkvBlocks: ${heads} query heads do not divide over ${ranks} ranks`);
  if (keyValueHeads % ranks !== 0 && ranks % keyValueHeads !== 0)
    throw new ValueError(`qkvBlocks: ${keyValueHeads} key heads neither divide over ${ranks} ranks nor divide them`);
  const keys = { size: keyValueHeads * headDim, unit: headDim, repeat: Math.max(1, ranks / keyValueHeads) };
  return [{ size: heads * headDim, unit: headDim }, keys, keys];
}

/** Blocks of a packed projection to gate and up, each of `size` features, as gated feed-forward blocks have it. */
export function gateUpBlocks(size: number): Block[] {
  return [{ size }, { size }];
}
