// GPT-2 exactly (Radford et al., 2019): learned positions, pre-norm blocks, tanh GELU, tied embeddings. Parameter names are those of
// Hugging Face's GPT2LMHeadModel; its Conv1D weights are stored transposed there and are turned around on load and save.

import { autocastDType } from '../amp/autocast.js';
import { noGrad } from '../autograd/modes.js';
import { arange, zeros } from '../create.js';
import { describe, ShapeError } from '../errors.js';
import { openSafetensors, saveSafetensors } from '../io/index.js';
import { scaledDotProductAttention } from '../ops/attention.js';
import { gelu } from '../ops/blend.js';
import { copy_ } from '../ops/copy.js';
import { crossEntropy, linearCrossEntropy } from '../ops/loss.js';
import { attentionPacked, mlp, unpackHeads } from '../ops/matmul.js';
import { narrow, permute, reshape } from '../ops/view.js';
import type { Tensor } from '../tensor.js';
import { ModuleList } from './containers.js';
import { Dropout } from './dropout.js';
import { Embedding } from './embedding.js';
import { type GenerateOptions, generate } from './generate.js';
import { checkGPTOptions, type GPTOptions, linearOptionsOf } from './gpt_options.js';
import * as init from './init.js';
import type { LayeredModel, PipelineLayer } from './layered.js';
import { Linear } from './linear.js';
import { Module, type StateDict } from './module.js';
import { LayerNorm } from './norm.js';

/** Keys and values of one layer: [B, H, context, D] each. */
export interface LayerCache {
  /** Keys; what is past the tokens seen so far is 0. */
  readonly key: Tensor;
  /** Values; what is past the tokens seen so far is 0. */
  readonly value: Tensor;
}

/** Keys and values of the tokens seen so far, one pair a layer: [B, H, context, D]. */
export interface KeyValueCache {
  /** How many tokens it holds. */
  length: number;
  /** Of each layer, room for the keys and values of a whole context. */
  readonly layers: LayerCache[];
}

/** Options of the loss that `GPT.forward` computes. */
export interface LossOptions {
  /** Targets with this value do not count. Default −100. */
  ignoreIndex?: number;
  /** As of `crossEntropy`. Default 0. */
  labelSmoothing?: number;
  /** Divide the summed loss by this instead of the local number of valid targets. */
  normalizer?: number | Tensor;
}

/** What may take the place of lm_head, where no rank has all logits: it makes the loss by itself. */
export interface LossHead {
  loss(x: Tensor, targets: Tensor, options: LossOptions): Tensor;
}

/** What may take the place of the feed-forward block's first layer: it keeps GELU within the products, if it can. */
export interface FusedGelu {
  intoGelu(x: Tensor, down: Module, residual?: Tensor): Tensor | null;
}

const headDim = ({ dim, heads }: GPTOptions): number => dim / heads;
/** A layer that does no more than `linear`. */
const isPlain = (layer: Linear): boolean => layer.constructor === Linear && !layer.hasHooks;

class SelfAttention extends Module {
  c_attn: Linear;
  c_proj: Linear;
  resid_dropout: Dropout;
  constructor(private readonly o: GPTOptions) {
    super();
    this.c_attn = new Linear(o.dim, 3 * o.dim, linearOptionsOf(o));
    this.c_proj = new Linear(o.dim, o.dim, linearOptionsOf(o));
    this.resid_dropout = new Dropout(o.dropout ?? 0);
  }
  override forward(x: Tensor, residual: Tensor, cache?: LayerCache, past = 0): Tensor {
    const qkv = this.c_attn.forward(x);
    // a tensor-parallel projection makes the heads of this rank alone
    const heads = qkv.shape[2]! / (3 * headDim(this.o));
    const y = cache ? this.attendWithCache(qkv, heads, cache, past) : attentionPacked(qkv, heads);
    if (!this.resid_dropout.active) return this.c_proj.forward(y, residual);
    return this.resid_dropout.forward(this.c_proj.forward(y)).add(residual);
  }
  private attendWithCache(qkv: Tensor, heads: number, cache: LayerCache, past: number): Tensor {
    const [q, k, v] = unpackHeads(qkv, heads);
    const [b, t] = qkv.shape as [number, number];
    copy_(narrow(cache.key, 2, past, t), k);
    copy_(narrow(cache.value, 2, past, t), v);
    const y = scaledDotProductAttention(q, narrow(cache.key, 2, 0, past + t), narrow(cache.value, 2, 0, past + t), { causal: true });
    return reshape(permute(y, [0, 2, 1, 3]), [b, t, heads * headDim(this.o)]);
  }
}

