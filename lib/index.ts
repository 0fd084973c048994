// The public API: tensors and ops at the top, the rest by namespace.
export { Tensor, type Operand, type NestedArray, type GradHook } from './tensor.js';
import './ops/methods.js';
export * from './errors.js';
export type { DType, TypedArray } from './dtype.js';
export { promoteTypes, resultType, isFloating } from './dtype.js';
export { Device, device, type DeviceLike, synchronize, synchronizeSync, getNumThreads, setNumThreads } from './device.js';
export { empty, full, fullLike, zeros, zerosLike, ones, onesLike, arange, linspace, eye, tensor, fromTypedArray, type TensorOptions } from './create.js';
export {
  Generator, defaultGenerator, manualSeed, withGenerator, randn, rand, randnLike, randLike, randint, randperm, bernoulli, dropout, normal_, uniform_,
  type RandomKey, type RandomOptions, type Layout,
} from './random.js';
export { scope, keep, memory, resetPeakMemory, emptyCache, collectGarbage, checkLeaks, liveBytes, type MemoryStats, type Leak } from './memory.js';
export { noGrad, enableGrad, inferenceMode, detectAnomaly, isGradEnabled } from './autograd/modes.js';
export { backward, grad, type BackwardOptions } from './autograd/engine.js';
export { defineFunction, defineFunctions, FunctionContext, type FunctionDefinition } from './autograd/function.js';
export { checkpoint } from './autograd/checkpoint.js';
export { gradcheck } from './autograd/gradcheck.js';
export * from './ops/functions.js';
export * as nn from './nn/index.js';
export * as optim from './optim/index.js';
export * as data from './data/index.js';
export * as io from './io/index.js';
