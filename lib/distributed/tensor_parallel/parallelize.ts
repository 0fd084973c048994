// parallelize: a whole model becomes one whose layers ranks share, by a plan. Modules are replaced where they are, parameters stay the same objects
// under the same names. Paths and classes are checked before anything is changed.
import { noGrad } from '../../autograd/modes.js';
import { DeviceError, describe, ValueError } from '../../errors.js';
import { MultiheadAttention } from '../../nn/attention.js';
import { Dropout } from '../../nn/dropout.js';
import { Embedding } from '../../nn/embedding.js';
import { Linear } from '../../nn/linear.js';
import { Module } from '../../nn/module.js';
import type { Layout } from '../../random.js';
import type { Shape } from '../../shape.js';
import { Tensor } from '../../tensor.js';
import { type CombinationOptions, combine, type Feature, takers } from '../combinations.js';
import type { DeviceMesh } from '../device_mesh.js';
import { layoutOf, setLayout } from '../distribute.js';
import * as layouts from '../layout.js';
import { SyncBatchNorm } from '../sync_batch_norm.js';
import { ColumnParallelLinear } from './column_linear.js';
import { sumGradients } from './partial_gradients.js';
import { type Match, matchPlan, type ParallelPlan, type ParallelStyle } from './plan.js';
import { gatherFromSequence, scatterToSequence } from './regions.js';
import { RowParallelLinear } from './row_linear.js';
import { lengthOfWhole, pieceOf } from './sequence_length.js';
import { checkMesh, type SourceOptions } from './shard_parameter.js';
import { shareHeads } from './share_heads.js';
import { VocabParallelEmbedding } from './vocab_embedding.js';
import { VocabParallelHead } from './vocab_head.js';

type StyleName = ParallelStyle['style'];
type Of<S extends StyleName> = Extract<ParallelStyle, { style: S }>;

interface Action<S extends StyleName> {
  /** The class it is for. */
  readonly of: abstract new (
    ...args: never[]
  ) => Module;
  /** What takes the module's place, or nothing. */
  readonly apply: (module: never, style: Of<S>, mesh: DeviceMesh, path: string, options: SourceOptions) => Module | void;
}

const actions: { readonly [S in StyleName]: Action<S> } = {
  column: { of: Linear, apply: (m: Linear, { style: _style, ...o }, mesh, _, { src }) => ColumnParallelLinear.from(m, { ...o, mesh, src }) },
  row: { of: Linear, apply: (m: Linear, { style: _style, ...o }, mesh, _, { src }) => RowParallelLinear.from(m, { ...o, mesh, src }) },
  vocabEmbedding: { of: Embedding, apply: (m: Embedding, { style: _style, ...o }, mesh, _, { src }) => VocabParallelEmbedding.from(m, { ...o, mesh, src }) },
  vocabHead: { of: Linear, apply: (m: Linear, { style: _style, ...o }, mesh, _, { src }) => VocabParallelHead.from(m, { ...o, mesh, src }) },
  sequence: { of: Module, apply: (module: Module, _, mesh, path) => onSequence(module, mesh, path) },
  scatterSequence: {
    of: Module,
    apply: (module: Module, _, mesh, path) => void module.registerForwardHook((_m, _a, y) => scatterToSequence(checkOutput(y, path), mesh.group('tp'))),
  },
  gatherSequence: {
    of: Module,
    apply: (module: Module, { gradient }, mesh, path) => {
      onSequence(module, mesh, path);
      module.registerForwardHook((_m, _a, y) => gatherFromSequence(checkOutput(y, path), mesh.group('tp'), { gradient }));
    },
  },
  blockOnSequence: {
    of: Module,
    apply: (module: Module, { first, last }, mesh, path) => {
      const group = mesh.group('tp');
      if (first) module.registerForwardPreHook((_m, [x, ...rest]) => [scatterToSequence(x as Tensor, group), ...rest]);
      if (last) module.registerForwardHook((_m, _a, y) => gatherFromSequence(checkOutput(y, path), group, { gradient: 'slice' }));
    },
  },
  attention: { of: MultiheadAttention, apply: (m: MultiheadAttention, style, mesh, path, { src }) => shareHeads(m, path, { ...style, mesh, src }) },
  features: {
    of: Dropout,
    apply: (m: Dropout, { size }, mesh) => {
      m.inner = (shape) => placeOf(shape, shape.length - 1, mesh, size ?? shape.at(-1)! * mesh.size('tp'));
    },
  },
};

/** Modules that have a style. */
const styled = new WeakSet<Module>();

/** What works on a piece has a piece of its parameters' gradients, and of dropout's mask: all in a module but what has a style of its own. */
function onSequence(module: Module, mesh: DeviceMesh, path: string): void {
  sumGradients(module, mesh.group('tp'), path);
  if (module instanceof Dropout) module.inner = (shape) => placeOf(shape, shape.length - 2, mesh, lengthOfWhole(shape.at(-2)!, mesh.group('tp')));
  for (const [name, child] of module.namedChildren()) if (!styled.has(child)) onSequence(child, mesh, `${path}.${name}`);
}

