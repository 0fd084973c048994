// Whether all ranks have wrapped the same model. Every rank sends a row of one size, whatever its model: a digest of all its parameters
// and a few bytes for each of the first thousand, by which both sides of a difference can name the parameter.
import { createHash } from 'node:crypto';
import { withContext } from '../context.js';
import { fromTypedArray } from '../create.js';
import { DistributedError } from '../errors.js';
import { showShape } from '../shape.js';
import type { NamedParameter } from './buckets.js';
import type { ProcessGroup } from './process_group.js';

const DIGEST = 32;
/** Bytes for each of the first parameters. */
const MARK = 4;
const MARKED = 1000;

/**
 * Compares names, shapes and dtypes of all ranks.
 * @throws DistributedError that names the first parameter that differs
 */
export async function compareParameters(group: ProcessGroup, named: readonly NamedParameter[]): Promise<void> {
  if (group.size === 1) return;
  const mine = named.map(({ name, parameter }) => `${name} ${showShape(parameter.shape)} ${parameter.dtype}`);
  const row = new Uint8Array(DIGEST + MARK * MARKED);
  row.set(digest(mine.join('\n')));
  mine.slice(0, MARKED).forEach((text, i) => row.set(digest(text).subarray(0, MARK), DIGEST + MARK * i));
  // reading begins here, before anything that models which differ would make fail
  const reading = withContext({ scope: null }, () =>
    group
      .allGather(fromTypedArray(row, [1, row.length], { device: group.device }), { label: 'of the names of parameters' })
      .wait()
      .toTypedArray(),
  );
  const all = Buffer.from((await reading) as Uint8Array);
  const of = (rank: number): Buffer => all.subarray(row.length * rank, row.length * (rank + 1));
  for (let other = 0; other < group.size; other++) {
    if (of(other).subarray(0, DIGEST).equals(row.subarray(0, DIGEST))) continue;
    const ranks = [group.rank, other].sort((a, b) => a - b).join(' and ');
    const reason = `DistributedDataParallel: the models of ranks ${ranks} differ, ${difference(mine, row, of(other))}`;
    group.abort(reason);
    throw new DistributedError(reason);
  }
}

function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}

function difference(mine: readonly string[], row: Uint8Array, other: Uint8Array): string {
  const mark = (of: Uint8Array, i: number): string => of.subarray(DIGEST + MARK * i, DIGEST + MARK * (i + 1)).join();
  for (let i = 0; i < MARKED; i++) {
    if (mark(row, i) === mark(other, i)) continue;
    return i < mine.length ? `first in parameter ${mine[i]} here` : `first in the number of parameters: there are ${mine.length} here`;
  }
  return `after the first ${MARKED} parameters`;
}
