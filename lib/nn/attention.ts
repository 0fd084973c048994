// Multi-head attention with PyTorch's parameter names. Masks follow PyTorch's modules: true marks what may NOT be seen.

import { zeros } from '../create.js';
import { describe, ShapeError, ValueError } from '../errors.js';
import { checkTensor } from '../ops/arguments.js';
import { rotaryEmbedding, rotaryTables, scaledDotProductAttention } from '../ops/attention.js';
import { where } from '../ops/blend.js';
import { to } from '../ops/copy.js';
import { linear } from '../ops/matmul.js';
import { add, logicalNot, logicalOr } from '../ops/pointwise.js';
import { narrow, permute, reshape } from '../ops/view.js';
import { type Every, withOptions } from '../options.js';
import { checkNumber } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { Dropout } from './dropout.js';
import * as init from './init.js';
import { checkSize, FACTORY, type FactoryOptions, Linear, parameter } from './linear.js';
import { Module, type Parameter } from './module.js';

/** Rotary positions with another base than 10000. */
export interface RotaryBase {
  /** Pair i of D/2 turns by position · base^(−2i/D). Default 10000. */
  base?: number;
}

/** Options of `MultiheadAttention`. */
export interface MultiheadAttentionOptions extends FactoryOptions {
  /** Learn biases of the projections. Default true. */
  bias?: boolean;
  /** Probability of dropping attention weights in training. Default 0. */
  dropout?: number;
  /** Features of keys, where they differ from embedDim. */
  kdim?: number;
  /** Features of values, where they differ from embedDim. */
  vdim?: number;
  /** Fewer key and value heads than query heads (Ainslie et al., 2023). Default: as many. */
  numKeyValueHeads?: number;
  /** Rotary positions (Su et al., 2021) on queries and keys. Default false. */
  rotary?: boolean | RotaryBase;
  /** Always mask later keys. Default false. */
  isCausal?: boolean;
}

const MULTIHEAD: Every<MultiheadAttentionOptions> = {
  bias: true,
  dropout: 0,
  kdim: undefined,
  vdim: undefined,
  numKeyValueHeads: undefined,
  rotary: false,
  isCausal: false,
  ...FACTORY,
};

/** What may not be seen, in PyTorch's meaning: `true` hides. */
export interface AttentionMasks {
  /** [Tq, Tk], [B·H, Tq, Tk] or [B, H, Tq, Tk]: true is not seen; numbers are added to the scores. */
  attnMask?: Tensor | null;
  /** `[B, Tk]`: true marks padding; numbers are added to the scores of that key. */
  keyPaddingMask?: Tensor | null;
  /** Mask later keys in this call; by default as the module's option says. */
  isCausal?: boolean;
}

/** What tensor parallelism puts in place of the projections, where ranks share the heads. @internal */
export interface SharedHeads {
  /** This rank's query heads. */
  readonly heads: number;
  /** This rank's key and value heads. */
  readonly keyHeads: number;
  /** The first of its query heads, among those of all ranks. */
  readonly first: number;
  /** Of queries, keys or values alone, or of all three packed into one. */
  readonly project: (x: Tensor, weight: Tensor, bias: Tensor | null, part: 0 | 1 | 2 | null) => Tensor;
  /** A mask that every rank has: gradients of all heads come together. */
  readonly enter: (mask: Tensor) => Tensor;
}

/**
 * Multi-head attention (Vaswani et al., 2017) on [B, T, embedDim]: self-attention with one argument, cross-attention with three.
 */
export class MultiheadAttention extends Module {
  /** The projections of queries, keys and values below one another, where all have embedDim features; else null. */
  in_proj_weight: Parameter | null = null;
  /** The projection of queries, where features differ; else null. */
  q_proj_weight: Parameter | null = null;
  /** The projection of keys, where features differ; else null. */
  k_proj_weight: Parameter | null = null;
  /** The projection of values, where features differ; else null. */
  v_proj_weight: Parameter | null = null;
  /** Biases of all three projections, or null. */
  in_proj_bias: Parameter | null = null;
  /** From the heads side by side back to embedDim. */
  out_proj: Linear;
  /** On the attention weights. */
  dropout: Dropout;
  /** Features of a head: embedDim / numHeads. */
  readonly headDim: number;
  /** Heads of keys and values. */
  readonly numKeyValueHeads: number;
  /** Set by tensor parallelism. @internal */
  shared!: SharedHeads | null;
  private readonly options: MultiheadAttentionOptions;
  private tables: { cos: Tensor; sin: Tensor } | null = null;

