// Modules: what networks are built of.

export * from './activation.js';
export * from './attention.js';
export { BatchNorm1d, BatchNorm2d, type BatchNormOptions } from './batch_norm.js';
export * from './containers.js';
export * from './conv.js';
export * from './conv_transpose.js';
export * from './dropout.js';
export * from './embedding.js';
export type { GenerateOptions } from './generate.js';
export { GPT, GPTBlock, type KeyValueCache, type LayerCache, type LossOptions } from './gpt.js';
export type { GPTOptions } from './gpt_options.js';
/** Fillings of parameters, in place and outside every graph. */
export * as init from './init.js';
export type { LayeredModel, LossNormalizer, PipelineLayer } from './layered.js';
export { type FactoryOptions, Linear, type LinearOptions } from './linear.js';
export * from './loss.js';
export * from './metrics.js';
export * from './module.js';
export { GroupNorm, LayerNorm, type NormOptions, RMSNorm } from './norm.js';
export * from './padding.js';
export * from './recurrent.js';
export * from './resample.js';
export * from './transformer.js';
export { type DecoderMasks, TransformerDecoderLayer, TransformerEncoderLayer, type TransformerEncoderLayerOptions } from './transformer_layer.js';
