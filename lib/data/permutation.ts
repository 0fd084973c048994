// A seeded permutation of 0..n-1 that is computed, not stored: element i costs O(1) and no memory, whatever n is. It is a Feistel
// network over the next power of two, walked until it lands inside n (cycle walking; Black and Rogaway, "Ciphers with arbitrary
// finite domains", 2002). That is what makes a shuffled loader resumable at any sample at once.
import { hashNumbers } from './sample_random.js';

const ROUNDS = 8;
/** Tiny networks have too few round keys to reach all orders; walking a larger one costs nothing at such sizes. */
const MIN_BITS = 10;

/** An order of 0..n-1 that a key chooses; `at(i)` costs a few operations and no memory. */
export class Permutation {
  private readonly keys: number[];
  private readonly highSize: number;
  private readonly lowSize: number;

  /**
   * @param n number of elements, up to 2^53
   * @param key whole numbers that choose the permutation, for example seed and epoch
   */
  constructor(
    readonly n: number,
    ...key: number[]
  ) {
    const bits = Math.max(MIN_BITS, Math.ceil(Math.log2(Math.max(n, 1))));
    this.highSize = 2 ** Math.floor(bits / 2);
    this.lowSize = 2 ** Math.ceil(bits / 2);
    this.keys = Array.from({ length: ROUNDS }, (_, round) => hashNumbers(0x5eed + round, ...key));
  }

  /** Where element i goes, for i in [0, n). */
  at(i: number): number {
    let x = i;
    do x = this.encrypt(x);
    while (x >= this.n);
    return x;
  }

  private encrypt(x: number): number {
    let high = Math.floor(x / this.lowSize);
    let low = x % this.lowSize;
    let highSize = this.highSize;
    let lowSize = this.lowSize;
    for (let round = 0; round < ROUNDS; round++) {
      const key = this.keys[round]!;
      let h = Math.imul(low ^ key, 0x85ebca6b);
      h = Math.imul(h ^ (h >>> 15) ^ key, 0xc2b2ae35);
      h ^= h >>> 16;
      // the halves may differ by one bit in width, so they swap with their sizes
      const mixed = (high ^ (h & (highSize - 1))) >>> 0;
      high = low;
      low = mixed;
      [highSize, lowSize] = [lowSize, highSize];
    }
    return high * lowSize + low;
  }
}
