// The loss of a language model straight from the last hidden states. The logits of all tokens are the largest tensor of a training step, and
// their gradient is as large again; here they exist for some rows at a time. The rows' gradients are made at once, in the memory of the logits,
// and leave as those of the input and the weight (Hsu et al., "Liger Kernel: Efficient Triton Kernels for LLM Training", 2024). What is known
// only in backward, the gradient of the loss itself, is one factor.
import { aheadOfBackward } from '../autograd/current.js';
import { record, recording } from '../autograd/node.js';
import { context, withContext } from '../context.js';
import { allocate } from '../create.js';
import { type DType, dtypeSize, isFloating } from '../dtype.js';
import { ShapeError } from '../errors.js';
import { checkNumber, numel, sameShape, showShape } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { checkIndices, checkTensor, optionsOf } from './arguments.js';
import { autocasts } from './autocast.js';
import { addInto, to } from './copy.js';
import { type CrossEntropyOptions, crossEntropy, divided, settingsOf } from './cross_entropy.js';
import { deviceOf, fresh, invoke } from './door.js';
import { checkLinear, EPILOGUE, gemm, linear, rows, wideType } from './matmul.js';
import { sum } from './reduce.js';
import { mT, narrow, reshape, select } from './view.js';

/** Options of `linearCrossEntropy`: those of `crossEntropy`, and the bias of the product. */
export interface LinearCrossEntropyOptions extends Omit<CrossEntropyOptions, 'dim'> {
  /** [C], added to the logits. Default none. */
  bias?: Tensor | null;
}

/** Logits that exist at a time. */
const PIECE_BYTES = { cpu: 64 * 2 ** 20, cuda: 2 ** 30, meta: 2 ** 30 };
/** With fewer rows, packing the weight for each piece slows the products down: by 3% at 512 rows of GPT-2's head, by 20% at 256. */
const FEWEST_ROWS = 512;

/** Rows of each piece but the last one. */
function rowsOfPiece(count: number, classes: number, dtype: DType, device: keyof typeof PIECE_BYTES): number {
  const most = Math.max(FEWEST_ROWS, Math.floor(PIECE_BYTES[device] / (Math.max(1, classes) * dtypeSize[dtype])));
  return Math.max(1, Math.ceil(count / Math.max(1, Math.ceil(count / most))));
}

/**
 * `crossEntropy(linear(x, weight, bias), targets)` without ever holding all logits: x `[.., in]`, weight `[C, in]`, targets `[..]` of class
 * indices (int32 or int64). The loss is that of `crossEntropy`, float32 (float64 for float64). Gradients are computed in the forward pass, where
 * one will be asked for, so the loss costs in forward what it saves in backward; with reduction `none`, with class probabilities as targets, and
 * in float16, whose range holds no gradient before the loss is scaled, it is the two functions one after the other.
 */
export const linearCrossEntropy = autocasts(
  'linearCrossEntropy',
  (x: Tensor, weight: Tensor, targets: Tensor, options?: LinearCrossEntropyOptions): Tensor => {
    const op = 'linearCrossEntropy';
    const { bias: given, ...o } = optionsOf(options, op);
    const bias = given ?? null;
    checkLinear(op, x, weight, bias);
    checkTensor(targets, op, 'the targets');
    if (o.reduction === 'none' || isFloating(targets.dtype) || x.dtype === 'float16') {
      return crossEntropy(linear(x, weight, bias), targets, { ...o, dim: -1 });
    }
    if (!sameShape(x.shape.slice(0, -1), targets.shape)) {
      throw new ShapeError(`${op}: targets ${showShape(targets.shape)} are not the input ${showShape(x.shape)} without its features`);
    }
    checkIndices(targets, op, 'the targets');
    const settings = settingsOf(o, weight.shape[0]!, op);
    deviceOf(op, [x, weight, bias, targets, settings.weight, settings.normalizer as Tensor]);
    const attrs = { ignoreIndex: settings.ignoreIndex, smoothing: checkNumber(o.labelSmoothing ?? 0, 'labelSmoothing', op, 0, 1) };
    const inputs = [x, weight, bias, targets, settings.weight];
    const wanted = recording(inputs) ? [0, 1, 2].filter((i) => inputs[i]?.requiresGrad) : [];
    // a checkpoint keeps none of the pieces: each is overwritten
    const [totals, ...gradients] = withContext({ kept: null }, () => inPieces(inputs, attrs, wanted)) as [Tensor, ...Tensor[]];
    const loss = select(totals, 0, 0);
    loss.isView = false; // nobody else sees the totals
    if (wanted.length > 0) record('linearCrossEntropy', inputs, [loss, ...gradients], { ...attrs, wanted });
    // the graph's alone
    for (const t of gradients) t.storage.release(context().scope);
    return divided(loss, settings, () => select(totals, 0, 1));
  },
  [0, 1, 'bias'],
);

/**
 * The sums of losses and of weights [2], then the gradients of the sum of losses for the wanted inputs: that of x in its type, which no later
 * piece adds to, those of the parameters in theirs, or where several pieces add up, in the type of sums.
 */
function inPieces(
  [x, weight, bias, targets, classWeight]: (Tensor | null)[],
  { ignoreIndex, smoothing }: { ignoreIndex: number; smoothing: number },
  wanted: readonly number[],
): Tensor[] {
  const op = 'linearCrossEntropy';
  const { device, dtype } = x!;
  const [flat, w, indices] = [rows(x!.detach()), weight!.detach(), reshape(targets!, [numel(targets!.shape)])];
  const [count, classes] = [flat.shape[0]!, w.shape[0]!];
  const wide = wideType(dtype);
  const size = rowsOfPiece(count, classes, dtype, device.type);
  const pieces = Math.max(1, Math.ceil(count / size));
  const totals = allocate([pieces, 2], wide, device, op);
  const dx = wanted.includes(0) ? allocate(flat.shape, dtype, device, op) : null;
  const dw = wanted.includes(1) ? allocate(w.shape, pieces > 1 ? wide : (weight!.castOf ?? weight!).dtype, device, op) : null;
  let db: Tensor | null = null;
  for (let i = 0; i < pieces; i++) {
    const [begin, length] = [i * size, Math.min(size, count - i * size)];
    const part = narrow(flat, 0, begin, length);
    const logits = gemm(part, mT(w), { bias: bias?.detach() })[0]!;
    const statistics = invoke(
      'crossEntropy',
      device,
      [
        logits,
        narrow(indices, 0, begin, length),
        classWeight!,
        fresh([length], wide),
        fresh([length], wide),
        select(totals, 0, i),
        wanted.length ? logits : null,
      ],
      [ignoreIndex, smoothing, begin],
    );
    aheadOfBackward(() => {
      if (dx) gemm(logits, w, { out: narrow(dx, 0, begin, length) });
      let sums: Tensor | undefined;
      if (dw) {
        const columnSums = wanted.includes(2) ? fresh([classes], wide) : null;
        [sums] = gemm(mT(logits), part, { out: dw, epilogue: i === 0 ? EPILOGUE.none : EPILOGUE.accumulate, columnSums });
      } else if (wanted.includes(2)) sums = sum(to(logits, wide), 0);
      if (db && sums) addInto(db, sums);
      else db = sums ?? null;
    });
    for (const t of [logits, ...statistics]) t.dispose();
  }
  const sums = pieces === 1 ? reshape(totals, [2]) : sum(totals, 0);
  return [sums, ...[dx, dw, db].filter((t) => t !== null)];
}
