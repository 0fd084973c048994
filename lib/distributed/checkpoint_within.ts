// Activation checkpointing by a budget of memory, as torch.compile's activation_memory_budget. What each block keeps, and what running it again
// would cost, is measured in dry runs of the training step: one as it is, one for each way to checkpoint. The choice is greedy by bytes for an
// operation, taken back where the last one made others needless, and then tried out, since blocks share some of what they keep.
import { CheckpointPolicy, checkpointOps } from '../autograd/selective.js';
import { currentDryRun } from '../dry_run.js';
import { describe, ValueError } from '../errors.js';
import { chosenModules, type ModuleChoice } from '../nn/checkpoint_modules.js';
import { ModuleList, Sequential } from '../nn/containers.js';
import { Module } from '../nn/module.js';
import type { ModuleAt } from '../nn/module_paths.js';
import { checkNumber } from '../shape.js';
import { DistributedDataParallel } from './ddp.js';
import { estimateMemory, type MemoryPlan } from './estimate_memory.js';
import type { MemoryEstimate } from './memory_estimate.js';

const WHERE = 'checkpointWithin';

/** A plan of `estimateMemory`, with what activations may take. */
export interface CheckpointBudget<M extends Module = Module> extends MemoryPlan<M> {
  /** For what forward leaves until backward, as `estimateMemory(…).activations` has it: bytes, or up to 1 a share of what it would be without. */
  readonly budget: number;
  /** The modules among which to choose, none within another; those of the model's outermost lists (`ModuleList`, `Sequential`) unless given. */
  readonly modules?: ModuleChoice;
}

const levels = ['none', 'selective', 'feedForward', 'full'] as const;
/** `none`: as it is. `selective`: `{ keep: 'expensive' }`. `feedForward`: that, without the product that GELU is fused into. `full`: nothing is kept. */
export type CheckpointLevel = (typeof levels)[number];

/** What checkpointWithin has chosen. */
export interface CheckpointChoice {
  /** How each module is checkpointed, by path. */
  readonly modules: Readonly<Record<string, CheckpointLevel>>;
  /** Bytes that forward leaves until backward. */
  readonly activations: number;
  /** The same without checkpoints. */
  readonly activationsWithout: number;
  /** Floating-point operations that are run again, as a share of a step's without checkpoints. */
  readonly recomputed: number;
  /** Of the whole step, as chosen. */
  readonly estimate: MemoryEstimate;
  /** Ends it. */
  undo(): void;
}

interface Cost {
  /** What the module leaves until backward. */
  readonly bytes: number;
  /** Operations that run again. */
  readonly work: number;
}
/** A module with its costs by level. */
type Candidate = ModuleAt & { readonly costs: Record<CheckpointLevel, Cost> };
type Levels = readonly CheckpointLevel[];

/**
 * Checkpoints as many blocks of a model as a budget for activations asks for, where this costs the least recomputation:
 *
 * ```ts
 * const choice = dist.checkpointWithin(model, { budget: 8e9, loss: (gpt, device) => gpt.forward(batch(device)) });
 * choice.modules; // { 'transformer.h.0': 'full', 'transformer.h.1': 'selective', 'transformer.h.2': 'none', … }
 * ```
 *
 * A module is left as it is, keeps products, attention and what ranks have sent (`{ keep: 'expensive' }`), of these all but the wide product that GELU
 * is fused into, or keeps nothing. All else is the plan of `estimateMemory`; nothing is allocated or sent. In backward, what one block at a time makes again comes on top: see `estimate.peak`.
 * @throws ValueError for a budget that no choice stays within, with the smallest that one does
 */