/** Where this rank's piece lies, of as many along a dimension as all ranks have. */
function placeOf(shape: Shape, dim: number, mesh: DeviceMesh, length: number): Layout {
  const { start } = pieceOf(length, mesh.size('tp'), mesh.rank('tp'));
  return { globalShape: shape.with(dim, length), offset: shape.map((_, i) => (i === dim ? start : 0)) };
}

function checkOutput(y: unknown, path: string): Tensor {
  if (!(y instanceof Tensor)) throw new ValueError(`parallelize: "${path}" must return a tensor for its sequence to be cut or gathered, got ${describe(y)}`);
  return y;
}

/**
 * Spreads a model over the ranks of the mesh's axis `tp`:
 *
 * ```ts
 * dist.parallelize(model, mesh, {
 *   'blocks.*.up': { style: 'column' },
 *   'blocks.*.down': { style: 'row' },
 * });
 * ```
 *
 * Modules at the paths are replaced in place, or taught to work on a piece of the sequence; names, state-dict keys and the parameters' identity
 * stay. Afterwards every parameter has a layout (`layoutOf`), and all others are equal on the ranks: those of `tp` rank 0, unless `src` says
 * otherwise. Gradients are complete when backward ends. Call it before wrappers for data parallelism, and before the first step of an optimizer.
 * @throws ValueError for paths that match nothing, with what may have been meant, and for modules that a style is not for
 */
export function parallelize<M extends Module>(model: M, mesh: DeviceMesh, plan: ParallelPlan, options: SourceOptions & CombinationOptions = {}): M {
  const where = 'parallelize';
  if (!(model instanceof Module)) throw new ValueError(`${where}: expected a module, got ${describe(model)}`);
  checkMesh(mesh, where);
  if (typeof plan !== 'object' || plan === null || Array.isArray(plan))
    throw new ValueError(`${where}: a plan is an object of styles by path, got ${describe(plan)}`);
  const matches = matchPlan(model, plan, where);
  for (const match of matches) checkMatch(match, where);
  for (const [name, p] of model.namedParameters()) {
    if (p.device !== mesh.device && !p.isMeta)
      throw new DeviceError(`${where}: parameter "${name}" is on ${p.device}, the mesh on ${mesh.device}; move the model with to()`);
    if (p.grad) throw new ValueError(`${where}: parameter "${name}" has a gradient, which is that of the whole; call zeroGrad() before`);
  }
  const [wrapper] = takers(model.parameters()).filter((taker) => taker !== where);
  if (wrapper) throw new ValueError(`${where}: ${wrapper} has taken the parameters already; call parallelize before it`);
  combine(where, model.parameters(), broughtBy(model, matches), options);
  for (const { module } of matches) styled.add(module);
  const replaced = new Map<Module, Module>();
  // one rank keeps what it has, with the fused blocks of plain layers
  for (const { path, module, style } of mesh.size('tp') > 1 ? matches : []) {
    const made = actions[style.style].apply(module as never, style as never, mesh, path, options);
    if (!made) continue;
    made.checkpointing = module.checkpointing;
    replaced.set(module, made);
    styled.add(made);
  }
  for (const parent of model.modules()) {
    for (const [name, child] of parent.namedChildren()) {
      const other = replaced.get(child);
      if (other) (parent as unknown as Record<string, Module>)[name] = other;
    }
  }
  replicateRest(model, mesh, options);
  return model;
}

function broughtBy(model: Module, matches: readonly Match[]): Feature[] {
  const brought: Feature[] = ['tensorParallel'];
  const onPieces = (style: ParallelStyle): boolean =>
    style.style.toLowerCase().endsWith('sequence') || ('sequenceParallel' in style && style.sequenceParallel === true);
  if (matches.some(({ style }) => onPieces(style))) brought.push('sequenceParallel');
  if (model.modules().some((m) => m instanceof SyncBatchNorm)) brought.push('syncBatchNorm');
  return brought;
}

function checkMatch({ path, module, style }: Match, where: string): void {
  const of = Object.hasOwn(actions, style?.style) ? actions[style.style].of : null;
  if (!of)
    throw new ValueError(`${where}: the style of "${path}" must be { style } with one of ${Object.keys(actions).join(', ')}, got ${describe(style?.style)}`);
  if (!((module as Module) instanceof of))
    throw new ValueError(`${where}: "${path}" is a ${module.constructor.name}; the style ${style.style} is for ${of.name}`);
}

/** What the ranks do not share is the same on all of them. */
function replicateRest(model: Module, mesh: DeviceMesh, { src = 0 }: SourceOptions): void {
  const rest = model.parameters().filter((p) => !layoutOf(p));
  for (const p of rest) setLayout(p, new layouts.Layout(mesh, p.shape, {}));
  const group = mesh.group('tp');
  if (src === null || group.size === 1) return;
  const given = [...rest, ...model.buffers()].filter((t) => !t.isMeta);
  noGrad(() => {
    for (const work of group.coalesce(() => given.map((t) => group.broadcast(t, { src, label: 'of parallelize' })))) work.wait();
  });
}
