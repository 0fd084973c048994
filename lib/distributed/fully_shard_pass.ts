// The order of gathers and reductions, which has to be the same on every rank. A forward writes down when each module begins and ends, and
// backward goes through that list from its end: where the graph of one rank is shorter, because the data led elsewhere, what it has passed
// over is done at the next point that it reaches. So collectives depend on which modules were called and on nothing else.
import { afterBackward, backwardRuns, gradTargets } from '../autograd/current.js';
import { context } from '../context.js';
import type { Parameter } from '../nn/module.js';
import type { KeyTape } from '../random.js';
import type { ShardGroup } from './fully_shard_group.js';
import { type Gradients, hold, Reduction } from './fully_shard_reduction.js';

/** One call of a sharded module. */
export class Call {
  /** The module's parameters in this call. */
  private wholes: readonly Parameter[] = [];
  /** What was in their places before. */
  private before: readonly unknown[] | null = null;
  gradients: Gradients = [];

  constructor(
    readonly group: ShardGroup,
    readonly pass: Pass,
    /** In a backward that runs a checkpointed segment again. */
    readonly again: boolean,
  ) {}

  private get places(): { readonly module: object; readonly name: string; readonly whole: Parameter }[] {
    return this.group.parameters.flatMap((p, i) => p.places.map((place) => ({ ...place, whole: this.wholes[i]! })));
  }
  /** Into what is to come in backward. */
  note(kind: Event['kind']): void {
    this.events.push({ kind, call: this });
  }
  /** Backward will not come by. */
  forget(): void {
    const at = this.events.findLastIndex((e) => e.call === this && e.kind === 'begin');
    if (at >= 0) this.events.splice(at, 1);
  }
  private get events(): Event[] {
    return this.again ? this.pass.left : this.pass.log;
  }

  /** Puts the whole parameters where modules look for theirs. */
  install(wholes: readonly Parameter[] = this.wholes): void {
    if (this.before) return;
    this.wholes = wholes;
    this.before = this.places.map(({ module, name }) => (module as Record<string, unknown>)[name]);
    for (const { module, name, whole } of this.places) (module as Record<string, unknown>)[name] = whole;
  }
  uninstall(): void {
    if (!this.before) return;
    const before = this.before;
    this.before = null;
    this.places.forEach(({ module, name }, i) => {
      (module as Record<string, unknown>)[name] = before[i];
    });
  }
}

/** `rerun`: a checkpoint called it, and will call it again. */
interface Event {
  readonly kind: 'begin' | 'end' | 'rerun';
  readonly call: Call;
}

/** A forward of the outermost module, and the backwards that follow. */
class Pass {
  readonly log: Event[] = [];
  /** Groups in the order of their calls. */
  readonly order: ShardGroup[] = [];
  /** Calls under way. */
  depth = 0;
  /** What the backward under way has not come to yet. */
  left: Event[] = [];
}

/** The sharded modules of a model: those below one another share gathers and their order. */
export class Tree {
  readonly groups: ShardGroup[] = [];
  /** The order of calls in the last forward: what is likely to come next. */
  private expected: readonly ShardGroup[] = [];
  private forward: Pass | null = null;
  private backward: Pass | null = null;
  /** Calls whose backward is under way. */
  private needed: Call[] = [];
  private flights: Reduction[] = [];
  /** Backward is that of `grad`, for other tensors. */
  private discards = false;
  /** The keys of the checkpointed segment that runs again. */
  private segment: KeyTape | null = null;

  add(group: ShardGroup): void {
    group.index = this.groups.push(group) - 1;
  }

  /** A module begins: its parameters are whole, and those of the next one are on their way. */
  enter(group: ShardGroup): Call {
    const { keyTape } = context();
    if (this.backward && !backwardRuns()) this.abandon(); // what was to be done at its end has thrown
    for (const g of this.forward ? [] : this.groups) g.check();
    const again = this.backward !== null && keyTape !== null && keyTape.next !== null;
    if (!again) this.forward ??= new Pass();
    const pass = again ? this.backward! : this.forward!;
    if (again && this.segment !== keyTape) {
      this.segment = keyTape;
      this.reach(pass.left.findLast((e) => e.kind === 'rerun' && e.call.group === group));
    }
    const call = new Call(group, pass, again);
    if (context().gradEnabled) call.note('begin');
    else if (keyTape) call.note('rerun');
    pass.depth++;
    group.users++;
    group.unshard();
    if (again) this.prefetch(group);
    else if (this.expected[pass.order.push(group) - 1] === group) this.expected[pass.order.length]?.gather();
    call.install(group.wholes((gradients) => this.differentiated(call, gradients)));
    return call;
  }

