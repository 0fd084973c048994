// Language-model data: windows of tokens, where the targets are the inputs moved by one. Tokens lie in shards of raw little-endian
// uint16 or uint32 without a header (the layout of nanoGPT), which are memory-mapped: opening costs nothing, and workers share the
// pages. A window never crosses from one shard into the next. A shard must not be shortened while it is open.
import { statSync } from 'node:fs';
import { resolve } from 'node:path';
import { DataError, describe, fromNative, ValueError } from '../errors.js';
import { checkPath, type FileSystem, writeAtomically } from '../io/files.js';
import { native } from '../native.js';
import { checkInteger } from '../shape.js';
import { checkIndex, type Dataset } from './dataset.js';
import { isTypedArray, toShared } from './host_array.js';
import { type ModuleRef, OWN_MODULE } from './module_ref.js';
import { SampleRandom } from './sample_random.js';
import type { Tokenizer } from './tokenizer.js';

/** Token ids in memory. */
export type TokenArray = Uint16Array | Uint32Array;
/** Path of a shard file, or the tokens themselves. */
export type TokenShard = string | TokenArray;
/** Element type of a shard: 65536 ids, or 2^32. */
export type TokenDType = 'uint16' | 'uint32';

/** Options of TokenDataset and TextDataset; only `context` is required. */
export interface TokenWindowOptions {
  /** Tokens of one sample. A window reads one more: the last target. */
  context: number;
  /** Element type of shard files; `uint16` by default. */
  dtype?: TokenDType;
  /** `consecutive` (the default): window i begins at i · stride, all data once an epoch. `random`: anywhere, drawn anew for each epoch and index. */
  windows?: 'consecutive' | 'random';
  /** Distance of consecutive windows; `context` by default, so that they do not overlap. */
  stride?: number;
  /** Samples in an epoch of random windows; by default as many as are needed to see all tokens once on average. */
  length?: number;
}

/** `context` tokens, and for each the token that follows it, as int32. */
export interface TokenWindow {
  /** Tokens at positions i … i + context − 1. */
  inputs: Int32Array;
  /** Tokens at positions i + 1 … i + context. */
  targets: Int32Array;
}

function checkTokenDType(dtype: unknown, where: string): void {
  if (dtype !== 'uint16' && dtype !== 'uint32') throw new ValueError(`${where}: dtype must be uint16 or uint32, got ${describe(dtype)}`);
}

function openShard(shard: TokenShard, dtype: TokenDType): TokenArray {
  if (typeof shard !== 'string') {
    if (shard instanceof Uint16Array || shard instanceof Uint32Array) return shard;
    throw new ValueError(`TokenDataset: a shard must be a path, a Uint16Array or a Uint32Array, got ${describe(shard)}`);
  }
  const size = dtype === 'uint16' ? 2 : 4;
  const stat = statSync(shard, { throwIfNoEntry: false });
  if (stat === undefined) throw new DataError(`TokenDataset: there is no token shard "${shard}"; write one with writeTokenShard()`);
  if (!stat.isFile()) throw new DataError(`TokenDataset: "${shard}" is not a regular file`);
  const bytes = stat.size;
  if (bytes === 0 || bytes % size !== 0) throw new DataError(`TokenDataset: "${shard}" has ${bytes} bytes, which is not a whole number of ${dtype} tokens`);
  if (bytes / size > 2 ** 32 - 1) throw new DataError(`TokenDataset: "${shard}" has ${bytes / size} tokens, at most 2^32 - 1 fit in one shard; split it`);
  try {
    const buffer = native.mapFile(shard);
    return dtype === 'uint16' ? new Uint16Array(buffer) : new Uint32Array(buffer);
  } catch (error) {
    throw fromNative(error);
  }
}

/** Windows over token shards. Files are mapped, not read: as with any mapped file, shortening one in use ends the process. */
export class TokenDataset implements Dataset<TokenWindow> {
  /** Windows in an epoch. */
  readonly length: number;
  /** Tokens in all shards together. */
  readonly tokens: number;
  private reference: ModuleRef | null = null;
  private readonly shards: readonly TokenArray[];
  private readonly sources: readonly TokenShard[];
  private readonly context: number;
  private readonly stride: number;
  private readonly random: boolean;
  /** windowsBefore[s]: number of window positions in the shards before s; one more entry holds the total. */
  private readonly windowsBefore: number[] = [0];

  constructor(
    shards: TokenShard | readonly TokenShard[],
    private readonly options: TokenWindowOptions,
  ) {
    const where = 'TokenDataset';
    const { dtype = 'uint16', windows = 'consecutive' } = options ?? {};
    this.context = checkInteger(options?.context, 'context', where, 1);
    checkTokenDType(dtype, where);
    if (windows !== 'consecutive' && windows !== 'random') throw new ValueError(`${where}: windows must be consecutive or random, got ${describe(windows)}`);
    this.random = windows === 'random';
    this.stride = this.random ? 1 : checkInteger(options.stride ?? this.context, 'stride', where, 1);
    // absolute, since a worker is told the paths again
    this.sources = (Array.isArray(shards) ? (shards as TokenShard[]) : [shards as TokenShard]).map((s) =>
      typeof s === 'string' ? resolve(checkPath(s, where)) : s,
    );
    this.shards = this.sources.map((shard) => openShard(shard, dtype));
    this.tokens = this.shards.reduce((sum, shard) => sum + shard.length, 0);
    for (const { length } of this.shards) {
      const positions = length > this.context ? Math.floor((length - 1 - this.context) / this.stride) + 1 : 0;
      this.windowsBefore.push(this.windowsBefore.at(-1)! + positions);
    }
    const positions = this.windowsBefore.at(-1)!;
    if (positions === 0) {
      throw new DataError(`${where}: ${this.shards.length} shard(s) with ${this.tokens} tokens hold no window of ${this.context} + 1 tokens`);
    }
    this.length = this.random ? checkInteger(options.length ?? Math.max(1, Math.floor(this.tokens / this.context)), 'length', where, 1) : positions;
  }

