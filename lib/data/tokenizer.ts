// Text to token ids and back. `Tokenizer` is the seam: any object with these three members serves, so the byte-pair encoders on npm
// plug in with an object of three lines (examples/gpt_tokenizer.ts). The two tokenizers here need no files.
import { DataError, describe, ValueError } from '../errors.js';

/** What datasets and text generation need from a tokenizer. */
export interface Tokenizer {
  /** Number of ids: every id is in [0, vocabSize). */
  readonly vocabSize: number;
  /** The ids of a text. */
  encode(text: string): Uint32Array | number[];
  /** The text of ids. */
  decode(ids: ArrayLike<number>): string;
}

/** The saved form of a CharTokenizer. */
export interface CharTokenizerJSON {
  /** What the file holds. */
  readonly type: 'char';
  /** The characters in the order of their ids. */
  readonly vocabulary: readonly string[];
  /** The character that stands for all others, or null. */
  readonly unknown: string | null;
}

function checkText(text: unknown, where: string): asserts text is string {
  if (typeof text !== 'string') throw new ValueError(`${where}: expected a string, got ${describe(text)}`);
}

function checkIds(ids: unknown, where: string): asserts ids is ArrayLike<number> {
  if (!Array.isArray(ids) && !ArrayBuffer.isView(ids)) throw new ValueError(`${where}: expected an array of ids, got ${describe(ids)}`);
}

function unknownId(id: unknown, position: number, vocabSize: number, where: string): ValueError {
  return new ValueError(`${where}: id ${describe(id)} at position ${position} is outside [0, ${vocabSize})`);
}

/** One id for each character (Unicode code point) that occurred in the text it was fitted on, in code-point order. */
export class CharTokenizer implements Tokenizer {
  private readonly ids = new Map<string, number>();

  /**
   * @param vocabulary the characters in the order of their ids, without repeats
   * @param options.unknown the character that stands for all others; without it, encoding an unknown character throws
   */
  constructor(
    private readonly vocabulary: readonly string[],
    private readonly options: { unknown?: string } = {},
  ) {
    if (!Array.isArray(vocabulary)) throw new ValueError(`CharTokenizer: the vocabulary must be an array of characters, got ${describe(vocabulary)}`);
    vocabulary.forEach((char, id) => {
      if (typeof char !== 'string' || [...char].length !== 1) {
        throw new ValueError(`CharTokenizer: vocabulary entry ${id} must be one character, got ${describe(char)}`);
      }
      if (this.ids.has(char)) throw new ValueError(`CharTokenizer: ${JSON.stringify(char)} is in the vocabulary twice (${this.ids.get(char)} and ${id})`);
      this.ids.set(char, id);
    });
    if (options.unknown !== undefined && !this.ids.has(options.unknown)) {
      throw new ValueError(`CharTokenizer: the unknown character ${JSON.stringify(options.unknown)} is not in the vocabulary`);
    }
  }

  /** The tokenizer of all characters of `text`, and of `unknown` if given. */
  static fit(text: string, options: { unknown?: string } = {}): CharTokenizer {
    checkText(text, 'CharTokenizer.fit');
    const chars = new Set(text);
    if (options.unknown !== undefined) chars.add(options.unknown);
    const order = [...chars].sort((a, b) => a.codePointAt(0)! - b.codePointAt(0)!);
    return new CharTokenizer(order, options);
  }

  /** A tokenizer of its saved form. Throws DataError for what is none. */
  static fromJSON(json: CharTokenizerJSON): CharTokenizer {
    if (json?.type !== 'char' || !Array.isArray(json.vocabulary)) {
      throw new DataError(`CharTokenizer.fromJSON: expected { type: "char", vocabulary }, got ${describe(json)}`);
    }
    return new CharTokenizer(json.vocabulary, typeof json.unknown === 'string' ? { unknown: json.unknown } : {});
  }

  /** The saved form: `JSON.stringify(tokenizer)` calls it. */
  toJSON(): CharTokenizerJSON {
    return { type: 'char', vocabulary: this.vocabulary, unknown: this.options.unknown ?? null };
  }

  get vocabSize(): number {
    return this.vocabulary.length;
  }

  /** The ids of a text. Throws ValueError for a character that is not in the vocabulary, unless there is one for unknown ones. */
  encode(text: string): Uint32Array {
    checkText(text, 'CharTokenizer.encode');
    const fallback = this.options.unknown === undefined ? undefined : this.ids.get(this.options.unknown);
    const out = new Uint32Array(text.length);
    let n = 0;
    for (const char of text) {
      const id = this.ids.get(char) ?? fallback;
      if (id === undefined) {
        throw new ValueError(
          `CharTokenizer.encode: character ${JSON.stringify(char)} at position ${n} is not in the vocabulary of ${this.vocabSize}; fit with { unknown } to map such characters`,
        );
      }
      out[n++] = id;
    }
    return n === out.length ? out : out.slice(0, n);
  }

  /** The text of ids. Throws ValueError for an id outside the vocabulary. */
  decode(ids: ArrayLike<number>): string {
    checkIds(ids, 'CharTokenizer.decode');
    return Array.from(ids, (id, i) => {
      const char = typeof id === 'number' ? this.vocabulary[id] : undefined;
      if (char === undefined) throw unknownId(id, i, this.vocabSize, 'CharTokenizer.decode');
      return char;
    }).join('');
  }
}

/** The 256 bytes of UTF-8: no vocabulary to fit, no unknown text. Bytes that are not UTF-8 decode to U+FFFD. */
export class ByteTokenizer implements Tokenizer {
  readonly vocabSize = 256;

  /** The bytes of a text in UTF-8. */
  encode(text: string): Uint32Array {
    checkText(text, 'ByteTokenizer.encode');
    return Uint32Array.from(new TextEncoder().encode(text));
  }

  /** The text of bytes. Throws ValueError for an id outside [0, 256). */
  decode(ids: ArrayLike<number>): string {
    checkIds(ids, 'ByteTokenizer.decode');
    const bytes = Uint8Array.from(ids, (id, i) => {
      if (!(Number.isInteger(id) && id >= 0 && id < 256)) throw unknownId(id, i, 256, 'ByteTokenizer.decode');
      return id;
    });
    return new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);
  }
}
