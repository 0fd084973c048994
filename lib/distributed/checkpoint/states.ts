// States by name, as checkpoints of several ranks hold them: tensors under `<entry>.<path>`, with the layouts they have, and the rest as JSON
// that is the same on every rank. What an optimizer keeps is named by its parameter's path in the module, never by a position, so that ranks
// with other parameters find theirs; a state tensor lies as its parameter does.
import { describe, ValueError } from '../../errors.js';
import type { Stateful } from '../../io/checkpoint.js';
import { decodeState, encodeState } from '../../io/state_tree.js';
import { Module } from '../../nn/module.js';
import { Optimizer, type OptimizerState } from '../../optim/optimizer.js';
import { originalOf } from '../../optim/original.js';
import { sameShape } from '../../shape.js';
import type { Tensor } from '../../tensor.js';
import { layoutOf, setLayout } from '../distribute.js';

// biome-ignore lint/suspicious/noExplicitAny: an optimizer of any options
type AnyOptimizer = Optimizer<any>;

export function isStateful(value: unknown): value is Stateful {
  const object = value as Partial<Stateful> | null;
  return typeof object === 'object' && typeof object?.stateDict === 'function' && typeof object.loadStateDict === 'function';
}

/** Paths of the parameters of all modules among the states. */
export function parameterNames(states: Readonly<Record<string, unknown>>): Map<Tensor, string> {
  const names = new Map<Tensor, string>();
  for (const state of Object.values(states)) {
    if (state instanceof Module) for (const [name, p] of state.namedParameters()) if (!names.has(p)) names.set(p, name);
  }
  return names;
}

/** A state dict holds parameters as plain tensors, under each of their names: they lie as the parameters do. */
function layOut(module: Module, tensors: ReadonlyMap<string, Tensor>): void {
  const parameters = new Map(module.parameters().map((p) => [p.storage, p]));
  for (const tensor of tensors.values()) {
    const p = parameters.get(tensor.storage);
    const layout = p && layoutOf(p);
    if (layout && sameShape(tensor.shape, p.shape)) setLayout(tensor, layout);
  }
}

/** An optimizer's parameters in the order of its groups, with their names: positions where no module has them. */
function named(optimizer: AnyOptimizer, names: ReadonlyMap<Tensor, string>): [name: string, parameter: Tensor][] {
  return optimizer.groups.flatMap((g) => g.params).map((p: Tensor, i: number) => [names.get(originalOf(p)) ?? String(i), p]);
}

/** Takes the state of an entry apart: tensors go into `tensors`, the JSON is returned. */
export async function encodeEntry(entry: string, value: unknown, names: ReadonlyMap<Tensor, string>, tensors: Map<string, Tensor>): Promise<unknown> {
  const own = new Map<string, Tensor>();
  const state = value instanceof Optimizer ? byName(value, names) : isStateful(value) ? await value.stateDict() : value;
  const json = encodeState(state, own, entry);
  if (value instanceof Module) layOut(value, own);
  for (const [name, tensor] of own) tensors.set(`${entry}.${name}`, tensor);
  return json;
}

function byName(optimizer: AnyOptimizer, names: ReadonlyMap<Tensor, string>): unknown {
  const { state, paramGroups, ...rest } = optimizer.stateDict();
  const all = named(optimizer, names);
  const kept: Record<string, unknown> = {};
  all.forEach(([name, parameter], i) => {
    const entry = state[i];
    if (!entry) return;
    const layout = layoutOf(parameter);
    for (const t of Object.values(entry)) if (layout && typeof t !== 'number' && sameShape(t.shape, parameter.shape)) setLayout(t, layout);
    if (Object.hasOwn(kept, name)) throw new ValueError(`saveCheckpoint: two parameters of one optimizer are called "${name}"`);
    kept[name] = entry;
  });
  const groups = paramGroups.map((g) => ({ ...g, params: (g['params'] as number[]).map((i) => all[i]![0]) }));
  return { ...rest, state: kept, paramGroups: groups };
}

/** Puts an entry's state together again and loads it: `read` makes a tensor, laid out as `like` is where there is one. */
export async function decodeEntry(
  entry: string,
  target: Stateful | null,
  json: unknown,
  names: ReadonlyMap<Tensor, string>,
  read: (name: string, like: Tensor | null) => Promise<Tensor>,
  where: string,
): Promise<unknown> {
  const like = await likenesses(target, names, entry);
  const state = await decodeState(json, (name) => read(`${entry}.${name}`, like(name)), where);
  if (!target) return state;
  await target.loadStateDict(target instanceof Optimizer ? byPosition(target, names, state, where) : state);
  return undefined;
}

/** The tensor here that a saved one belongs to. Optimizers make their states late, so the parameter stands for them. */
async function likenesses(target: Stateful | null, names: ReadonlyMap<Tensor, string>, entry: string): Promise<(name: string) => Tensor | null> {
  if (!target) return () => null;
  if (target instanceof Optimizer) {
    const all = named(target, names);
    return (path) => all.find(([name]) => path.startsWith(`state.${name}.`) && !path.slice(name.length + 7).includes('.'))?.[1] ?? null;
  }
  const own = new Map<string, Tensor>();
  encodeState(await target.stateDict(), own, entry);
  if (target instanceof Module) layOut(target, own);
  return (name) => own.get(name) ?? null;
}

function byPosition(optimizer: AnyOptimizer, names: ReadonlyMap<Tensor, string>, saved: unknown, where: string): OptimizerState {
  const { state, paramGroups, ...rest } = (saved ?? {}) as Record<string, unknown> & {
    state?: Record<string, unknown>;
    paramGroups?: Record<string, unknown>[];
  };
  if (typeof state !== 'object' || state === null || !Array.isArray(paramGroups))
    throw new ValueError(`${where}: expected the state of an optimizer, got ${describe(saved)}`);
  let at = 0;
  const positions: Record<string, unknown> = {};
  named(optimizer, names).forEach(([name], i) => {
    if (Object.hasOwn(state, name)) positions[i] = state[name];
  });
  // groups of this rank's own parameters: another rank may have had others
  const groups = optimizer.groups.map((g, i) => ({ ...paramGroups[i], params: g.params.map(() => at++) }));
  if (paramGroups.length !== groups.length)
    throw new ValueError(`${where}: the checkpoint has ${paramGroups.length} groups of parameters, the optimizer ${groups.length}`);
  return { ...rest, state: positions, paramGroups: groups } as OptimizerState;
}
