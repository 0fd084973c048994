// What a bench says: rows of a table, each with the rounds of all sides behind it. A ratio above 1 means that ours is better, whatever the
// unit; it is the median of the rounds' ratios, because the machine has good and bad minutes and a round sees the same one on all sides.

/** Of the rounds. */
export interface Spread {
  readonly median: number;
  readonly low: number;
  readonly high: number;
}

export interface Row {
  readonly group: string;
  readonly name: string;
  readonly unit: string;
  /** null where the row sums up others. */
  readonly ours: Spread | null;
  readonly theirs: Spread | null;
  readonly tfjs: Spread | null;
  /** Times better than PyTorch. */
  readonly ratio: Spread | null;
  /** What the ratio should reach. */
  readonly bar: number | null;
  readonly note: string;
}

export const median = (xs: readonly number[]): number => xs.toSorted((a, b) => a - b)[xs.length >> 1]!;
export const spread = (xs: readonly number[]): Spread => ({ median: median(xs), low: Math.min(...xs), high: Math.max(...xs) });
/** `1.31 (1.20 to 1.52)`. */
export const shown = ({ median, low, high }: Spread): string =>
  low === high ? median.toFixed(2) : `${median.toFixed(2)} (${low.toFixed(2)} to ${high.toFixed(2)})`;

/** Of each round, by side. A side that could not be run is null. */
export interface Rounds {
  readonly ours: readonly number[];
  readonly theirs: readonly number[] | null;
  readonly tfjs?: readonly number[] | null;
}

/** Units that count what gets done; of all others less is better. */
const SPEEDS: readonly string[] = ['tokens/s', 'images/s', 'samples/s', 'GFLOP/s'];

export interface RowOptions {
  readonly bar?: number;
  readonly note?: string;
}

export function row(group: string, name: string, unit: string, { ours, theirs, tfjs = null }: Rounds, { bar, note = '' }: RowOptions = {}): Row {
  const better = SPEEDS.includes(unit) ? (a: number, b: number): number => a / b : (a: number, b: number): number => b / a;
  return {
    group,
    name,
    unit,
    ours: spread(ours),
    theirs: theirs && spread(theirs),
    tfjs: tfjs && spread(tfjs),
    ratio: theirs && spread(ours.map((x, i) => better(x, theirs[i]!))),
    bar: bar ?? null,
    note,
  };
}

/** What each side answers in each round: side by side, as the outer list. */
export async function inTurn(sides: readonly (() => Promise<number>)[], rounds: number): Promise<number[][]> {
  const all: number[][] = sides.map(() => []);
  for (let r = 0; r < rounds; r++) for (const [i, side] of sides.entries()) all[i]!.push(await side());
  return all;
}

/** What all groups are told. */
export interface Run {
  /** A Python with PyTorch; null: ours alone. */
  readonly python: string | null;
  /** tfjs is installed. */
  readonly tfjs: boolean;
  readonly rounds: number;
  /** Threads that the machine has for it. */
  readonly threads: number;
  /** Small sizes and few steps: to see that everything runs. */
  readonly quick: boolean;
}

export type Group = (run: Run) => AsyncIterable<Row>;
