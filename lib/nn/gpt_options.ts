// What a GPT is made with.

import { ValueError } from '../errors.js';
import { type Every, withOptions } from '../options.js';
import { checkSize, FACTORY, type FactoryOptions, type LinearOptions } from './linear.js';

/** Options of `GPT`. */
export interface GPTOptions extends FactoryOptions {
  /** Tokens of the vocabulary. */
  vocabSize: number;
  /** Transformer blocks. */
  layers: number;
  /** Attention heads; divide `dim`. */
  heads: number;
  /** Width of the residual stream; the feed-forward blocks are four times as wide. */
  dim: number;
  /** Longest sequence. */
  context: number;
  /** Probability of dropout in embeddings, attention output and feed-forward output. Default 0. */
  dropout?: number;
  /** Biases in linear layers and norms. Default true. */
  bias?: boolean;
  /** What the norms add to the variance. Default 1e-5. */
  layerNormEps?: number;
}
const GPT: Every<Partial<GPTOptions>> = {
  vocabSize: undefined,
  layers: undefined,
  heads: undefined,
  dim: undefined,
  context: undefined,
  dropout: 0,
  bias: true,
  layerNormEps: 1e-5,
  ...FACTORY,
};

/** Checks what a GPT or one of its blocks is made with; `sizes` have to be there. */
export function checkGPTOptions(options: GPTOptions, sizes: readonly ('vocabSize' | 'layers' | 'heads' | 'dim' | 'context')[], where: string): void {
  withOptions<Every<Partial<GPTOptions>>>(where, GPT, options);
  for (const name of sizes) checkSize(options?.[name], name, where);
  if (options.dim % options.heads !== 0) throw new ValueError(`${where}: dim ${options.dim} is not a multiple of ${options.heads} heads`);
}

/** Of a GPT's options, those of its linear layers. */
export function linearOptionsOf({ bias, dtype, device }: GPTOptions): LinearOptions {
  return { bias, dtype, device };
}
