// Seeded numbers for inputs: the same on every machine and in every run.
import { type Nd, nd } from './reference.js';

/** Uniform numbers in [0, 1) from a 32-bit state (the mulberry32 mixer). */
export function stream(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A seed from text, so that each row of a table has its own numbers. */
export function seedOf(text: string): number {
  let h = 2166136261;
  for (const c of text) h = Math.imul(h ^ c.codePointAt(0)!, 16777619);
  return h >>> 0;
}

export function uniform(shape: readonly number[], low: number, high: number, next: () => number): Nd {
  return nd(shape, () => low + (high - low) * next());
}
export function integers(shape: readonly number[], low: number, high: number, next: () => number): Nd {
  return nd(shape, () => Math.floor(low + (high - low) * next()));
}
