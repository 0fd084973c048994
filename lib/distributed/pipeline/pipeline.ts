// Pipeline: a model whose layers lie one part after another on the ranks of the mesh's axis `pp`, trained in micro-batches by any schedule (Huang et
// al., "GPipe", 2019; Narayanan et al., "PipeDream", 2019). As a module it has this rank's stages, under the names of the whole model, so
// optimizers, checkpoints, clipping, fullyShard and materialize see what there is here and nothing else.
import type { GradScaler } from '../../amp/grad_scaler.js';
import { context, withContext } from '../../context.js';
import { DeviceError, describe, ValueError } from '../../errors.js';
import { scope } from '../../memory.js';
import type { LossNormalizer } from '../../nn/layered.js';
import { type LoadResult, Module, type Parameter, type StateDict } from '../../nn/module.js';
import { checkNames, type Names } from '../../options.js';
import type { Tensor } from '../../tensor.js';
import { type CombinationOptions, combine } from '../combinations.js';
import { DeviceMesh } from '../device_mesh.js';
import { formatAction } from './action.js';
import { type Boundaries, Negotiation } from './boundaries.js';
import { DataParallelStages } from './data_parallel_stages.js';
import { Execution } from './execution.js';
import { failedIn } from './failed_in.js';
import { lowerSchedule } from './lower.js';
import { makeSchedule, type ScheduleName } from './make_schedule.js';
import { type Batch, type MicroBatch, microBatchesOf } from './micro_batches.js';
import { forwardsOf, Schedule } from './schedule.js';
import type { Split } from './split_layers.js';
import { Stages } from './stages.js';
import { type MetricFunction, Tally } from './tally.js';
import { shareGradients, shareValues } from './tied_gradients.js';
import { validateSchedule } from './validate.js';

/** Options of Pipeline. */
export interface PipelineOptions extends CombinationOptions {
  /** Its axis `pp` has the stages, `dpReplicate` and `dpShard` copies of them. */
  readonly mesh: DeviceMesh;
  /** A name, or a plan of one's own (`readSchedule`); '1f1b' unless given. */
  readonly schedule?: ScheduleName | Schedule;
  /** How many each batch is cut into; needed with a schedule by name. */
  readonly microBatches?: number;
  /** For schedules with several stages a rank: 'interleaved', 'zbv'. */
  readonly stagesPerRank?: number;
  /** Where the layers are cut; 'layers' unless given. */
  readonly split?: Split;
  /** The loss of a micro-batch. Without it the model's last layer makes it. */
  readonly loss?: (output: Tensor, targets: Tensor, options: LossNormalizer) => Tensor;
  /** Scalars of a micro-batch to look at; their means over the rows of all are known on every rank. */
  readonly metrics?: Readonly<Record<string, MetricFunction>>;
  /**
   * What the loss is divided by. `validTargets`: the number of targets of the whole batch, on all ranks, that are not `ignoreIndex`, which
   * reaches the loss as `normalizer`; the default where the model makes its loss. `samples`: nothing more; losses are means over rows, and
   * count by their rows.
   */
  readonly normalizer?: 'validTargets' | 'samples';
  /** Of targets that do not count; −100. */
  readonly ignoreIndex?: number;
}
const NAMES: Names<PipelineOptions> = {
  mesh: true,
  schedule: true,
  microBatches: true,
  stagesPerRank: true,
  split: true,
  loss: true,
  metrics: true,
  normalizer: true,
  ignoreIndex: true,
  allowUntested: true,
};

/** What a step found out, equal on every rank. */
export interface PipelineResult {
  /** The loss of the whole batch, on all ranks; float64. */
  readonly loss: Tensor;
  /** Means of the metrics over the rows of the whole batch; float64. */
  readonly metrics: Readonly<Record<string, Tensor>>;
}

const WHERE = 'Pipeline';

/**
 * Trains a model in stages:
 *
 * ```ts
 * const mesh = await dist.initDeviceMesh({ pp: 4, dpReplicate: -1 });
 * const model = new nn.GPT({ ...options, device: 'meta' });
 * const pipeline = dist.materialize(new dist.Pipeline(model, { mesh, schedule: '1f1b', microBatches: 8 }));
 * const optimizer = new optim.AdamW(pipeline.parameters(), { lr });
 * for await (const { inputs, targets } of loader) {
 *   const { loss } = await pipeline.step(inputs, targets);
 *   optim.clipGradNorm(pipeline.parameters(), 1);
 *   optimizer.step();
 *   optimizer.zeroGrad();
 * }
 * ```
 *
 * The model is an nn.GPT, an nn.Sequential, or has `pipelineLayers()`. All ranks make it, best on device meta: each gives memory to its own stages
 * alone, and takes back that of others. All ranks along `pp` pass the same batches, those along the data axes their own. Gradients are
 * reduced over the data axes after a stage's last backward, so nothing else has to; `fullyShard` may be called on the modules of this rank
 * (`pipeline.children()`), `parallelize` on the model before.
 */
