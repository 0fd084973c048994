// DistributedDataParallel: every rank has the whole model and a part of the batch; gradients are averaged while backward still runs
// (Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", 2020).
import { createHash } from 'node:crypto';
import { afterBackward } from '../autograd/engine.js';
import { isGradEnabled, noGrad } from '../autograd/modes.js';
import { fromTypedArray } from '../create.js';
import { AutogradError, DeviceError, DistributedError, describe, ValueError } from '../errors.js';
import { Module } from '../nn/module.js';
import { showShape } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { assign, Bucket, type NamedParameter } from './buckets.js';
import { ProcessGroup } from './process_group.js';

export interface DataParallelOptions {
  group: ProcessGroup;
  /** `mean` (default) divides by the number of ranks, as PyTorch; `sum` is for losses that are already normalised over all ranks. */
  gradientReduction?: 'mean' | 'sum';
  /** Bytes of a bucket; 25 MiB. */
  bucketBytes?: number;
  /** Bytes of the first bucket; 1 MiB. */
  firstBucketBytes?: number;
  /** Rank 0's buffers replace the others' at every training forward; on by default. */
  broadcastBuffers?: boolean;
  /** Parameters that a forward leaves out count as zero gradients instead of being an error. */
  findUnusedParameters?: boolean;
}

/**
 * Wraps a module for training on every rank of a group. Parameters and buffers become those of rank 0. After `backward` the
 * gradients are reduced over the ranks, and equal on all of them to the bit. Nothing here waits: that the ranks' models agree is
 * checked meanwhile, and `await ddp.ready` or the first collective that follows says if they do not.
 */
export class DistributedDataParallel<M extends Module> extends Module {
  /** Settled when the ranks have compared their parameters. */
  readonly ready!: Promise<void>;
  private readonly reducer!: Reducer;

  constructor(
    readonly module: M,
    private readonly options: DataParallelOptions,
  ) {
    super();
    if (!(module instanceof Module)) throw new ValueError(`DistributedDataParallel: expected a module, got ${describe(module)}`);
    if (!(options?.group instanceof ProcessGroup)) throw new ValueError('DistributedDataParallel: give the process group as { group }');
    const { group } = options;
    const named = [...module.namedParameters()].map(([name, parameter]) => ({ name, parameter: parameter as Tensor })).filter((p) => p.parameter.requiresGrad);
    if (named.length === 0) throw new ValueError('DistributedDataParallel: the module has no parameter that requires a gradient');
    for (const { name, parameter } of named) {
      if (parameter.device !== group.device) {
        throw new DeviceError(
          `DistributedDataParallel: parameter "${name}" is on ${parameter.device}, the group on ${group.device}; move the module with to()`,
        );
      }
    }
    // what belongs to the wrapper is no submodule or state of the model
    const ready = this.verify(named);
    ready.catch(() => {}); // whoever does not ask meets the failure at the next wait
    Object.defineProperty(this, 'ready', { value: ready, enumerable: false });
    Object.defineProperty(this, 'reducer', { value: new Reducer(named, options), enumerable: false });
    this.share([...[...module.parameters()], ...this.buffers()]);
  }

  override forward(...args: Parameters<M['forward']>): ReturnType<M['forward']> {
    const training = this.training && isGradEnabled();
    if (training && (this.options.broadcastBuffers ?? true) && this.reducer.synchronizes) this.share(this.buffers());
    if (training) this.reducer.arm();
    return (this.module.forward as (...a: unknown[]) => unknown)(...args) as ReturnType<M['forward']>;
  }

  /**
   * Runs `fn` without reducing: gradients add up locally, and the first backward outside reduces the sum. Forward and backward of
   * the micro-batch both belong inside.
   */
  noSync<T>(fn: () => T): T {
    return this.reducer.without(fn);
  }

  private share(tensors: readonly Tensor[]): void {
    const { group } = this.options;
    if (group.size === 1) return;
    noGrad(() => {
      for (const t of tensors) group.broadcast(t).wait();
    });
  }

