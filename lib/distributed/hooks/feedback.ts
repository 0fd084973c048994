// Error feedback (Seide et al., 2014; Karimireddy et al., 2019): what a compressed gradient left out is added to the next one, so that nothing
// is lost, only late. Each rank has errors of its own, by parameter; a checkpoint of one rank holds its own alone, gatherState those
// of all. As many ranks go on exactly; another number share what was pending.
import { noGrad } from '../../autograd/modes.js';
import { zeros } from '../../create.js';
import { CheckpointError, InternalError, ShapeError, ValueError } from '../../errors.js';
import type { Stateful } from '../../io/checkpoint.js';
import { scope } from '../../memory.js';
import { copy_, to, zero_ } from '../../ops/copy.js';
import { wideType } from '../../ops/matmul.js';
import { reshape } from '../../ops/view.js';
import type { Tensor } from '../../tensor.js';
import type { Ensemble } from '../ensemble.js';
import type { Work } from '../work.js';
import type { CommunicationHook, GradientBucket, ReductionContext } from './hook.js';

/** What a checkpoint keeps of a hook with errors. */
export interface FeedbackState {
  /** What is the same on all ranks. */
  shared: unknown;
  /** Ranks whose errors these are. */
  ranks: number[];
  /** How many ranks there were. */
  size: number;
  /** By parameter: a row for each of the ranks. */
  errors: Record<string, Tensor>;
}

/** A hook that keeps errors, and can be saved: `io.saveCheckpoint(root, { model, hook, step })`. */
export abstract class FeedbackHook implements CommunicationHook, Stateful {
  /** For errors. */
  abstract readonly name: string;
  /** Every rank must take part in every step. */
  readonly keepsErrors = true;
  /** The part of the state that is the same on all ranks. */
  abstract readonly shared: Stateful;
  private parameters = new Map<string, Tensor>();
  private ensemble: Ensemble | null = null;
  private readonly errors = new Map<string, Tensor>();

  /** Makes a bucket's gradients those of all ranks. */
  abstract reduce(bucket: GradientBucket, context: ReductionContext): Generator<Work<unknown>, void, void>;

  /** Called by DistributedDataParallel. A hook with a state serves one: a second one is a ValueError. */
  attach(ensemble: Ensemble, parameters: readonly { readonly name: string; readonly parameter: Tensor }[]): void {
    if (this.ensemble) throw new ValueError(`${this.name}: a hook with a state serves one DistributedDataParallel; make another`);
    this.ensemble = ensemble;
    this.parameters = new Map(parameters.map((p) => [p.name, p.parameter]));
  }

  /** What a parameter's gradients have left out: one dimension, at least float32, zeros at first. */
  protected errorOf(name: string): Tensor {
    let error = this.errors.get(name);
    if (!error) {
      const { numel, dtype, device } = this.parameterOf(name);
      error = zeros([numel], { dtype: wideType(dtype), device }).keep();
      this.errors.set(name, error);
    }
    return error;
  }

  /** Adds what is pending to a gradient, and forgets it. */
  protected returnError(name: string, gradient: Tensor): void {
    const error = this.errors.get(name);
    if (!error) return;
    gradient.add_(reshape(error, gradient.shape));
    error.dispose();
    this.errors.delete(name);
  }

  /** The parameter of that path. */
  protected parameterOf(name: string): Tensor {
    const found = this.parameters.get(name);
    if (!found) throw new InternalError(`${this.name}: no parameter "${name}"`);
    return found;
  }

  /** The ranks, once there is a DistributedDataParallel with this hook; CheckpointError before. */
  protected attached(): Ensemble {
    if (!this.ensemble) throw new CheckpointError(`${this.name}: make DistributedDataParallel with this hook first; its state belongs to the parameters`);
    return this.ensemble;
  }

  /** This rank's state. To resume exactly, every rank saves its own, or one saves what gatherState gives. */
  async stateDict(): Promise<FeedbackState> {
    const { rank, size } = this.attached();
    const rows = Array.from(this.errors, ([name, e]) => [name, reshape(e, [1, e.numel])] as const);
    return { shared: await this.shared.stateDict(), ranks: [rank], size, errors: Object.fromEntries(rows) };
  }

  /** The state of all ranks, on every rank: as large as all their gradients. Every rank calls it. */
  async gatherState(): Promise<FeedbackState> {
    const ensemble = this.attached();
    const errors: Record<string, Tensor> = {};
    // every rank gathers the same: one may have no errors yet where others have
    for (const name of this.parameters.keys()) {
      const mine = this.errorOf(name);
      errors[name] = await ensemble.allGather(reshape(mine, [1, mine.numel]));
    }
    return { shared: await this.shared.stateDict(), ranks: Array.from({ length: ensemble.size }, (_, r) => r), size: ensemble.size, errors };
  }

  /**
   * Goes on from a state: exactly, if this rank's errors of as many ranks are in it. From all errors of another number of ranks, each takes
   * their mean, so that what is pending comes to the same average.
   * @throws CheckpointError for the errors of another rank alone
   */
  async loadStateDict({ shared, ranks, size, errors }: FeedbackState): Promise<void> {
    const ensemble = this.attached();
    const row = size === ensemble.size ? ranks.indexOf(ensemble.rank) : -1;
    if (row < 0 && ranks.length !== size) {
      throw new CheckpointError(
        `${this.name}: the state holds errors of rank ${ranks.join(', ')} of ${size}, this is rank ${ensemble.rank} of ${ensemble.size}; save what gatherState() gives`,
      );
    }
    for (const [name, rows] of Object.entries(errors)) {
      const parameter = this.parameters.get(name);
      if (!parameter) throw new CheckpointError(`${this.name}: the state has errors of "${name}", which is no parameter here`);
      if (rows.shape[1] !== parameter.numel)
        throw new ShapeError(`${this.name}: errors of "${name}" have ${rows.shape[1]} elements, the parameter ${parameter.numel}`);
    }
    await this.shared.loadStateDict(shared);
    noGrad(() =>
      scope(() => {
        for (const [name, error] of this.errors) if (!(name in errors)) zero_(error);
        for (const [name, rows] of Object.entries(errors)) {
          const here = to(rows, ensemble.device);
          copy_(this.errorOf(name), row < 0 ? here.mean([0]) : here.select(0, row));
        }
      }),
    );
  }
}

/** Gradients that are not worth compressing, reduced as one. `start` launches, `finish` puts the results back. */
export class Packed {
  private readonly packed: Tensor | null;

  constructor(
    private readonly gradients: readonly Tensor[],
    bucket: GradientBucket,
  ) {
    const total = gradients.reduce((n, g) => n + g.numel, 0);
    this.packed = total > 0 ? bucket.scratch('uncompressed', total, bucket.buffer.dtype) : null;
  }

  get bytes(): number {
    return this.packed?.nbytes ?? 0;
  }

  private each(f: (gradient: Tensor, place: Tensor) => void): void {
    let at = 0;
    for (const g of this.gradients) {
      f(g, reshape(this.packed!.slice(0, at, at + g.numel), g.shape));
      at += g.numel;
    }
  }

  start({ ensemble }: ReductionContext, label: string): Work<Tensor> | null {
    if (!this.packed) return null;
    this.each((gradient, place) => copy_(place, gradient));
    return ensemble.allReduce(this.packed, { op: 'sum', label });
  }

  /** Behind what start has launched, or a later collective. */
  finish({ divisor }: ReductionContext): void {
    if (!this.packed) return;
    this.each((gradient, place) => copy_(gradient, divisor === 1 ? place : place.mul(1 / divisor)));
  }
}
