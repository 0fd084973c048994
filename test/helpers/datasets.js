// Datasets that loader workers import by name. Plain JavaScript: a worker runs it as it is.
import { threadId } from 'node:worker_threads';

/** Samples { x: [index, draw], thread }. */
export class Numbers {
  constructor(length, options = {}) {
    this.length = length;
    this.options = options;
  }
  get(index, random) {
    const { failAt, exitAt, hangAt, throwAt, slow, size = 0 } = this.options;
    if (index === failAt) throw new RangeError(`sample ${index} is broken`);
    if (index === exitAt) process.exit(3);
    if (index === hangAt) for (;;);
    // outside any promise: what the loader cannot catch
    if (index === throwAt) setImmediate(() => { throw new Error('stray'); });
    const sample = { x: Float32Array.of(index, random.next(), ...new Array(size).fill(index)), thread: threadId };
    if (slow) return new Promise((resolve) => setTimeout(resolve, (index * 7919) % slow, sample));
    return index === throwAt ? new Promise(() => {}) : sample;
  }
}

export async function numbersLater(length) {
  return new Numbers(length);
}

export const fixed = new Numbers(4);

export class Broken {
  constructor() {
    throw new Error('no such disk');
  }
}

/** 0, 1, 2, … n - 1, shared out. */
export class Counter {
  constructor(n) {
    this.n = n;
  }
  *iterate({ shard, shards }) {
    for (let i = shard; i < this.n; i += shards) yield { x: Float32Array.of(i, 0) };
  }
}

export function collateSums(samples) {
  return { x: { data: Float32Array.of(samples.reduce((sum, { x }) => sum + x[0], 0), 0), shape: [1, 2] } };
}

export function unclonable() {
  return { x: () => 1 };
}

export function addTo(amount) {
  return ({ x }) => ({ x: { data: x.data.map((v) => v + amount), shape: [1] } });
}
