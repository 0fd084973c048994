// Slurm's two compressed notations, expanded here because a compute node need not have scontrol: lists of hosts (`gpu[01-03,7],login`)
// and counts of tasks on each node (`2(x3),1`).
import { DistributedError } from '../errors.js';

/** More hosts than any cluster has: a longer list is a mistake, not to be expanded. */
const MAX_ENTRIES = 100_000;

/** The hosts of a list, in its order. Throws DistributedError for what is no such list. */
export function expandHosts(list: string): string[] {
  const hosts: string[] = [];
  for (const item of splitOutsideBrackets(list)) {
    let names = [''];
    // literal and bracketed parts take turns, and every bracket multiplies
    for (const [i, part] of item.split(/\[([^[\]]*)\]/).entries()) {
      const endings = i % 2 === 0 ? [part] : expandRanges(part, list);
      if (names.length * endings.length > MAX_ENTRIES) throw malformed('host list', list);
      names = names.flatMap((name) => endings.map((ending) => name + ending));
    }
    if (/[[\]]/.test(names[0]!) || names[0] === '' || hosts.length + names.length > MAX_ENTRIES) throw malformed('host list', list);
    hosts.push(...names);
  }
  return hosts;
}

/** The number of tasks on each node. Throws DistributedError for what is no such list. */
export function expandCounts(list: string): number[] {
  return list.split(',').flatMap((part) => {
    const match = /^(\d{1,9})(?:\(x(\d{1,6})\))?$/.exec(part.trim());
    const times = Number(match?.[2] ?? 1);
    if (!match || times > MAX_ENTRIES) throw malformed('list of tasks per node', list);
    return new Array<number>(times).fill(Number(match[1]));
  });
}

function splitOutsideBrackets(list: string): string[] {
  return list.split(/,(?![^[]*\])/).map((item) => item.trim());
}

function expandRanges(ranges: string, list: string): string[] {
  return ranges.split(',').flatMap((range) => {
    const match = /^(\d{1,9})(?:-(\d{1,9}))?$/.exec(range);
    if (!match) throw malformed('host list', list);
    const [, first = '', last = first] = match;
    const count = Number(last) - Number(first) + 1;
    if (count < 1 || count > MAX_ENTRIES) throw malformed('host list', list);
    return Array.from({ length: count }, (_, i) => String(Number(first) + i).padStart(first.length, '0'));
  });
}

function malformed(kind: string, list: string): DistributedError {
  return new DistributedError(`the environment's Slurm ${kind} is malformed: ${JSON.stringify(list.slice(0, 200))}`);
}
