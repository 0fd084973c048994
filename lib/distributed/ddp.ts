// Data parallelism: every rank has the whole model and a part of the batch, and gradients are reduced over the ranks. First the whole
// idea in one function; then DistributedDataParallel, which does the same in buckets while backward still runs
// (Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", 2020).
import { isGradEnabled, noGrad } from '../autograd/modes.js';
import { DeviceError, DTypeError, describe, ValueError } from '../errors.js';
import { Dropout } from '../nn/dropout.js';
import { Module } from '../nn/module.js';
import { checkNames, type Names } from '../options.js';
import type { Layout } from '../random.js';
import type { Shape } from '../shape.js';
import type { Tensor } from '../tensor.js';
import type { NamedParameter } from './buckets.js';
import { type CombinationOptions, combine, type Feature } from './combinations.js';
import { Ensemble } from './ensemble.js';
import type { CommunicationHook } from './hooks/hook.js';
import { plainReduction } from './hooks/plain.js';
import { type JoinOptions, join } from './join.js';
import { ProcessGroup } from './process_group.js';
import { Reducer } from './reducer.js';
import { reducible } from './reducible.js';
import { compareParameters } from './same_model.js';
import { SyncBatchNorm } from './sync_batch_norm.js';

/**
 * Data parallelism in its simplest form, for loops that drive themselves: called after backward, it replaces each parameter's gradient
 * by the mean or the sum of those of all ranks. A rank without one counts as zeros. Those of 16-bit parameters become float32, unless their
 * `gradDType` says otherwise. Every rank passes the same parameters.
 */
export function reduceGradients(group: ProcessGroup, parameters: Iterable<Tensor>, reduction: 'mean' | 'sum' = 'mean'): void {
  for (const parameter of new Set(parameters)) {
    if (!parameter.requiresGrad) continue;
    parameter.grad = noGrad(() => reducible(parameter));
    group.allReduce(parameter.grad, { op: reduction === 'mean' ? 'avg' : 'sum' }).wait();
  }
}

/** Options of DistributedDataParallel; the defaults are PyTorch's, but for 16-bit gradients, which are reduced in float32. */
export interface DataParallelOptions extends CombinationOptions {
  /** The ranks that train together. */
  group: ProcessGroup;
  /** `mean` (default) divides by the number of ranks, as PyTorch; `sum` is for losses that are already normalised over all ranks. */
  gradientReduction?: 'mean' | 'sum';
  /**
   * What gradients of 16-bit parameters are reduced in, and handed to the optimizer; `float32` unless given. A 16-bit dtype takes half the memory
   * and sends half the bytes, and rounds the sum over the ranks: NCCL at every rank, the other backends once. `hook: oneRoundingReduction`
   * sends as little and rounds once everywhere, with either.
   */
  gradientDType?: 'float32' | 'bfloat16' | 'float16';
  /** Bytes of a bucket; 25 MiB. */
  bucketBytes?: number;
  /** Bytes of the first bucket; 1 MiB. */
  firstBucketBytes?: number;
  /**
   * Lay the buckets out in the order in which the first backward made the gradients; on by default. Without it, against the order of
   * registration: for graphs that depend on the data.
   */
  rebuildBuckets?: boolean;
  /** Rank 0's buffers replace the others' at every training forward, inside `join` those of the highest rank that has a batch; on by default. */
  broadcastBuffers?: boolean;
  /**
   * Forwards may leave parameters out. One that some rank used counts as zeros on the others; one that no rank used gets no update:
   * optimizers of this package skip it, its state and its step count, on the device. Its `.grad` holds zeros.
   */
  findUnusedParameters?: boolean;
  /**
   * Promises that every step uses the same parameters equally often. Parameters that the first step leaves out keep `.grad` null and
   * are never sent; a step that differs is an error that names the parameters.
   */
  staticGraph?: boolean;
  /** Another way to reduce: compression, for example. */
  hook?: CommunicationHook;
}

/**
 * Wraps a module for training on every rank of a group. Parameters and buffers become those of rank 0. After `backward` the
 * gradients are reduced over the ranks, and equal on all of them to the bit. Parameters that are used several times, by several
 * modules or in checkpointed segments are reduced once; those that do not require a gradient when the wrapper is made take no part.
 *
 * Nothing here waits: that the ranks' models agree is checked meanwhile, and `await ddp.ready` or the first collective that follows
 * says if they do not.
 */