export function checkpointWithin<M extends Module>(model: M, options: CheckpointBudget<M>): CheckpointChoice {
  if (!(model instanceof Module)) throw new ValueError(`${WHERE}: expected a module, got ${describe(model)}`);
  const { budget, modules, ...plan } = options ?? {};
  checkNumber(budget, 'budget', WHERE, 0);
  const found = candidatesOf(model, modules);
  const policies = {
    none: null,
    selective: CheckpointPolicy.of({ keep: 'expensive' }, WHERE),
    feedForward: CheckpointPolicy.of({ keep: 'expensive', recompute: ['gelu'] }, WHERE),
    full: CheckpointPolicy.of({}, WHERE),
  };
  const apply = (chosen: Levels): void =>
    found.forEach(({ module }, i) => {
      module.checkpointing = policies[chosen[i]!];
    });
  const undo = (): void => apply(found.map(() => 'none'));
  /** Steps leave no trace in the activations. */
  const forwardOnly = { ...plan, optimizer: undefined, steps: 1 };
  const activationsOf = (chosen: Levels): number => {
    apply(chosen);
    return estimateMemory(model, forwardOnly).activations;
  };
  try {
    const measured = levels.map((level) => {
      apply(found.map(() => level));
      return measure(model, found, forwardOnly);
    });
    const candidates = found.map((at, i): Candidate => {
      const work = measured[0]!.work[i]!;
      const costs = levels.map((level, k) => [level, { bytes: measured[k]!.bytes[i]!, work: work[level] }]);
      return { ...at, costs: Object.fromEntries(costs) as Candidate['costs'] };
    });
    const [{ estimate: without }] = measured as [Measured];
    const limit = budget <= 1 ? budget * without.activations : budget;
    const chosen = within(candidates, without.activations, limit, activationsOf);
    apply(chosen);
    const estimate = estimateMemory(model, plan);
    const again = candidates.reduce((sum, { costs }, i) => sum + costs[chosen[i]!].work, 0);
    return {
      modules: Object.fromEntries(found.map(({ path }, i) => [path, chosen[i]!])),
      activations: estimate.activations,
      activationsWithout: without.activations,
      recomputed: again / without.operations,
      estimate,
      undo,
    };
  } catch (error) {
    undo();
    throw error;
  }
}

function candidatesOf(model: Module, modules: ModuleChoice | undefined): ModuleAt[] {
  const lists = model.modules().filter((m) => m instanceof ModuleList || m instanceof Sequential);
  const inLists = new Set(lists.flatMap((list) => list.children()));
  const outermost = (all: readonly ModuleAt[]): ModuleAt[] => all.filter((a) => !all.some((b) => b !== a && b.module.modules().includes(a.module)));
  if (modules === undefined && inLists.size === 0)
    throw new ValueError(`${WHERE}: ${model.constructor.name} has no ModuleList or Sequential; say among which { modules } to choose`);
  const all = chosenModules(model, modules ?? ((m) => inLists.has(m) && !(m instanceof ModuleList)), WHERE);
  const found = modules === undefined ? outermost(all) : all;
  const nested = found.filter((at) => !outermost(found).includes(at))[0];
  if (nested) throw new ValueError(`${WHERE}: "${nested.path}" is within another of the modules to choose among`);
  const twice = found.find(({ module }) => module.checkpointing);
  if (twice) throw new ValueError(`${WHERE}: "${twice.path}" is checkpointed already; undo that first`);
  return found;
}

type Work = Readonly<Record<CheckpointLevel, number>>;

interface Measured {
  readonly estimate: MemoryEstimate;
  /** By candidate: what its forwards leave, of all micro-batches in flight. */
  readonly bytes: readonly number[];
  /** By candidate: operations of its forwards in a step that each level runs again. */
  readonly work: readonly Work[];
}

/** Of all that has run, what each level would run again. */
function workOf(operations: ReadonlyMap<string, number>): Work {
  const expensive = new Set<string>(checkpointOps.expensive);
  const withGelu = operations.get('matmul with gelu') ?? 0;
  let [full, feedForward] = [0, 0];
  for (const [kernel, n] of operations) {
    full += n;
    if (!expensive.has(kernel)) feedForward += n;
  }
  return { none: 0, selective: feedForward - withGelu, feedForward, full };
}

