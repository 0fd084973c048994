// Optimizers, gradient clipping and learning-rate schedules.

export { Adam, type AdamOptions, AdamW } from './adam.js';
export { type ClipOptions, clipGradNorm, clipGradValue, gradNorm } from './clip.js';
export { CPUOffloadOptimizer } from './cpu_offload.js';
export { CyclicLR, type CyclicOptions, OneCycleLR, type OneCycleOptions, type PlateauOptions, ReduceLROnPlateau, SequentialLR } from './cyclic.js';
export { Optimizer } from './optimizer.js';
export type { GivenGroup, GroupOptions, ParamGroup, Params } from './options.js';
export { Adagrad, type AdagradOptions, LAMB, type LAMBOptions, Lion, type LionOptions, RMSprop, type RMSpropOptions, SGD, type SGDOptions } from './others.js';
export { type OptimizerLike, Schedule } from './schedule.js';
export * from './schedules.js';
export type { OptimizerState, StepOptions } from './step_options.js';
