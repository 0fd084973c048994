// Any tokenizer serves: here GPT-2's byte-pair encoding from the npm package gpt-tokenizer turns a novel into a shard of tokens on
// disk, and a loader with two workers reads random windows of it. Run: npm run build && node dist/examples/gpt_tokenizer.js
import { mkdirSync } from 'node:fs';
import { decode, encode } from 'gpt-tokenizer/encoding/r50k_base';
import { data } from 'shardgrad';

// The seam is an object with three members.
const gpt2: data.Tokenizer = {
  vocabSize: 50257,
  encode: (text) => encode(text),
  decode: (ids) => decode(Array.from(ids)),
};

// Tokens are written once, as raw uint16, and memory-mapped afterwards: opening them costs nothing, whatever their size.
mkdirSync('runs', { recursive: true });
const shard = 'runs/moby_dick.gpt2.bin';
const { train } = data.mobyDick();
console.log(`${await data.writeTokenShard(shard, data.encodeTokens(train, gpt2))} tokens in ${shard}`);

const dataset = new data.TokenDataset(shard, { context: 32, windows: 'random' });
const loader = new data.DataLoader(dataset, { batchSize: 4, shuffle: true, seed: 1, workers: 2 });
for await (const { inputs, targets } of loader) {
  console.log(`a batch of ${loader.length}: inputs ${inputs}, targets ${targets}`);
  const ids = await inputs.toTypedArray();
  console.log(`its first sample: ${JSON.stringify(gpt2.decode(ids.subarray(0, 32) as Int32Array))}`);
  break;
}
