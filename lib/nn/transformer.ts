// Stacks of transformer layers, and both in one model. Unlike PyTorch's, a stack is given a function that makes a layer: copies of one layer would all
// start with the same weights.

import { describe, ValueError } from '../errors.js';
import { type Every, withOptions } from '../options.js';
import type { Tensor } from '../tensor.js';
import type { AttentionMasks } from './attention.js';
import { ModuleList } from './containers.js';
import * as init from './init.js';
import { checkSize } from './linear.js';
import { Module } from './module.js';
import { LayerNorm } from './norm.js';
import {
  type DecoderMasks,
  TRANSFORMER_LAYER,
  TransformerDecoderLayer,
  TransformerEncoderLayer,
  type TransformerEncoderLayerOptions,
} from './transformer_layer.js';

abstract class Stack<L extends Module> extends Module {
  /** The layers in their order. */
  layers: ModuleList<L>;
  /** Behind the last layer, or null. */
  norm: Module | null;
  constructor(makeLayer: () => L, numLayers: number, norm: Module | null, kind: new (...args: never[]) => L) {
    super();
    const where = new.target.name;
    checkSize(numLayers, 'numLayers', where);
    if (typeof makeLayer !== 'function') throw new ValueError(`${where}: expected a function that makes a layer, got ${describe(makeLayer)}`);
    if (norm !== null && !(norm instanceof Module)) throw new ValueError(`${where}: norm must be a module, got ${describe(norm)}`);
    const layers = Array.from({ length: numLayers }, () => makeLayer());
    const other = layers.find((layer) => !(layer instanceof kind));
    if (other !== undefined) throw new ValueError(`${where}: the function must make a ${kind.name}, it made ${describe(other)}`);
    if (new Set(layers).size < layers.length) throw new ValueError(`${where}: the function must make another layer at every call`);
    this.layers = new ModuleList(layers);
    this.norm = norm;
  }
  protected finish(x: Tensor): Tensor {
    return this.norm === null ? x : (this.norm as unknown as { forward(x: Tensor): Tensor }).forward(x);
  }
}

/** `numLayers` encoder layers one after another: `new nn.TransformerEncoder(() => new nn.TransformerEncoderLayer(512, 8), 6)`. */
export class TransformerEncoder extends Stack<TransformerEncoderLayer> {
  /** @param norm what comes behind the last layer; for layers with `normFirst` a LayerNorm */
  constructor(makeLayer: () => TransformerEncoderLayer, numLayers: number, norm: Module | null = null) {
    super(makeLayer, numLayers, norm, TransformerEncoderLayer);
  }
  /** src `[B, T, dModel]`, whose shape the result has; the masks are those of every layer. */
  override forward(src: Tensor, masks: AttentionMasks = {}): Tensor {
    let x = src;
    for (const layer of this.layers) x = layer.forward(x, masks);
    return this.finish(x);
  }
}

/** `numLayers` decoder layers one after another: `new nn.TransformerDecoder(() => new nn.TransformerDecoderLayer(512, 8), 6)`. */
export class TransformerDecoder extends Stack<TransformerDecoderLayer> {
  /** @param norm what comes behind the last layer; for layers with `normFirst` a LayerNorm */
  constructor(makeLayer: () => TransformerDecoderLayer, numLayers: number, norm: Module | null = null) {
    super(makeLayer, numLayers, norm, TransformerDecoderLayer);
  }
  /** tgt `[B, T, dModel]`, whose shape the result has, and the memory `[B, S, dModel]`; the masks are those of every layer. */
  override forward(tgt: Tensor, memory: Tensor, masks: DecoderMasks = {}): Tensor {
    let x = tgt;
    for (const layer of this.layers) x = layer.forward(x, memory, masks);
    return this.finish(x);
  }
}

/** Options of `Transformer`. */
export interface TransformerOptions extends TransformerEncoderLayerOptions {
  /** Default 6. */
  numEncoderLayers?: number;
  /** Default 6. */
  numDecoderLayers?: number;
}
const TRANSFORMER: Every<TransformerOptions> = { numEncoderLayers: 6, numDecoderLayers: 6, ...TRANSFORMER_LAYER };

/** What a Transformer may not see: `true` hides. */
export interface TransformerMasks extends DecoderMasks {
  /** Of the encoder's self-attention. */
  src?: AttentionMasks;
}

/**
 * Encoder and decoder (Vaswani et al., 2017) on [B, T, dModel], each with a norm at its end. Weights of two dimensions start as
 * `init.xavierUniform_` makes them.
 */
export class Transformer extends Module {
  /** What reads the source. */
  encoder: TransformerEncoder;
  /** What writes the target. */
  decoder: TransformerDecoder;
  constructor(dModel: number, nhead: number, options: TransformerOptions = {}) {
    super();
    const { numEncoderLayers, numDecoderLayers, ...layer } = withOptions('Transformer', TRANSFORMER, options);
    const { layerNormEps: eps, bias, dtype, device } = layer;
    const norm = (): LayerNorm => new LayerNorm(dModel, { eps, bias, dtype, device });
    this.encoder = new TransformerEncoder(() => new TransformerEncoderLayer(dModel, nhead, layer), numEncoderLayers!, norm());
    this.decoder = new TransformerDecoder(() => new TransformerDecoderLayer(dModel, nhead, layer), numDecoderLayers!, norm());
    for (const p of this.parameters()) if (p.ndim > 1) init.xavierUniform_(p);
  }
  /** src `[B, S, dModel]` and tgt `[B, T, dModel]`, whose shape the result has. A decoder that is trained wants `{ tgt: { isCausal: true } }`. */
  override forward(src: Tensor, tgt: Tensor, masks: TransformerMasks = {}): Tensor {
    return this.decoder.forward(tgt, this.encoder.forward(src, masks?.src ?? {}), masks ?? {});
  }
}
