// Philox4x32-10 in BigInt, straight from the paper (Salmon et al., 2011): four 32-bit words for a counter and a key.
type Words = readonly number[];

export function philox(counter: Words, key: Words): number[] {
  let [c0, c1, c2, c3] = counter.map(BigInt) as [bigint, bigint, bigint, bigint];
  let [k0, k1] = key.map(BigInt) as [bigint, bigint];
  const low = 0xffffffffn;
  for (let round = 0; round < 10; round++) {
    const [p0, p1] = [0xd2511f53n * c0, 0xcd9e8d57n * c2];
    [c0, c1, c2, c3] = [(p1 >> 32n) ^ c1 ^ k0, p1 & low, (p0 >> 32n) ^ c3 ^ k1, p0 & low];
    [k0, k1] = [(k0 + 0x9e3779b9n) & low, (k1 + 0xbb67ae85n) & low];
  }
  return [c0, c1, c2, c3].map(Number);
}

/** Word `i` of the stream of a random key (seed low, seed high, stream low, stream high). */
export function wordAt(key: Words, i: number): number {
  const block = Math.floor(i / 4);
  return philox([block % 2 ** 32, Math.floor(block / 2 ** 32), key[2]!, key[3]!], [key[0]!, key[1]!])[i % 4]!;
}
