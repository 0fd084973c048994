export type { CastCount } from '../ops/autocast.js';
export { autocast, autocastDType, castCounts, clearCasts, resetCastCounts } from './autocast.js';
export { GradScaler, type GradScalerOptions, type GradScalerState, type Losses } from './grad_scaler.js';
export { setGradientDType } from './gradients.js';
export { type AutocastDType, type AutocastOp, type Policy, policy } from './policy.js';
