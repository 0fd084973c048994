// estimateMemory: what a rank's memory will hold, before there is any. The training step itself runs, with a stand-in for the addon that counts
// bytes (dry_run.ts), so the estimate follows every placement, wrapper, checkpoint and cast, and no formula has to keep up with them.
import { isGradEnabled } from '../autograd/modes.js';
import { onesLike } from '../create.js';
import { type Device, type DeviceLike, device as deviceNamed } from '../device.js';
import { type DryRun, dryRun, type Usage } from '../dry_run.js';
import { describe, ValueError } from '../errors.js';
import { scope } from '../memory.js';
import { copyModule } from '../nn/copy_module.js';
import { Module, type Parameter } from '../nn/module.js';
import { checkInteger } from '../shape.js';
import { Tensor } from '../tensor.js';
import { abstractMesh } from './abstract_mesh.js';
import { borrowed, counted } from './borrowed_model.js';
import { type DataParallelOptions, DistributedDataParallel } from './ddp.js';
import { DeviceMesh, type MeshSizes } from './device_mesh.js';
import { type FullyShardOptions, fullyShard } from './fully_shard.js';
import { layoutOf } from './layout_of.js';
import { materialize } from './materialize.js';
import { MemoryEstimate, partsOf } from './memory_estimate.js';
import { parallelize } from './tensor_parallel/parallelize.js';
import type { ParallelPlan } from './tensor_parallel/plan.js';

/** How `fullyShard` is called on a model and on modules below it. */
export interface FullyShardPlan<M extends Module = Module> extends Omit<FullyShardOptions, 'mesh'> {
  /** Modules that are sharded by themselves, before the model; none unless given. */
  readonly modules?: (model: M) => Iterable<Module>;
}

/** Options of DistributedDataParallel but for the group, which the mesh has. */
export type WrapperOptions = Omit<DataParallelOptions, 'group'>;

/** Anything that updates parameters. */
export interface Stepper {
  /** Updates them by their gradients. */
  step(): unknown;
  /** Drops the gradients. */
  zeroGrad(): void;
}

/** What is done with a model, as the training script does it. */
export interface MemoryPlan<M extends Module = Module> {
  /**
   * The forward of one micro-batch of one rank, from making the batch to the loss:
   * `(model, device) => model.forward(zeros([8, 128], { dtype: 'int32', device }))`. Autocast and checkpoints belong inside. Shapes count, and
   * nothing can be read. A stage of a pipeline gives back what it sends. With `ddp` the model is the wrapper.
   */
  readonly loss: (model: M, device: Device) => Tensor;
  /** Sizes of a mesh that there need not be, or one that there is; that of the model's layouts unless given, else one rank. */
  readonly mesh?: MeshSizes | DeviceMesh;
  /** Whose bytes, for sizes; 0 unless given. Where pieces differ in size, the first ranks have the largest. */
  readonly rank?: number;
  /** What the rank computes on, which need not be here either: `cuda`. That of the mesh or of the model unless given. */
  readonly device?: DeviceLike;
  /** For `parallelize`. */
  readonly tensorParallel?: ParallelPlan | ((model: M, mesh: DeviceMesh) => ParallelPlan);
  /** For `fullyShard`. */
  readonly fullyShard?: boolean | FullyShardPlan<M>;
  /** For `DistributedDataParallel` over `dpReplicate`; a function that makes the options where they have a hook with a state. */
  readonly ddp?: boolean | WrapperOptions | (() => WrapperOptions);
  /** Makes the optimizer, or anything else that steps: ZeroRedundancyOptimizer, or an object that clips before. Without it no step is taken. */
  readonly optimizer?: (parameters: Parameter[], mesh: DeviceMesh) => Stepper;
  /** Micro-batches a step, whose gradients add up; as many as are in flight unless given. */
  readonly microBatches?: number;
  /** Forwards before the backward of the first of them, as in the stages of a pipeline; 1 unless given. */
  readonly inFlight?: number;
  /** Steps that are gone through; 2 unless given: by then buckets are laid out and the order of gathers is known. More where something begins later, as PowerSGD does. */
  readonly steps?: number;
}

const WHERE = 'estimateMemory';

