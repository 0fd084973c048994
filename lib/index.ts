/// <reference lib="esnext.disposable" preserve="true" />
/**
 * Tensors, their functions and autograd at the top, all else by namespace: `import * as sg from 'shardgrad'`.
 * @module shardgrad
 */
export { type GradHook, type NestedArray, type Operand, Tensor } from './tensor.js';

import './ops/methods.js';
import './profiler/from_environment.js';

/** Mixed precision: autocast, loss scaling, dtypes of gradients. */
export * as amp from './amp/index.js';
export { type BackwardOptions, backward, grad } from './autograd/backward.js';
export { checkpoint } from './autograd/checkpoint.js';
export { defineFunction, defineFunctions, FunctionContext, type FunctionDefinition } from './autograd/function.js';
export { type GradcheckOptions, gradcheck } from './autograd/gradcheck.js';
export { detectAnomaly, enableGrad, inferenceMode, isGradEnabled, noGrad } from './autograd/modes.js';
export { type CheckpointOp, type CheckpointOptions, checkpointOps, type OpCall } from './autograd/selective.js';
export {
  arange,
  empty,
  eye,
  fromTypedArray,
  full,
  fullLike,
  linspace,
  type NestedData,
  ones,
  onesLike,
  type TensorOptions,
  tensor,
  zeros,
  zerosLike,
} from './create.js';
/** GPUs: what there is, and what may be set. */
export * as cuda from './cuda.js';
/** Datasets, the order of samples, loaders with worker threads, tokenizers, images. */
export * as data from './data/index.js';
export { Device, type DeviceLike, device, getNumThreads, setNumThreads, synchronize, synchronizeSync } from './device.js';
export type { DType, TypedArray } from './dtype.js';
export { isFloating, promoteTypes, resultType } from './dtype.js';
export {
  AutogradError,
  CheckpointError,
  DataError,
  DeviceError,
  DisposedError,
  DistributedError,
  DTypeError,
  InternalError,
  LossScaleError,
  OutOfMemoryError,
  ShapeError,
  ShardgradError,
  ValueError,
} from './errors.js';
/** Training steps captured once on a GPU and replayed as a whole. */
export * as graph from './graph.js';
/** Files: tensors in safetensors and .npy, checkpoints of one process. */
export * as io from './io/index.js';
export { checkLeaks, collectGarbage, emptyCache, keep, type Leak, liveBytes, type MemoryStats, memory, resetPeakMemory, scope } from './memory.js';
export { type CheckpointModulesOptions, checkpointModules, type ModuleChoice } from './nn/checkpoint_modules.js';
/** Modules: layers, containers, losses, initialization, GPT. */
export * as nn from './nn/index.js';
export * from './ops/functions.js';
/** Optimizers, gradient clipping and learning-rate schedules. */
export * as optim from './optim/index.js';
/** Timelines, utilization and memory of training steps; metrics in files. */
export * as profiler from './profiler/index.js';
export {
  bernoulli,
  type DropoutOptions,
  defaultGenerator,
  dropout,
  Generator,
  type GeneratorState,
  type Layout,
  manualSeed,
  normal_,
  type RandomKey,
  type RandomOptions,
  rand,
  randint,
  randLike,
  randn,
  randnLike,
  randperm,
  uniform_,
  withGenerator,
} from './random.js';
