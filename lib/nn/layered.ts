// Models as a chain of layers, which is what a pipeline cuts: each layer takes what the one before it makes.
import type { Tensor } from '../tensor.js';
import type { Module } from './module.js';

/** What a loss is divided by, in place of the local number of valid targets. */
export interface LossNormalizer {
  /** A count over all ranks and micro-batches; absent: the local count. */
  readonly normalizer?: number | Tensor;
}

/** One layer of a LayeredModel. */
export interface PipelineLayer {
  /** The modules that it calls, whose parameters it needs; those of several layers may share parameters, but not be the same. */
  readonly modules: readonly Module[];
  /** Takes the model's inputs, or the tensors of the layer before. */
  readonly forward: (...inputs: Tensor[]) => Tensor | Tensor[];
  /** How many layers it counts as where a pipeline is cut by their number; 1 unless given. */
  readonly weight?: number;
  /** Of the last layer: the loss at once, where the output itself need not be there. `forward` makes the output. */
  readonly loss?: (inputs: readonly Tensor[], targets: Tensor, options: LossNormalizer) => Tensor;
}

/** A model that can be cut. Its forward does no more than its layers, one after another. */
export interface LayeredModel {
  /** The layers in order. */
  pipelineLayers(): PipelineLayer[];
}
