// fullyShard: every rank keeps a piece of each parameter, of its gradient and of its optimizer state (ZeRO-3; Rajbhandari et al., "ZeRO: Memory
// Optimizations Toward Training Trillion Parameter Models", 2020), module by module as PyTorch's FSDP2 (Zhao et al., 2023). The Parameter
// objects stay and hold the pieces, so optimizers, state dicts and clipping work on them; while a module runs, whole stand-ins are in their place.
import { defineFunctions } from '../autograd/function.js';
import { isGradEnabled, noGrad } from '../autograd/modes.js';
import { empty } from '../create.js';
import { cutFrom } from '../deferred.js';
import { checkDType, type DType, isFloating } from '../dtype.js';
import { DeviceError, DTypeError, describe, ShapeError, ValueError } from '../errors.js';
import { mapTensors } from '../memory.js';
import { Dropout } from '../nn/dropout.js';
import { Module, type Parameter } from '../nn/module.js';
import { clone, contiguous } from '../ops/copy.js';
import { narrow } from '../ops/view.js';
import { numel, type Shape } from '../shape.js';
import { takeOut } from '../storage.js';
import type { Tensor } from '../tensor.js';
import { type CombinationOptions, combine, type Feature } from './combinations.js';
import { DeviceMesh, type MeshAxis } from './device_mesh.js';
import { layoutOf, setLayout } from './distribute.js';
import { follow, followBuffers } from './fully_shard_buffers.js';
import { type GroupSettings, type ShardedParameter, ShardGroup } from './fully_shard_group.js';
import { type Call, Tree } from './fully_shard_pass.js';
import { Layout } from './layout.js';
import { Shard } from './placement.js';
import { SyncBatchNorm } from './sync_batch_norm.js';

/** In what dtypes sharded parameters compute and their gradients travel, as FSDP's. */
export interface MixedPrecisionPolicy {
  /** Parameters are gathered in this dtype, which forward and backward then compute in; their own unless given. */
  readonly paramDType?: 'float32' | 'bfloat16' | 'float16' | 'float64';
  /** Gradients are reduced in this dtype; the parameter's unless given, and float32 for 16-bit ones. */
  readonly reduceDType?: 'float32' | 'bfloat16' | 'float16' | 'float64';
}

/** Options of `fullyShard`. */
export interface FullyShardOptions extends CombinationOptions {
  /** The ranks. */
  readonly mesh: DeviceMesh;
  /** Over which parameters are cut; `dpShard` unless given. */
  readonly axis?: MeshAxis;
  /** Over which there are copies of the pieces (hybrid sharding): gradients are all-reduced over it. `dpReplicate` unless given; null for none. */
  readonly replicateAxis?: MeshAxis | null;
  /**
   * Free the whole parameters when forward ends, and gather them again in backward (ZeRO-3); false keeps them (ZeRO-2: gradients and
   * optimizer state are sharded). Unless given, all but the outermost module do, since its backward begins as its forward ends.
   */
  readonly reshardAfterForward?: boolean;
  /** Dtypes of whole parameters and of what is reduced; those of the parameters unless given. */
  readonly mixedPrecision?: MixedPrecisionPolicy;
  /** `mean` (default) divides by the number of ranks over both axes; `sum` is for losses that are already normalised over all ranks. */
  readonly gradientReduction?: 'mean' | 'sum';
  /** The first rank's buffers replace the others' at every training forward of the outermost module, as in DistributedDataParallel; on by default. */
  readonly broadcastBuffers?: boolean;
}

interface Sharded {
  tree: Tree;
  readonly group: ShardGroup;
}
const sharded = new WeakMap<Module, Sharded>();
const owners = new WeakMap<Parameter, Module>();
const WHERE = 'fullyShard';