class FeedForward extends Module {
  c_fc: Linear;
  c_proj: Linear;
  dropout: Dropout;
  constructor(o: GPTOptions) {
    super();
    this.c_fc = new Linear(o.dim, 4 * o.dim, linearOptionsOf(o));
    this.c_proj = new Linear(4 * o.dim, o.dim, linearOptionsOf(o));
    this.dropout = new Dropout(o.dropout ?? 0);
  }
  override forward(x: Tensor, residual: Tensor): Tensor {
    if (!this.dropout.active) return this.feed(x, residual);
    return this.dropout.forward(this.feed(x)).add(residual);
  }
  private feed(x: Tensor, residual?: Tensor): Tensor {
    const { c_fc, c_proj } = this;
    // the fused blocks pass over the layers themselves
    if (isPlain(c_fc) && isPlain(c_proj)) return mlp(x, c_fc.weight, c_fc.bias, c_proj.weight, c_proj.bias, { residual });
    const fused = (c_fc as Linear & Partial<FusedGelu>).intoGelu?.(x, c_proj, residual);
    return fused ?? c_proj.forward(gelu(c_fc.forward(x), { approximate: 'tanh' }), residual);
  }
}

/** One pre-norm transformer block. */
export class GPTBlock extends Module {
  /** Before the attention. */
  ln_1: LayerNorm;
  /** Causal self-attention: `c_attn` to packed queries, keys and values, `c_proj` back. */
  attn: SelfAttention;
  /** Before the feed-forward block. */
  ln_2: LayerNorm;
  /** `c_fc` to 4·dim, GELU, `c_proj` back. */
  mlp: FeedForward;
  constructor(o: GPTOptions) {
    super();
    checkGPTOptions(o, ['heads', 'dim'], 'GPTBlock');
    const norm = { eps: o.layerNormEps, ...linearOptionsOf(o) };
    this.ln_1 = new LayerNorm(o.dim, norm);
    this.attn = new SelfAttention(o);
    this.ln_2 = new LayerNorm(o.dim, norm);
    this.mlp = new FeedForward(o);
  }
  /** x `[B, T, dim]`, whose shape the result has. With a layer's part of a cache, the tokens follow the `past` ones in it. */
  override forward(x: Tensor, cache?: LayerCache, past = 0): Tensor {
    const h = this.attn.forward(this.ln_1.forward(x), x, cache, past);
    return this.mlp.forward(this.ln_2.forward(h), h);
  }
}

class Transformer extends Module {
  wte: Embedding;
  wpe: Embedding;
  drop: Dropout;
  h: ModuleList<GPTBlock>;
  ln_f: LayerNorm;
  constructor(private readonly o: GPTOptions) {
    super();
    const { dtype, device } = o;
    this.wte = new Embedding(o.vocabSize, o.dim, { dtype, device });
    this.wpe = new Embedding(o.context, o.dim, { dtype, device });
    this.drop = new Dropout(o.dropout ?? 0);
    this.h = new ModuleList(Array.from({ length: o.layers }, () => new GPTBlock(o)));
    this.ln_f = new LayerNorm(o.dim, { eps: o.layerNormEps, ...linearOptionsOf(o) });
  }
  embed(tokens: Tensor, past = 0): Tensor {
    if (tokens?.ndim !== 2) throw new ShapeError(`GPT: tokens must be [batch, time], got ${tokens?.shape ? `[${tokens.shape}]` : describe(tokens)}`);
    const time = tokens.shape[1]!;
    if (past + time > this.o.context) throw new ShapeError(`GPT: ${past + time} tokens do not fit the context of ${this.o.context}`);
    const positions = arange(past, past + time, 1, { device: tokens.device });
    return this.drop.forward(this.wte.forward(tokens).add(this.wpe.forward(positions)));
  }
  override forward(tokens: Tensor, cache?: KeyValueCache): Tensor {
    const past = cache?.length ?? 0;
    let x = this.embed(tokens, past);
    let i = 0;
    for (const block of this.h) x = block.forward(x, cache?.layers[i++], past);
    return this.ln_f.forward(x);
  }
}

/** Weights that Hugging Face keeps as [in, out]. */
const TRANSPOSED = /\.(c_attn|c_proj|c_fc)\.weight$/;

/**
 * A GPT-2 language model. `forward(tokens)` gives logits [B, T, vocab]; with targets [B, T] it gives the mean cross-entropy.
 * Weights start as in GPT-2: normal with std 0.02, projections into the residual stream scaled by 1/√(2·layers).
 */
export class GPT extends Module implements LayeredModel {
  /** Embeddings `wte` and `wpe`, the blocks `h`, the last norm `ln_f`. */
  transformer: Transformer;
  /** dim to vocabSize; its weight is that of `transformer.wte`. */
  lm_head: Linear;
  /** What the model was made with. */
  readonly options: GPTOptions;

