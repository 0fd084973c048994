export { autocast, autocastDType, castCounts, clearCasts, resetCastCounts } from './autocast.js';
export { setGradientDType } from './gradients.js';
export { type AutocastDType, type AutocastOp, type Policy, policy } from './policy.js';