/** A dry run that looks at what there is before and after each candidate's forward. */
function measure<M extends Module>(model: M, candidates: readonly ModuleAt[], plan: MemoryPlan<M>): Measured {
  const { inFlight = 1, microBatches = inFlight } = plan;
  type Sum = { bytes: number; work: Record<CheckpointLevel, number> };
  let sums: Sum[] = [];
  const loss: MemoryPlan<M>['loss'] = (copy, device) => {
    sums = candidates.map(() => ({ bytes: 0, work: { none: 0, selective: 0, feedForward: 0, full: 0 } }));
    const now = (): { bytes: number; work: Work } => {
      const run = currentDryRun()!;
      const { activation, temporary } = run.usage(device);
      return { bytes: activation + temporary, work: workOf(run.operations) };
    };
    const inner: Module = copy instanceof DistributedDataParallel ? copy.module : copy;
    const byPath = new Map(inner.namedModules());
    const removers = candidates.flatMap(({ path }, i) => {
      const module = byPath.get(path)!;
      const before: ReturnType<typeof now>[] = [];
      const into = sums[i]!;
      return [
        module.registerForwardPreHook(() => void before.push(now())),
        module.registerForwardHook(() => {
          const [then, after] = [before.pop()!, now()];
          into.bytes += after.bytes - then.bytes;
          for (const level of levels) into.work[level] += after.work[level] - then.work[level];
        }),
      ];
    });
    try {
      return plan.loss(copy, device);
    } finally {
      for (const remove of removers) remove();
    }
  };
  const estimate = estimateMemory(model, { ...plan, loss });
  const times = (work: Work): Work => Object.fromEntries(levels.map((level) => [level, work[level] * microBatches])) as Work;
  return { estimate, bytes: sums.map(({ bytes }) => bytes * inFlight), work: sums.map(({ work }) => times(work)) };
}

/** The cheapest levels that stay within the limit, tried out. */
function within(candidates: readonly Candidate[], without: number, limit: number, activationsOf: (chosen: Levels) => number): Levels {
  const smallest: Levels = candidates.map(({ costs }) => levels.reduce((a, b) => (costs[b].bytes < costs[a].bytes ? b : a)));
  let target = without - limit;
  for (;;) {
    const chosen = cheapest(candidates, target);
    const last = chosen.every((level, i) => level === smallest[i]);
    const over = activationsOf(chosen) - limit;
    if (over <= 0) return chosen;
    if (last) {
      throw new ValueError(
        `${WHERE}: no choice keeps activations within ${Math.floor(limit)} bytes; the smallest budget is ${Math.ceil(limit + over)} bytes, ${((100 * (limit + over)) / without).toFixed(1)} % of those without checkpoints`,
      );
    }
    target += over;
  }
}

/** Levels that save this many bytes, by what the blocks were measured to keep; the smallest where none do. */
function cheapest(candidates: readonly Candidate[], bytes: number): Levels {
  const chosen: CheckpointLevel[] = candidates.map(() => 'none');
  const costOf = (i: number, level = chosen[i]!): Cost => candidates[i]!.costs[level];
  let left = bytes;
  const move = (i: number, to: CheckpointLevel): void => {
    left -= costOf(i).bytes - costOf(i, to).bytes;
    chosen[i] = to;
  };
  while (left > 0) {
    const steps = candidates.flatMap((_, i) =>
      levels.flatMap((to) => {
        const [saved, work] = [costOf(i).bytes - costOf(i, to).bytes, costOf(i, to).work - costOf(i).work];
        return saved > 0 ? [{ i, to, rate: saved / Math.max(1, work) }] : [];
      }),
    );
    if (steps.length === 0) break;
    const { i, to } = steps.reduce((a, b) => (b.rate > a.rate ? b : a));
    move(i, to);
  }
  // the dearest first, back to the cheapest level that is enough
  const dearest = candidates.map((_, i) => i).sort((a, b) => costOf(b).work - costOf(a).work);
  for (const i of dearest) {
    const back = levels.find((to) => costOf(i, to).work < costOf(i).work && left + costOf(i, to).bytes - costOf(i).bytes <= 0);
    if (back) move(i, back);
  }
  return chosen;
}