/**
 * Cuts the parameters of a module along dimension 0 over the ranks of a mesh axis, without those of modules below it that were sharded before:
 *
 * ```ts
 * for (const block of model.transformer.h) fullyShard(block, { mesh });
 * fullyShard(model, { mesh });
 * const optimizer = new optim.AdamW(model.parameters(), { lr }); // afterwards: it sees the pieces
 * ```
 *
 * Each call makes a group, whose parameters are gathered by one collective before the module's forward and again before its backward, and whose
 * gradients are reduce-scattered by one when its backward ends. The gather of the next module runs meanwhile, in the order of the last
 * forward. After backward `.grad` of a parameter is this rank's piece of the reduced gradient; backwards before `zeroGrad` add up.
 * Values, also of buffers, become those of the axes' first rank; buffers again at every training forward.
 *
 * All ranks must call sharded modules in the same order and equally often. A module that data use more or less often, such as an expert, is
 * not sharded by itself: it belongs to the group of the module around it, which is gathered and reduced once however often it is
 * used, on some ranks perhaps not at all. Ranks that are at different modules get a DistributedError that names both.
 * A parameter that no rank has used gets no update: optimizers of this package skip it on the device.
 *
 * @returns the module
 * @throws ValueError for wrong options, or a parameter that another group has; ShapeError for one without dimensions
 */
export function fullyShard<M extends Module>(module: M, options: FullyShardOptions): M {
  const settings = checked(module, options);
  const parameters = collect(module, settings);
  const taken = parameters.map((p) => p.parameter);
  combine(WHERE, taken, broughtBy(module, settings), options);
  for (const p of taken) owners.set(p, module);
  const group = new ShardGroup(module, parameters, settings);
  const tree = new Tree();
  for (const below of module.modules()) {
    const found = sharded.get(below);
    if (!found || found.tree === tree) continue;
    tree.add(found.group);
    found.tree = tree;
  }
  tree.add(group);
  for (const p of parameters) cutParameter(p, settings);
  const own: Sharded = { tree, group };
  sharded.set(module, own);
  if (module.buffers().length > 0) noGrad(() => module.buffers().forEach((b) => follow(b, settings, 'of the buffers')));
  layOutDropout(module, settings);
  wrap(module, own, options.broadcastBuffers ?? true);
  return module;
}

/**
 * Whether backward reduces the gradients of the sharded modules in `module` (true, as it begins). While it does not, they add up whole on each
 * rank; the next backward that does takes them along. What was reduced already stays in `.grad`.
 */
export function setRequiresGradientSync(module: Module, on: boolean): void {
  const found = module instanceof Module ? shardGroupsOf(module) : [];
  if (found.length === 0) throw new ValueError('setRequiresGradientSync: expected a module with fullyShard');
  for (const group of found) group.synchronizes = on;
}

/** Of a module and all below it. */
export function shardGroupsOf(module: Module): ShardGroup[] {
  return module.modules().flatMap((m) => sharded.get(m)?.group ?? []);
}

function checked(module: unknown, options: FullyShardOptions): GroupSettings {
  if (!(module instanceof Module)) throw new ValueError(`${WHERE}: expected a module, got ${describe(module)}`);
  const { mesh, axis = 'dpShard', reshardAfterForward, mixedPrecision = {}, gradientReduction = 'mean' } = options ?? {};
  if (!(mesh instanceof DeviceMesh)) throw new ValueError(`${WHERE}: give the mesh as { mesh }, got ${describe(mesh)}`);
  if (sharded.has(module)) throw new ValueError(`${WHERE}: the ${module.label} is sharded already`);
  const replicateAxis = options.replicateAxis === undefined ? (mesh.axes.includes('dpReplicate') ? 'dpReplicate' : null) : options.replicateAxis;
  mesh.size(axis, ...(replicateAxis ? [replicateAxis] : [])); // names axes that there are not
  if (axis === replicateAxis) throw new ValueError(`${WHERE}: the axis of the pieces and of the copies is both ${axis}`);
  if (reshardAfterForward !== undefined && typeof reshardAfterForward !== 'boolean')
    throw new ValueError(`${WHERE}: reshardAfterForward must be true or false, got ${describe(reshardAfterForward)}`);
  if (options.broadcastBuffers !== undefined && typeof options.broadcastBuffers !== 'boolean')
    throw new ValueError(`${WHERE}: broadcastBuffers must be true or false, got ${describe(options.broadcastBuffers)}`);
  if (gradientReduction !== 'mean' && gradientReduction !== 'sum')
    throw new ValueError(`${WHERE}: gradientReduction must be mean or sum, got ${describe(gradientReduction)}`);
  const dtype = (name: 'paramDType' | 'reduceDType'): DType | null => {
    const given = mixedPrecision[name];
    if (given !== undefined && !isFloating(checkDType(given, `${WHERE}: ${name}`)))
      throw new DTypeError(`${WHERE}: ${name} must be float32, bfloat16, float16 or float64, got ${given}`);
    return given ?? null;
  };
  const mean = gradientReduction === 'mean';
  return { mesh, axis, replicateAxis, reshardAfterForward, paramDType: dtype('paramDType'), reduceDType: dtype('reduceDType'), mean };
}