export class DistributedDataParallel<M extends Module> extends Module {
  /** Settled when the ranks have compared their parameters. */
  readonly ready!: Promise<void>;
  private readonly reducer!: Reducer;
  private readonly ensemble!: Ensemble;

  constructor(
    /** The wrapped module, whose state dict has no prefix. */
    readonly module: M,
    private readonly options: DataParallelOptions,
  ) {
    super();
    checkOptions(module, options);
    const { group } = options;
    const all: NamedParameter[] = [...module.namedParameters()].map(([name, parameter]) => ({ name, parameter }));
    const named = all.filter((p) => p.parameter.requiresGrad);
    const frozen = all.filter((p) => !p.parameter.requiresGrad);
    if (named.length === 0) throw new ValueError('DistributedDataParallel: the module has no parameter that requires a gradient');
    combine('DistributedDataParallel', module.parameters(), broughtBy(module, options), options);
    for (const { name, parameter } of named) {
      if (parameter.device !== group.device) {
        throw new DeviceError(
          `DistributedDataParallel: parameter "${name}" is on ${parameter.device}, the group on ${group.device}; move the module with to()`,
        );
      }
    }
    const ensemble = Ensemble.of(group);
    const ready = compareParameters(group, named);
    ready.catch(() => {}); // whoever does not ask meets the failure at the next wait
    const hook = options.hook ?? plainReduction;
    hook.attach?.(ensemble, named);
    const reducer = new Reducer(named, frozen, ensemble, {
      mean: options.gradientReduction !== 'sum',
      gradientDType: options.gradientDType ?? 'float32',
      bucketBytes: options.bucketBytes ?? 25 << 20,
      firstBucketBytes: options.firstBucketBytes ?? 1 << 20,
      rebuildBuckets: options.rebuildBuckets ?? true,
      findUnusedParameters: options.findUnusedParameters ?? false,
      staticGraph: options.staticGraph ?? false,
      collectivesInBackward: module.modules().some((m) => m instanceof SyncBatchNorm),
      hook,
      describe: (names) => describeParameters(module, names),
    });
    // what belongs to the wrapper is no submodule or state of the model
    for (const [name, value] of Object.entries({ ready, ensemble, reducer })) Object.defineProperty(this, name, { value, enumerable: false });
    if (group.size > 1) for (const m of module.modules()) if (m instanceof Dropout) m.layout ??= (shape) => rowsOf(shape, group);
    noGrad(() => {
      const state = [...module.parameters(), ...this.buffers()];
      for (const work of group.coalesce(() => state.map((t) => group.broadcast(t, { label: 'of the parameters' })))) work.wait();
    });
  }

  /** The module's own forward, after rank 0's buffers were sent to all where they are (`broadcastBuffers`). */
  override forward(...args: Parameters<M['forward']>): ReturnType<M['forward']> {
    if (isGradEnabled()) {
      if (this.training && this.reducer.synchronizes && this.options.broadcastBuffers !== false) {
        noGrad(() => {
          for (const buffer of this.buffers()) this.ensemble.broadcast(buffer, { label: 'of the buffers' }).wait();
        });
      }
      this.reducer.arm();
    }
    return (this.module.forward as (...a: unknown[]) => unknown)(...args) as ReturnType<M['forward']>;
  }

  /** Masks of dropout are those of the module alone. */
  protected override pathOf(): string {
    return this.path;
  }

  /**
   * Runs `fn` without reducing: gradients add up locally, and the first backward outside reduces the sum. Forward and backward of
   * the micro-batch both belong inside. The gradients must have been zeroed since the last reduction: what is reduced already would
   * be reduced again.
   */
  noSync<T>(fn: () => T): T {
    return this.reducer.without(fn);
  }

