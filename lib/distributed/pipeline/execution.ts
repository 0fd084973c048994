// One step of one rank: it goes through its part of the plan, once, for any schedule. Nothing waits on the host: computing and messages are put on
// their streams in the order of the plan, which validation has shown to come to its end. What a message has taken goes, and what a backward
// has used.
import { backwardOf, inputsBackward } from '../../autograd/backward.js';
import { enableGrad, noGrad } from '../../autograd/modes.js';
import { empty, onesLike, zerosLike } from '../../create.js';
import { isFloating } from '../../dtype.js';
import { scope } from '../../memory.js';
import type { Module } from '../../nn/module.js';
import { to } from '../../ops/copy.js';
import type { Tensor } from '../../tensor.js';
import type { ProcessGroup } from '../process_group.js';
import type { Work } from '../work.js';
import { type Action, type CommunicationAction, type ComputeAction, formatAction, isCommunication, isCompute, peerStage } from './action.js';
import type { Boundaries, Form } from './boundaries.js';
import type { MicroBatch } from './micro_batches.js';
import type { Schedule } from './schedule.js';
import type { Stage, Stages } from './stages.js';

/** What the pipeline around it does. */
export interface Surroundings {
  /** The loss of a micro-batch, as it counts in that of all; what backward begins with. */
  loss(stage: Stage, inputs: readonly Tensor[], batch: MicroBatch): Tensor;
  /** Before the last backward of a stage in this step. */
  lastBackward(stage: Stage): void;
  /** UNSHARD, RESHARD, REDUCE_GRAD. */
  sharding(action: Action, stage: Stage): void;
}

/** One stage's work on one micro-batch. */
interface Cell {
  inputs: readonly Tensor[];
  outputs: readonly Tensor[];
  /** The second part of a backward. */
  rest: { readonly weights: () => void; readonly abandon: () => void } | null;
}

/** Tensors that another rank, or another stage of this one, has sent. */
interface Arrival {
  readonly tensors: readonly Tensor[];
  readonly works: readonly Work<Tensor>[];
}

export interface ExecutionOptions {
  readonly model: Module;
  readonly schedule: Schedule;
  readonly stages: Stages;
  readonly group: ProcessGroup;
  readonly batches: readonly MicroBatch[];
  /** By micro-batch. */
  readonly boundaries: readonly Boundaries[];
  readonly around: Surroundings;
}

const keyOf = (kind: 'F' | 'B', stage: number, microBatch: number): string => `${stage}${kind}${microBatch}`;

export class Execution {
  private readonly cells = new Map<string, Cell>();
  private readonly arrivals = new Map<string, Arrival>();
  private readonly lastBackwards = new Map<number, Action>();
  /** The action under way. */
  now: Action | null = null;

  constructor(private readonly o: ExecutionOptions) {
    for (const action of this.plan.flat()) if (action.kind === 'B' || action.kind === 'W') this.lastBackwards.set(action.stage, action);
  }

  private get plan(): readonly (readonly Action[])[] {
    return this.o.schedule.steps[this.o.group.rank]!;
  }

  run(): void {
    for (const step of this.plan) {
      this.now = step[0]!;
      if (isCommunication(this.now)) this.communicate(step as readonly CommunicationAction[]);
      else if (isCompute(this.now)) this.compute(this.now);
      else this.o.around.sharding(this.now, this.stage(this.now));
    }
    this.now = null;
  }

  /** Lets go of what a step that has thrown leaves. */
  abandon(): void {
    for (const { rest } of this.cells.values()) rest?.abandon();
  }

  private stage({ stage }: Action): Stage {
    return this.o.stages.own.get(stage)!;
  }

  private compute(action: ComputeAction): void {
    const { stage, kind, microBatch } = action;
    if (kind === 'F') this.forward(this.stage(action), microBatch);
    else {
      const cell = this.cells.get(keyOf('F', stage, microBatch))!;
      if (this.lastBackwards.get(stage) === action) this.o.around.lastBackward(this.stage(action));
      if (kind === 'W') cell.rest!.weights();
      else {
        this.backward(action, cell);
        this.done(stage, cell.inputs);
      }
      if (kind !== 'I') this.cells.delete(keyOf('F', stage, microBatch));
    }
  }

  /** Nothing of this rank's needs a stage's inputs any more but graphs that have saved them. */
  private done(stage: number, inputs: readonly Tensor[]): void {
    if (stage > 0) for (const { storage } of inputs) storage.release(null);
  }

