// Plans: what becomes of which modules, as plain objects by path.
import { ValueError } from '../../errors.js';
import type { Module } from '../../nn/module.js';
import { fits, modulesAt } from '../../nn/module_paths.js';
import type { ColumnParallelOptions } from './column_linear.js';
import type { RowParallelOptions } from './row_linear.js';
import type { VocabParallelOptions } from './vocab_embedding.js';

/** A Linear with its outputs spread over the ranks. */
export interface ColumnStyle extends Omit<ColumnParallelOptions, 'mesh' | 'src'> {
  /** Becomes a ColumnParallelLinear. */
  readonly style: 'column';
}
/** A Linear with its inputs spread over the ranks. */
export interface RowStyle extends Omit<RowParallelOptions, 'mesh' | 'src'> {
  /** Becomes a RowParallelLinear. */
  readonly style: 'row';
}
/** An Embedding with its rows spread over the ranks. */
export interface VocabEmbeddingStyle extends Omit<VocabParallelOptions, 'mesh' | 'src'> {
  /** Becomes a VocabParallelEmbedding. */
  readonly style: 'vocabEmbedding';
}
/** A Linear to logits, spread over the ranks, with their loss. */
export interface VocabHeadStyle extends Omit<VocabParallelOptions, 'mesh' | 'src'> {
  /** Becomes a VocabParallelHead. */
  readonly style: 'vocabHead';
}
/**
 * Works on this rank's piece of the sequence, as norms and dropout do: gradients of its parameters are summed over the ranks. Modules
 * below it that have styles of their own keep to those.
 */
export interface SequenceStyle {
  /** The module stays. */
  readonly style: 'sequence';
}
/** Works on the whole sequence; of what it makes, each rank keeps its piece. */
export interface ScatterSequenceStyle {
  /** The module stays. */
  readonly style: 'scatterSequence';
}
/** As `sequence`; what it makes is gathered. */
export interface GatherSequenceStyle {
  /** The module stays. */
  readonly style: 'gatherSequence';
  /** As of `gatherFromSequence`. */
  readonly gradient?: 'sum' | 'slice';
}
/** A block of modules on this rank's piece of the sequence. */
export interface BlockOnSequenceStyle {
  /** The module stays. */
  readonly style: 'blockOnSequence';
  /** It is the first of several, and is given the whole sequence. */
  readonly first?: boolean;
  /** It is the last of several, and makes the sequence whole again. */
  readonly last?: boolean;
}
/** A MultiheadAttention, with its heads spread over the ranks. */
export interface AttentionStyle {
  /** The module stays. */
  readonly style: 'attention';
  /** Inputs and output are this rank's pieces of their sequences; masks are whole. */
  readonly sequenceParallel?: boolean;
}
/** Dropout on features that a column-parallel layer has spread. */
export interface FeaturesStyle {
  /** The module stays. */
  readonly style: 'features';
  /** Features of all ranks; unless given, they have equally many. */
  readonly size?: number;
}

/** What becomes of a module. */
export type ParallelStyle =
  | ColumnStyle
  | RowStyle
  | VocabEmbeddingStyle
  | VocabHeadStyle
  | SequenceStyle
  | ScatterSequenceStyle
  | GatherSequenceStyle
  | BlockOnSequenceStyle
  | AttentionStyle
  | FeaturesStyle;

/** Styles by path; `*` stands for one part of a path: `transformer.h.*.attn.c_attn`. */
export type ParallelPlan = { readonly [path: string]: ParallelStyle };

export interface Match {
  readonly path: string;
  readonly module: Module;
  readonly style: ParallelStyle;
}

/** The modules that a plan means, in the order of the model. */
export function matchPlan(model: Module, plan: ParallelPlan, where: string): Match[] {
  const patterns = Object.keys(plan);
  const modules = modulesAt(model, patterns, where);
  return modules.flatMap(({ path, module }) => {
    const found = patterns.filter((pattern) => fits(pattern, path));
    if (found.length > 1) throw new ValueError(`${where}: "${path}" is meant by "${found[0]}" and by "${found[1]}"`);
    return found.map((pattern) => ({ path, module, style: plan[pattern]! }));
  });
}
