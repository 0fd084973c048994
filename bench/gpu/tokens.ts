// Moby Dick in GPT-2's tokens, as uint16: from data/ where a kit has laid it out, else made from the npm packages of the checkout.
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { data } from '../../lib/index.js';

const FILE = fileURLToPath(new URL('../../../data/moby_dick.u16', import.meta.url));

export async function mobyDickTokens(): Promise<Uint16Array> {
  if (existsSync(FILE)) {
    const bytes = readFileSync(FILE);
    return new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
  }
  const { encode } = await import('gpt-tokenizer/encoding/r50k_base');
  return Uint16Array.from(encode(data.mobyDick({ validation: 0 }).train));
}