  private forward(stage: Stage, microBatch: number): void {
    const { model, schedule, batches, around } = this.o;
    const batch = batches[microBatch]!;
    const inputs = stage.index === 0 ? batch.inputs : this.take('F', stage.index, microBatch).map(asInput);
    const last = stage.index === schedule.stages - 1;
    const run = (): readonly Tensor[] => scope(() => model.during(() => (last ? [around.loss(stage, inputs, batch)] : stage.forward(inputs))));
    const outputs = schedule.trains ? enableGrad(run) : noGrad(run);
    if (schedule.trains) this.cells.set(keyOf('F', stage.index, microBatch), { inputs, outputs, rest: null });
    else if (!outputs.some((y) => inputs.some((x) => x.storage === y.storage))) this.done(stage.index, inputs);
    if (last) return;
    if (schedule.crosses(stage.index)) this.leave('F', stage.index, microBatch, outputs);
    else this.arrivals.set(keyOf('F', stage.index + 1, microBatch), { tensors: outputs.map((y) => y.detach()), works: [] });
  }

  private backward({ stage, kind, microBatch }: ComputeAction, cell: Cell): void {
    const { schedule } = this.o;
    const last = stage === schedule.stages - 1;
    const given = last ? cell.outputs.map((y) => onesLike(y)) : this.take('B', stage, microBatch);
    // gradients come for the floating-point outputs, in order
    const sent = cell.outputs.filter(({ dtype }) => isFloating(dtype));
    const pairs = sent.map((y, i) => [y, given[i]!] as const).filter(([y]) => y.requiresGrad);
    const [roots, gradients] = [pairs.map(([y]) => y), pairs.map(([, g]) => g)];
    const leaves = stage === 0 ? [] : cell.inputs.filter((x) => x.requiresGrad);
    if (roots.length === 0) cell.rest = { weights: () => {}, abandon: () => {} };
    else if (kind === 'I') cell.rest = inputsBackward(roots, gradients, leaves);
    else backwardOf(roots, gradients);
    for (const t of last ? [...given, ...cell.outputs] : given) t.dispose();
    if (stage === 0) return;
    // a 16-bit leaf may have added up in float32
    const grads = leaves.map((x) => noGrad(() => (x.grad ? to(x.grad, x.dtype) : zerosLike(x))));
    leaves.forEach((x, i) => {
      if (x.grad !== grads[i]) x.grad?.dispose();
      x.grad = null;
    });
    if (schedule.crosses(stage - 1)) this.leave('B', stage, microBatch, grads);
    else this.arrivals.set(keyOf('B', stage - 1, microBatch), { tensors: grads, works: [] });
  }

  /** What is to be sent waits for its SEND. */
  private leave(kind: 'F' | 'B', stage: number, microBatch: number, tensors: readonly Tensor[]): void {
    this.arrivals.set(`out ${keyOf(kind, stage, microBatch)}`, { tensors, works: [] });
  }

  private take(kind: 'F' | 'B', stage: number, microBatch: number): readonly Tensor[] {
    const key = keyOf(kind, stage, microBatch);
    const { tensors, works } = this.arrivals.get(key)!;
    this.arrivals.delete(key);
    for (const work of works) work.wait();
    return tensors;
  }

  private communicate(actions: readonly CommunicationAction[]): void {
    const { group } = this.o;
    const sent: Tensor[] = [];
    group.coalesce(() => {
      for (const action of actions) {
        this.now = action;
        if (action.kind.startsWith('SEND')) sent.push(...this.send(action));
        else this.receive(action);
      }
    });
    for (const t of sent) if (t.storage.kind !== 'parameter' && !t.isView && !this.isInput(t)) t.storage.release(null);
  }

  private isInput({ storage }: Tensor): boolean {
    return [...this.cells.values()].some(({ inputs }) => inputs.some((x) => x.storage === storage));
  }

  private send(action: CommunicationAction): readonly Tensor[] {
    const { schedule, group } = this.o;
    const key = `out ${keyOf(action.kind === 'SEND_F' ? 'F' : 'B', action.stage, action.microBatch)}`;
    const { tensors } = this.arrivals.get(key)!;
    this.arrivals.delete(key);
    for (const t of tensors) group.send(t.detach(), schedule.rankOf(peerStage(action)), { label: formatAction(action) });
    return tensors;
  }

  private receive(action: CommunicationAction): void {
    const { schedule, group, boundaries } = this.o;
    const { stage, microBatch } = action;
    const forward = action.kind === 'RECV_F';
    const all = boundaries[microBatch]![forward ? stage - 1 : stage]!;
    const forms = forward ? all : all.filter(({ dtype }) => isFloating(dtype));
    const tensors = forms.map(({ shape, dtype }: Form) => empty(shape, { dtype, device: group.device }));
    const works = tensors.map((t) => group.recv(t, schedule.rankOf(peerStage(action)), { label: formatAction(action) }));
    this.arrivals.set(keyOf(forward ? 'F' : 'B', stage, microBatch), { tensors, works });
  }
}

/** A leaf of the stage's graph. */
function asInput(t: Tensor): Tensor {
  if (isFloating(t.dtype)) t.requiresGrad = true;
  return t;
}
