// A table whose rows are spread over the ranks.
import { describe, ValueError } from '../../errors.js';
import { Embedding, type EmbeddingOptions } from '../../nn/embedding.js';
import { Module, type Parameter } from '../../nn/module.js';
import { checkIndices } from '../../ops/arguments.js';
import { where } from '../../ops/blend.js';
import { embedding } from '../../ops/embedding.js';
import { ge, logicalAnd, lt, sub } from '../../ops/pointwise.js';
import { sum } from '../../ops/reduce.js';
import { expand, unsqueeze } from '../../ops/view.js';
import { checkNames, type Names } from '../../options.js';
import type { Tensor } from '../../tensor.js';
import { declarePlacement, withoutPlacements } from '../activation_placements.js';
import type { DeviceMesh } from '../device_mesh.js';
import { cut } from '../layout.js';
import { Partial, Shard } from '../placement.js';
import { reduceFromTensorParallel, reduceScatterToSequence } from './regions.js';
import { checkMesh, type SourceOptions, shardParameter } from './shard_parameter.js';

/** How the ranks share a table. */
export interface VocabParallelOptions extends SourceOptions {
  /** The ranks of its axis `tp` share the table. */
  readonly mesh: DeviceMesh;
  /** The output is this rank's piece of the sequence; every rank is given all indices. */
  readonly sequenceParallel?: boolean;
}
const NAMES: Names<VocabParallelOptions & EmbeddingOptions> = {
  mesh: true,
  sequenceParallel: true,
  src: true,
  paddingIdx: true,
  dtype: true,
  device: true,
};

/** The classes of this rank: the first ranks have ⌈classes / ranks⌉, the last ones may have fewer, or none. */
export function vocabularyOf(classes: number, mesh: DeviceMesh): { start: number; length: number } {
  return cut([{ start: 0, length: classes }], Shard(0), mesh.size('tp'), mesh.rank('tp'))[0] ?? { start: classes, length: 0 };
}

/**
 * Rows of a table by index, of which each rank has some (Shoeybi et al., "Megatron-LM", 2019): it looks up those that are its own, and the sum over
 * the ranks has all. Any number of rows; `weight` has the name and first values that it has in Embedding.
 */
export class VocabParallelEmbedding extends Module {
  /** This rank's rows of the table. */
  weight: Parameter;
  /** The ranks of its axis `tp` share the table. */
  readonly mesh!: DeviceMesh;
  /** Whether the output is this rank's piece of the sequence. */
  readonly sequenceParallel: boolean;
  /** The row of the whole table that receives no gradient. */
  readonly paddingIdx: number | undefined;

  /** @param whole a table that it takes over and cuts; a fresh one unless given */
  constructor(
    /** Rows of the whole table. */
    readonly numEmbeddings: number,
    /** Features of a row. */
    readonly embeddingDim: number,
    options: VocabParallelOptions & EmbeddingOptions,
    whole?: Embedding,
  ) {
    super();
    const where = 'VocabParallelEmbedding';
    const mesh = checkMesh(options?.mesh, where);
    checkNames(where, NAMES, options);
    const { src, sequenceParallel = false, paddingIdx, dtype, device = mesh.device } = options;
    const full = whole ?? new Embedding(numEmbeddings, embeddingDim, { paddingIdx, dtype, device });
    Object.defineProperty(this, 'mesh', { value: mesh, enumerable: false });
    this.sequenceParallel = sequenceParallel;
    this.paddingIdx = full.paddingIdx;
    this.training = full.training;
    this.weight = full.weight;
    shardParameter(this.weight, mesh, { tp: Shard(0) }, where, { src });
  }

  /** Spreads a whole table: its parameter stays the same object. */
  static from(whole: Embedding, options: VocabParallelOptions): VocabParallelEmbedding {
    if (!(whole instanceof Embedding)) throw new ValueError(`VocabParallelEmbedding.from: expected an Embedding, got ${describe(whole)}`);
    return new VocabParallelEmbedding(whole.numEmbeddings, whole.embeddingDim, options, whole);
  }

  /** Indices of any shape, the same on every rank, to `[...indices.shape, embeddingDim]`. */
  override forward(indices: Tensor): Tensor {
    const group = this.mesh.group('tp');
    if (group.size === 1) return embedding(indices, this.weight, { paddingIdx: this.paddingIdx });
    const label = `of the output of ${this.label}`;
    // rows that other ranks have are zeros here, which makes the lookup one in the whole table
    const own = declarePlacement(
      withoutPlacements(() => this.ownRows(indices)),
      Partial('sum'),
      group,
    );
    return (this.sequenceParallel ? reduceScatterToSequence : reduceFromTensorParallel)(own, group, label);
  }

  /** Zeros where the index is another rank's. */
  private ownRows(indices: Tensor): Tensor {
    checkIndices(indices, this.label);
    const { start, length } = vocabularyOf(this.numEmbeddings, this.mesh);
    // an empty table has a gradient as well, so that optimizers and data parallelism find one
    if (length === 0) return expand(sum(this.weight, 0), [...indices.shape, this.embeddingDim]);
    const local = sub(indices, start);
    const own = logicalAnd(ge(local, 0), lt(local, length));
    const exists = logicalAnd(ge(indices, 0), lt(indices, this.numEmbeddings));
    const padding = this.paddingIdx === undefined ? -1 : this.paddingIdx - start;
    // one that no rank has stays as it is, for the error it deserves
    const safe = where(own, local, where(exists, 0, indices));
    const paddingIdx = padding >= 0 && padding < length ? padding : null;
    return where(unsqueeze(own, -1), embedding(safe, this.weight, { paddingIdx }), 0);
  }
}
