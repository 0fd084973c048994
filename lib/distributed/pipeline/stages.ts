// The stages of one rank: their layers, and which of the model's parameters they are. What only other ranks need gives its memory back; what
// several ranks need, as an embedding that is also the head, is counted by the first of them.
import { noGrad } from '../../autograd/modes.js';
import { empty } from '../../create.js';
import { describe, ValueError } from '../../errors.js';
import type { LayeredModel, LossNormalizer, PipelineLayer } from '../../nn/layered.js';
import type { Module, Parameter } from '../../nn/module.js';
import type { Tensor } from '../../tensor.js';
import type { DeviceMesh } from '../device_mesh.js';
import { placeOnStage } from '../layout_of.js';
import type { Schedule } from './schedule.js';
import { type Split, splitLayers } from './split_layers.js';

export interface Stage {
  readonly index: number;
  readonly modules: readonly Module[];
  readonly forward: (inputs: readonly Tensor[]) => readonly Tensor[];
  /** Of the last stage, where the model makes its loss itself. `look` sees the output, which is not made without it. */
  readonly loss: ((inputs: readonly Tensor[], targets: Tensor, options: LossNormalizer, look?: (output: Tensor) => void) => Tensor) | null;
}

/** A parameter that stages of several ranks have. */
export interface TiedParameter {
  readonly name: string;
  readonly parameter: Parameter;
  /** Along `pp`, in order; the first one counts it. */
  readonly ranks: readonly number[];
}

export class Stages {
  /** By number; those of other ranks are absent. */
  readonly own: ReadonlyMap<number, Stage>;
  /** The modules of this rank's stages, by their paths in the model. */
  readonly modules: ReadonlyMap<string, Module>;
  /** This rank's parameters by the names that they have in the model. */
  readonly parameters: ReadonlyMap<string, Parameter>;
  readonly tied: readonly TiedParameter[];

  constructor(model: Module, schedule: Schedule, mesh: DeviceMesh, split: Split | undefined) {
    const layers = layersOf(model);
    const rank = mesh.rank('pp');
    const paths = new Map([...model.namedModules()].map(([path, m]) => [m, path]));
    const ranksOf = new Map<Parameter, Set<number>>();
    const [own, modules] = [new Map<number, Stage>(), new Map<string, Module>()];
    splitLayers(layers, schedule.stages, split).forEach(([first, end], index) => {
      const part = layers.slice(first, end);
      const parameters = part.flatMap((layer) => layer.modules.flatMap((m) => m.parameters()));
      const owner = schedule.rankOf(index);
      for (const p of parameters) ranksOf.set(p, (ranksOf.get(p) ?? new Set()).add(owner));
      if (parameters.length === 0)
        throw new ValueError(`Pipeline: stage ${index} (layers ${first} to ${end - 1} of ${layers.length}) has no parameter; join it with another by split`);
      if (owner !== rank) return;
      own.set(index, stageOf(index, part, end === layers.length));
      for (const m of part.flatMap((layer) => layer.modules)) modules.set(pathOf(m, paths), m);
    });
    this.own = own;
    this.modules = modules;
    const names = [...model.namedParameters()];
    const unused = names.find(([, p]) => !ranksOf.has(p));
    if (unused) throw new ValueError(`Pipeline: parameter "${unused[0]}" is in none of the layers that pipelineLayers() of ${model.constructor.name} gives`);
    const parameters = new Map<string, Parameter>();
    this.tied = names.flatMap(([name, p], number) => {
      const ranks = [...ranksOf.get(p)!].sort((a, b) => a - b);
      if (!ranks.includes(rank)) {
        toMeta(p);
        return [];
      }
      parameters.set(name, p);
      placeOnStage(p, { mesh, counted: ranks[0] === rank, number });
      return ranks.length > 1 ? [{ name, parameter: p, ranks }] : [];
    });
    this.parameters = parameters;
    const used = new Set(layers.flatMap((layer) => layer.modules.flatMap((m) => m.buffers())));
    const lost = [...model.namedBuffers()].find(([, b]) => !used.has(b));
    if (lost) throw new ValueError(`Pipeline: buffer "${lost[0]}" is in none of the layers that pipelineLayers() of ${model.constructor.name} gives`);
    const kept = new Set([...modules.values()].flatMap((m) => m.buffers()));
    for (const b of model.buffers()) if (!kept.has(b)) toMeta(b);
  }
}

export function layersOf(model: Module, where = 'Pipeline'): PipelineLayer[] {
  const { pipelineLayers } = model as Module & Partial<LayeredModel>;
  if (typeof pipelineLayers !== 'function')
    throw new ValueError(
      `${where}: a ${model.constructor.name} does not say where it can be cut: give it pipelineLayers(), which returns its layers, or use nn.Sequential`,
    );
  const layers = pipelineLayers.call(model);
  const wrong = Array.isArray(layers) ? layers.find((l) => !Array.isArray(l?.modules) || typeof l.forward !== 'function') : layers;
  if (wrong !== undefined || layers.length === 0)
    throw new ValueError(`${where}: pipelineLayers() of ${model.constructor.name} must return layers { modules, forward }, got ${describe(wrong ?? layers)}`);
  return layers;
}

function pathOf(module: Module, paths: ReadonlyMap<Module, string>): string {
  const path = paths.get(module);
  if (path === undefined) throw new ValueError(`Pipeline: a layer has a ${module.constructor.name} that is not part of the model`);
  return path;
}

function stageOf(index: number, layers: readonly PipelineLayer[], last: boolean): Stage {
  const through = (inputs: readonly Tensor[], some: readonly PipelineLayer[]): readonly Tensor[] => {
    let tensors = inputs;
    for (const { forward } of some) {
      const made = forward(...tensors);
      tensors = Array.isArray(made) ? made : [made];
    }
    return tensors;
  };
  const [before, end] = [layers.slice(0, -1), layers.slice(-1)];
  const head = last ? end[0]!.loss : undefined;
  const loss: Stage['loss'] = (inputs, targets, options, look) => {
    // once for both, so that dropout is the same whether somebody looks or not
    const tensors = through(inputs, before);
    if (look) noGrad(() => look(through(tensors, end)[0]!));
    return head!(tensors, targets, options);
  };
  return {
    index,
    modules: layers.flatMap((l) => l.modules),
    forward: (inputs) => through(inputs, layers),
    loss: head ? loss : null,
  };
}

/** What another rank has: its memory goes, its shape stays. */
function toMeta(t: Tensor): void {
  if (t.isMeta) return;
  const { storage, shape, strides, offset } = empty(t.shape, { dtype: t.dtype, device: 'meta' });
  t.dispose();
  Object.assign(t, { storage, shape, strides, offset, isView: false });
}