  constructor(options: GPTOptions) {
    super();
    checkGPTOptions(options, ['vocabSize', 'layers', 'heads', 'dim', 'context'], 'GPT');
    this.options = { ...options };
    this.transformer = new Transformer(this.options);
    this.lm_head = new Linear(options.dim, options.vocabSize, { ...linearOptionsOf(options), bias: false });
    this.lm_head.weight.dispose();
    this.lm_head.weight = this.transformer.wte.weight;
    for (const [name, p] of this.namedParameters()) {
      if (name.endsWith('.bias')) init.zeros_(p);
      else if (name.endsWith('c_proj.weight')) init.normal_(p, 0, 0.02 / Math.sqrt(2 * options.layers));
      else if (p.ndim === 2) init.normal_(p, 0, 0.02);
    }
  }

  /** Logits `[B, T, vocabSize]` of tokens `[B, T]`, at most `context` of them. With a cache, tokens follow those that it holds. */
  override forward(tokens: Tensor, targets?: null, options?: LossOptions & { cache?: KeyValueCache }): Tensor;
  /** The mean cross-entropy of predicting targets `[B, T]`. */
  override forward(tokens: Tensor, targets: Tensor, options?: LossOptions): Tensor;
  override forward(tokens: Tensor, targets?: Tensor | null, options: LossOptions & { cache?: KeyValueCache } = {}): Tensor {
    const x = this.transformer.forward(tokens, options?.cache);
    return targets ? this.lossOf(x, targets, options ?? {}) : this.lm_head.forward(x);
  }

  private lossOf(x: Tensor, targets: Tensor, options: LossOptions): Tensor {
    const head: Linear & Partial<LossHead> = this.lm_head;
    if (head.loss) return head.loss(x, targets, options);
    if (isPlain(head)) return linearCrossEntropy(x, head.weight, targets, { ...options, bias: head.bias });
    return crossEntropy(reshape(head.forward(x), [-1, this.options.vocabSize]), reshape(targets, [-1]), options);
  }

  /** Embeddings, each block, the last norm with the head. */
  pipelineLayers(): PipelineLayer[] {
    const { transformer: t } = this;
    const { vocabSize, dim, context } = this.options;
    return [
      { modules: [t.wte, t.wpe, t.drop], forward: (tokens) => t.embed(tokens!), weight: 0 },
      ...Array.from(t.h, (block) => ({ modules: [block], forward: (x: Tensor) => block.forward(x) })),
      {
        modules: [t.ln_f, this.lm_head],
        // its products beside those of a block, a token: 12 dim² of weights and 2 · context · dim of attention
        weight: vocabSize / (12 * dim + 2 * context),
        forward: (x) => this.lm_head.forward(t.ln_f.forward(x!)),
        loss: ([x], targets, options) => this.lossOf(t.ln_f.forward(x!), targets, options),
      },
    ];
  }

  /** An empty cache for `batch` sequences, in the dtype that attention computes in. */
  makeCache(batch: number): KeyValueCache {
    const { context, layers } = this.options;
    const width = headDim(this.options);
    const projection: Linear & { localFeatures?: number } = this.transformer.h.get(0).attn.c_attn;
    const heads = (projection.localFeatures ?? projection.outFeatures) / (3 * width);
    const weight = this.transformer.wte.weight;
    const dtype = autocastDType() ?? weight.dtype;
    const make = (): Tensor => zeros([batch, heads, context, width], { dtype, device: weight.device });
    return { length: 0, layers: Array.from({ length: layers }, () => ({ key: make(), value: make() })) };
  }

  /** Continues token sequences: see GenerateOptions. */
  generate(tokens: Tensor, options: GenerateOptions = {}): Tensor {
    return generate(this, tokens, options);
  }

  /** Loads a checkpoint of GPT2LMHeadModel (or GPT2Model) saved as safetensors. */
  async loadHuggingFace(path: string): Promise<void> {
    const file = await openSafetensors(path);
    try {
      const dict: StateDict = {};
      for (const name of file.names) {
        const key = name.startsWith('transformer.') || name.startsWith('lm_head.') ? name : `transformer.${name}`;
        if (/\.attn\.(masked_)?bias$/.test(key)) continue; // causal masks of old checkpoints
        const t = await file.load(name);
        dict[key] = TRANSPOSED.test(key) ? t.t() : t;
      }
      dict['lm_head.weight'] ??= dict['transformer.wte.weight']!;
      this.loadStateDict(dict);
    } finally {
      await file.close();
    }
  }

  /** Saves the weights as GPT2LMHeadModel.save_pretrained does. */
  async saveHuggingFace(path: string): Promise<void> {
    const dict: StateDict = {};
    noGrad(() => {
      for (const [key, t] of Object.entries(this.stateDict())) {
        if (key !== 'lm_head.weight') dict[key] = TRANSPOSED.test(key) ? t.t().contiguous() : t;
      }
    });
    await saveSafetensors(path, dict, { format: 'pt' });
  }
}