/** The parameters that no module below has taken, with every place where they are used. */
function collect(module: Module, { mesh, axis, paramDType }: GroupSettings): ShardedParameter[] {
  const ranks = mesh.size(axis);
  const below = new Set(module.modules().flatMap((m) => (sharded.has(m) ? m.modules() : [])));
  const found = new Map<Parameter, ShardedParameter & { places: { module: Module; name: string }[] }>();
  for (const [path, m] of module.namedModules()) {
    if (below.has(m)) continue;
    for (const [key, parameter] of m.ownParameters()) {
      const name = path ? `${path}.${key}` : key;
      const old = found.get(parameter);
      if (old) {
        old.places.push({ module: m, name: key });
        continue;
      }
      const owner = owners.get(parameter);
      if (owner) throw new ValueError(`${WHERE}: parameter ${name} is also one of a ${owner.label} that is sharded by itself; shard a module that has both`);
      check(name, parameter, mesh);
      const { shape } = parameter;
      const chunk = Math.ceil(shape[0]! / ranks) * numel(shape.slice(1));
      found.set(parameter, { name, parameter, shape, chunk, places: [{ module: m, name: key }] });
    }
  }
  for (const m of below) {
    for (const [, p] of m.ownParameters()) {
      const both = found.get(p);
      if (both) throw new ValueError(`${WHERE}: parameter ${both.name} is also one of a ${m.label} that is sharded by itself; shard a module that has both`);
    }
  }
  const all = [...found.values()];
  const other = all.find((p) => p.parameter.dtype !== all[0]!.parameter.dtype);
  if (other && paramDType === null) {
    const [a, b] = [all[0]!, other].map((p) => `${p.name} is ${p.parameter.dtype}`);
    throw new DTypeError(`${WHERE}: ${a} and ${b}: parameters of a group have one dtype; give mixedPrecision.paramDType, or shard modules by themselves`);
  }
  return all;
}

function broughtBy(module: Module, { mesh, replicateAxis, reshardAfterForward }: GroupSettings): Feature[] {
  const brought: Feature[] = [reshardAfterForward === false ? 'zero2' : 'zero3'];
  if (replicateAxis && mesh.size(replicateAxis) > 1) brought.push('hybrid');
  if (module.modules().some((m) => m instanceof SyncBatchNorm)) brought.push('syncBatchNorm');
  return brought;
}

function check(name: string, p: Parameter, mesh: DeviceMesh): void {
  if (p.ndim === 0) throw new ShapeError(`${WHERE}: parameter ${name} has no dimension to cut; make it [1]`);
  if (!isFloating(p.dtype)) throw new DTypeError(`${WHERE}: parameter ${name} is ${p.dtype}; parameters that are sharded are floating-point`);
  if (p.grad) throw new ValueError(`${WHERE}: parameter ${name} has a gradient already; shard the model before the first backward`);
  if (!p.isMeta && p.device !== mesh.device)
    throw new DeviceError(`${WHERE}: parameter ${name} is on ${p.device}, the mesh on ${mesh.device}; move the module with to(), or make it on meta`);
}

