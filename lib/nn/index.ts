// Modules: what networks are built of.
export * from './module.js';
export * from './containers.js';
export * from './dropout.js';
export * from './embedding.js';
export { GPT, GPTBlock, type GPTOptions, type KeyValueCache, type LossOptions } from './gpt.js';
export type { GenerateOptions } from './generate.js';
export { type FactoryOptions, Linear, type LinearOptions } from './linear.js';
export * from './norm.js';
export * as init from './init.js';
