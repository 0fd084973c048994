// backward() and grad(): what the engine does, as the user asks for it.
import { withContext } from '../context.js';
import { onesLike } from '../create.js';
import { AutogradError, describe, ShapeError, ValueError } from '../errors.js';
import { clone, to } from '../ops/copy.js';
import { sameShape, showShape } from '../shape.js';
import { Tensor } from '../tensor.js';
import { type BackwardOptions, Run } from './engine.js';

export type { BackwardOptions };

function rootGradient(root: Tensor, gradient: Tensor | undefined, where: string): Tensor {
  if (!(root instanceof Tensor)) throw new ValueError(`${where}: expected a tensor, got ${describe(root)}`);
  if (!root.requiresGrad) throw new AutogradError(`${where}: the tensor does not require a gradient: no input of its graph does, or it was made under noGrad`);
  if (gradient !== undefined && gradient !== null) {
    if (!(gradient instanceof Tensor)) throw new ValueError(`${where}: the gradient must be a tensor, got ${describe(gradient)}`);
    if (!sameShape(gradient.shape, root.shape)) {
      throw new ShapeError(`${where}: the gradient has shape ${showShape(gradient.shape)}, the tensor ${showShape(root.shape)}`);
    }
    return gradient;
  }
  if (root.numel !== 1) throw new ShapeError(`${where}: the tensor has ${root.numel} elements; only one-element tensors need no gradient argument`);
  return onesLike(root);
}

function checkOptions(options: unknown, where: string): void {
  if (typeof options !== 'object' || options === null || options instanceof Tensor)
    throw new ValueError(`${where}: options must be an object, got ${describe(options)}`);
}

/**
 * Adds the gradient of `root` with respect to every leaf that led to it to the leaf's `.grad`: in float32 from the second contribution to a
 * 16-bit leaf on, unless its `gradDType` says otherwise. Frees what the graph saved as it walks, unless retainGraph.
 */
export function backward(root: Tensor, options: BackwardOptions = {}): void {
  checkOptions(options, 'backward');
  const gradient = rootGradient(root, options.gradient, 'backward');
  new Run(options, null).start([root], [gradient]);
}

/**
 * `backward` of several tensors at once, in two parts: adds the gradients of `inputs`, leaves, to their `.grad`, and leaves what only other
 * leaves need, the products with which most layers make the gradients of their weights, to `weights`. Ops that make all their gradients in
 * one kernel, and custom functions, make them in the first part. Between the two, the graph keeps what it saved, and `gradients`, which may be
 * disposed.
 * @returns weights adds the other gradients; abandon frees what it would need. One of them must be called.
 */
export function inputsBackward(
  roots: readonly Tensor[],
  gradients: readonly Tensor[],
  inputs: readonly Tensor[],
): { readonly weights: () => void; readonly abandon: () => void } {
  const given = roots.map((root, i) => rootGradient(root, gradients[i], 'inputsBackward'));
  const run = new Run({}, null);
  for (const { storage } of given) storage.save();
  const release = (): void => {
    for (const { storage } of given.splice(0)) storage.unsave();
  };
  /** `last`: nothing comes after it, unless it throws. */
  const during = (part: () => void, last: boolean): void => {
    let ended = true;
    try {
      part();
      ended = last;
    } finally {
      if (ended) release();
    }
  };
  during(() => run.start(roots, given, new Set(inputs)), false);
  return { weights: () => during(() => run.finish(), true), abandon: () => during(() => run.abandon(), true) };
}

/** `backward` of several tensors at once: what their graphs share is walked once. */
export function backwardOf(roots: readonly Tensor[], gradients: readonly Tensor[]): void {
  const given = roots.map((root, i) => rootGradient(root, gradients[i], 'backward'));
  new Run({}, null).start(roots, given);
}

/**
 * The gradients of `output` with respect to `inputs`, without touching any `.grad`: in the dtype of the input, or its `gradDType`, rounded once
 * where several contributions make one. Unreached inputs give null.
 */
export function grad(output: Tensor, inputs: readonly Tensor[], options: BackwardOptions = {}): (Tensor | null)[] {
  checkOptions(options, 'grad');
  if (!Array.isArray(inputs)) throw new ValueError(`grad: inputs must be an array of tensors, got ${describe(inputs)}`);
  const captured = new Map<Tensor, Tensor>();
  for (const x of inputs) {
    if (!(x instanceof Tensor)) throw new ValueError(`grad: inputs must be tensors, got ${describe(x)}`);
    if (!x.requiresGrad) throw new AutogradError('grad: an input does not require a gradient');
    captured.set(x, undefined as unknown as Tensor);
  }
  const inner = inputs.filter((x) => x.gradFn !== null);
  const removers = inner.map((x) =>
    x.gradFn!.addHook(x.outputIndex, (g: Tensor) => {
      captured.set(x, options.createGraph ? g : clone(g));
    }),
  );
  try {
    new Run(options, captured).start([output], [rootGradient(output, options.gradient, 'grad')]);
  } finally {
    for (const remove of removers) remove();
  }
  for (const [x, g] of captured) if (g) captured.set(x, rounded(g, x, options.createGraph ?? false));
  return inputs.map((x) => captured.get(x) ?? null);
}

/** What several contributions to a 16-bit tensor have added up to in float32, in the dtype that its gradient has. */
function rounded(g: Tensor, x: Tensor, createGraph: boolean): Tensor {
  const result = withContext({ gradEnabled: createGraph }, () => to(g, x.gradDType ?? x.dtype));
  if (result !== g && !createGraph) g.dispose();
  return result;
}