/** The Parameter holds this rank's piece from now on. */
function cutParameter({ parameter, shape, chunk }: ShardedParameter, settings: GroupSettings): void {
  const { mesh, axis } = settings;
  const layout = (layoutOf(parameter) ?? new Layout(mesh, shape, {})).with({ [axis]: Shard(0) });
  noGrad(() => {
    let piece: Tensor;
    const row = numel(shape.slice(1));
    if (parameter.isMeta) {
      piece = empty(layout.localShape, { dtype: parameter.dtype, device: 'meta' });
      cutFrom(piece, parameter);
    } else {
      const whole = contiguous(parameter.detach());
      follow(whole, settings, 'of the parameters');
      const begin = Math.min(shape[0]!, (mesh.rank(axis) * chunk) / (row || 1));
      piece = clone(narrow(whole, 0, begin, Math.min(shape[0]! - begin, chunk / (row || 1))));
      if (whole.storage !== parameter.storage) whole.dispose();
      if (!parameter.isView) parameter.dispose();
    }
    takeOut(piece.storage, 'parameter');
    Object.assign(parameter, { storage: piece.storage, shape: piece.shape, strides: piece.strides, offset: 0, isView: false });
  });
  setLayout(parameter, layout);
}

/** The ranks' rows lie one after another, as DataLoader deals them: dropout gives the masks of one process. */
function layOutDropout(module: Module, { mesh, axis, replicateAxis }: GroupSettings): void {
  const axes: MeshAxis[] = replicateAxis ? [axis, replicateAxis] : [axis];
  const [rank, size] = [mesh.rank(...axes), mesh.size(...axes)];
  if (size === 1) return;
  const along = (shape: Shape, k: number, rest: (n: number) => number): number[] => shape.map((n, i) => (i === 0 ? n * k : rest(n)));
  for (const m of module.modules()) {
    if (m instanceof Dropout) m.layout ??= (shape) => ({ globalShape: along(shape, size, (n) => n), offset: along(shape, rank, () => 0) });
  }
}

/** Forward runs with whole parameters. */
function wrap(module: Module, own: Sharded, broadcastBuffers: boolean): void {
  const inner = module.forward as (...args: unknown[]) => unknown;
  const forward = (...args: unknown[]): unknown => {
    const call = own.tree.enter(own.group);
    const failed = (error: unknown): never => {
      own.tree.fail(call);
      throw error;
    };
    let output: unknown;
    try {
      if (broadcastBuffers) followBuffers(module, call);
      output = inner(...args);
    } catch (error) {
      return failed(error);
    }
    if (output instanceof Promise) return output.then((value) => leave(own.tree, call, value), failed);
    return leave(own.tree, call, output);
  };
  Object.defineProperty(module, 'forward', { value: forward, writable: true, configurable: true, enumerable: false });
  // fused blocks that take weights out of a layer instead of calling it would find the pieces
  Object.defineProperty(module, 'hasHooks', { value: true, configurable: true, enumerable: false });
}

/** The results, behind which backward finds the parameters whole. */
function leave(tree: Tree, call: Call, output: unknown): unknown {
  const found: Tensor[] = [];
  if (isGradEnabled()) {
    mapTensors(output, (t) => {
      if (t.requiresGrad) found.push(t);
      return t;
    });
  }
  tree.leave(call, found.length > 0);
  if (found.length === 0) return output;
  const pass = defineFunctions({
    name: `results of ${call.group.label}`,
    forward: (_ctx, ...ys: Tensor[]) => ys,
    backward: (_ctx, ...grads) => {
      tree.begins(call);
      return grads;
    },
  });
  const aliases = pass(...found);
  return mapTensors(output, (t) => (t.requiresGrad ? aliases.shift()! : t));
}