export class Pipeline<M extends Module = Module> extends Module {
  /** The plan, without communication. */
  readonly schedule: Schedule;
  private readonly stages: Stages;
  private readonly negotiation: Negotiation;
  private readonly data: DataParallelStages;
  private readonly tally: Tally;
  /** In state dicts: of the model, and of this rank. */
  private names: { readonly all: ReadonlySet<string>; readonly own: ReadonlySet<string> } | undefined;
  private readonly lowered = new Map<string, Schedule>();
  private busy = false;

  /** @throws ValueError for a schedule that cannot run, layers that do not make its stages, and wrong options */
  constructor(
    /** The whole model; modules of other ranks' stages are on device meta. */
    readonly model: M,
    private readonly options: PipelineOptions,
  ) {
    super();
    checkOptions(model, options);
    const { mesh, split, normalizer, loss } = options;
    const group = mesh.group('pp');
    this.schedule = scheduleOf(options, group.size);
    const separate = this.schedule.actions.flat().some(({ kind }) => kind === 'W');
    combine(WHERE, model.parameters(), separate ? ['pipeline', 'zeroBubble'] : ['pipeline'], options);
    this.stages = new Stages(model, this.schedule, mesh, split);
    const counted = (normalizer ?? (loss ? 'samples' : 'validTargets')) === 'validTargets';
    this.data = new DataParallelStages(this.stages, mesh, !counted);
    this.tally = new Tally(mesh, this.data.group, options, counted);
    this.negotiation = new Negotiation(model, this.schedule, this.stages, group);
    shareValues(
      this.stages.tied.filter(({ parameter }) => !parameter.isMeta),
      group,
    );
  }

  /**
   * Forward and backward of a batch: gradients are complete, over all micro-batches and ranks, in stream order when it resolves. They add to
   * what there is.
   * @param batch a tensor, which is cut along dimension 0, or the micro-batches themselves, which may differ in their shapes
   * @throws ShapeError, on all ranks and before anything is computed, where stages do not fit together
   */
  step(batch: Batch, targets?: Tensor, options: { readonly scaler?: GradScaler } = {}): Promise<PipelineResult> {
    if (!this.schedule.trains) throw new ValueError(`${WHERE}: schedule ${this.schedule.name} has forwards alone`);
    return this.through('train', batch, targets, options.scaler);
  }

  /** Forward alone, without a graph: the loss and metrics of a batch. */
  evaluate(batch: Batch, targets?: Tensor): Promise<PipelineResult> {
    return this.through('evaluate', batch, targets);
  }

  private async through(purpose: 'train' | 'evaluate', given: Batch, targets: Tensor | undefined, scaler?: GradScaler): Promise<PipelineResult> {
    if (this.busy) throw new ValueError(`${WHERE}: a step is under way: await it before the next one`);
    const { autocast } = context();
    const batches = microBatchesOf(given, targets, this.schedule.microBatches);
    this.busy = true;
    try {
      const boundaries = await this.negotiation.boundaries(batches);
      return withContext({ autocast }, () => scope(() => this.execute(purpose, batches, boundaries, scaler)));
    } finally {
      this.busy = false;
    }
  }

  private execute(purpose: 'train' | 'evaluate', batches: readonly MicroBatch[], boundaries: readonly Boundaries[], scaler?: GradScaler): PipelineResult {
    const { model, stages, tally, data, options } = this;
    const group = options.mesh.group('pp');
    const schedule = this.lower(purpose);
    tally.begin(batches, stages.own.has(schedule.stages - 1));
    if (purpose === 'train') data.begin();
    const execution = new Execution({
      model,
      schedule,
      stages,
      group,
      batches,
      boundaries,
      around: {
        loss: (stage, inputs, batch) => {
          const loss = tally.loss(stage, inputs, batch);
          return scaler && purpose === 'train' ? scaler.scale(loss) : loss;
        },
        lastBackward: (stage) => data.lastBackward(stage),
        sharding: (action, stage) => data.run(action, stage),
      },
    });
    try {
      execution.run();
      if (purpose === 'train') data.end(() => shareGradients(stages.tied, group));
      return tally.end();
    } catch (error) {
      execution.abandon();
      const action = execution.now;
      const why = error instanceof Error ? error.message.split('\n')[0] : String(error);
      group.abort(`Pipeline: rank ${group.rank} along pp has failed${action ? ` in ${formatAction(action)}` : ''}: ${why}`);
      throw action ? failedIn(error, this.schedule, group.rank, action) : error;
    }
  }