  get(index: number, random: SampleRandom = new SampleRandom(0, 0, index)): TokenWindow {
    checkIndex(index, this.length, 'TokenDataset.get');
    const window = this.random ? random.int(this.windowsBefore.at(-1)!) : index;
    let s = 0;
    while (window >= this.windowsBefore[s + 1]!) s++;
    const shard = this.shards[s]!;
    const start = (window - this.windowsBefore[s]!) * this.stride;
    return {
      inputs: new Int32Array(shard.subarray(start, start + this.context)),
      targets: new Int32Array(shard.subarray(start + 1, start + 1 + this.context)),
    };
  }

  toWorker(): ModuleRef {
    this.reference ??= {
      module: OWN_MODULE,
      export: 'TokenDataset',
      args: [this.sources.map((source) => (typeof source === 'string' ? source : toShared(source))), this.options],
    };
    return this.reference;
  }
}

/** Ids of a text in the smallest type that holds the vocabulary, in memory that workers share. Checks the tokenizer's ids. */
export function encodeTokens(text: string, tokenizer: Tokenizer): TokenArray {
  const { vocabSize } = tokenizer ?? {};
  checkInteger(vocabSize, 'vocabSize of the tokenizer', 'encodeTokens', 1, 2 ** 31);
  const ids: unknown = tokenizer.encode(text);
  if (!Array.isArray(ids) && !isTypedArray(ids)) throw new DataError(`encodeTokens: the tokenizer must give an array of ids, got ${describe(ids)}`);
  const tokens = vocabSize <= 65536 ? new Uint16Array(new SharedArrayBuffer(2 * ids.length)) : new Uint32Array(new SharedArrayBuffer(4 * ids.length));
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i] as number;
    if (!(Number.isInteger(id) && id >= 0 && id < vocabSize))
      throw new DataError(`encodeTokens: the tokenizer gave id ${describe(id)} at position ${i}, its vocabSize is ${vocabSize}`);
    tokens[i] = id;
  }
  return tokens;
}

/** Windows over the tokens of a text held in memory. */
export class TextDataset extends TokenDataset {
  constructor(text: string, tokenizer: Tokenizer, options: Omit<TokenWindowOptions, 'dtype'>) {
    super([encodeTokens(text, tokenizer)], options);
  }
}

/**
 * Writes a shard file, atomically.
 * @param tokens ids, or an iterable of arrays of ids for more than fit in memory
 * @returns the number of tokens written
 * @throws ValueError naming the position of an id that the dtype cannot hold
 */
export async function writeTokenShard(
  path: string,
  tokens: ArrayLike<number> | Iterable<ArrayLike<number>> | AsyncIterable<ArrayLike<number>>,
  options: { dtype?: TokenDType; fs?: FileSystem } = {},
): Promise<number> {
  const { dtype = 'uint16', fs } = options ?? {};
  checkTokenDType(dtype, 'writeTokenShard');
  const iterable = tokens as Partial<Iterable<unknown> & AsyncIterable<unknown>> | null;
  if (!iterable?.[Symbol.iterator] && !iterable?.[Symbol.asyncIterator]) {
    throw new ValueError(`writeTokenShard: expected ids, or an iterable of arrays of ids, got ${describe(tokens)}`);
  }
  const Kind = dtype === 'uint16' ? Uint16Array : Uint32Array;
  const largest = dtype === 'uint16' ? 65535 : 2 ** 32 - 1;
  const single = isTypedArray(tokens) || (Array.isArray(tokens) && typeof tokens[0] !== 'object');
  const chunks = (single ? [tokens] : tokens) as Iterable<ArrayLike<number>> | AsyncIterable<ArrayLike<number>>;
  let count = 0;
  await writeAtomically(
    path,
    'writeTokenShard',
    async (sink) => {
      for await (const chunk of chunks) {
        if (!Array.isArray(chunk) && !isTypedArray(chunk)) throw new ValueError(`writeTokenShard: an iterable must give arrays of ids, got ${describe(chunk)}`);
        for (let i = 0; i < chunk.length; i++) {
          const id = chunk[i]!;
          if (!(Number.isInteger(id) && id >= 0 && id <= largest))
            throw new ValueError(`writeTokenShard: id ${describe(id)} at position ${count + i} does not fit ${dtype}`);
        }
        const ids = chunk instanceof Kind ? chunk : new Kind(chunk as ArrayLike<number>);
        await sink.write(new Uint8Array(ids.buffer, ids.byteOffset, ids.byteLength));
        count += chunk.length;
      }
    },
    fs,
  );
  return count;
}
