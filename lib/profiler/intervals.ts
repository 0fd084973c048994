// Sets of moments as sorted, disjoint intervals: what shares of time are made of.

export type Interval = readonly [begin: number, end: number];

/** The union. */
export function union(intervals: readonly Interval[]): Interval[] {
  const sorted = [...intervals].sort((a, b) => a[0] - b[0]);
  const merged: [number, number][] = [];
  for (const [begin, end] of sorted) {
    const last = merged.at(-1);
    if (last && begin <= last[1]) last[1] = Math.max(last[1], end);
    else if (end > begin) merged.push([begin, end]);
  }
  return merged;
}

/** What lies in `a` and not in `b`; both are unions. */
export function difference(a: readonly Interval[], b: readonly Interval[]): Interval[] {
  const rest: Interval[] = [];
  let next = 0;
  for (const [begin, end] of a) {
    while (next < b.length && b[next]![1] <= begin) next++;
    let from = begin;
    for (let i = next; i < b.length && b[i]![0] < end; i++) {
      if (b[i]![0] > from) rest.push([from, b[i]![0]]);
      from = Math.max(from, b[i]![1]);
    }
    if (from < end) rest.push([from, end]);
  }
  return rest;
}

export function length(intervals: readonly Interval[]): number {
  return intervals.reduce((sum, [begin, end]) => sum + end - begin, 0);
}
