// What the layers of a model cost, by a short run of each: the time of its forward and backward, and the memory between them. One layer after
// another has memory, so a model on device meta can be measured that no rank could hold.
import { backwardOf } from '../../autograd/backward.js';
import { enableGrad } from '../../autograd/modes.js';
import { empty, fromTypedArray, onesLike } from '../../create.js';
import { type Device, synchronize } from '../../device.js';
import { isFloating } from '../../dtype.js';
import { describe, ValueError } from '../../errors.js';
import { memory, scope } from '../../memory.js';
import type { LossNormalizer, PipelineLayer } from '../../nn/layered.js';
import { Module } from '../../nn/module.js';
import { Generator, normal_, withGenerator } from '../../random.js';
import { checkInteger } from '../../shape.js';
import type { Tensor } from '../../tensor.js';
import { ProcessGroup } from '../process_group.js';
import { type GivenMicroBatch, microBatchOf } from './micro_batches.js';
import { layersOf } from './stages.js';

/** Options of `measureLayers`. */
export interface MeasureOptions {
  /** The loss of a micro-batch, as the Pipeline's. */
  readonly loss?: (output: Tensor, targets: Tensor, options: LossNormalizer) => Tensor;
  /** Of each layer, after one that does not count; the median is taken. Default 5. */
  readonly runs?: number;
  /** Ranks that measure at the same time, and get the mean of all. Needed where each of them makes a Pipeline by it: they must cut alike. */
  readonly group?: ProcessGroup;
}

/** What the layers of a model cost, one number a layer. */
export interface LayerCosts {
  /** Milliseconds of forward and backward. */
  readonly costs: readonly number[];
  /** What a layer's graph keeps from forward until backward, with its output: the memory of a micro-batch. */
  readonly bytes: readonly number[];
}

const WHERE = 'measureLayers';

/**
 * Measures what `split` needs to balance stages:
 *
 * ```ts
 * const split = await dist.measureLayers(model, { inputs, targets }, { group: mesh.world });
 * const pipeline = new dist.Pipeline(model, { mesh, split, microBatches: 8 });
 * ```
 *
 * The model stays as it is, gradients and random numbers too; one on device meta is measured on the device of the inputs, with random weights.
 * Call it before the Pipeline, under `amp.autocast` if training will be.
 * @param batch a micro-batch of the size that the pipeline will have
 * @throws ValueError for a model that has no layers, or wrong options
 */
export async function measureLayers(model: Module, batch: GivenMicroBatch, options: MeasureOptions = {}): Promise<LayerCosts> {
  const { loss, runs = 5, group } = options ?? {};
  if (!(model instanceof Module)) throw new ValueError(`${WHERE}: expected a module, got ${describe(model)}`);
  checkInteger(runs, 'runs', WHERE, 1);
  if (group !== undefined && !(group instanceof ProcessGroup)) throw new ValueError(`${WHERE}: group must be a process group, got ${describe(group)}`);
  const { inputs, targets } = microBatchOf(batch, 'the micro-batch', WHERE);
  const layers = layersOf(model, WHERE);
  const { device } = inputs[0]!;
  const found = { costs: [] as number[], bytes: [] as number[] };
  await scope(async () => {
    let tensors = inputs;
    for (const [i, layer] of layers.entries()) {
      const giveBack = lend(layer, device);
      try {
        const forward = (x: readonly Tensor[]): readonly Tensor[] => {
          if (i + 1 < layers.length || !targets) return listed(layer.forward(...x));
          if (!loss && layer.loss) return [layer.loss(x, targets, {})];
          return loss ? [loss(listed(layer.forward(...x))[0]!, targets, {})] : listed(layer.forward(...x));
        };
        const measured = await measure(model, forward, tensors, runs + 1, device);
        found.costs.push(median(measured.times.slice(1)));
        found.bytes.push(measured.bytes);
        const { outputs } = measured;
        if (i > 0) for (const t of tensors) if (!outputs.some((y) => y.storage === t.storage)) t.dispose();
        tensors = outputs;
      } finally {
        giveBack();
      }
    }
  });
  return group ? meanOver(group, found) : found;
}

const listed = (made: Tensor | readonly Tensor[]): readonly Tensor[] => (Array.isArray(made) ? made : [made as Tensor]);
const median = (all: readonly number[]): number => all.toSorted((a, b) => a - b)[Math.floor(all.length / 2)]!;

interface Measured {
  readonly times: number[];
  readonly bytes: number;
  readonly outputs: readonly Tensor[];
}

async function measure(
  model: Module,
  forward: (inputs: readonly Tensor[]) => readonly Tensor[],
  inputs: readonly Tensor[],
  runs: number,
  device: Device,
): Promise<Measured> {
  const times: number[] = [];
  for (;;) {
    const leaves = inputs.map((x) => {
      const leaf = x.detach();
      if (isFloating(leaf.dtype)) leaf.requiresGrad = true;
      return leaf;
    });
    await synchronize(device);
    const [before, start] = [memory(device).live, performance.now()];
    const outputs = enableGrad(() => withGenerator(new Generator(0), () => scope(() => model.during(() => forward(leaves)))));
    const bytes = memory(device).live - before;
    const roots = outputs.filter((y) => y.requiresGrad);
    const gradients = roots.map((y) => onesLike(y));
    if (roots.length > 0) backwardOf(roots, gradients);
    await synchronize(device);
    times.push(performance.now() - start);
    for (const t of [...gradients, ...leaves.map((leaf) => leaf.grad)]) t?.dispose();
    if (times.length === runs) return { times, bytes, outputs: outputs.map((y) => y.detach()) };
    for (const y of outputs) if (!leaves.some((x) => x.storage === y.storage)) y.dispose();
  }
}

/** Memory for what a layer has on device meta, and room for its gradients, until the function that is returned is called. */
function lend({ modules }: PipelineLayer, device: Device): () => void {
  const generator = new Generator(0);
  const parameters = new Set(modules.flatMap((m) => m.parameters()));
  const lent = [...parameters, ...new Set(modules.flatMap((m) => m.buffers()))].filter((t) => t.isMeta);
  const before = lent.map(({ storage, shape, strides, offset, isView }) => ({ storage, shape, strides, offset, isView }));
  for (const t of lent) {
    const made = empty(t.shape, { dtype: t.dtype, device });
    if (isFloating(t.dtype)) normal_(made, 0, 0.02, { generator });
    else made.fill_(0);
    const { storage, shape, strides, offset } = made;
    Object.assign(t, { storage, shape, strides, offset, isView: false });
  }
  const gradients = [...parameters].map((p) => [p, p.grad] as const);
  for (const p of parameters) p.grad = null;
  return () => {
    for (const [p, grad] of gradients) {
      p.grad?.dispose();
      p.grad = grad;
    }
    lent.forEach((t, i) => {
      t.dispose();
      Object.assign(t, before[i]);
    });
  };
}

/** The same on all ranks. */
async function meanOver(group: ProcessGroup, { costs, bytes }: LayerCosts): Promise<LayerCosts> {
  const all = fromTypedArray(Float64Array.from([...costs, ...bytes]), undefined, { device: group.device });
  const mean = Array.from((await (await group.allReduce(all, { op: 'avg', label: `of ${WHERE}` })).toTypedArray()) as Float64Array);
  all.dispose();
  return { costs: mean.slice(0, costs.length), bytes: mean.slice(costs.length).map(Math.round) };
}
