// Which native ops have really run: every crossing is seen here, so "every op is tested" cannot be claimed by a list.
import { block, native } from '../../lib/native.js';

/** Names of the ops that crossed into native code since this file was imported. */
export const executed: Set<string> = new Set();

const run = native.run;
native.run = () => {
  executed.add(native.ops[block[0]!]!.name);
  run();
};
