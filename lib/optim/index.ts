// Optimizers, gradient clipping and learning-rate schedules.
export { type GroupOptions, Optimizer, type OptimizerState, type ParamGroup, type Params } from './optimizer.js';
export { Adam, type AdamOptions, AdamW } from './adam.js';
export { type ClipOptions, clipGradNorm, clipGradValue, gradNorm } from './clip.js';
