// Embedding tables.

import { noGrad } from '../autograd/modes.js';
import { zero_ } from '../ops/copy.js';
import { embedding } from '../ops/embedding.js';
import { select } from '../ops/view.js';
import { type Every, withOptions } from '../options.js';
import { checkInteger } from '../shape.js';
import type { Tensor } from '../tensor.js';
import * as init from './init.js';
import { checkSize, FACTORY, type FactoryOptions, parameter } from './linear.js';
import { Module, type Parameter } from './module.js';

/** Options of `Embedding`. */
export interface EmbeddingOptions extends FactoryOptions {
  /** This row starts at zero and receives no gradient. */
  paddingIdx?: number | null;
}

const EMBEDDING: Every<EmbeddingOptions> = { paddingIdx: null, ...FACTORY };

/** Rows of a table [numEmbeddings, embeddingDim] by index; starts standard normal, as PyTorch's. */
export class Embedding extends Module {
  /** [numEmbeddings, embeddingDim]. */
  weight: Parameter;
  /** The row that receives no gradient, counted from the start. */
  readonly paddingIdx: number | undefined;
  constructor(
    /** Rows of the table. */
    readonly numEmbeddings: number,
    /** Features of a row. */
    readonly embeddingDim: number,
    options: EmbeddingOptions = {},
  ) {
    super();
    checkSize(numEmbeddings, 'numEmbeddings', 'Embedding');
    checkSize(embeddingDim, 'embeddingDim', 'Embedding');
    const o = withOptions('Embedding', EMBEDDING, options);
    this.weight = parameter([numEmbeddings, embeddingDim], o);
    init.normal_(this.weight);
    const padding = o.paddingIdx ?? null;
    if (padding !== null) {
      const at = checkInteger(padding, 'paddingIdx', 'Embedding', -numEmbeddings, numEmbeddings - 1);
      this.paddingIdx = at < 0 ? at + numEmbeddings : at;
      noGrad(() => zero_(select(this.weight, 0, this.paddingIdx!)));
    }
  }
  /** Indices of any shape, int32 or int64, to `[...indices.shape, embeddingDim]`. One outside of the table is a ValueError. */
  override forward(indices: Tensor): Tensor {
    return embedding(indices, this.weight, { paddingIdx: this.paddingIdx });
  }
}
