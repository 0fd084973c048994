// Einstein summation. Operands are contracted from left to right in pairs, each as one batched matrix product over three groups of
// labels (kept by both, by one, summed); a pair with nothing to sum is a broadcast product.
import { DTypeError, describe, ShapeError, ValueError } from '../errors.js';
import { numel, type Shape, showShape } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { checkTensors } from './arguments.js';
import { autocasts } from './autocast.js';
import { to } from './copy.js';
import { deviceOf } from './door.js';
import { matmul } from './matmul.js';
import { mul } from './pointwise.js';
import { sum } from './reduce.js';
import { diagonal, permute, reshape, select } from './view.js';

/** A tensor whose dimensions have names; those of an ellipsis are '.1', '.2', … counted from its right. */
interface Labelled {
  readonly x: Tensor;
  readonly labels: readonly string[];
}

interface Equation {
  readonly inputs: readonly (readonly string[])[];
  /** null: implicit. */
  readonly output: readonly string[] | null;
}

const ELLIPSIS = '...';

function symbols(text: string, equation: string): string[] {
  const out = text.match(/\.\.\.|[a-zA-Z]/g) ?? [];
  if (out.join('') !== text) throw new ValueError(`einsum: labels are letters and at most one '...', got "${text}" in "${equation}"`);
  if (out.filter((s) => s === ELLIPSIS).length > 1) throw new ValueError(`einsum: '...' appears twice in "${text}" of "${equation}"`);
  return out;
}

function parse(text: unknown): Equation {
  if (typeof text !== 'string') throw new ValueError(`einsum: the equation must be a string, got ${describe(text)}`);
  const [left, right, more] = text.replaceAll(' ', '').split('->');
  if (more !== undefined) throw new ValueError(`einsum: '->' appears twice in "${text}"`);
  const inputs = left!.split(',').map((part) => symbols(part, text));
  const output = right === undefined ? null : symbols(right, text);
  if (output) {
    for (const s of output) {
      if (output.indexOf(s) !== output.lastIndexOf(s)) throw new ValueError(`einsum: output label "${s}" appears twice in "${text}"`);
      if (s !== ELLIPSIS && !inputs.some((labels) => labels.includes(s))) throw new ValueError(`einsum: output label "${s}" is in no operand of "${text}"`);
    }
  }
  return { inputs, output };
}

/** The labels of an operand, with its ellipsis spelt out. */
function label(x: Tensor, given: readonly string[], which: number): Labelled {
  const named = given.filter((s) => s !== ELLIPSIS).length;
  const rest = x.ndim - named;
  if (rest < 0 || (rest > 0 && !given.includes(ELLIPSIS))) {
    throw new ShapeError(`einsum: operand ${which} has shape ${showShape(x.shape)}, its labels "${given.join('')}" name ${named} dimensions`);
  }
  const dots = Array.from({ length: rest }, (_, i) => `.${rest - i}`);
  return takeDiagonals(
    x,
    given.flatMap((s) => (s === ELLIPSIS ? dots : [s])),
    which,
  );
}

/** A label that repeats within an operand means its diagonal. */
function takeDiagonals(x: Tensor, labels: readonly string[], which: number): Labelled {
  const second = labels.findIndex((s, i) => labels.indexOf(s) < i);
  if (second < 0) return { x, labels };
  const first = labels.indexOf(labels[second]!);
  if (x.shape[first] !== x.shape[second]) {
    throw new ShapeError(
      `einsum: label "${labels[second]}" of operand ${which} stands for different sizes: ${x.shape[first]} and ${x.shape[second]} in ${showShape(x.shape)}`,
    );
  }
  return takeDiagonals(diagonal(x, 0, first, second), [...labels.filter((_, i) => i !== first && i !== second), labels[first]!], which);
}

/** The size of each label; 1 broadcasts. */
function sizesOf(operands: readonly Labelled[], equation: string): Map<string, number> {
  const sizes = new Map<string, number>();
  for (const { x, labels } of operands) {
    labels.forEach((s, i) => {
      const [old, size] = [sizes.get(s) ?? 1, x.shape[i]!];
      if (old !== 1 && size !== 1 && old !== size)
        throw new ShapeError(`einsum: "${s.replace(/\.\d/, ELLIPSIS)}" stands for ${old} and for ${size} in "${equation}"`);
      sizes.set(s, old === 1 ? size : old);
    });
  }
  return sizes;
}

/** Drops dimensions of size 1 whose label is larger elsewhere: they broadcast. */
function dropBroadcast({ x, labels }: Labelled, sizes: Map<string, number>): Labelled {
  const i = labels.findIndex((s, d) => x.shape[d] === 1 && sizes.get(s) !== 1);
  return i < 0 ? { x, labels } : dropBroadcast({ x: select(x, i, 0), labels: labels.filter((_, d) => d !== i) }, sizes);
}

