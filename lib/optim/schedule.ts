// What all learning-rate schedules share; schedules.ts has them. Each is a closed form of the step count and the base rate, so a schedule's state is one number and a
// resumed run continues exactly. `step()` is called once after each optimizer step, as in PyTorch. A step that a GradScaler skipped is
// none: since the host hears of it later, the optimizer asks for the rates of all counts that may be the true one.
import { describe, ValueError } from '../errors.js';
import { checkInteger, checkNumber } from '../shape.js';
import { Optimizer } from './optimizer.js';
import type { GroupOptions } from './options.js';
import type { RateSource } from './step_options.js';

type AnyOptimizer = Optimizer<GroupOptions>;
/** An optimizer of any options. */
// biome-ignore lint/suspicious/noExplicitAny: an optimizer of any options
export type OptimizerLike = Optimizer<any>;

/** Base of all schedules: sets the rate of every group from its base rate and the number of steps. */
export abstract class Schedule implements RateSource {
  /** The groups' rates when the schedule was made. */
  readonly baseLrs: readonly number[];
  protected readonly optimizer: AnyOptimizer;
  /** Calls of step(), but for steps of the optimizer that were skipped and that the host knows of. */
  count = 0;
  /** Skips of the optimizer that the count is without. */
  private skipsSeen: number;
  /** The rates that were set last, to know them from those that somebody else has set. */
  private readonly applied: number[] = [];

  constructor(optimizer: OptimizerLike) {
    if (!(optimizer instanceof Optimizer)) throw new ValueError(`${new.target.name}: expected an optimizer, got ${describe(optimizer)}`);
    this.optimizer = optimizer as unknown as AnyOptimizer;
    this.baseLrs = this.optimizer.groups.map((g) => g.lr);
    this.skipsSeen = this.optimizer.skipped;
  }

  /** The rate after `step` steps of a group with this base rate. */
  abstract rate(step: number, base: number, group: number): number;

  /** Moves on by one step. */
  step(): void {
    this.forgetSkips();
    this.count++;
    this.apply();
  }
  /** Writes the current rates into the optimizer's groups. */
  apply(): void {
    this.optimizer.groups.forEach((_, i) => this.set(i));
    this.optimizer.follow(this);
  }
  private set(i: number): void {
    const group = this.optimizer.groups[i]!;
    group.lr = this.rate(this.count, this.baseLrs[i] ?? group.lr, i);
    this.applied[i] = group.lr;
  }

  /** The rate in force if so many more steps were skipped than the host knows of; one that somebody else has set stays. @internal */
  rateAfterSkips(i: number, skips: number): number {
    const base = this.baseLrs[i];
    const { lr } = this.optimizer.groups[i]!;
    return base !== undefined && this.inForce(i) ? this.rate(Math.max(0, this.count - skips), base, i) : lr;
  }
  /** The optimizer has heard of skipped steps: the rates become those of the true count. @internal */
  noticeSkips(): void {
    this.forgetSkips();
    this.optimizer.groups.forEach((_, i) => {
      if (this.baseLrs[i] !== undefined && this.inForce(i)) this.set(i);
    });
  }
  private inForce(i: number): boolean {
    return Object.is(this.applied[i], this.optimizer.groups[i]!.lr);
  }
  private forgetSkips(): void {
    this.count = Math.max(0, this.count - (this.optimizer.skipped - this.skipsSeen));
    this.skipsSeen = this.optimizer.skipped;
  }
  /** The rates in force. */
  get lrs(): number[] {
    return this.optimizer.groups.map((g) => g.lr);
  }
  /** With the true count: waits for the device if steps may have been skipped. */
  stateDict(): Record<string, unknown> {
    this.optimizer.settleSkips();
    this.forgetSkips();
    return { count: this.count, baseLrs: [...this.baseLrs] };
  }
  /** Goes on from a state, and sets its rates. Throws ValueError for one of other groups. */
  loadStateDict(state: Record<string, unknown>): void {
    this.count = checkInteger(state?.['count'], 'count', `${this.constructor.name}.loadStateDict`, 0);
    const bases = state['baseLrs'];
    if (!Array.isArray(bases) || bases.length !== this.baseLrs.length)
      throw new ValueError(`${this.constructor.name}.loadStateDict: the state has other groups`);
    this.optimizer.settleSkips();
    this.skipsSeen = this.optimizer.skipped;
    (this as { baseLrs: readonly number[] }).baseLrs = bases.map((lr) => checkNumber(lr, 'a base rate', 'loadStateDict', 0));
    this.apply();
  }
}

/** A schedule that also sets the rate before the first step. */
export abstract class FromStart extends Schedule {
  protected start(): void {
    this.apply();
  }
}
