// States by name, as checkpoints of several ranks hold them: tensors under `<entry>.<path>`, with the layouts they have, and the rest as JSON
// that is the same on every rank. What an optimizer keeps is named by its parameter's path in the module, never by a position, so that ranks
// with other parameters find theirs; a state tensor lies as its parameter does.
import { describe, ValueError } from '../../errors.js';
import type { Stateful } from '../../io/checkpoint.js';
import { decodeState, encodeState, entriesOf, objectForm } from '../../io/state_tree.js';
import { Module } from '../../nn/module.js';
import { Optimizer } from '../../optim/optimizer.js';
import { originalOf } from '../../optim/original.js';
import type { OptimizerState } from '../../optim/step_options.js';
import { sameShape } from '../../shape.js';
import type { Storage } from '../../storage.js';
import type { Tensor } from '../../tensor.js';
import type { DeviceMesh } from '../device_mesh.js';
import { setLayout } from '../distribute.js';
import { layoutOf, placeOnStage, stagePlaceOf } from '../layout_of.js';
import { Pipeline } from '../pipeline/pipeline.js';

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

/** A module's tensors by their keys in its state dict: they lie as the parameters do. A shared parameter is stored once, under its first name. */
export function tensorsOf(module: Module, where: string): Map<string, { readonly name: string; readonly tensor: Tensor }> {
  const byStorage = new Map<Storage, [string, Tensor][]>();
  for (const [name, p] of module.namedParameters()) byStorage.set(p.storage, [...(byStorage.get(p.storage) ?? []), [name, p]]);
  const stage = stageOf(module);
  const found = new Map<string, { name: string; tensor: Tensor }>();
  for (const [key, tensor] of Object.entries(module.stateDict())) {
    if (tensor.isMeta)
      throw new ValueError(`${where}: "${key}" is on device meta and has no values; of a model in a Pipeline, the state is that of the Pipeline`);
    const [name, p] = byStorage.get(tensor.storage)?.find(([, other]) => sameView(tensor, other)) ?? [key, null];
    if (p) lieAs(tensor, p);
    else if (stage) placeOnStage(tensor, { mesh: stage, counted: true });
    found.set(key, { name, tensor });
  }
  return found;
}

function sameView(a: Tensor, b: Tensor): boolean {
  return a.offset === b.offset && sameShape(a.shape, b.shape) && sameShape(a.strides, b.strides);
}

/** A parameter's own value or state lies as the parameter does. */
function lieAs(tensor: Tensor, parameter: Tensor): void {
  const [layout, place] = [layoutOf(parameter), stagePlaceOf(originalOf(parameter))];
  if (layout && sameShape(tensor.shape, parameter.shape)) setLayout(tensor, layout);
  if (place) placeOnStage(tensor, place);
}

/** The mesh of a pipeline of which this is the state of some stages; null for what is the same on all ranks. */
export function stageOf(state: unknown): DeviceMesh | null {
  const parameters = state instanceof Module ? state.parameters() : state instanceof Optimizer ? state.groups.flatMap((g) => g.params) : [];
  return parameters.flatMap((p: Tensor) => stagePlaceOf(originalOf(p))?.mesh ?? [])[0] ?? null;
}

/** An optimizer's parameters in the order of its groups, with their names: positions where no module has them. */
function named(optimizer: AnyOptimizer, names: ReadonlyMap<Tensor, string>): [name: string, parameter: Tensor][] {
  return optimizer.groups
    .flatMap((g) => g.params)
    .map((p: Tensor, i: number) => {
      const name = names.get(originalOf(p));
      if (name === undefined && stagePlaceOf(originalOf(p)))
        throw new ValueError('checkpoint: the optimizer has parameters of a Pipeline, which is not among the states: their names are its');
      return [name ?? String(i), p];
    });
}

/** Takes the state of an entry apart: tensors go into `tensors`, the JSON is returned. */
export async function encodeEntry(entry: string, value: unknown, names: ReadonlyMap<Tensor, string>, tensors: Map<string, Tensor>): Promise<unknown> {
  if (value instanceof Module) {
    const own = [...tensorsOf(value, `saveCheckpoint: ${entry}`)];
    for (const [, { name, tensor }] of own) tensors.set(`${entry}.${name}`, tensor);
    return objectForm(own.map(([key, { name }]) => [key, { $tensor: name }]));
  }
  const own = new Map<string, Tensor>();
  const json = encodeState(value instanceof Optimizer ? byName(value, names) : isStateful(value) ? await value.stateDict() : value, own, entry);
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
    for (const t of Object.values(entry)) if (typeof t !== 'number') lieAs(t, parameter);
    if (Object.hasOwn(kept, name)) throw new ValueError(`saveCheckpoint: two parameters of one optimizer are called "${name}"`);
    kept[name] = entry;
  });
  const groups = paramGroups.map((g) => ({ ...g, params: (g['params'] as number[]).map((i) => all[i]![0]) }));
  return { ...rest, state: kept, paramGroups: groups };
}

/** A tensor to be read, to be laid out as `like` is where there is one. */
export interface WantedPart {
  readonly name: string;
  readonly like: Tensor | null;
}

/** Puts an entry's state together again and loads it: `read` makes its tensors. */
export async function decodeEntry(
  entry: string,
  target: Stateful | null,
  json: unknown,
  names: ReadonlyMap<Tensor, string>,
  read: (wanted: readonly WantedPart[]) => Promise<readonly Tensor[]>,
  where: string,
): Promise<unknown> {
  const like = await likenesses(target, names, entry);
  const state = await decodeState(ofThisRank(target, json, names), (own) => read(own.map((name) => ({ name: `${entry}.${name}`, like: like(name) }))), where);
  if (!target) return state;
  await target.loadStateDict(target instanceof Optimizer ? byPosition(target, names, state, where) : state);
  return undefined;
}

/** Without what other stages have, which need not be read. */
function ofThisRank(target: Stateful | null, json: unknown, names: ReadonlyMap<Tensor, string>): unknown {
  const without = (from: unknown, goes: (key: string) => boolean): unknown => objectForm(entriesOf(from).filter(([key]) => !goes(key)));
  if (target instanceof Pipeline) return without(json, (key) => target.hasElsewhere(key));
  if (!(target instanceof Optimizer)) return json;
  const own = new Set(named(target, names).map(([name]) => name));
  return objectForm(entriesOf(json).map(([key, value]) => [key, key === 'state' ? without(value, (name) => !own.has(name)) : value]));
}

/** The tensor here that a saved one belongs to. Optimizers make their states late, so the parameter stands for them. */
async function likenesses(target: Stateful | null, names: ReadonlyMap<Tensor, string>, entry: string): Promise<(name: string) => Tensor | null> {
  if (!target) return () => null;
  if (target instanceof Optimizer) {
    const all = named(target, names);
    return (path) => all.find(([name]) => path.startsWith(`state.${name}.`) && !path.slice(name.length + 7).includes('.'))?.[1] ?? null;
  }
  const own = new Map<string, Tensor>();
  if (!(target instanceof Module)) encodeState(await target.stateDict(), own, entry);
  else for (const [key, { name, tensor }] of tensorsOf(target, `loadCheckpoint: ${entry}`)) own.set(key, tensor).set(name, tensor);
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