  /** The plan with communication; for this rank's stages as they are sharded now. */
  private lower(purpose: 'train' | 'evaluate'): Schedule {
    const plan = purpose === 'train' ? this.schedule : forwardsOf(this.schedule);
    if (plan.communicates) return plan;
    const sharded = this.data.sharded;
    const key = `${purpose} ${sharded}`;
    const known = this.lowered.get(key);
    if (known) return known;
    const own = plan.actions.flat().some(({ microBatch }) => microBatch === null);
    const made = lowerSchedule(plan, own ? {} : { sharded, reduceGradients: purpose === 'train' });
    this.lowered.set(key, made);
    return made;
  }

  override forward(): never {
    throw new ValueError(`${WHERE}: call step(batch, targets), or evaluate(batch, targets)`);
  }

  /** Whether other ranks alone have this entry of the model's state dict. */
  hasElsewhere(name: string): boolean {
    this.names ??= { all: new Set(Object.keys(this.model.stateDict())), own: new Set(Object.keys(this.stateDict())) };
    return this.names.all.has(name) && !this.names.own.has(name);
  }
  /** Takes the state of the whole model too. */
  override loadStateDict(dict: StateDict, options: { strict?: boolean } = {}): LoadResult {
    if (typeof dict !== 'object' || dict === null) return super.loadStateDict(dict, options);
    return super.loadStateDict(Object.fromEntries(Object.entries(dict).filter(([name]) => !this.hasElsewhere(name))), options);
  }

  /** The modules of this rank's stages, by their paths in the model. */
  override *namedChildren(): Generator<[string, Module]> {
    yield* this.stages?.modules ?? [];
  }
  /** By their names in the model, of which a shared one has the first. */
  override *namedParameters(): Generator<[string, Parameter]> {
    yield* this.stages.parameters;
  }
}

function checkOptions(model: unknown, options: PipelineOptions): void {
  if (!(model instanceof Module)) throw new ValueError(`${WHERE}: expected a module, got ${describe(model)}`);
  const { mesh, normalizer, loss, metrics, ignoreIndex } = options ?? {};
  if (!(mesh instanceof DeviceMesh)) throw new ValueError(`${WHERE}: give the mesh as { mesh }, got ${describe(mesh)}`);
  if (!mesh.axes.includes('pp')) throw new ValueError(`${WHERE}: the mesh has no axis pp; it has ${mesh.axes.join(', ')}`);
  checkNames(WHERE, NAMES, options);
  if (normalizer !== undefined && normalizer !== 'validTargets' && normalizer !== 'samples')
    throw new ValueError(`${WHERE}: normalizer must be validTargets or samples, got ${describe(normalizer)}`);
  if (ignoreIndex !== undefined && !Number.isSafeInteger(ignoreIndex))
    throw new ValueError(`${WHERE}: ignoreIndex must be a whole number, got ${describe(ignoreIndex)}`);
  for (const [name, f] of Object.entries({ loss, ...metrics }))
    if (f !== undefined && typeof f !== 'function') throw new ValueError(`${WHERE}: ${name} must be a function, got ${describe(f)}`);
  const lost = model.parameters().find((p) => !p.isMeta && p.device !== mesh.device);
  if (lost) throw new DeviceError(`${WHERE}: a parameter is on ${lost.device}, the mesh on ${mesh.device}; move the model with to(), or make it on meta`);
}

function scheduleOf({ schedule = '1f1b', microBatches, stagesPerRank }: PipelineOptions, ranks: number): Schedule {
  if (!(schedule instanceof Schedule)) {
    if (microBatches === undefined) throw new ValueError(`${WHERE}: give microBatches, the number that each batch is cut into`);
    return makeSchedule(schedule, { ranks, microBatches, stagesPerRank });
  }
  if (schedule.ranks !== ranks) throw new ValueError(`${WHERE}: schedule ${schedule.name} is for ${schedule.ranks} ranks, the mesh has ${ranks} along pp`);
  if (microBatches !== undefined && microBatches !== schedule.microBatches)
    throw new ValueError(`${WHERE}: schedule ${schedule.name} has ${schedule.microBatches} micro-batches, microBatches is ${microBatches}`);
  validateSchedule(schedule);
  return schedule;
}
