// The reference the op table compares with: n-dimensional arrays of doubles in plain JavaScript, written for clarity, with
// no code in common with lib/. Every function makes a new, contiguous array.

export interface Nd {
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

export const size = (shape: readonly number[]): number => shape.reduce((n, s) => n * s, 1);

export function nd(shape: readonly number[], data: ArrayLike<number> | ((i: number) => number)): Nd {
  const values = typeof data === 'function' ? Float64Array.from({ length: size(shape) }, (_, i) => data(i)) : Float64Array.from(data);
  if (values.length !== size(shape)) throw new Error(`reference: ${values.length} values for [${shape}]`);
  return { shape, data: values };
}

export const scalar = (value: number): Nd => nd([], [value]);

/** The multi-index of a row-major position. */
export function unravel(position: number, shape: readonly number[]): number[] {
  const index = new Array<number>(shape.length);
  let rest = position;
  for (let d = shape.length - 1; d >= 0; d--) {
    index[d] = rest % shape[d]!;
    rest = Math.floor(rest / shape[d]!);
  }
  return index;
}

export function ravel(index: readonly number[], shape: readonly number[]): number {
  return index.reduce((at, i, d) => at * shape[d]! + i, 0);
}

/** An array whose element at `index` is f(index): the definition of most things below. */
export function build(shape: readonly number[], f: (index: number[]) => number): Nd {
  return nd(shape, (i) => f(unravel(i, shape)));
}

export const at = (x: Nd, index: readonly number[]): number => x.data[ravel(index, x.shape)]!;

export function broadcastShape(...shapes: (readonly number[])[]): number[] {
  const n = Math.max(...shapes.map((s) => s.length));
  return Array.from({ length: n }, (_, d) => {
    const sizes = shapes.map((s) => s[d - n + s.length] ?? 1);
    const wide = sizes.filter((s) => s !== 1);
    if (new Set(wide).size > 1) throw new Error(`reference: ${shapes.map((s) => `[${s}]`).join(' and ')} do not broadcast`);
    return wide[0] ?? 1;
  });
}

export function expand(x: Nd, shape: readonly number[]): Nd {
  const lead = shape.length - x.shape.length;
  return build(shape, (index) =>
    at(
      x,
      x.shape.map((s, d) => (s === 1 ? 0 : index[lead + d]!)),
    ),
  );
}

export function map(f: (...values: number[]) => number, ...inputs: Nd[]): Nd {
  const shape = broadcastShape(...inputs.map((x) => x.shape));
  const wide = inputs.map((x) => (x.shape.join() === shape.join() ? x : expand(x, shape)));
  return nd(shape, (i) => f(...wide.map((x) => x.data[i]!)));
}

export function permute(x: Nd, order: readonly number[]): Nd {
  return build(
    order.map((d) => x.shape[d]!),
    (index) => {
      const source = new Array<number>(order.length);
      order.forEach((d, i) => (source[d] = index[i]!));
      return at(x, source);
    },
  );
}

export const transpose = (x: Nd, a: number, b: number): Nd => {
  const order = x.shape.map((_, d) => d);
  const [i, j] = [wrapDim(a, x), wrapDim(b, x)];
  [order[i], order[j]] = [j, i];
  return permute(x, order);
};

export const reshape = (x: Nd, shape: readonly number[]): Nd => nd(shape, x.data);

export const wrapDim = (dim: number, x: Nd): number => (dim < 0 ? dim + x.shape.length : dim);

/** Applies `f` to the values along the reduced dimensions, in row-major order of those dimensions. */
export function reduce(x: Nd, dims: number | readonly number[] | null, keepdim: boolean, f: (values: number[]) => number): Nd {
  const reduced = new Set((dims === null ? x.shape.map((_, d) => d) : [dims].flat()).map((d) => wrapDim(d, x)));
  const kept = x.shape.map((s, d) => (reduced.has(d) ? 1 : s));
  const groups = Array.from({ length: size(kept) }, () => [] as number[]);
  for (let i = 0; i < x.data.length; i++) {
    const index = unravel(i, x.shape).map((k, d) => (reduced.has(d) ? 0 : k));
    groups[ravel(index, kept)]!.push(x.data[i]!);
  }
  const shape = keepdim ? kept : kept.filter((_, d) => !reduced.has(d));
  return nd(shape, groups.map(f));
}

/** Replaces each run along `dim` by f(run); f may change its length. */
export function along(x: Nd, dim: number, f: (values: number[], line: number) => ArrayLike<number>): Nd {
  const d = wrapDim(dim, x);
  const last = x.shape.length - 1;
  const moved = x.shape.length === 0 ? reshape(x, [1]) : transpose(x, d, last);
  const length = moved.shape.at(-1)!;
  const lines: number[][] = [];
  for (let i = 0; i < size(moved.shape.slice(0, -1)); i++) {
    lines.push(Array.from(f(Array.from(moved.data.subarray(i * length, (i + 1) * length)), i)));
  }
  const out = nd([...moved.shape.slice(0, -1), lines[0]?.length ?? length], lines.flat());
  return x.shape.length === 0 ? reshape(out, []) : transpose(out, d, last);
}

export const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
export const mean = (values: readonly number[]): number => sum(values) / values.length;
export const variance = (values: readonly number[], correction: number): number => {
  const m = mean(values);
  return sum(values.map((v) => (v - m) ** 2)) / Math.max(0, values.length - correction);
};

/** matmul of at least two dimensions each, with broadcast batch dimensions. */
export function matmul(a: Nd, b: Nd): Nd {
  const [m, k, n] = [a.shape.at(-2)!, a.shape.at(-1)!, b.shape.at(-1)!];
  const batch = broadcastShape(a.shape.slice(0, -2), b.shape.slice(0, -2));
  const [wideA, wideB] = [expand(a, [...batch, m, k]), expand(b, [...batch, k, n])];
  const out = new Float64Array(size(batch) * m * n);
  for (let g = 0; g < size(batch); g++) {
    for (let i = 0; i < m; i++) {
      for (let p = 0; p < k; p++) {
        const x = wideA.data[(g * m + i) * k + p]!;
        for (let j = 0; j < n; j++) out[(g * m + i) * n + j]! += x * wideB.data[(g * k + p) * n + j]!;
      }
    }
  }
  return nd([...batch, m, n], out);
}

export const softmaxOf = (values: readonly number[]): number[] => {
  const top = Math.max(...values);
  const e = values.map((v) => (top === -Infinity ? 0 : Math.exp(v - top)));
  return e.map((v) => v / sum(e));
};
export const logSoftmaxOf = (values: readonly number[]): number[] => {
  const total = logsumexpOf(values);
  return values.map((v) => v - total);
};
export const logsumexpOf = (values: readonly number[]): number => {
  const top = Math.max(...values);
  return Number.isFinite(top) ? top + Math.log(sum(values.map((v) => Math.exp(v - top)))) : top;
};

/** The error function to double precision: a Taylor series near zero, a continued fraction for its complement elsewhere. */
export function erf(x: number): number {
  return Math.abs(x) < 2 ? erfSeries(x) : x > 0 ? 1 - erfc(x) : erfc(-x) - 1;
}
export function erfc(x: number): number {
  if (Math.abs(x) < 2) return 1 - erfSeries(x);
  if (x < 0) return 2 - erfc(-x);
  let fraction = 0;
  for (let k = 120; k > 0; k--) fraction = k / 2 / (x + fraction);
  return Math.exp(-x * x) / Math.sqrt(Math.PI) / (x + fraction);
}
function erfSeries(x: number): number {
  let term = x;
  let total = x;
  for (let k = 1; k < 80; k++) {
    term *= -(x * x) / k;
    total += term / (2 * k + 1);
  }
  return (2 / Math.sqrt(Math.PI)) * total;
}
