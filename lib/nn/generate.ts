// Sampling from a language model with cached keys and values: each new token costs one row, not the whole sequence.

import { inferenceMode } from '../autograd/modes.js';
import { describe, ShapeError } from '../errors.js';
import { scope } from '../memory.js';
import { optionsOf } from '../ops/arguments.js';
import { maskedFill } from '../ops/blend.js';
import { to } from '../ops/copy.js';
import { scatter } from '../ops/gather.js';
import { cat } from '../ops/joining.js';
import { div, gt, lt, sub } from '../ops/pointwise.js';
import { argmax } from '../ops/reduce.js';
import { softmax } from '../ops/softmax.js';
import { cumsum, multinomial, sort, topk } from '../ops/sort.js';
import { narrow, select } from '../ops/view.js';
import { Generator } from '../random.js';
import { checkInteger, checkNumber } from '../shape.js';
import { Tensor } from '../tensor.js';
import type { GPT } from './gpt.js';

/** How `GPT.generate` picks the next token. */
export interface GenerateOptions {
  /** New tokens to sample. Default 100. */
  maxNewTokens?: number;
  /** Logits are divided by it; 0 takes the likeliest token. Default 1. */
  temperature?: number;
  /** Sample among the k likeliest tokens only. */
  topK?: number;
  /** Sample among the fewest tokens whose probability reaches p (Holtzman et al., 2020). */
  topP?: number;
  /** Makes the sample reproducible; without it the generator in force draws. */
  seed?: number;
}

/** tokens [batch, time] continued to [batch, time + maxNewTokens]. Sequences longer than the context go on with its last half. */
export function generate(model: GPT, tokens: Tensor, given: GenerateOptions = {}): Tensor {
  if (!(tokens instanceof Tensor) || tokens.ndim !== 2 || tokens.shape[1] === 0) {
    throw new ShapeError(
      `generate: expected tokens [batch, time] with at least one token, got ${tokens instanceof Tensor ? `[${tokens.shape}]` : describe(tokens)}`,
    );
  }
  const { topK, topP, seed, ...options } = optionsOf<GenerateOptions>(given ?? undefined, 'generate');
  const count = checkInteger(options.maxNewTokens ?? 100, 'maxNewTokens', 'generate', 0);
  const temperature = checkNumber(options.temperature ?? 1, 'temperature', 'generate', 0);
  const k = topK === undefined || topK === null ? null : checkInteger(topK, 'topK', 'generate', 1);
  const p = topP === undefined || topP === null ? null : checkNumber(topP, 'topP', 'generate', 0, 1);
  const generator = seed === undefined || seed === null ? undefined : new Generator(checkInteger(seed, 'seed', 'generate'));
  const { context } = model.options;
  const modes = model.modules().map((m) => [m, m.training] as const);
  model.eval();
  try {
    return inferenceMode(() =>
      scope(() => {
        let sequence = to(tokens, 'int64');
        let cache = model.makeCache(sequence.shape[0]!);
        let next = last(sequence, context);
        for (let i = 0; i < count; i++) {
          if (cache.length + next.shape[1]! > context) {
            cache = model.makeCache(sequence.shape[0]!);
            next = last(sequence, Math.max(1, context >> 1));
          }
          const drawn = scope(() => {
            const logits = model.forward(next, null, { cache });
            return pick(select(logits, 1, logits.shape[1]! - 1), temperature, k, p, generator);
          });
          cache.length += next.shape[1]!;
          next = drawn;
          sequence = cat([sequence, drawn], 1);
        }
        return sequence;
      }),
    );
  } finally {
    for (const [m, training] of modes) m.training = training; // a part may have been in evaluation before
  }
}

function last(sequence: Tensor, count: number): Tensor {
  const time = sequence.shape[1]!;
  return time <= count ? sequence : narrow(sequence, 1, time - count, count);
}

/** One token for each row of logits [batch, vocab]. */
function pick(row: Tensor, temperature: number, k: number | null, p: number | null, generator: Generator | undefined): Tensor {
  if (temperature === 0) return argmax(row, -1, true);
  let logits = div(to(row, 'float32'), temperature);
  const vocab = logits.shape[1]!;
  if (k !== null && k < vocab) {
    const [values] = topk(logits, k);
    logits = maskedFill(logits, lt(logits, narrow(values, 1, k - 1, 1)), Number.NEGATIVE_INFINITY);
  }
  if (p !== null && p < 1) logits = nucleus(logits, p);
  return multinomial(softmax(logits, -1), 1, { generator });
}

/** Drops tokens behind the point where the likelier ones already reach p; the likeliest always stays. */
function nucleus(logits: Tensor, p: number): Tensor {
  const [values, order] = sort(logits, -1, { descending: true });
  const probabilities = softmax(values, -1);
  const before = sub(cumsum(probabilities, -1), probabilities);
  const kept = maskedFill(values, gt(before, p), Number.NEGATIVE_INFINITY);
  return scatter(kept, 1, order, kept);
}
