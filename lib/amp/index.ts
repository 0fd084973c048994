export { setGradientDType } from './gradients.js';