function sumOut({ x, labels }: Labelled, keep: (label: string) => boolean): Labelled {
  const dims = labels.flatMap((s, i) => (keep(s) ? [] : [i]));
  return dims.length === 0 ? { x, labels } : { x: to(sum(x, dims), x.dtype), labels: labels.filter(keep) };
}

function arrange({ x, labels }: Labelled, order: readonly string[]): Tensor {
  const dims = order.map((s) => labels.indexOf(s));
  return dims.every((d, i) => d === i) ? x : permute(x, dims);
}

/** The product of two operands, with the labels that nothing needs any more summed. */
function contract(left: Labelled, right: Labelled, needed: (label: string) => boolean): Labelled {
  const a = sumOut(left, (s) => needed(s) || right.labels.includes(s));
  const b = sumOut(right, (s) => needed(s) || left.labels.includes(s));
  const shared = a.labels.filter((s) => b.labels.includes(s));
  const batch = shared.filter(needed);
  const summed = shared.filter((s) => !needed(s));
  const rows = a.labels.filter((s) => !shared.includes(s));
  const columns = b.labels.filter((s) => !shared.includes(s));
  const labels = [...batch, ...rows, ...columns];
  const sizes = (order: readonly string[], from: Labelled): number[] => order.map((s) => from.x.shape[from.labels.indexOf(s)]!);
  const [batchShape, rowShape, columnShape] = [sizes(batch, a), sizes(rows, a), sizes(columns, b)];
  if (summed.length === 0) {
    const ones = (shape: Shape): number[] => shape.map(() => 1);
    const x = reshape(arrange(a, [...batch, ...rows]), [...batchShape, ...rowShape, ...ones(columnShape)]);
    return { x: mul(x, reshape(arrange(b, [...batch, ...columns]), [...batchShape, ...ones(rowShape), ...columnShape])), labels };
  }
  const lead = batch.length ? [numel(batchShape)] : [];
  const depth = numel(sizes(summed, a));
  const x = reshape(arrange(a, [...batch, ...rows, ...summed]), [...lead, numel(rowShape), depth]);
  const y = reshape(arrange(b, [...batch, ...summed, ...columns]), [...lead, depth, numel(columnShape)]);
  return { x: reshape(matmul(x, y), [...batchShape, ...rowShape, ...columnShape]), labels };
}

/** PyTorch's implicit output: the ellipsis, then letters that appear once, in alphabetical order with capitals first. */
function implicitOutput(inputs: Equation['inputs']): string[] {
  const all = inputs.flat();
  const once = all.filter((s) => s !== ELLIPSIS && all.indexOf(s) === all.lastIndexOf(s)).sort();
  return all.includes(ELLIPSIS) ? [ELLIPSIS, ...once] : once;
}

/**
 * Sums products of elements as the equation says: `einsum('bij,bjk->bik', a, b)`. Letters name dimensions, a letter missing in the
 * output is summed, one repeated within an operand takes the diagonal, `...` stands for any further dimensions, which broadcast.
 * Without `->` the output has the letters that appear once, in alphabetical order.
 */
export const einsum = autocasts('einsum', (equation: string, ...operands: Tensor[]): Tensor => {
  const { inputs, output } = parse(equation);
  checkTensors(operands, 'einsum');
  if (operands.length !== inputs.length) throw new ValueError(`einsum: "${equation}" has ${inputs.length} operands, got ${operands.length}`);
  deviceOf('einsum', operands);
  for (const x of operands) if (x.dtype !== operands[0]!.dtype) throw new DTypeError(`einsum: dtypes differ: ${operands[0]!.dtype} and ${x.dtype}`);
  const labelled = operands.map((x, i) => label(x, inputs[i]!, i));
  const sizes = sizesOf(labelled, equation);
  const dots = [...sizes.keys()]
    .filter((s) => s.startsWith('.'))
    .sort()
    .reverse();
  const wanted = (output ?? implicitOutput(inputs)).flatMap((s) => (s === ELLIPSIS ? dots : [s]));
  const [first, ...rest] = labelled.map((o) => dropBroadcast(o, sizes));
  const all = rest.reduce<Labelled>((done, next, i) => {
    const later = new Set([...wanted, ...rest.slice(i + 1).flatMap((o) => o.labels)]);
    return contract(done, next, (s) => later.has(s));
  }, first!);
  const y = sumOut(all, (s) => wanted.includes(s));
  return arrange(y, wanted);
});
