// The layers of transformers with PyTorch's parameter names: encoder and decoder. Batch first; with `normFirst`, norms come before the blocks.

import { describe, ValueError } from '../errors.js';
import { gelu } from '../ops/blend.js';
import { add, relu } from '../ops/pointwise.js';
import { type Every, withOptions } from '../options.js';
import type { Tensor } from '../tensor.js';
import { type AttentionMasks, MultiheadAttention } from './attention.js';
import { Dropout } from './dropout.js';
import { FACTORY, type FactoryOptions, Linear } from './linear.js';
import { Module } from './module.js';
import { LayerNorm } from './norm.js';

/** Options of `TransformerEncoderLayer` and `TransformerDecoderLayer`. */
export interface TransformerEncoderLayerOptions extends FactoryOptions {
  /** Width of the feed-forward block. Default 2048. */
  dimFeedforward?: number;
  /** Probability of all dropouts. Default 0.1. */
  dropout?: number;
  /** Of the feed-forward block. Default relu. */
  activation?: 'relu' | 'gelu';
  /** Normalise before each block instead of after. Default false. */
  normFirst?: boolean;
  /** What the norms add to the variance. Default 1e-5. */
  layerNormEps?: number;
  /** Learn biases. Default true. */
  bias?: boolean;
}
export const TRANSFORMER_LAYER: Every<TransformerEncoderLayerOptions> = {
  dimFeedforward: 2048,
  dropout: 0.1,
  activation: 'relu',
  normFirst: false,
  layerNormEps: 1e-5,
  bias: true,
  ...FACTORY,
};

/** What encoder and decoder layers share: the self-attention and the feed-forward block. */
abstract class TransformerLayer extends Module {
  /** Self-attention with dropout of its weights. */
  self_attn: MultiheadAttention;
  /** dModel to dimFeedforward. */
  linear1: Linear;
  /** Behind the activation. */
  dropout: Dropout;
  /** dimFeedforward back to dModel. */
  linear2: Linear;
  /** Of the self-attention. */
  norm1: LayerNorm;
  /** Of the second block. */
  norm2: LayerNorm;
  /** Behind the self-attention. */
  dropout1: Dropout;
  /** Behind the second block. */
  dropout2: Dropout;
  protected readonly normFirst: boolean;
  private readonly activation: 'relu' | 'gelu';

  /** @param between makes what PyTorch has behind the self-attention, so that parameters have its order */
  constructor(dModel: number, nhead: number, o: Every<TransformerEncoderLayerOptions>, where: string, between?: (layer: Module) => void) {
    super();
    const { dimFeedforward, dropout, activation, layerNormEps, bias, dtype, device } = o;
    if (activation !== 'relu' && activation !== 'gelu') throw new ValueError(`${where}: activation must be relu or gelu, got ${describe(activation)}`);
    const made = { bias, dtype, device };
    this.self_attn = new MultiheadAttention(dModel, nhead, { dropout, ...made });
    between?.(this);
    this.linear1 = new Linear(dModel, dimFeedforward!, made);
    this.dropout = new Dropout(dropout);
    this.linear2 = new Linear(dimFeedforward!, dModel, made);
    this.norm1 = new LayerNorm(dModel, { eps: layerNormEps, ...made });
    this.norm2 = new LayerNorm(dModel, { eps: layerNormEps, ...made });
    this.dropout1 = new Dropout(dropout);
    this.dropout2 = new Dropout(dropout);
    this.normFirst = o.normFirst ?? false;
    this.activation = activation;
  }
  /** x and what a block makes of it, with the block's norm before it or behind both. */
  protected residual(x: Tensor, norm: LayerNorm, block: (x: Tensor) => Tensor): Tensor {
    return this.normFirst ? add(x, block(norm.forward(x))) : norm.forward(add(x, block(x)));
  }
  protected attend(x: Tensor, masks: AttentionMasks): Tensor {
    return this.dropout1.forward(this.self_attn.forward(x, x, x, masks));
  }
  protected feed(x: Tensor): Tensor {
    const h = this.linear1.forward(x);
    return this.linear2.forward(this.dropout.forward(this.activation === 'relu' ? relu(h) : gelu(h)));
  }
}

/** Self-attention and feed-forward with residuals (Vaswani et al., 2017) on [B, T, dModel]. */
export class TransformerEncoderLayer extends TransformerLayer {
  constructor(dModel: number, nhead: number, options: TransformerEncoderLayerOptions = {}) {
    const where = 'TransformerEncoderLayer';
    super(dModel, nhead, withOptions(where, TRANSFORMER_LAYER, options), where);
  }
  /** src `[B, T, dModel]`, whose shape the result has. */
  override forward(src: Tensor, masks: AttentionMasks = {}): Tensor {
    const x = this.residual(src, this.norm1, (z) => this.attend(z, masks));
    return this.residual(x, this.norm2, (z) => this.dropout2.forward(this.feed(z)));
  }
}

/** What a decoder may not see: `true` hides. */
export interface DecoderMasks {
  /** Of the self-attention. */
  tgt?: AttentionMasks;
  /** Of what is attended to in the memory. */
  memory?: AttentionMasks;
}

/** Self-attention, attention to an encoder's result and feed-forward with residuals (Vaswani et al., 2017) on [B, T, dModel]. */
export class TransformerDecoderLayer extends TransformerLayer {
  /** Attention to the memory. */
  declare multihead_attn: MultiheadAttention;
  /** Of the feed-forward block. */
  norm3: LayerNorm;
  /** Behind the feed-forward block. */
  dropout3: Dropout;
  constructor(dModel: number, nhead: number, options: TransformerEncoderLayerOptions = {}) {
    const where = 'TransformerDecoderLayer';
    const o = withOptions(where, TRANSFORMER_LAYER, options);
    const { dropout, layerNormEps, bias, dtype, device } = o;
    super(dModel, nhead, o, where, (layer) => {
      (layer as TransformerDecoderLayer).multihead_attn = new MultiheadAttention(dModel, nhead, { dropout, bias, dtype, device });
    });
    this.norm3 = new LayerNorm(dModel, { eps: layerNormEps, bias, dtype, device });
    this.dropout3 = new Dropout(dropout);
  }
  /** tgt `[B, T, dModel]`, whose shape the result has; memory `[B, S, dModel]` is what an encoder made. */
  override forward(tgt: Tensor, memory: Tensor, masks: DecoderMasks = {}): Tensor {
    const x = this.residual(tgt, this.norm1, (z) => this.attend(z, masks?.tgt ?? {}));
    const y = this.residual(x, this.norm2, (z) => this.dropout2.forward(this.multihead_attn.forward(z, memory, memory, masks?.memory ?? {})));
    return this.residual(y, this.norm3, (z) => this.dropout3.forward(this.feed(z)));
  }
}