  constructor(
    /** Features of queries and of the result. */
    readonly embedDim: number,
    /** Heads of queries. */
    readonly numHeads: number,
    given: MultiheadAttentionOptions = {},
  ) {
    super();
    const where = 'MultiheadAttention';
    const options = withOptions(where, MULTIHEAD, given);
    this.options = options;
    checkSize(embedDim, 'embedDim', where);
    checkSize(numHeads, 'numHeads', where);
    if (embedDim % numHeads !== 0) throw new ValueError(`${where}: embedDim ${embedDim} is not a multiple of ${numHeads} heads`);
    this.dropout = new Dropout(checkNumber(options.dropout ?? 0, 'dropout', where, 0, 1));
    Object.defineProperty(this, 'shared', { value: null, enumerable: false });
    this.headDim = embedDim / numHeads;
    this.numKeyValueHeads = checkSize(options.numKeyValueHeads ?? numHeads, 'numKeyValueHeads', where);
    if (numHeads % this.numKeyValueHeads !== 0) throw new ValueError(`${where}: ${numHeads} heads are no multiple of ${this.numKeyValueHeads} key heads`);
    const keySize = this.numKeyValueHeads * this.headDim;
    const [kdim, vdim] = [options.kdim ?? embedDim, options.vdim ?? embedDim];
    if (kdim === embedDim && vdim === embedDim) {
      this.in_proj_weight = parameter([embedDim + 2 * keySize, embedDim], options);
      init.xavierUniform_(this.in_proj_weight);
    } else {
      this.q_proj_weight = parameter([embedDim, embedDim], options);
      this.k_proj_weight = parameter([keySize, kdim], options);
      this.v_proj_weight = parameter([keySize, vdim], options);
      for (const w of [this.q_proj_weight, this.k_proj_weight, this.v_proj_weight]) init.xavierUniform_(w);
    }
    if (options.bias !== false) {
      this.in_proj_bias = parameter([embedDim + 2 * keySize], options);
      init.zeros_(this.in_proj_bias);
    }
    this.out_proj = new Linear(embedDim, embedDim, { bias: options.bias, dtype: options.dtype, device: options.device });
    if (this.out_proj.bias) init.zeros_(this.out_proj.bias);
  }

  /**
   * Query `[B, Tq, embedDim]`, key `[B, Tk, kdim]` and value `[B, Tk, vdim]` to `[B, Tq, embedDim]`. Unlike PyTorch's, batch first, and
   * without the weights.
   */
  override forward(query: Tensor, key: Tensor = query, value: Tensor = key, masks: AttentionMasks = {}): Tensor {
    const [q, k, v] = this.project(query, key, value);
    const y = scaledDotProductAttention(q, k, v, {
      mask: this.maskOf(masks ?? {}, q),
      causal: masks?.isCausal ?? this.options.isCausal ?? false,
      enableGqa: true,
      dropout: this.dropout.active ? (weights) => this.dropout.forward(weights) : 0,
    });
    const [batch, heads, time, width] = y.shape as [number, number, number, number];
    return this.out_proj.forward(reshape(permute(y, [0, 2, 1, 3]), [batch, time, heads * width]));
  }

  private maskOf(masks: AttentionMasks, q: Tensor): Tensor | null {
    const mask = mergeMasks(masks, q, this.numHeads);
    if (mask === null || !this.shared) return mask;
    const { heads, first, enter } = this.shared;
    const whole = enter(mask);
    return mask.ndim === 4 && mask.shape[1] === this.numHeads ? narrow(whole, 1, first, heads) : whole;
  }

