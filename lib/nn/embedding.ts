// Embedding tables.

import { noGrad } from '../autograd/modes.js';
import { zero_ } from '../ops/copy.js';
import { embedding } from '../ops/embedding.js';
import { select } from '../ops/view.js';
import { checkInteger } from '../shape.js';
import type { Tensor } from '../tensor.js';
import * as init from './init.js';
import { checkSize, type FactoryOptions, parameter } from './linear.js';
import { Module, type Parameter } from './module.js';

export interface EmbeddingOptions extends FactoryOptions {
  /** This row starts at zero and receives no gradient. */
  paddingIdx?: number | null;
}

/** Rows of a table [numEmbeddings, embeddingDim] by index; starts standard normal, as PyTorch's. */
export class Embedding extends Module {
  weight: Parameter;
  readonly paddingIdx: number | undefined;
  constructor(
    readonly numEmbeddings: number,
    readonly embeddingDim: number,
    options: EmbeddingOptions = {},
  ) {
    super();
    checkSize(numEmbeddings, 'numEmbeddings', 'Embedding');
    checkSize(embeddingDim, 'embeddingDim', 'Embedding');
    this.weight = parameter([numEmbeddings, embeddingDim], options);
    init.normal_(this.weight);
    const padding = options?.paddingIdx ?? null;
    if (padding !== null) {
      const at = checkInteger(padding, 'paddingIdx', 'Embedding', -numEmbeddings, numEmbeddings - 1);
      this.paddingIdx = at < 0 ? at + numEmbeddings : at;
      noGrad(() => zero_(select(this.weight, 0, this.paddingIdx!)));
    }
  }
  override forward(indices: Tensor): Tensor {
    return embedding(indices, this.weight, { paddingIdx: this.paddingIdx });
  }
}
