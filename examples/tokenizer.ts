// Any tokenizer fits: the seam is { vocabSize, encode, decode }. This one is GPT-2's byte-pair encoding from the npm package gpt-tokenizer.
//
//   npm install gpt-tokenizer && node dist/examples/tokenizer.js
import { decode, encode, vocabularySize } from 'gpt-tokenizer/encoding/r50k_base';
import { data } from '../lib/index.js';

const tokenizer: data.Tokenizer = { vocabSize: vocabularySize, encode: (text) => encode(text), decode: (ids) => decode(Array.from(ids)) };
const { train } = data.mobyDick();
const dataset = new data.TextDataset(train.slice(0, 200_000), tokenizer, { context: 64 });
const { inputs, targets } = await dataset.get(0);
console.log(`${dataset.length} windows of 64 tokens; the first reads:\n${tokenizer.decode(inputs)}`);
console.log(`its last target is "${tokenizer.decode(targets.slice(-1))}"`);
