// A column-parallel and a row-parallel layer with GELU in between, as one node: GELU rides on the products as it does in one process, and the sum of
// the gradient of the input over the ranks runs beside the products for both weights.
import { defineFunction, type FunctionContext } from '../../autograd/function.js';
import { recording } from '../../autograd/node.js';
import { keptAs, withGelu } from '../../autograd/selective.js';
import { context } from '../../context.js';
import { ShapeError } from '../../errors.js';
import { castGradient, castInputs } from '../../ops/autocast.js';
import { addInto, clone, contiguous } from '../../ops/copy.js';
import { fresh } from '../../ops/door.js';
import { EPILOGUE, geluTanh, gemm, rows } from '../../ops/matmul.js';
import { add } from '../../ops/pointwise.js';
import { mT, reshape } from '../../ops/view.js';
import { sameShape, showShape } from '../../shape.js';
import type { Tensor } from '../../tensor.js';
import { type Call, callOf, parameterGradients, startSum } from './products.js';
import { sizesOf, startGather } from './sequence.js';
import { lengthOfWhole } from './sequence_length.js';

type Options = Pick<Call, 'group' | 'sequenceParallel' | 'name' | 'even'>;
type Parameters = readonly [up: Tensor, upBias: Tensor | null, down: Tensor, downBias: Tensor | null];
type Inputs = readonly [x: Tensor, ...Parameters, residual: Tensor | null];
interface Saved extends Options {
  /** Of the input and the parameters. */
  readonly needs: readonly boolean[];
  /** The whole input without its features. */
  readonly lead: readonly number[];
  readonly parameters: Parameters;
}

/** gelu(x·W1ᵀ + b1)·W2ᵀ + b2 + residual in the tanh form, with the rows of W1 and b1 and the columns of W2 spread over the ranks. */
export function feedForward(inputs: Inputs, options: Options): Tensor {
  return apply(...inputs, { ...options, recorded: recording(inputs) || context().kept !== null });
}

const apply: (...args: [...Inputs, Options & { recorded: boolean }]) => Tensor = defineFunction({
  name: 'feed-forward',
  forward: (ctx: FunctionContext, x, up, upBias, down, downBias, residual, options): Tensor => {
    const [input, w1, w2] = castInputs('mlp', [x, up, down]) as [Tensor, Tensor, Tensor];
    const { sequenceParallel, group, name, recorded } = options;
    const length = sequenceParallel ? lengthOfWhole(sizesOf(input).time, group) : 0;
    const lead = sequenceParallel ? [...sizesOf(input).lead, length] : input.shape.slice(0, -1);
    const intoGelu = (): Tensor[] => {
      const flat = rows(sequenceParallel ? startGather(input, group, length, `of the input of ${name}`)() : input);
      const hidden = fresh([flat.shape[0]!, w1.shape[0]!], input.dtype);
      return gemm(flat, mT(w1.detach()), { bias: upBias?.detach() ?? null, out: hidden, pre: recorded ? hidden : null, epilogue: EPILOGUE.gelu });
    };
    const [act, pre] = withGelu(null, intoGelu, geluTanh);
    const [y] = keptAs(sequenceParallel ? 'reduceScatter' : 'allReduce', () => {
      const part = reshape(gemm(act, mT(w2.detach()))[0]!, [...lead, w2.shape[0]!]);
      const sum = startSum(part, options, `of the output of ${name}`)();
      if (downBias) addInto(sum, downBias);
      return [sum];
    }) as [Tensor];
    if (recorded) {
      const needs = [x, up, upBias, down, downBias].map((t) => t?.requiresGrad ?? false);
      const saved: Saved = { ...options, needs, lead, parameters: [up, upBias, down, downBias] };
      ctx['call'] = saved;
      ctx.saveForBackward(input, w1, w2, pre!);
    }
    act.dispose();
    if (!residual) return y;
    if (!sameShape(residual.shape, y.shape)) throw new ShapeError(`${name}: the residual must be ${showShape(y.shape)}, got ${showShape(residual.shape)}`);
    return add(residual, y);
  },
  backward: (ctx, g) => {
    const call = callOf<Saved>(ctx);
    const { needs, lead, sequenceParallel, group, name, even } = call;
    const [up, upBias, down, downBias] = call.parameters;
    const [input, w1, w2, pre] = ctx.savedTensors as [Tensor, Tensor, Tensor, Tensor];
    const mine = castGradient('mlp', g, w2.dtype);
    const length = lead.at(-1)!;
    const wholeGradient = sequenceParallel ? startGather(mine, group, length, `of the gradient of ${name}`) : null;
    const gathered = sequenceParallel && needs[1] ? startGather(input, group, length, `of the input of ${name}`) : null;
    const dy = rows(contiguous(wholeGradient?.() ?? mine));
    // what enters GELU turns into what leaves it
    const act = ctx.lastUse ? pre : clone(pre);
    const dpre = gemm(dy, w2.detach(), { extra: act, pre: act, epilogue: EPILOGUE.geluBackward })[0]!;
    act.storage.wrote('the gradient of mlp');
    const dx = needs[0] ? startSum(reshape(gemm(dpre, w1.detach())[0]!, [...lead, w1.shape[1]!]), call, `of the gradient of the input of ${name}`) : null;
    const [dw2, db2] = parameterGradients({ needs: [false, needs[3]!, needs[4]!], weight: down, bias: downBias }, dy, () => act, even);
    const [dw1, db1] = parameterGradients({ needs: [false, needs[1]!, needs[2]!], weight: up, bias: upBias }, dpre, gathered ?? (() => input), true);
    return [dx?.() ?? null, dw1, db1, dw2, db2, g, null];
  },
});