  private project(query: Tensor, key: Tensor, value: Tensor): [Tensor, Tensor, Tensor] {
    for (const x of [query, key, value]) {
      if (x?.ndim !== 3) throw new ShapeError(`MultiheadAttention: inputs must be [batch, time, features], got ${x?.shape ? `[${x.shape}]` : describe(x)}`);
    }
    const { shared, headDim } = this;
    const project = shared?.project ?? ((x: Tensor, weight: Tensor, bias: Tensor | null) => linear(x, weight, bias));
    const size = (shared?.heads ?? this.numHeads) * headDim;
    const keySize = (shared?.keyHeads ?? this.numKeyValueHeads) * headDim;
    const sizes = [size, keySize, keySize];
    const starts = [0, size, size + keySize];
    const part = (t: Tensor | null, i: number): Tensor | null => t && narrow(t, 0, starts[i]!, sizes[i]!);
    let parts: Tensor[];
    if (this.in_proj_weight && query === key && key === value) {
      const packed = project(query, this.in_proj_weight, this.in_proj_bias, null);
      parts = sizes.map((size, i) => narrow(packed, 2, starts[i]!, size));
    } else {
      const weights = this.in_proj_weight
        ? sizes.map((_, i) => part(this.in_proj_weight, i)!)
        : [this.q_proj_weight!, this.k_proj_weight!, this.v_proj_weight!];
      parts = [query, key, value].map((x, i) => project(x, weights[i]!, part(this.in_proj_bias, i), i as 0 | 1 | 2));
    }
    const heads = parts.map((x) => reshape(x, [x.shape[0]!, x.shape[1]!, x.shape[2]! / headDim, headDim]));
    if (this.options.rotary) this.rotate(heads);
    return heads.map((x) => permute(x, [0, 2, 1, 3])) as [Tensor, Tensor, Tensor];
  }

  private rotate(heads: Tensor[]): void {
    const longest = Math.max(heads[0]!.shape[1]!, heads[1]!.shape[1]!);
    if (!this.tables || this.tables.cos.shape[0]! < longest) {
      const base = typeof this.options.rotary === 'object' ? this.options.rotary.base : undefined;
      this.tables = rotaryTables(this.headDim, Math.max(128, 2 ** Math.ceil(Math.log2(longest))), { base, device: heads[0]!.device });
    }
    for (const i of [0, 1]) {
      const time = heads[i]!.shape[1]!;
      heads[i] = rotaryEmbedding(heads[i]!, narrow(this.tables.cos, 0, 0, time), narrow(this.tables.sin, 0, 0, time));
    }
  }
}

/** PyTorch's two masks as the one that scaledDotProductAttention takes: bool where a key may be seen, or numbers to add. */
function mergeMasks(masks: AttentionMasks, q: Tensor, heads: number): Tensor | null {
  const op = 'MultiheadAttention';
  const batch = q.shape[0]!;
  let [attn, padding] = [masks.attnMask ?? null, masks.keyPaddingMask ?? null];
  if (attn !== null) {
    checkTensor(attn, op, 'attnMask');
    if (attn.ndim === 3 && attn.shape[0] === batch * heads) attn = reshape(attn, [batch, heads, ...attn.shape.slice(1)]);
  }
  if (padding !== null) {
    checkTensor(padding, op, 'keyPaddingMask');
    if (padding.ndim !== 2 || padding.shape[0] !== batch) throw new ShapeError(`${op}: keyPaddingMask must be [${batch}, keys], got [${padding.shape}]`);
    padding = reshape(padding, [batch, 1, 1, padding.shape[1]!]);
  }
  const given = [attn, padding].filter((m) => m !== null);
  if (given.length === 0) return null;
  if (given.every((m) => m.dtype === 'bool')) return logicalNot(given.reduce((a, b) => logicalOr(a, b)));
  return given
    .map((m) => (m.dtype === 'bool' ? where(m, Number.NEGATIVE_INFINITY, zeros([], { dtype: q.dtype, device: q.device })) : to(m, q.dtype)))
    .reduce((a, b) => add(a, b));
}
