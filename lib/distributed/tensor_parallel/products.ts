// The two linear layers of tensor parallelism as differentiable functions. What is sent in backward is started as soon as it is known, and waited
// for when it is needed: the products in between hide it.
import { defineFunction, type FunctionContext } from '../../autograd/function.js';
import { isGradEnabled } from '../../autograd/modes.js';
import { keptAs } from '../../autograd/selective.js';
import { AutogradError, ShapeError } from '../../errors.js';
import { castGradient, castInputs } from '../../ops/autocast.js';
import { addInto, contiguous } from '../../ops/copy.js';
import { fresh } from '../../ops/door.js';
import { gemm, linear, rows } from '../../ops/matmul.js';
import { add } from '../../ops/pointwise.js';
import { sum } from '../../ops/reduce.js';
import { mT, reshape } from '../../ops/view.js';
import { sameShape, showShape } from '../../shape.js';
import type { Tensor } from '../../tensor.js';
import type { ProcessGroup } from '../process_group.js';
import type { SharedRows } from './partial_gradients.js';
import { type Pending, sizesOf, startGather, startReduceScatter } from './sequence.js';
import { lengthOfWhole } from './sequence_length.js';

export interface ProductOptions {
  readonly group: ProcessGroup;
  /** Outside of the layer, every rank has its piece of the sequence. */
  readonly sequenceParallel: boolean;
  /** Of the layer, in errors and in the flight recorder. */
  readonly name: string;
  /** Rows that ranks share get one gradient. */
  readonly shared?: SharedRows | null;
  /** All ranks' parts of the weight have one shape, so what they compute of the same numbers has the same bits. */
  readonly even: boolean;
}

export interface Call extends ProductOptions {
  readonly needs: readonly boolean[];
  readonly weight: Tensor;
  readonly bias: Tensor | null;
}

function begin(ctx: FunctionContext, options: ProductOptions, weight: Tensor, inputs: readonly (Tensor | null)[]): void {
  const call: Call = { ...options, needs: inputs.map((x) => x?.requiresGrad ?? false), weight, bias: inputs[2] ?? null };
  ctx['call'] = call;
}

export function callOf<C extends Pick<Call, 'name'> = Call>(ctx: FunctionContext): C {
  const call = ctx['call'] as C;
  if (isGradEnabled()) throw new AutogradError(`createGraph: no second derivative of ${call.name}`);
  return call;
}

/** The sum over the ranks, of the sequence or of this rank's piece of it; x is overwritten. */
export function startSum(x: Tensor, { group, sequenceParallel }: Pick<ProductOptions, 'group' | 'sequenceParallel'>, label: string): Pending {
  if (sequenceParallel) return startReduceScatter(x, group, label);
  const work = group.allReduce(x, { label });
  return () => work.wait();
}

/** dW = dyᵀ·x and db = column sums of dy, each in the dtype of its parameter. `ride`: the sums are taken in passing, in an order that depends on x. */
export function parameterGradients(
  { needs, weight, bias }: Pick<Call, 'needs' | 'weight' | 'bias'>,
  dy: Tensor,
  x: () => Tensor,
  ride: boolean,
): [Tensor | null, Tensor | null] {
  const flat = needs[1] ? rows(x()) : null;
  const columnSums = flat && needs[2] && ride ? fresh([dy.shape[1]!], bias!.dtype) : null;
  const [dw, db] = flat ? gemm(mT(dy), flat, { out: fresh([dy.shape[1]!, flat.shape[1]!], weight.dtype), columnSums }) : [];
  return [dw ?? null, db ?? (needs[2] ? sum(dy, 0) : null)];
}

/**
 * x·Wᵀ + b with the rows of W and b spread over the ranks. Every rank has x, or with `sequenceParallel` its piece of it, which alone is kept for
 * backward. The gradient of x is summed over the ranks while that of W is computed.
 */
export const columnParallel: (x: Tensor, weight: Tensor, bias: Tensor | null, options: ProductOptions) => Tensor = defineFunction({
  name: 'ColumnParallelLinear',
  forward: (ctx: FunctionContext, x: Tensor, weight: Tensor, bias: Tensor | null, options: ProductOptions): Tensor => {
    const [input, w] = castInputs('linear', [x, weight]) as [Tensor, Tensor];
    begin(ctx, options, weight, [x, weight, bias]);
    ctx.saveForBackward(input, w);
    const { sequenceParallel, group, name } = options;
    if (!sequenceParallel) return linear(input, w, bias);
    const length = lengthOfWhole(sizesOf(input).time, group);
    return keptAs('matmul', () => [linear(startGather(input, group, length, `of the input of ${name}`)(), w, bias)])[0]!;
  },
  backward: (ctx, g) => {
    const call = callOf(ctx);
    const { needs, sequenceParallel, group, name } = call;
    const [input, w] = ctx.savedTensors as [Tensor, Tensor];
    const dy = rows(contiguous(castGradient('linear', g, w.dtype)));
    const gathered = sequenceParallel && needs[1] ? startGather(input, group, sizesOf(g).time, `of the input of ${name}`) : null;
    let reduced: Pending | null = null;
    if (needs[0]) {
      const dx = reshape(gemm(dy, w.detach())[0]!, [...g.shape.slice(0, -1), w.shape[1]!]);
      reduced = startSum(dx, call, `of the gradient of the input of ${name}`);
    }
    const own = parameterGradients(call, dy, gathered ?? (() => input), true);
    const [dw, db] = call.shared ? call.shared(...own) : own;
    return [reduced?.() ?? null, dw, db, null];
  },
});

/**
 * x·Wᵀ + b with the columns of W spread over the ranks, as the features of x are. The sum over the ranks comes before the bias, and before
 * `residual`, of the result's shape. With `sequenceParallel` every rank gets its piece of the sequence.
 */
export const rowParallel: (x: Tensor, weight: Tensor, bias: Tensor | null, residual: Tensor | null, options: ProductOptions) => Tensor = defineFunction({
  name: 'RowParallelLinear',
  forward: (ctx: FunctionContext, x: Tensor, weight: Tensor, bias: Tensor | null, residual: Tensor | null, options: ProductOptions): Tensor => {
    const [input, w] = castInputs('linear', [x, weight]) as [Tensor, Tensor];
    begin(ctx, options, weight, [x, weight, bias]);
    ctx.saveForBackward(input, w);
    const { name } = options;
    const [y] = keptAs(options.sequenceParallel ? 'reduceScatter' : 'allReduce', () => {
      const sum = startSum(linear(input, w), options, `of the output of ${name}`)();
      if (bias) addInto(sum, bias);
      return [sum];
    }) as [Tensor];
    if (!residual) return y;
    if (!sameShape(residual.shape, y.shape)) throw new ShapeError(`${name}: the residual must be ${showShape(y.shape)}, got ${showShape(residual.shape)}`);
    return add(residual, y);
  },
  backward: (ctx, g) => {
    const call = callOf(ctx);
    const { needs, sequenceParallel, group, name } = call;
    const [input, w] = ctx.savedTensors as [Tensor, Tensor];
    const mine = castGradient('linear', g, w.dtype);
    const dy = rows(contiguous(sequenceParallel ? startGather(mine, group, sizesOf(input).time, `of the gradient of ${name}`)() : mine));
    const dx = needs[0] ? reshape(gemm(dy, w.detach())[0]!, input.shape) : null;
    // of the whole gradient: that of the bias is complete, and must have the same bits on every rank
    const [dw, db] = parameterGradients(call, dy, () => input, call.even);
    return [dx, dw, db, g, null];
  },
});