  /** A module ends. `recorded`: backward will come by its results. */
  leave(call: Call, recorded: boolean): void {
    const { group, pass, again } = call;
    this.close(call);
    pass.depth--;
    if (recorded) call.note('end');
    else call.forget();
    if (again) return; // backward is about to need it
    const { reshardAfterForward = pass.depth > 0 } = group.settings;
    if (recorded && !reshardAfterForward) group.kept = true;
    else if (group.users === 0) group.reshard();
    if (pass.depth > 0) return;
    this.expected = pass.order;
    this.forward = null;
    for (const g of this.groups) if (!g.kept && g.users === 0) g.reshard();
  }

  /** A module has thrown. */
  fail(call: Call): void {
    this.close(call);
    call.forget();
    if (--call.pass.depth > 0 || call.again) return;
    this.forward = null;
    for (const g of this.groups) g.reshard();
  }

  private close(call: Call): void {
    call.uninstall();
    call.group.users--;
  }

  /** Backward has come to the results of a call. */
  begins(call: Call): void {
    this.activate(call.pass);
    this.reach(call.pass.left.findLast((e) => e.kind === 'end' && e.call === call));
  }

  /** Backward has come through all of a call. */
  private differentiated(call: Call, gradients: Gradients): void {
    this.activate(call.pass);
    call.gradients = gradients;
    const event = call.pass.left.findLast((e) => e.kind === 'begin' && e.call === call);
    if (event) this.reach(event);
    else this.finish(call); // it gave nothing that leads to a graph but what it left on the way
    call.gradients = [];
  }

  private activate(pass: Pass): void {
    if (this.backward === pass) return;
    if (this.backward) this.complete(this.backward);
    this.backward = pass;
    this.discards = gradTargets() !== null;
    pass.left = [...pass.log];
    const ended = (): void => {
      if (this.backward === pass) this.complete(pass);
      if (this.backward === null) this.land();
    };
    afterBackward(ended, () => this.abandon());
  }

  /** Does everything down to an event. */
  private reach(event: Event | undefined): void {
    if (!event) return;
    const { left } = this.backward!;
    let last: Event;
    do {
      last = left.pop()!;
      this.handle(last);
    } while (last !== event);
  }

  private handle({ kind, call }: Event): void {
    if (kind === 'begin') this.finish(call);
    if (kind !== 'end') return;
    call.group.users++;
    this.needed.push(call);
    call.group.unshard();
    this.prefetch(call.group);
    call.install();
  }

  /** Starts the gather of what backward needs next. */
  private prefetch(group: ShardGroup): void {
    this.backward!.left.findLast((e) => e.kind !== 'begin' && e.call.group !== group)?.call.group.gather();
  }

  /** The gradients of a call go out, with the last of its group in this pass. */
  private finish(call: Call): void {
    const { group, pass } = call;
    if (this.needed.includes(call)) {
      this.close(call);
      this.needed = this.needed.filter((c) => c !== call);
    }
    const others = pass.left.filter((e) => e.call.group === group && e.kind === 'begin');
    const trained = group.parameters.filter((p) => p.parameter.requiresGrad);
    if (this.discards) call.gradients = [];
    else if (others.length > 0 || !group.synchronizes) hold(group, call.gradients);
    else if (trained.length > 0) {
      const started = new Reduction(group, trained, call.gradients);
      this.flights = [...this.flights.filter((f) => f.advance()), started];
    }
    if (group.users === 0 && !(others.length > 0 && group.settings.reshardAfterForward === false)) group.reshard();
  }

  /** Backward has ended, perhaps without coming by everything. */
  private complete(pass: Pass): void {
    while (pass.left.length > 0) this.handle(pass.left.pop()!);
    this.backward = null;
    this.segment = null;
    for (const g of this.groups) if (g.users === 0) g.reshard();
  }

  private land(): void {
    while (this.flights.length > 0) this.flights = this.flights.filter((f) => f.advance());
  }

  /** Backward has thrown: what it started ends, on every rank, and the next begins anew. */
  private abandon(): void {
    for (const call of this.needed.toReversed()) this.close(call);
    for (const f of this.flights) f.drop();
    this.needed = [];
    this.flights = [];
    this.backward = null;
    this.segment = null;
    for (const g of this.groups) g.reshard();
  }
}