  /**
   * Goes through a loader whose batches may be fewer than those of other ranks, without any waiting for one that does not come:
   *
   * ```ts
   * for await (const batch of ddp.join(loader, { states: [optimizer, schedule] })) …
   * ```
   *
   * A rank that has no batch left takes part in what the others reduce, with zeros, until all have ended; then it takes over their model,
   * and the states it is given. On all ranks the buffers, unless `broadcastBuffers` is off, become those of the highest rank that was there
   * to the end, as in PyTorch. Every rank calls this at the same point, also one without any batch, and leaves the loop together with
   * the others: end the loader, rather than `break`. A micro-batch inside `noSync` counts as a step; gradients that a rank has put off
   * when its data end are lost.
   * @throws DistributedError with `throwOnEarlyEnd`: "rank 3 ended its data at step 118, ranks 0, 1, 2 went on"
   */
  join<B>(loader: AsyncIterable<B> | Iterable<B>, options: JoinOptions = {}): AsyncGenerator<B, void, void> {
    const { ensemble, reducer } = this;
    if (this.modules().some((m) => m instanceof SyncBatchNorm && m.group !== ensemble.group)) {
      throw new ValueError('join: a SyncBatchNorm works in another group, which ranks without data cannot follow');
    }
    combine('join', this.module.parameters(), ['join'], options);
    const shared = this.options.hook?.shared;
    const joined = {
      parameters: () => this.module.parameters(),
      buffers: () => (this.options.broadcastBuffers === false ? [] : this.buffers()),
      states: shared ? [reducer, shared] : [reducer],
      divideByActive: (on: boolean) => {
        reducer.divideByActive = on;
      },
    };
    return join(loader, ensemble, joined, options);
  }
}

const NAMES: Names<DataParallelOptions> = {
  group: true,
  gradientReduction: true,
  gradientDType: true,
  bucketBytes: true,
  firstBucketBytes: true,
  rebuildBuckets: true,
  broadcastBuffers: true,
  findUnusedParameters: true,
  staticGraph: true,
  hook: true,
  allowUntested: true,
};

function checkOptions(module: unknown, options: DataParallelOptions): void {
  const where = 'DistributedDataParallel';
  if (!(module instanceof Module)) throw new ValueError(`${where}: expected a module, got ${describe(module)}`);
  if (!(options?.group instanceof ProcessGroup)) throw new ValueError(`${where}: give the process group as { group }`);
  checkNames(where, NAMES, options);
  const { gradientReduction = 'mean', findUnusedParameters, hook } = options;
  if (gradientReduction !== 'mean' && gradientReduction !== 'sum') {
    throw new ValueError(`${where}: gradientReduction must be mean or sum, got ${describe(gradientReduction)}`);
  }
  if (!['float32', 'bfloat16', 'float16', undefined].includes(options.gradientDType)) {
    throw new DTypeError(`${where}: gradientDType must be float32, bfloat16 or float16, got ${describe(options.gradientDType)}`);
  }
  for (const name of ['bucketBytes', 'firstBucketBytes'] as const) {
    const bytes = options[name];
    if (bytes !== undefined && !(typeof bytes === 'number' && bytes > 0)) throw new ValueError(`${where}: ${name} must be positive, got ${describe(bytes)}`);
  }
  if (hook !== undefined && typeof hook?.reduce !== 'function') throw new ValueError(`${where}: a hook has a method reduce, got ${describe(hook)}`);
  if (findUnusedParameters && hook?.keepsErrors) {
    throw new ValueError(`${where}: ${hook.name} sends later what it keeps back now, which a parameter that is skipped would lose; use staticGraph`);
  }
}

function broughtBy(module: Module, { hook, findUnusedParameters, staticGraph }: DataParallelOptions): Feature[] {
  const brought: Feature[] = ['ddp'];
  if (hook) brought.push('communicationHook');
  if (findUnusedParameters) brought.push('unusedParameters');
  if (staticGraph) brought.push('staticGraph');
  if (module.modules().some((m) => m instanceof SyncBatchNorm)) brought.push('syncBatchNorm');
  return brought;
}

/** `head.weight, head.bias (Linear "head")`. */
function describeParameters(module: Module, names: readonly string[]): string {
  const modules = new Map(module.namedModules());
  const owners = new Set(names.map((name) => name.slice(0, Math.max(0, name.lastIndexOf('.')))));
  const labels = [...owners].map((path) => `${modules.get(path)?.constructor.name ?? 'module'}${path ? ` "${path}"` : ''}`);
  const list = (items: readonly string[]): string => items.slice(0, 8).join(', ') + (items.length > 8 ? `, … (${items.length})` : '');
  return `${list(names)} (${list(labels)})`;
}

/** The ranks' rows lie one after another, as DataLoader deals them: dropout gives the masks of one process. */
function rowsOf(shape: Shape, { rank, size }: ProcessGroup): Layout {
  return { globalShape: shape.map((n, i) => (i === 0 ? n * size : n)), offset: shape.map((n, i) => (i === 0 ? n * rank : 0)) };
}