  /** Compares names, shapes and dtypes of all ranks. */
  private async verify(named: readonly NamedParameter[]): Promise<void> {
    const { group } = this.options;
    if (group.size === 1) return;
    const text = named.map((p) => `${p.name} ${showShape(p.parameter.shape)} ${p.parameter.dtype}`).join('\n');
    const hash = createHash('sha256').update(text).digest();
    const mine = fromTypedArray(new Uint8Array(hash), [1, hash.length], { device: group.device });
    const all = Buffer.from((await (await group.allGather(mine)).toTypedArray()) as Uint8Array);
    for (let r = 0; r < group.size; r++) {
      if (all.subarray(32 * r, 32 * (r + 1)).equals(hash)) continue;
      const reason = `DistributedDataParallel: the parameters of rank ${group.rank} and rank ${r} differ in names, shapes or dtypes`;
      group.abort(reason);
      throw new DistributedError(reason);
    }
  }
}

/** Decides when which bucket goes out. */
class Reducer {
  private buckets: Bucket[];
  private readonly bucketOf = new Map<Tensor, Bucket>();
  private readonly arrivals: NamedParameter[] = [];
  private rebuilt = false;
  private armed = false;
  private paused = 0;
  /** Buckets before this one are on their way: all ranks launch them in the same order. */
  private next = 0;

  constructor(
    private readonly named: readonly NamedParameter[],
    private readonly options: DataParallelOptions,
  ) {
    // backward makes gradients in about the opposite of the order in which layers are registered
    this.buckets = this.build(named.toReversed());
    for (const p of named) p.parameter.registerPostAccumulateGradHook(() => this.arrived(p));
  }

  get synchronizes(): boolean {
    return this.paused === 0;
  }

  without<T>(fn: () => T): T {
    this.paused++;
    let result: T;
    try {
      result = fn();
    } catch (error) {
      this.paused--;
      throw error;
    }
    if (result instanceof Promise) return result.finally(() => this.paused--) as T;
    this.paused--;
    return result;
  }

  /** A forward that will be followed by a backward. */
  arm(): void {
    if (!this.synchronizes) {
      this.armed = false;
      return;
    }
    if (!this.rebuilt && this.arrivals.length === this.named.length) {
      // the tape is deterministic: every rank has seen the same order
      for (const bucket of this.buckets) bucket.dispose();
      this.buckets = this.build(this.arrivals);
      this.rebuilt = true;
    }
    this.armed = true;
    this.next = 0;
  }

  private build(order: readonly NamedParameter[]): Bucket[] {
    const { group, firstBucketBytes = 1 << 20, bucketBytes = 25 << 20 } = this.options;
    const buckets = assign(order, firstBucketBytes, bucketBytes).map((parameters) => new Bucket(parameters, group));
    for (const bucket of buckets) for (const p of bucket.parameters) this.bucketOf.set(p.parameter, bucket);
    return buckets;
  }

  private arrived(p: NamedParameter): void {
    if (!this.armed) return;
    if (this.next === 0 && this.buckets.every((b) => b.unfilled.length === b.parameters.length)) afterBackward(() => this.complete());
    if (!this.rebuilt && !this.arrivals.includes(p)) this.arrivals.push(p);
    if (this.bucketOf.get(p.parameter)!.fill(p.parameter)) this.launchReady();
  }

  private launchReady(): void {
    const op = (this.options.gradientReduction ?? 'mean') === 'mean' ? 'avg' : 'sum';
    while (this.next < this.buckets.length && this.buckets[this.next]!.unfilled.length === 0) this.buckets[this.next++]!.launch(op);
  }

  private complete(): void {
    this.armed = false;
    const unused = this.buckets.flatMap((b) => b.unfilled);
    if (unused.length > 0) {
      if (!this.options.findUnusedParameters) {
        const names = this.named
          .filter((p) => unused.includes(p))
          .map((p) => p.name)
          .join(', ');
        const reason = `DistributedDataParallel: backward gave no gradient for ${names}; use every parameter in forward, or pass findUnusedParameters: true`;
        this.options.group.abort(reason);
        throw new AutogradError(reason);
      }
      for (const p of unused) this.bucketOf.get(p.parameter)!.fill(p.parameter);
      this.launchReady();
    }
    for (const bucket of this.buckets) bucket.finish();
  }
}
