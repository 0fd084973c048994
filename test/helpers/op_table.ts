// The harness of the op table (test/ops/*): for each device and dtype a row's forward is held against a reference in double
// precision, its gradients against finite differences, every memory layout against the contiguous one, shapes and dtypes
// on device meta against the real ones, and the bytes alive afterwards against those before.
import { expect } from 'vitest';
import { type DType, memory, scope } from '../../lib/index.js';
import type { Tensor } from '../../lib/tensor.js';
import { expectClose } from './metric.js';
import { integers, seedOf, stream, uniform } from './random.js';
import { map, type Nd, nd } from './reference.js';
import { type Layout, layouts, make, read, representable, rounded } from './tensors.js';

export interface Input {
  readonly shape: readonly number[];
  readonly low: number;
  readonly high: number;
  /** The dtype of an operand that has one of its own, such as indices; others take the dtype under test. */
  readonly dtype?: DType;
  /** No gradient is taken by it. */
  readonly constant?: boolean;
}

export interface Row {
  readonly name: string;
  readonly inputs: readonly Input[];
  readonly fn: (...x: Tensor[]) => Tensor | readonly Tensor[];
  readonly ref: (...x: Nd[]) => Nd | readonly Nd[];
  /** Dtypes under test; by default the four floating-point types. */
  readonly dtypes?: readonly DType[];
  /** The dtype of the first result where it is not the one under test: one, or one for each. */
  readonly result?: DType | ((dtype: DType) => DType);
  /** A factor on the tolerances, for ops that round several times. */
  readonly tolerance?: number;
  /** Element i of the result depends on element i of the inputs alone, so one difference gives all slopes. */
  readonly elementwise?: boolean;
  /** The shape of the result depends on values, so device meta cannot know it. */
  readonly dataDependent?: boolean;
}

export const floats: readonly DType[] = ['float32', 'float64', 'float16', 'bfloat16'];
export const numbers: readonly DType[] = [...floats, 'int64', 'int32', 'uint8'];

export const float = (shape: readonly number[], low = -2, high = 2): Input => ({ shape, low, high });
export const index = (shape: readonly number[], high: number, low = 0, dtype: DType = 'int64'): Input => ({ shape, low, high, dtype });
export const mask = (shape: readonly number[]): Input => ({ shape, low: 0, high: 2, dtype: 'bool' });

const isFloat = (dtype: DType): boolean => dtype.includes('float');
export const wantsGradient = (input: Input): boolean => !input.constant && isFloat(input.dtype ?? 'float64');
// One rounding of the result, by the norm of a tensor, with a little room for the function itself.
const forwardTolerance: Partial<Record<DType, number>> = { float32: 1e-6, float64: 1e-13, float16: 5e-4, bfloat16: 4e-3 };
// Gradients round once more for every op of the backward pass.
const gradientTolerance: Partial<Record<DType, number>> = { float32: 1e-5, float64: 1e-12, float16: 4e-3, bfloat16: 3e-2 };
const FINITE_DIFFERENCE_TOLERANCE = 1e-6;

interface Result {
  readonly outputs: Nd[];
  readonly dtypes: DType[];
  /** One for each input; null where no gradient arrives. */
  readonly gradients: (Nd | null)[];
}

/** Inputs of a row as `dtype` can hold them. */
export function draw(row: Row, dtype: DType, device: string): Nd[] {
  const next = stream(seedOf(row.name));
  return row.inputs.map((input) => {
    const own = input.dtype ?? dtype;
    if (isFloat(own)) return rounded(uniform(input.shape, input.low, input.high, next), own, device);
    if (own === 'bool') return integers(input.shape, 0, 2, next);
    return integers(input.shape, own === 'uint8' ? Math.max(0, input.low) : input.low, input.high, next);
  });
}

/** Weights of the outputs in the scalar whose gradient is taken: nothing special, nothing zero. */
export const cotangent = (shape: readonly number[], which: number): Nd => nd(shape, (i) => Math.cos(1 + i + 3 * which) + 0.1);

export function run(row: Row, values: readonly Nd[], dtype: DType, device: string, layout: Layout, withGradients: boolean): Result {
  return scope(() => {
    const inputs = values.map((x, i) => make(x, row.inputs[i]!.dtype ?? dtype, device, layout));
    if (withGradients) inputs.forEach((x, i) => (x.requiresGrad = wantsGradient(row.inputs[i]!)));
    const outputs = [row.fn(...inputs)].flat() as Tensor[];
    const roots = withGradients ? outputs.filter((y) => y.requiresGrad) : [];
    roots.forEach((y, i) => {
      y.backward({ gradient: make(cotangent(y.shape, outputs.indexOf(y)), y.dtype, device), retainGraph: i < roots.length - 1 });
    });
    const result = {
      outputs: outputs.map(read),
      dtypes: outputs.map((y) => y.dtype),
      gradients: inputs.map((x) => (x.grad ? read(x.grad) : null)),
    };
    for (const x of inputs) {
      x.grad?.dispose();
      x.grad = null;
    }
    return result;
  });
}