/**
 * Bytes that training takes on one rank: parameters, gradients, optimizer state, activations, buffers, and the peak of a step. Nothing is
 * allocated or sent, no other rank needed, and models and random numbers are as before when it returns.
 *
 * ```ts
 * const model = new nn.GPT({ ...options, device: 'meta' });
 * const estimate = dist.estimateMemory(model, {
 *   mesh: { dpShard: 8, tp: 2 },
 *   tensorParallel: (gpt) => dist.gptPlan(gpt),
 *   fullyShard: { modules: (gpt) => gpt.transformer.h },
 *   optimizer: (parameters) => new optim.AdamW(parameters),
 *   loss: (gpt, device) => {
 *     const tokens = zeros([4, 1024], { dtype: 'int32', device });
 *     return amp.autocast('bfloat16', () => gpt.forward(tokens, tokens));
 *   },
 * });
 * console.log(`${estimate}`); // a table
 * if (estimate.peak > 40e9) …
 * ```
 *
 * The numbers are those of `memory().live` and `.peak`, to the byte where each step runs in `scope()`; what JavaScript has not collected yet
 * comes on top without. `memory().reserved` is larger by the allocator's rounding: to 512 bytes a tensor, and to segments of 2 MiB for tensors
 * up to 1 MiB, of 20 MiB up to 10 MiB, above of multiples of 2 MiB.
 *
 * @param model a model, on device meta or any other, spread or to be spread by the plan; or a function that makes it, and may spread it as the
 * training script does: `(mesh, device) => …`
 * @throws ValueError for a model that a plan cannot be tried on without changing it: pass a function that makes it
 */
export function estimateMemory<M extends Module>(model: M | ((mesh: DeviceMesh, device: Device) => M), plan: MemoryPlan<M>): MemoryEstimate {
  checkPlan(model, plan);
  return dryRun((run) => {
    const given = model instanceof Module ? model : null;
    const mesh = meshOf(given, plan);
    const { device } = mesh;
    run.phase = 'building';
    if (given && !spreads(plan)) return borrowed(given, run, device, () => measured(run, given, mesh, plan));
    if (given?.parameters().some((p) => layoutOf(p)))
      throw new ValueError(`${WHERE}: the model is spread already; leave tensorParallel, fullyShard and ddp out, or pass a function that makes it`);
    const made = given
      ? copyModule(given, (s) => (s.device.type === 'meta' ? s : counted(run, s, device)), WHERE)
      : (model as (mesh: DeviceMesh, device: Device) => M)(mesh, device);
    if (!(made instanceof Module)) throw new ValueError(`${WHERE}: the function must return a module, got ${describe(made)}`);
    return measured(run, spread(made, mesh, plan), mesh, plan);
  });
}

const spreads = (plan: MemoryPlan<never>): boolean => Boolean(plan.tensorParallel || plan.fullyShard || plan.ddp);

function checkPlan(model: unknown, plan: MemoryPlan<never>): void {
  if (!(model instanceof Module) && typeof model !== 'function')
    throw new ValueError(`${WHERE}: expected a model, or a function that makes one, got ${describe(model)}`);
  if (typeof plan?.loss !== 'function')
    throw new ValueError(`${WHERE}: the plan needs { loss }, a function of the model and its device, got ${describe(plan?.loss)}`);
  if (plan.optimizer !== undefined && typeof plan.optimizer !== 'function')
    throw new ValueError(`${WHERE}: optimizer must be a function that makes one of parameters, got ${describe(plan.optimizer)}`);
  const inFlight = checkInteger(plan.inFlight ?? 1, 'inFlight', WHERE, 1);
  checkInteger(plan.microBatches ?? inFlight, 'microBatches', WHERE, inFlight);
  checkInteger(plan.steps ?? 2, 'steps', WHERE, 1);
  if (plan.ddp && plan.fullyShard) throw new ValueError(`${WHERE}: fullyShard reduces the gradients itself: leave ddp out`);
  if (typeof plan.ddp === 'object' && plan.ddp.hook?.attach)
    throw new ValueError(`${WHERE}: a hook with a state serves one DistributedDataParallel: pass ddp as a function that makes the options`);
  if (plan.ddp && inFlight > 1)
    throw new ValueError(`${WHERE}: DistributedDataParallel expects each backward right after its forward: leave ddp or inFlight out`);
  if (!isGradEnabled()) throw new ValueError(`${WHERE}: it trains, and cannot run inside noGrad`);
  // what wraps a model keeps more of a run than can be put back
  if (model instanceof DistributedDataParallel) throw new ValueError(`${WHERE}: pass the model inside of DistributedDataParallel, and { ddp: true }`);
}

