// What a GPT is made with.

import { ValueError } from '../errors.js';
import { checkNames, type Names } from '../options.js';
import { checkSize, type FactoryOptions, type LinearOptions } from './linear.js';

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
const NAMES: Names<GPTOptions> = {
  vocabSize: true,
  layers: true,
  heads: true,
  dim: true,
  context: true,
  dropout: true,
  bias: true,
  layerNormEps: true,
  dtype: true,
  device: true,
};

/** Checks what a GPT or one of its blocks is made with; `sizes` have to be there. */
export function checkGPTOptions(options: GPTOptions, sizes: readonly ('vocabSize' | 'layers' | 'heads' | 'dim' | 'context')[], where: string): void {
  checkNames(where, NAMES, options);
  for (const name of sizes) checkSize(options?.[name], name, where);
  if (options.dim % options.heads !== 0) throw new ValueError(`${where}: dim ${options.dim} is not a multiple of ${options.heads} heads`);
}

/** Of a GPT's options, those of its linear layers. */
export function linearOptionsOf({ bias, dtype, device }: GPTOptions): LinearOptions {
  return { bias, dtype, device };
}
