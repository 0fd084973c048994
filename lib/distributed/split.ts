// Who belongs together when a group is cut up.
import { fromTypedArray } from '../create.js';
import { checkInteger } from '../shape.js';
import type { ProcessGroup } from './process_group.js';

export interface Part {
  /** This rank's place among the members. */
  readonly rank: number;
  /** Ranks of the parent, in the order of the part. */
  readonly members: readonly number[];
}

const NONE = -1;

/** All ranks say their colours and keys; each learns its part, null without a colour. */
export async function partition(parent: ProcessGroup, color: number | null, key: number): Promise<Part | null> {
  if (color !== null) checkInteger(color, 'color', 'split', 0, 2 ** 31 - 1);
  checkInteger(key, 'key', 'split', -(2 ** 31), 2 ** 31 - 1);
  const mine = fromTypedArray(Int32Array.of(color ?? NONE, key), [1, 2], { device: parent.device });
  const all = (await (await parent.allGather(mine, { label: 'of split' })).toTypedArray()) as Int32Array;
  if (color === null) return null;
  const members = Array.from({ length: parent.size }, (_, r) => r).filter((r) => all[2 * r] === color);
  members.sort((a, b) => all[2 * a + 1]! - all[2 * b + 1]! || a - b);
  return { rank: members.indexOf(parent.rank), members };
}

/** Every rank's text, in rank order. */
export async function exchangeText(group: ProcessGroup, text: string, label: string): Promise<string[]> {
  const { device } = group;
  const bytes = new TextEncoder().encode(text);
  const length = await group.allGather(fromTypedArray(Int32Array.of(bytes.length), [1], { device }), { label });
  const rows = Array.from((await length.toTypedArray()) as Int32Array);
  const all = await group.allGather(fromTypedArray(bytes, [bytes.length], { device }), { rows, label });
  const joined = Buffer.from((await all.toTypedArray()) as Uint8Array);
  const ends = rows.map((_, r) => rows.slice(0, r + 1).reduce((a, b) => a + b, 0));
  return rows.map((n, r) => joined.subarray(ends[r]! - n, ends[r]!).toString());
}
