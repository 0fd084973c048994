// Plans: what becomes of which modules, as plain objects by path.
import { ValueError } from '../../errors.js';
import type { Module } from '../../nn/module.js';
import { fits, modulesAt } from '../../nn/module_paths.js';
import type { ColumnParallelOptions } from './column_linear.js';
import type { RowParallelOptions } from './row_linear.js';
import type { VocabParallelOptions } from './vocab_embedding.js';

export type ParallelStyle =
  /** A Linear with its outputs spread over the ranks. */
  | ({ readonly style: 'column' } & Omit<ColumnParallelOptions, 'mesh' | 'src'>)
  /** A Linear with its inputs spread over the ranks. */
  | ({ readonly style: 'row' } & Omit<RowParallelOptions, 'mesh' | 'src'>)
  /** An Embedding with its rows spread over the ranks. */
  | ({ readonly style: 'vocabEmbedding' } & Omit<VocabParallelOptions, 'mesh' | 'src'>)
  /** A Linear to logits, spread over the ranks, with their loss. */
  | ({ readonly style: 'vocabHead' } & Omit<VocabParallelOptions, 'mesh' | 'src'>)
  /**
   * Works on this rank's piece of the sequence, as norms and dropout do: gradients of its parameters are summed over the ranks. Modules
   * below it that have styles of their own keep to those.
   */
  | { readonly style: 'sequence' }
  /** Works on the whole sequence; of what it makes, each rank keeps its piece. */
  | { readonly style: 'scatterSequence' }
  /** As `sequence`; what it makes is gathered. `gradient` as of gatherFromSequence. */
  | { readonly style: 'gatherSequence'; readonly gradient?: 'sum' | 'slice' }
  /** A block of modules on this rank's piece of the sequence. The `first` of several is given the whole sequence, the `last` one makes it whole again. */
  | { readonly style: 'blockOnSequence'; readonly first?: boolean; readonly last?: boolean }
  /** A MultiheadAttention, with its heads spread over the ranks. Inputs and output are this rank's pieces of their sequences, if so; masks are whole. */
  | { readonly style: 'attention'; readonly sequenceParallel?: boolean }
  /** Dropout on features that a column-parallel layer has spread: evenly, or so that all ranks have `size`. */
  | { readonly style: 'features'; readonly size?: number };

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
