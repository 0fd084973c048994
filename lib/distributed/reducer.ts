// Reducer: decides when which bucket goes out. The first backward only shows which gradients come, in what order and how often; they
// are reduced when it has ended, and the buckets are laid out by that. From then on a bucket goes as soon as its gradients are complete,
// always in bucket order, so that all ranks launch the same ones: the tape is deterministic, every rank sees the same order, and a
// hash of it, compared once, says if that was ever wrong.
import { createHash } from 'node:crypto';
import { afterBackward, backwardRuns, lossIsNormalized } from '../autograd/current.js';
import { withContext } from '../context.js';
import { fromTypedArray } from '../create.js';
import { type DType, dtypeSize } from '../dtype.js';
import { AutogradError, ValueError } from '../errors.js';
import { AbsentMap, Presence } from './absent.js';
import { assign, Bucket, type NamedParameter } from './buckets.js';
import type { Ensemble } from './ensemble.js';
import type { CommunicationHook, ReductionContext } from './hooks/hook.js';

export interface ReducerOptions {
  readonly mean: boolean;
  /** Of the buckets of 16-bit parameters. */
  readonly gradientDType: DType;
  readonly bucketBytes: number;
  readonly firstBucketBytes: number;
  readonly rebuildBuckets: boolean;
  readonly findUnusedParameters: boolean;
  readonly staticGraph: boolean;
  /** Other collectives run in backward: if ranks use different parameters, theirs and ours would come in different orders. */
  readonly collectivesInBackward: boolean;
  readonly hook: CommunicationHook;
  /** How to name parameters in errors. */
  readonly describe: (names: readonly string[]) => string;
}

/** What the first backward has shown; the same on every rank. */
export interface Layout {
  /** Parameters in the order of their buckets. */
  readonly order: readonly number[];
  /** How often each parameter's gradient grows in a backward: once, and once more for each checkpointed segment that uses it too. */
  readonly uses: readonly number[];
}

export interface ReducerState {
  readonly layout: Layout | null;
}

interface Member extends NamedParameter {
  readonly index: number;
  bucket: Bucket<Member> | null;
  /** The parameter's, when its bucket was made. */
  dtype: DType;
  /** Growths of the gradient in this backward, and those expected. */
  fired: number;
  uses: number;
  /** It grew since the last reduction, also where that was put off. */
  touched: boolean;
}

/** idle: gradients stay local; armed: a backward is expected; running: it has begun; reduced: it has ended. */
type Phase = 'idle' | 'armed' | 'running' | 'reduced';

export class Reducer {
  private readonly members: readonly Member[];
  private buckets: Bucket<Member>[] = [];
  private laidOut: Layout | null = null;
  private arrivals = new Set<Member>();
  private absent: AbsentMap | null = null;
  private phase: Phase = 'idle';
  private paused = 0;
  private next = 0;
  /** Inside a join: divide by the ranks that have data. */
  divideByActive = false;

  constructor(
    named: readonly NamedParameter[],
    private readonly frozen: readonly NamedParameter[],
    private readonly ensemble: Ensemble,
    private readonly options: ReducerOptions,
  ) {
    this.members = named.map((p, index) => ({ ...p, index, bucket: null, dtype: p.parameter.dtype, fired: 0, uses: 1, touched: false }));
    for (const m of this.members) m.parameter.registerPostAccumulateGradHook(() => this.arrived(m));
  }

  get synchronizes(): boolean {
    return this.paused === 0;
  }

  /** What ranks have in common, for one that was not there. */
  stateDict(): ReducerState {
    return { layout: this.laidOut };
  }
  loadStateDict({ layout }: ReducerState): void {
    if (layout && !this.laidOut) this.build(layout);
  }

