// What the host does at every step besides launching: while a graph is captured it is remembered, and repeated before each replay.
import { context } from './context.js';
import { ValueError } from './errors.js';
import type { RandomKey } from './random.js';

/** Random draws of one graph. */
export const MAX_KEYS = 4096;

/** What a capture remembers besides the device's commands. */
export class Capture {
  /** In the order of the captured function; a replay repeats them before it launches. */
  readonly effects: (() => void)[] = [];
  readonly keys = new Uint32Array(4 * MAX_KEYS);
  private drawn = 0;

  /** The place of a key in the device's table: a replay writes there what `make` gives then. */
  placeOfKey(make: () => RandomKey): RandomKey {
    const place = this.drawn++;
    if (place >= MAX_KEYS) throw new ValueError(`graph.capture: more than ${MAX_KEYS} random draws in one graph`);
    this.effects.push(() => this.keys.set(make(), 4 * place));
    return [-1 - place, 0, 0, 0];
  }
  get keysInUse(): Uint32Array {
    return this.keys.subarray(0, 4 * this.drawn);
  }
}

/** Does now what the host does at every step; while a graph is captured, at every replay instead. */
export function everyStep(effect: () => void): void {
  const { capture } = context();
  if (capture) capture.effects.push(effect);
  else effect();
}
