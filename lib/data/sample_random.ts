// Randomness of one sample, on the host. A stream is keyed by numbers such as (seed, epoch, index), so an augmentation depends on
// the sample alone: not on the number of workers, not on the order in which samples are fetched.

/** Murmur3's finaliser: every input bit reaches every output bit. */
function mix(h: number): number {
  const a = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  const b = Math.imul(a ^ (a >>> 13), 0xc2b2ae35);
  return (b ^ (b >>> 16)) >>> 0;
}

/** A 32-bit hash of whole numbers up to 2^53. `salt` gives independent hashes of the same key. */
export function hashNumbers(salt: number, ...key: number[]): number {
  let h = mix(salt + 0x9e3779b9);
  for (const n of key) {
    h = mix(Math.imul(h, 0x01000193) ^ (n >>> 0));
    h = mix(h + Math.floor(n / 2 ** 32) + 0x85157af5);
  }
  return h;
}

/** A small seeded generator (sfc32 by Chris Doty-Humphrey), cheap enough to make one for every sample. */
export class SampleRandom {
  private a: number;
  private b: number;
  private c: number;
  private counter = 1;

  /** @param key whole numbers that name the stream, for example seed, epoch and index of the sample. */
  constructor(...key: number[]) {
    this.a = hashNumbers(1, ...key);
    this.b = hashNumbers(2, ...key);
    this.c = hashNumbers(3, ...key);
    for (let i = 0; i < 12; i++) this.bits();
  }

  /** 32 random bits. */
  bits(): number {
    const t = (this.a + this.b + this.counter) | 0;
    this.counter = (this.counter + 1) | 0;
    this.a = this.b ^ (this.b >>> 9);
    this.b = (this.c + (this.c << 3)) | 0;
    this.c = ((this.c << 21) | (this.c >>> 11)) + t;
    this.c |= 0;
    return t >>> 0;
  }

  /** Uniform in [0, 1), with 53 random bits. */
  next(): number {
    return ((this.bits() >>> 5) * 2 ** 26 + (this.bits() >>> 6)) / 2 ** 53;
  }

  /** Uniform in [low, high). */
  uniform(low: number, high: number): number {
    return low + (high - low) * this.next();
  }

  /** A whole number in [0, n), for n up to 2^53. */
  int(n: number): number {
    return Math.floor(this.next() * n);
  }

  /** True with probability p. */
  chance(p: number): boolean {
    return this.next() < p;
  }
}