  /** Runs `fn` with reductions put off. */
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
    this.checkParameters();
    if (this.phase === 'running') {
      if (backwardRuns()) return; // a checkpoint runs the forward again
      // the backward before ended with an error: what it launched ends everywhere, and the next begins anew
      this.finish();
    }
    this.phase = this.synchronizes ? 'armed' : 'idle';
  }

  /** What has changed since the model was wrapped would train apart on each rank, or be rounded to another dtype. */
  private checkParameters(): void {
    const thawed = this.frozen.find(({ parameter }) => parameter.requiresGrad);
    if (thawed) {
      throw this.fail(
        `parameter ${thawed.name} requires a gradient, and did not when the model was wrapped: each rank would train it by itself; wrap the model again`,
      );
    }
    for (const { name, parameter, bucket, dtype } of this.members) {
      if (!bucket || parameter.dtype === dtype) continue;
      throw this.fail(`parameter ${name} is ${parameter.dtype} now and was ${dtype} when the gradients were laid out; cast the model before it is wrapped`);
    }
  }

  private arrived(m: Member): void {
    m.touched = true;
    if (this.options.mean && lossIsNormalized()) {
      throw this.fail("the loss has a normalizer, which counts over all ranks, and the mean over the ranks would divide again; pass gradientReduction: 'sum'");
    }
    if (this.phase === 'idle') return;
    if (this.phase === 'reduced') {
      throw this.fail(
        'backward ran again after the gradients were reduced; call forward before each backward, add the losses up, or put all but the last into noSync',
      );
    }
    if (this.phase === 'armed') {
      this.phase = 'running';
      for (const other of this.members) other.fired = 0;
      this.next = 0;
      afterBackward(() => this.complete());
      this.options.hook.backwardBegins?.();
    }
    m.fired++;
    if (!this.laidOut) {
      // at the place of its last growth
      this.arrivals.delete(m);
      this.arrivals.add(m);
      return;
    }
    if (m.fired < m.uses || !m.bucket) return;
    if (m.bucket.launched) {
      throw this.fail(
        `${this.named([m])} got a further gradient after its bucket was reduced: this backward uses it more often than the first one did, ` +
          'where each checkpointed segment counts; use the same graph in every step',
      );
    }
    m.bucket.fill(m);
    const { findUnusedParameters, collectivesInBackward } = this.options;
    if (!(findUnusedParameters && collectivesInBackward)) this.launchReady();
  }

  private launchReady(): void {
    while (this.next < this.buckets.length && this.buckets[this.next]!.full) this.buckets[this.next++]!.launch(this.options.hook, this.reduction());
  }

  private reduction(): ReductionContext {
    const { ensemble } = this;
    return { ensemble, divisor: !this.options.mean ? 1 : this.divideByActive ? ensemble.active.length : ensemble.size };
  }

  /** Backward has ended. */
  private complete(): void {
    this.phase = 'reduced';
    this.check();
    const { findUnusedParameters, rebuildBuckets } = this.options;
    if (!this.laidOut) {
      // backward makes gradients in about the opposite of the order in which layers are registered
      const registered = this.members.toReversed();
      const rebuilt = rebuildBuckets && !findUnusedParameters ? [...this.arrivals, ...registered.filter((m) => m.touched && !this.arrivals.has(m))] : null;
      const order = rebuilt ?? (this.options.staticGraph ? registered.filter((m) => m.touched) : registered);
      this.build({ order: order.map((m) => m.index), uses: this.members.map((m) => m.fired) });
      this.compareLayouts().catch(() => {}); // the group was closed meanwhile
    }
    const presence = findUnusedParameters ? this.members.map((m) => this.presenceOf(m)) : null;
    for (const bucket of this.buckets) for (const m of bucket.unfilled) bucket.fill(m);
    this.launchReady();
    this.options.hook.backwardEnds?.();
    if (presence) {
      this.absent ??= new AbsentMap(this.ensemble, this.members.length);
      this.absent.reduce(presence);
      for (const m of this.members) m.parameter.grad!.absent = this.absent.flags[m.index]!;
    }
    this.finish();
    this.options.hook.endStep?.();
    for (const m of this.members) {
      // a parameter that checkpoints use more often than in the first step; less often does no harm
      m.uses = Math.max(m.uses, m.fired);
      m.touched = false;
    }
  }

  private presenceOf({ parameter, index, touched }: Member): Presence {
    const { grad } = parameter;
    if (touched || (grad && grad.absent === null)) return Presence.Made;
    return grad && grad.absent === this.absent?.flags[index] ? Presence.Carried : Presence.None;
  }

  /** Every rank that throws here ends the others' waits with its reason. */
  private check(): void {
    const { staticGraph, findUnusedParameters } = this.options;
    if (staticGraph && this.laidOut) {
      const { uses } = this.laidOut;
      const changed = this.members.filter((m) => m.fired !== uses[m.index]);
      if (changed.length === 0) return;
      const times = (n: number): string => (n === 1 ? 'once' : `${n} times`);
      const { fired, index } = changed[0]!;
      throw this.fail(`staticGraph: the graph has changed: ${this.named(changed)} got a gradient ${times(fired)}, in the first step ${times(uses[index]!)}`);
    }
    const unused = this.members.filter((m) => !m.touched);
    if (unused.length === 0 || findUnusedParameters || staticGraph) return;
    const frozen = unused.filter((m) => !m.parameter.requiresGrad);
    if (frozen.length > 0) {
      throw this.fail(`${this.named(frozen)} required a gradient when the model was wrapped; wrap it again, or pass findUnusedParameters: true`);
    }
    throw this.fail(`backward gave no gradient for ${this.named(unused)}; use every parameter in forward, or pass findUnusedParameters: true`);
  }

  private named(members: readonly Member[]): string {
    return this.options.describe(members.map((m) => m.name));
  }

  private fail(reason: string): AutogradError {
    const text = `DistributedDataParallel: ${reason}`;
    this.ensemble.group.abort(text);
    return new AutogradError(text);
  }

  private finish(): void {
    const launched = this.buckets.filter((b) => b.launched);
    for (let going = launched; going.length > 0; ) going = going.filter((b) => b.advance());
    for (const bucket of this.buckets) bucket.finish();
  }

  private build(layout: Layout): void {
    const { firstBucketBytes, bucketBytes, gradientDType } = this.options;
    if (layout.uses.length !== this.members.length) throw new ValueError('DistributedDataParallel: the layout belongs to another model');
    const order = layout.order.map((i) => this.members[i]!);
    this.laidOut = layout;
    const dtypeOf = ({ parameter: { dtype } }: Member): DType => (dtypeSize[dtype] <= 2 ? gradientDType : dtype);
    const ranges = assign(order, dtypeOf, firstBucketBytes, bucketBytes);
    this.buckets = ranges.map((members, i) => new Bucket(members, dtypeOf(members[0]!), this.ensemble, i));
    for (const bucket of this.buckets) for (const m of bucket.parameters) Object.assign(m, { bucket, dtype: m.parameter.dtype });
    for (const m of this.members) m.uses = Math.max(1, layout.uses[m.index]!);
  }

  /** Meanwhile: ranks whose gradients came in different orders would add up different parameters. */
  private async compareLayouts(): Promise<void> {
    const { ensemble } = this;
    if (ensemble.size === 1 || this.options.findUnusedParameters) return;
    const players = ensemble.active;
    const hash = createHash('sha256')
      .update(JSON.stringify(this.options.staticGraph ? this.laidOut : this.laidOut?.order))
      .digest();
    try {
      const rows = await withContext({ scope: null }, async () => {
        const all = await ensemble.allGather(fromTypedArray(new Uint8Array(hash), [1, hash.length], { device: ensemble.device }), {
          label: 'of the order of gradients',
        });
        return Buffer.from((await all.toTypedArray()) as Uint8Array);
      });
      for (const r of players) {
        if (rows.subarray(hash.length * r, hash.length * (r + 1)).equals(hash)) continue;
        throw new AutogradError(
          `DistributedDataParallel: backward made the gradients of rank ${ensemble.rank} and rank ${r} in different orders; ` +
            'pass rebuildBuckets: false if the graph depends on the data',
        );
      }
    } catch (error) {
      ensemble.group.abort((error as Error).message);
    }
  }
}