function meshOf(model: Module | null, { mesh, rank = 0, device }: MemoryPlan<never>): DeviceMesh {
  if (mesh instanceof DeviceMesh) return mesh;
  const own = model?.parameters().flatMap((p) => layoutOf(p)?.mesh ?? [])[0];
  if (own) {
    if (mesh) throw new ValueError(`${WHERE}: the model lies on a mesh already; leave mesh out`);
    return own;
  }
  const home = model?.parameters().find((p) => !p.isMeta)?.device ?? deviceNamed('cpu');
  const on = device === undefined ? home : deviceNamed(device);
  if (on.type === 'meta') throw new ValueError(`${WHERE}: device meta takes no memory; name the device of the training`);
  return abstractMesh(mesh ?? {}, rank, on, WHERE);
}

/** As the training script would. */
function spread<M extends Module>(model: M, mesh: DeviceMesh, plan: MemoryPlan<M>): M {
  const { tensorParallel, ddp } = plan;
  if (tensorParallel) parallelize(model, mesh, typeof tensorParallel === 'function' ? tensorParallel(model, mesh) : tensorParallel);
  if (plan.fullyShard) {
    const { modules = () => [], ...options }: FullyShardPlan<M> = plan.fullyShard === true ? {} : plan.fullyShard;
    for (const module of modules(model)) fullyShard(module, { ...options, mesh });
    fullyShard(model, { ...options, mesh });
  }
  materialize(model, { init: () => true, device: mesh.device });
  if (!ddp) return model;
  // the wrapper has the model's forward, which is what losses call
  const options = typeof ddp === 'function' ? ddp() : ddp === true ? {} : ddp;
  return new DistributedDataParallel(model, { ...options, group: mesh.group('dpReplicate') }) as unknown as M;
}

/** Trains for some steps. */
function measured<M extends Module>(run: DryRun, model: M, mesh: DeviceMesh, plan: MemoryPlan<M>): MemoryEstimate {
  const { device } = mesh;
  const optimizer = plan.optimizer?.(model.parameters(), mesh);
  const building = run.peak(device);
  run.leaveGarbage(new Set([...model.parameters(), ...model.buffers()].map((t) => t.storage)));
  run.resetPeaks();
  let parts = partsOf(run.usage(device));
  for (let step = 0; step < (plan.steps ?? 2); step++) {
    run.operations.clear();
    parts = scope(() => trained(run, model, mesh, plan, optimizer));
    parts = { ...parts, temporaries: partsOf(run.usage(device)).temporaries };
  }
  return new MemoryEstimate(mesh.world.rank, mesh, parts, run.peak(device), building, run.elsewhere(device), sumOf(run.operations));
}

const sumOf = (operations: ReadonlyMap<string, number>): number => [...operations.values()].reduce((a, b) => a + b, 0);

type Stepping = ReturnType<NonNullable<MemoryPlan['optimizer']>>;

/** One step: what there is of each part when it is complete. */
function trained<M extends Module>(
  run: DryRun,
  model: M,
  { device }: DeviceMesh,
  plan: MemoryPlan<M>,
  optimizer: Stepping | undefined,
): ReturnType<typeof partsOf> {
  const { inFlight = 1, microBatches = inFlight } = plan;
  const left = (usage: Usage): number => usage.activation + usage.temporary;
  const before = left(run.usage(device));
  let most: Usage | null = null;
  const losses: Tensor[] = [];
  const backward = (): void => {
    const usage = run.usage(device);
    if (!most || left(usage) > left(most)) most = usage;
    run.phase = 'backward';
    const loss = losses.shift()!;
    loss.backward(loss.numel === 1 ? {} : { gradient: onesLike(loss) });
  };
  const microBatch = (): void => {
    run.phase = 'forward';
    losses.push(lossOf(model, device, plan));
    if (losses.length === inFlight) backward();
  };
  for (let i = 0; i < microBatches; i++) {
    if (model instanceof DistributedDataParallel && i < microBatches - 1) model.noSync(microBatch);
    else microBatch();
  }
  while (losses.length > 0) backward();
  const gradients = run.usage(device).gradient;
  run.phase = 'optimizer';
  optimizer?.step();
  const end = partsOf(run.usage(device));
  (optimizer ?? model).zeroGrad();
  const { activations, gathered, casts } = { ...partsOf(most!), activations: left(most!) - before };
  return { ...end, gradients, activations, gathered, casts };
}

function lossOf<M extends Module>(model: M, device: Device, { loss }: MemoryPlan<M>): Tensor {
  const made: unknown = loss(model, device);
  if (!(made instanceof Tensor)) throw new ValueError(`${WHERE}: loss must return a tensor, and cannot wait for anything; got ${describe(made)}`);
  return made;
}
