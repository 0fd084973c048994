// The types that make a forgotten gradient rule a compile error: every op has a name, every name needs a rule.

import type { PointwiseName } from '../../ops/pointwise_table.js';
import type { Tensor } from '../../tensor.js';
import type { Node } from '../node.js';

export type { PointwiseName };

export interface Reduction {
  readonly dims: readonly number[];
  /** The shape with the reduced dimensions as size 1. */
  readonly kept: readonly number[];
  /** Elements reduced to one. */
  readonly count: number;
}

/** What structured ops, views and composites keep for their rule. Ops absent here keep nothing. */
export interface Attrs {
  // reductions
  sum: Reduction;
  mean: Reduction;
  prod: Reduction;
  max: Reduction;
  min: Reduction;
  norm1: Reduction;
  norm2: Reduction;
  sumSquares: Reduction;
  // views
  permute: { dims: readonly number[] };
  slice: { dim: number; start: number; step: number };
  diagonal: { offset: number; dim1: number; dim2: number };
  // structured
  cat: { dim: number; sizes: readonly number[] };
  triangle: { diagonal: number; upper: boolean };
  gather: { dim: number };
  scatter: { dim: number };
  scatterAdd: { dim: number };
  indexSelect: { dim: number };
  indexAdd: { dim: number };
  index: { first: number; count: number };
  indexPut: { first: number; accumulate: boolean };
  embedding: { paddingIndex: number };
  embeddingBackward: { paddingIndex: number };
  sort: undefined;
  topk: undefined;
  cumsum: { reverse: boolean };
  layerNorm: { eps: number };
  layerNormBackward: { eps: number };
  rmsNorm: { eps: number };
  rmsNormBackward: { eps: number };
  groupNorm: { groups: number };
  batchNorm: { training: boolean };
  crossEntropy: { ignoreIndex: number; smoothing: number };
  crossEntropyBackward: { ignoreIndex: number; smoothing: number };
  attention: { causal: boolean; scale: number };
  rotaryEmbedding: { interleaved: boolean; inverse: boolean };
  conv2d: { geometry: readonly number[] };
  conv2dBackwardInput: { geometry: readonly number[] };
  conv2dBackwardWeight: { geometry: readonly number[] };
  maxPool2d: undefined;
  avgPool2d: { geometry: readonly number[] };
  avgPool2dBackward: { geometry: readonly number[] };
  dropout: { p: number; key: readonly number[]; layout: readonly number[] };
  // composites: several native calls under one node
  normalize: undefined;
  attentionPacked: { heads: number; causal: boolean; scale: number };
  /** `wanted`: the inputs whose gradients the outputs after the loss are. */
  linearCrossEntropy: { ignoreIndex: number; smoothing: number; wanted: readonly number[] };
  checkpoint: { recompute: () => readonly Tensor[] };
  custom: { name: string; backward: (node: Node, grads: readonly (Tensor | null)[]) => readonly (Tensor | null)[] };
}

export type ReduceName = 'sum' | 'mean' | 'prod' | 'max' | 'min' | 'any' | 'all' | 'argmax' | 'argmin' | 'norm1' | 'norm2' | 'sumSquares' | 'countNonzero';

export type IndexingName =
  | 'gather'
  | 'scatter'
  | 'scatterAdd'
  | 'indexSelect'
  | 'indexAdd'
  | 'index'
  | 'indexPut'
  | 'nonzero'
  | 'sort'
  | 'topk'
  | 'cumsum'
  | 'cumprod'
  | 'multinomial'
  | 'oneHot'
  | 'cat'
  | 'triangle';
export type NeuralName =
  | 'softmax'
  | 'softmaxBackward'
  | 'logSoftmax'
  | 'logSoftmaxBackward'
  | 'logsumexp'
  | 'layerNorm'
  | 'layerNormBackward'
  | 'rmsNorm'
  | 'rmsNormBackward'
  | 'groupNorm'
  | 'groupNormBackward'
  | 'batchNorm'
  | 'batchNormBackward'
  | 'crossEntropy'
  | 'crossEntropyBackward'
  | 'attention'
  | 'attentionBackward'
  | 'rotaryEmbedding'
  | 'conv2d'
  | 'conv2dBackwardInput'
  | 'conv2dBackwardWeight'
  | 'maxPool2d'
  | 'maxPool2dBackward'
  | 'avgPool2d'
  | 'avgPool2dBackward'
  | 'embedding'
  | 'embeddingBackward'
  | 'dropout';
export type StructuredName =
  | IndexingName
  | NeuralName
  | 'copy'
  | 'fill'
  | 'arange'
  | 'uniform'
  | 'normal'
  | 'randint'
  | 'matmul'
  | 'sgdStep'
  | 'adamStep'
  | 'adagradStep'
  | 'rmspropStep'
  | 'lambStep'
  | 'lionStep'
  | 'prepareStep'
  | 'unscaleMany'
  | 'updateScale'
  | 'globalNorm'
  | 'scaleMany'
  | 'clampMany';

/** Operations of process groups: no gradient of their own, see lib/distributed. */
export type CollectiveName =
  | 'allReduce'
  | 'reduceTo'
  | 'broadcastFrom'
  | 'allGather'
  | 'gatherTo'
  | 'scatterFrom'
  | 'reduceScatter'
  | 'allToAll'
  | 'exchange'
  | 'barrier';

/** Ops the addon has; compared with its list at load. */
export type NativeOpName = PointwiseName | ReduceName | StructuredName | CollectiveName;
export type ViewName = 'reshape' | 'permute' | 'expand' | 'slice' | 'diagonal';
export type CompositeName = 'linear' | 'mlp' | 'linearCrossEntropy' | 'attentionPacked' | 'normalize' | 'checkpoint' | 'custom';
export type OpName = NativeOpName | ViewName | CompositeName;

export type OpAttrs<K extends OpName> = K extends keyof Attrs ? Attrs[K] : undefined;

/** Makes a gradient. */
export interface GradMaker {
  (): Tensor | null;
  /** Where a leaf has a sum of gradients already, adds this one to it and never makes the zeros that it mostly is; false: it cannot. */
  readonly addTo?: (sum: Tensor) => boolean;
}

/** A gradient, none, or a function that makes it: functions run only for inputs that need their gradient. */
export type GradResult = Tensor | null | undefined | GradMaker;

export interface Rule<K extends OpName> {
  /** Inputs to save: indices, or a function of which inputs need a gradient. */
  readonly inputs?: readonly number[] | ((needs: readonly boolean[]) => readonly number[]);
  /** Outputs to save. */
  readonly outputs?: readonly number[];
  /** Outputs without a gradient although they are floating point: statistics. */
  readonly constant?: readonly number[];
  /**
   * Gradients of the inputs, in order, from those of the outputs. Shapes need not be right under broadcasting nor dtypes
   * under promotion: the engine sums and casts. Rules call ops and nothing else, so they can be differentiated in turn.
   */
  readonly grad: (node: Node & { attrs: OpAttrs<K> }, g: Tensor, ...more: (Tensor | null)[]) => readonly GradResult[];
}

/** null: the op has no gradient, and its result starts no graph. */
export type Rules<N extends OpName> = { readonly [K in N]: Rule<K> | null };