/** d(sum of outputs × cotangents) / d(input i), by central differences in float64. */
function finiteDifferences(row: Row, values: readonly Nd[], which: number, device: string, differentiable: readonly boolean[]): Nd {
  const weighted = (): number => {
    const { outputs } = run(row, values, 'float64', device, 'contiguous', false);
    return outputs.reduce((sum, y, i) => (differentiable[i] ? sum + map((a, b) => a * b, y, cotangent(y.shape, i)).data.reduce((a, b) => a + b, 0) : sum), 0);
  };
  const { shape, data } = values[which]!;
  const step = (x: number): number => 1e-6 * Math.max(1, Math.abs(x));
  if (row.elementwise) {
    const moved = (sign: number): Nd => {
      const shifted = values.map((x, i) => (i === which ? map((v) => v + sign * step(v), x) : x));
      return run(row, shifted, 'float64', device, 'contiguous', false).outputs[0]!;
    };
    if (!differentiable[0]) return nd(shape, () => 0);
    return map((above, below, weight, x) => (weight * (above - below)) / (2 * step(x)), moved(1), moved(-1), cotangent(shape, 0), values[which]!);
  }
  return nd(shape, (i) => {
    const x = data[i]!;
    data[i] = x + step(x);
    const above = weighted();
    data[i] = x - step(x);
    const below = weighted();
    data[i] = x;
    return (above - below) / (2 * step(x));
  });
}

function checkForward(row: Row, values: readonly Nd[], result: Result, dtype: DType): void {
  const expected = [row.ref(...values)].flat() as Nd[];
  const label = `${row.name} ${dtype}`;
  expect(result.outputs.length, `${label}: number of results`).toBe(expected.length);
  const kind = typeof row.result === 'function' ? row.result(dtype) : row.result;
  expect(result.dtypes[0], `${label}: dtype of the result`).toBe(kind ?? dtype);
  expected.forEach((y, i) => {
    expect(result.outputs[i]!.shape, `${label}: shape of result ${i}`).toEqual(y.shape);
    const tolerance = (forwardTolerance[result.dtypes[i]!] ?? 0) * (row.tolerance ?? 1);
    const wrapped = result.dtypes[i] === 'uint8' ? Uint8Array.from(y.data) : y.data;
    expectClose(result.outputs[i]!.data, wrapped, tolerance, `${label}: result ${i}`);
  });
}

export function checkGradients(row: Row, values: readonly Nd[], exact: Result, device: string): void {
  const differentiable = exact.dtypes.map(isFloat);
  values.forEach((_, i) => {
    const gradient = exact.gradients[i];
    if (!wantsGradient(row.inputs[i]!)) return;
    const slope = finiteDifferences(
      row,
      values.map((x) => nd(x.shape, x.data)),
      i,
      device,
      differentiable,
    );
    if (!gradient) expectClose(slope.data, new Float64Array(slope.data.length), 1e-9, `${row.name}: input ${i} has no gradient, but its slope`);
    else expectClose(gradient.data, slope.data, FINITE_DIFFERENCE_TOLERANCE, `${row.name}: gradient of input ${i} against finite differences`);
  });
}

function compare(row: Row, actual: Result, expected: Result, dtype: DType, label: string): void {
  expected.outputs.forEach((y, i) => {
    const tolerance = (forwardTolerance[expected.dtypes[i]!] ?? 0) * (row.tolerance ?? 1);
    expectClose(actual.outputs[i]!.data, y.data, tolerance, `${row.name} ${dtype} ${label}: result ${i}`);
  });
  compareGradients(row, actual, expected, dtype, label);
}

function compareGradients(row: Row, actual: Result, expected: Result, dtype: DType, label: string): void {
  const tolerance = (gradientTolerance[dtype] ?? 0) * (row.tolerance ?? 1);
  expected.gradients.forEach((g, i) => {
    const got = actual.gradients[i];
    if (g) expectClose(got?.data ?? [], g.data, tolerance, `${row.name} ${dtype} ${label}: gradient of input ${i}`);
    else expect(got ?? null, `${row.name} ${dtype} ${label}: input ${i} has no gradient`).toBeNull();
  });
}

function checkMeta(row: Row, real: Result, dtype: DType): void {
  const inputs = row.inputs.map((input) =>
    make(
      nd(input.shape, () => 1),
      input.dtype ?? dtype,
      'cpu',
    ).to('meta'),
  );
  const outputs = [row.fn(...inputs)].flat() as Tensor[];
  expect(
    outputs.map((y) => [y.isMeta, y.shape, y.dtype]),
    `${row.name} ${dtype}: shapes and dtypes on device meta`,
  ).toEqual(real.outputs.map((y, i) => [true, y.shape, real.dtypes[i]]));
}

/** All checks of one row on one device. */
export function checkRow(row: Row, device: string): void {
  const before = memory(device).live;
  for (const dtype of row.dtypes ?? floats) {
    const values = draw(row, dtype, device);
    const result = run(row, values, dtype, device, 'contiguous', isFloat(dtype));
    checkForward(row, values, result, dtype);
    if (isFloat(dtype)) {
      const exact = dtype === 'float64' ? result : run(row, values, 'float64', device, 'contiguous', true);
      if (dtype === 'float64') checkGradients(row, values, exact, device);
      else compareGradients(row, result, exact, dtype, 'against float64');
    }
    for (const layout of layouts.slice(1)) {
      const held = values.map((x) => representable(x, layout));
      const plain = layout === 'expanded' ? run(row, held, dtype, device, 'contiguous', isFloat(dtype)) : result;
      compare(row, run(row, held, dtype, device, layout, isFloat(dtype)), plain, dtype, layout);
    }
    if (!row.dataDependent) scope(() => checkMeta(row, result, dtype));
  }
  expect(memory(device).live, `${row.name}: live bytes afterwards`).toBe(before);
}
