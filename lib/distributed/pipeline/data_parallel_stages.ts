// Data parallelism of a pipeline's stages. Stages that `fullyShard` has cut reduce their gradients themselves, in their last backward of a step;
// the gradients of others are summed over the copies when the plan comes to it, while the rank goes on with other stages. What an earlier
// step has reduced already stays out of it.
import { accumulated } from '../../autograd/accumulate.js';
import { noGrad } from '../../autograd/modes.js';
import { ValueError } from '../../errors.js';
import { Dropout } from '../../nn/dropout.js';
import type { Parameter } from '../../nn/module.js';
import { takeOut } from '../../storage.js';
import type { Tensor } from '../../tensor.js';
import type { DeviceMesh, MeshAxis } from '../device_mesh.js';
import { shardGroupsOf } from '../fully_shard.js';
import type { ShardGroup } from '../fully_shard_group.js';
import type { ProcessGroup } from '../process_group.js';
import { reducible } from '../reducible.js';
import type { Work } from '../work.js';
import type { Action } from './action.js';
import type { Stage, Stages } from './stages.js';

const DATA: readonly MeshAxis[] = ['dpReplicate', 'dpShard'];

export class DataParallelStages {
  /** All copies of a stage; null for a mesh without axes for them. */
  readonly group: ProcessGroup | null;
  /** What earlier steps have reduced. */
  private readonly reduced = new WeakSet<Tensor>();
  private earlier = new Map<Parameter, Tensor>();
  private started = new Set<Parameter>();
  /** Stages with backwards to come. */
  private underWay = new Set<Stage>();
  private works: Work<Tensor>[] = [];

  /** Makes the copies equal: those of the first one count. */
  constructor(
    private readonly stages: Stages,
    mesh: DeviceMesh,
    private readonly mean: boolean,
  ) {
    const axes = DATA.filter((axis) => mesh.axes.includes(axis));
    this.group = axes.length > 0 ? mesh.group(...axes) : null;
    const group = this.group;
    if (group === null || group.size === 1) return;
    const rank = mesh.rank(...axes);
    const modules = [...stages.modules.values()];
    for (const m of modules.flatMap((top) => top.modules())) {
      if (!(m instanceof Dropout)) continue;
      m.layout ??= (shape) => ({ globalShape: shape.with(0, shape[0]! * group.size), offset: shape.map((n, i) => (i === 0 ? n * rank : 0)) });
    }
    noGrad(() => {
      const values = [...stages.parameters.values(), ...modules.flatMap((m) => m.buffers())].filter((t) => !t.isMeta);
      for (const work of group.coalesce(() => values.map((t) => group.broadcast(t, { label: 'of the parameters' })))) work.wait();
    });
  }

  /** Whether `fullyShard` has cut some of this rank's stages. */
  get sharded(): boolean {
    return [...this.stages.own.values()].some((stage) => groupsOf(stage).length > 0);
  }

  /** @throws ValueError where fullyShard would divide the gradients in another way than the loss asks for */
  begin(): void {
    for (const g of [...this.stages.own.values()].flatMap(groupsOf)) {
      if (g.settings.mean !== this.mean) {
        const [is, should] = this.mean ? ['sum', 'mean'] : ['mean', 'sum'];
        const why = this.mean ? 'losses are means over rows' : 'the loss is divided by the number of valid targets of all ranks';
        throw new ValueError(`Pipeline: ${why}, but fullyShard of ${g.label} has gradientReduction '${is}'; pass '${should}'`);
      }
      g.synchronizes = false;
    }
    this.started = new Set();
    this.underWay = new Set(this.stages.own.values());
    this.earlier = new Map();
    const tied = new Set(this.stages.tied.map(({ parameter }) => parameter));
    const elsewhere = (this.group?.size ?? 1) > 1 ? this.reducedElsewhere() : null;
    for (const p of this.stages.parameters.values()) {
      if (!p.grad || !this.reduced.has(p.grad)) continue;
      if (!tied.has(p) && (elsewhere === null || elsewhere.has(p))) continue; // nothing is done to it again
      this.earlier.set(p, p.grad);
      p.grad = null;
    }
  }

  lastBackward(stage: Stage): void {
    for (const g of groupsOf(stage)) g.synchronizes = true;
  }

  /** UNSHARD begins to gather a stage, which then stays whole until RESHARD; REDUCE_GRAD begins to reduce it. */
  run({ kind }: Action, stage: Stage): void {
    if (kind === 'REDUCE_GRAD') {
      this.underWay.delete(stage);
      // another stage of this rank may have some of the parameters too
      const later = new Set([...this.underWay].flatMap(parametersOf));
      this.reduce(parametersOf(stage).filter((p) => !later.has(p)));
    }
    for (const g of kind === 'REDUCE_GRAD' ? [] : groupsOf(stage)) {
      if (kind === 'UNSHARD') g.pin();
      else g.unpin();
    }
  }

  /** Begins with what the plan has left out, and waits, in stream order, for all. `last`: what is to be done with complete gradients. */
  end(last: () => void): void {
    this.reduce([...this.stages.parameters.values()]);
    for (const work of this.works.splice(0)) work.wait();
    last();
    for (const p of this.stages.parameters.values()) if (p.grad) this.reduced.add(p.grad);
    for (const [p, old] of this.earlier) {
      const now = p.grad;
      p.grad = now ? noGrad(() => accumulated(old, now, p.gradDType, false)) : old;
      now?.dispose();
      takeOut(p.grad.storage, 'gradient');
      this.reduced.add(p.grad);
    }
  }

  /** What `fullyShard` has cut. */
  private reducedElsewhere(): Set<Parameter> {
    return new Set([...this.stages.own.values()].flatMap(groupsOf).flatMap((g) => g.parameters.map((p) => p.parameter)));
  }

  private reduce(parameters: readonly Parameter[]): void {
    const { group } = this;
    if (group === null || group.size === 1) return;
    const elsewhere = this.reducedElsewhere();
    const now = [...new Set(parameters)].filter((p) => p.requiresGrad && !elsewhere.has(p) && !this.started.has(p));
    for (const p of now) {
      this.started.add(p);
      p.grad = noGrad(() => reducible(p));
    }
    const op = this.mean ? 'avg' : 'sum';
    this.works.push(...group.coalesce(() => now.map((p) => group.allReduce(p.grad!, { op, label: 'of the gradients of a stage' }))));
  }
}

function parametersOf(stage: Stage): Parameter[] {
  return stage.modules.flatMap((m) => m.parameters());
}

function groupsOf(stage: Stage): ShardGroup[] {
  return stage.modules.flatMap(shardGroupsOf);
}
