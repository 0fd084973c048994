// The plan for nn.GPT. (The cuts of Shoeybi et al., "Megatron-LM", 2019; sequence parallelism of Korthikanti et al., 2022.)
import { describe, ValueError } from '../../errors.js';
import { GPT } from '../../nn/gpt.js';
import type { ParallelPlan } from './plan.js';

/** Options of `gptPlan`. */
export interface GPTPlanOptions {
  /** Between the products, ranks have pieces of the sequence rather than all of it: less memory for the same communication. Off by default. */
  readonly sequenceParallel?: boolean;
}

/**
 * Attention by heads, feed-forward blocks by hidden features, the vocabulary of the embedding and of the logits by tokens, which never meet on one
 * rank in a training step.
 *
 *     dist.parallelize(model, mesh, dist.gptPlan(model, { sequenceParallel: true }));
 */
export function gptPlan(model: GPT, options: GPTPlanOptions = {}): ParallelPlan {
  if (!(model instanceof GPT)) throw new ValueError(`gptPlan: expected a GPT, got ${describe(model)}`);
  const { sequenceParallel = false } = options ?? {};
  const { dim, heads } = model.options;
  const byHeads = { size: dim, unit: dim / heads };
  const plan: ParallelPlan = {
    'transformer.wte': { style: 'vocabEmbedding', sequenceParallel },
    'transformer.h.*.attn.c_attn': { style: 'column', blocks: [byHeads, byHeads, byHeads], sequenceParallel },
    'transformer.h.*.attn.c_proj': { style: 'row', blocks: [byHeads], sequenceParallel },
    'transformer.h.*.mlp.c_fc': { style: 'column', sequenceParallel },
    'transformer.h.*.mlp.c_proj': { style: 'row', sequenceParallel },
    lm_head: { style: 'vocabHead', sequenceParallel },
  };
  if (!sequenceParallel) return plan;
  return {
    ...plan,
    'transformer.wpe': { style: 'scatterSequence' },
    'transformer.drop': { style: 'sequence' },
    'transformer.h.*.ln_1': { style: 'sequence' },
    'transformer.h.*.attn.resid_dropout': { style: 'sequence' },
    'transformer.h.*.ln_2': { style: 'sequence' },
    'transformer.h.*.mlp.dropout': { style: 'sequence' },
    'transformer.ln_f': { style: 'sequence' },
  };
}
