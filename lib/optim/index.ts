// Optimizers, gradient clipping and learning-rate schedules.
export { type GroupOptions, Optimizer, type OptimizerState, type ParamGroup, type Params } from './optimizer.js';
export { Adam, type AdamOptions, AdamW } from './adam.js';
export { SGD, type SGDOptions, Adagrad, type AdagradOptions, RMSprop, type RMSpropOptions, LAMB, type LAMBOptions, Lion, type LionOptions } from './others.js';
export { type ClipOptions, clipGradNorm, clipGradValue, gradNorm } from './clip.js';
export * from './schedule.js';
export { CyclicLR, type CyclicOptions, OneCycleLR, type OneCycleOptions, SequentialLR, ReduceLROnPlateau, type PlateauOptions } from './cyclic.js';
