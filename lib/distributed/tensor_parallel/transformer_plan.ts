// The plan for models of the package's own transformer modules, wherever they lie in a model.
import { describe, ValueError } from '../../errors.js';
import { SwiGLU } from '../../nn/activation.js';
import { MultiheadAttention } from '../../nn/attention.js';
import { ModuleList, Sequential } from '../../nn/containers.js';
import { Module } from '../../nn/module.js';
import { TransformerEncoderLayer } from '../../nn/transformer_layer.js';
import type { ParallelPlan, ParallelStyle } from './plan.js';

/** Options of `transformerPlan`. */
export interface TransformerPlanOptions {
  /**
   * Between the products of encoder layers, ranks have pieces of the sequence rather than all of it. Layers that follow each other in one Sequential
   * or ModuleList hand the pieces on, so they must be called one after another; what is around them has the whole sequence. Off by default.
   */
  readonly sequenceParallel?: boolean;
}

/**
 * Every `nn.TransformerEncoderLayer`, and every `nn.MultiheadAttention` and `nn.SwiGLU` by itself: attention by heads, feed-forward blocks by hidden
 * features. All else stays whole on every rank; styles for it, such as `vocabEmbedding`, can be added to the plan.
 *
 *     dist.parallelize(model, mesh, { ...dist.transformerPlan(model), 'embed': { style: 'vocabEmbedding' } });
 *
 * @throws ValueError for a model that has none of these below it
 */
export function transformerPlan(model: Module, options: TransformerPlanOptions = {}): ParallelPlan {
  const where = 'transformerPlan';
  if (!(model instanceof Module)) throw new ValueError(`${where}: expected a module, got ${describe(model)}`);
  const { sequenceParallel = false } = options ?? {};
  const plan: Record<string, ParallelStyle> = {};
  for (const [path, module] of model.namedModules()) {
    const add = (styles: Record<string, ParallelStyle>): void => {
      for (const [name, style] of Object.entries(styles)) plan[[path, name].filter(Boolean).join('.')] = style;
    };
    if (module instanceof TransformerEncoderLayer) add(layerStyles(module, sequenceParallel));
    else if (module instanceof SwiGLU) add({ gate_proj: { style: 'column' }, up_proj: { style: 'column' }, down_proj: { style: 'row' } });
    else if (module instanceof MultiheadAttention) plan[path] ??= { style: 'attention' };
  }
  if (sequenceParallel) Object.assign(plan, boundaries(model));
  if ('' in plan) throw new ValueError(`${where}: the model itself is a ${model.constructor.name}; put it into another, such as a Sequential`);
  if (Object.keys(plan).length === 0) throw new ValueError(`${where}: no TransformerEncoderLayer, MultiheadAttention or SwiGLU in ${model.constructor.name}`);
  return plan;
}

function layerStyles(layer: TransformerEncoderLayer, sequenceParallel: boolean): Record<string, ParallelStyle> {
  const styles: Record<string, ParallelStyle> = {
    self_attn: { style: 'attention', sequenceParallel },
    linear1: { style: 'column', sequenceParallel },
    dropout: { style: 'features', size: layer.linear1.outFeatures },
    linear2: { style: 'row', sequenceParallel },
  };
  if (sequenceParallel) for (const name of ['norm1', 'norm2', 'dropout1', 'dropout2']) styles[name] = { style: 'sequence' };
  return styles;
}

/** Where the sequence is cut, and where it becomes whole again: around each run of layers. */
function boundaries(model: Module): Record<string, ParallelStyle> {
  const isLayer = (m: Module | undefined): boolean => m instanceof TransformerEncoderLayer;
  const styles: Record<string, ParallelStyle> = isLayer(model) ? { '': { style: 'blockOnSequence' } } : {};
  const seen = new Set<Module>();
  for (const [path, parent] of model.namedModules()) {
    const children = [...parent.namedChildren()];
    const inOrder = parent instanceof Sequential || parent instanceof ModuleList;
    children.forEach(([name, child], i) => {
      if (!isLayer(child)) return;
      const at = path ? `${path}.${name}` : name;
      if (seen.has(child)) throw new ValueError(`transformerPlan: the layer at "${at}" is elsewhere as well, so where its sequence is cut is unknown`);
      seen.add(child);
      const [first, last] = [-1, 1].map((step) => !inOrder || !isLayer(children[i + step]?.[1]));
      styles[at] = { style: 'blockOnSequence', first, last };
    });
  }
  return styles;
}
