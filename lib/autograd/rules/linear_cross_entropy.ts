// The gradients were made in the forward pass, for a loss whose own gradient is 1.
import { computeType, dtypeCode } from '../../dtype.js';
import { fresh, invoke, pointwiseInto } from '../../ops/door.js';
import { linear, matmul } from '../../ops/matmul.js';
import { sum } from '../../ops/reduce.js';
import { logsumexp } from '../../ops/softmax.js';
import { expand, mT, reshape } from '../../ops/view.js';
import { numel } from '../../shape.js';
import type { Tensor } from '../../tensor.js';
import type { Node } from '../node.js';
import { crossEntropyBackward } from './neural.js';
import type { Rule } from './types.js';

/** The gradient made for input `i`, times that of the loss; in its own memory if this was the last time that it is asked for. */
function scaled(n: Node, i: number, made: number, g: Tensor): Tensor {
  const { shape, dtype } = n.inputMeta[i]!;
  const kept = n.out(made);
  const gradient = reshape(kept.detach(), shape);
  if (kept.dtype !== dtype || !n.lastUse) {
    const factor = expand(reshape(g.detach(), []), shape);
    return invoke('mul', kept.device, [gradient, factor, fresh(shape, dtype)], [dtypeCode[computeType(kept.dtype)]])[0]!;
  }
  n.giveAway(made);
  return pointwiseInto('mul', 'same', gradient, [gradient, g]);
}

/** The same gradients in recorded primitives, for gradients of gradients. */
function inPrimitives(n: Node & { attrs: { ignoreIndex: number; smoothing: number } }, g: Tensor): (() => Tensor)[] {
  const [x, weight, targets] = [n.in(0), n.in(1), n.in(3)];
  const rows = reshape(x, [-1, x.shape[x.ndim - 1]!]);
  const logits = linear(rows, weight, n.input(2) as Tensor | null);
  const dlogits = crossEntropyBackward(
    g,
    logits,
    reshape(targets, [numel(targets.shape)]),
    n.input(4) as Tensor | null,
    logsumexp(logits.detach(), -1),
    n.attrs,
  );
  return [() => reshape(matmul(dlogits, weight), x.shape), () => matmul(mT(dlogits), rows), () => sum(dlogits, 0)];
}

export const linearCrossEntropyRule: Rule<'linearCrossEntropy'> = {
  inputs: [0, 1, 2, 3, 4],
  outputs: [1, 2, 3],
  constant: [1, 2, 3],
  grad: (n, g) => {
    if (n.differentiatesBackward()) return inPrimitives(n, g);
    return [0, 1, 2].map((i) => () => (n.attrs.wanted.includes(i) ? scaled(n, i, 1 + n.attrs.wanted.indexOf(i), g) : null));
  },
};
