// Loading on any number of ranks, cut in any way: each reads the elements it has, and needs nobody else for it.
import nodeFs from 'node:fs/promises';
import { join } from 'node:path';
import { empty } from '../../create.js';
import { CheckpointError, describe, ValueError } from '../../errors.js';
import type { CheckpointState, Stateful } from '../../io/checkpoint.js';
import { type Commit, resolveFolder, verifyFiles } from '../../io/checkpoint_folder.js';
import { checkPath, type FileSystem, fileError } from '../../io/files.js';
import { scope } from '../../memory.js';
import { defaultGenerator, type GeneratorState } from '../../random.js';
import type { Tensor } from '../../tensor.js';
import { layoutOf, setLayout } from '../distribute.js';
import { ProcessGroup } from '../process_group.js';
import { exchangeText } from '../split.js';
import { FORMAT, TRAINER } from './save.js';
import { ShardReader } from './shards.js';
import { decodeEntry, isStateful, parameterNames, type WantedPart } from './states.js';

/** How a checkpoint is loaded. */
export interface LoadOptions {
  /** The ranks that load: all take the checkpoint that the first one finds. Alone without. */
  readonly group?: ProcessGroup;
  /** Compare files with their checksums, each rank its share of them; true by default. */
  readonly verify?: boolean;
  /** Where the files are; `node:fs/promises` unless given. */
  readonly fs?: FileSystem;
}

/**
 * Restores what saveCheckpoint of this package's distributed part has saved, on these ranks and in these layouts, whatever they were when it
 * was saved: tensors are filled where modules and optimizers have them now.
 * @param path a checkpoint, or the root of several or `<root>/latest` for the one saved last
 * @param into what to restore in place, by name
 * @returns what was saved as plain data: `step` and whatever else the state held
 * @throws CheckpointError when there is no complete checkpoint, a file is corrupted, or a name or a shape is not as expected
 */
export async function loadCheckpoint(path: string, into: Readonly<Record<string, Stateful>> = {}, options: LoadOptions = {}): Promise<CheckpointState> {
  const where = 'loadCheckpoint';
  const { group, verify = true, fs = nodeFs } = options ?? {};
  if (typeof into !== 'object' || into === null) throw new ValueError(`${where}: expected what to restore, by name, got ${describe(into)}`);
  if (group !== undefined && !(group instanceof ProcessGroup)) throw new ValueError(`${where}: group must be a process group, got ${describe(group)}`);
  for (const [name, object] of Object.entries(into))
    if (!isStateful(object)) throw new ValueError(`${where}: ${name} must have stateDict() and loadStateDict(), got ${describe(object)}`);
  const { folder, commit } = await sameFolder(checkPath(path, where), group, fs);
  const files = Object.keys(commit.files).toSorted();
  const mine = verify ? files.filter((file, i) => file === TRAINER || i % (group?.size ?? 1) === (group?.rank ?? 0)) : [TRAINER];
  await together(group, () => verifyFiles(folder, mine, commit, fs));
  const entries = await readEntries(folder, fs);
  for (const name of Object.keys(into)) {
    if (entries.get(name)?.stateful === true) continue;
    const names = [...entries].filter(([, entry]) => entry.stateful).map(([other]) => other);
    throw new CheckpointError(`${where}: "${folder}" has no state called "${name}"; it has ${names.join(', ') || 'none'}`);
  }
  const names = parameterNames(into);
  const reader = await ShardReader.open(folder, fs);
  const plain: [string, unknown][] = [];
  let rng: GeneratorState | null = null;
  const read = async (wanted: readonly WantedPart[]): Promise<Tensor[]> => {
    const targets = wanted.map(({ name, like }) => {
      const layout = like && layoutOf(like);
      const target = empty(layout ? layout.localShape : reader.shape(name), { dtype: reader.dtype(name), device: like?.device ?? group?.device ?? 'cpu' });
      return layout ? setLayout(target, layout) : target;
    });
    await reader.fillAll(wanted.map(({ name }, i) => [name, targets[i]!]));
    return targets;
  };
  try {
    for (const [name, { stateful, state }] of entries) {
      const text = `${where}: "${join(folder, TRAINER)}": ${name}`;
      if (Object.hasOwn(into, name)) await scope(() => decodeEntry(name, into[name]!, state, names, read, text));
      else if (name === 'rng') rng = state as GeneratorState;
      else if (!stateful) plain.push([name, await decodeEntry(name, null, state, names, read, text)]);
    }
  } finally {
    await reader.close();
  }
  // last: restoring a state may itself draw numbers
  if (rng) defaultGenerator().setState(rng);
  return Object.fromEntries(plain) as unknown as CheckpointState;
}

/** The checkpoint that the first rank finds: another may be saved meanwhile. */
async function sameFolder(path: string, group: ProcessGroup | undefined, fs: FileSystem): Promise<{ folder: string; commit: Commit }> {
  if (!group || group.size === 1) return resolveFolder(path, fs);
  let found = '';
  let failure: unknown = null;
  if (group.rank === 0) {
    try {
      found = (await resolveFolder(path, fs)).folder;
    } catch (error) {
      failure = error;
    }
  }
  const [folder, reason] = JSON.parse((await exchangeText(group, JSON.stringify([found, (failure as Error)?.message]), 'of loadCheckpoint'))[0]!) as [
    string,
    string?,
  ];
  if (failure) throw failure;
  if (reason !== undefined && reason !== null) throw new CheckpointError(reason);
  return resolveFolder(folder, fs);
}

/** What fails on one rank fails on all, before anything has been changed. */
async function together(group: ProcessGroup | undefined, fn: () => Promise<void>): Promise<void> {
  let failure: unknown = null;
  try {
    await fn();
  } catch (error) {
    failure = error;
  }
  if (group && group.size > 1) {
    const texts = await exchangeText(group, failure ? String((failure as Error).message) : '', 'of loadCheckpoint');
    const first = texts.findIndex((text) => text !== '');
    if (!failure && first >= 0) failure = new CheckpointError(texts[first]!);
  }
  if (failure) throw failure;
}

async function readEntries(folder: string, fs: FileSystem): Promise<Map<string, { stateful: boolean; state: unknown }>> {
  const where = `loadCheckpoint: "${join(folder, TRAINER)}"`;
  let json: { format?: unknown; entries?: Record<string, { stateful: boolean; state: unknown }> };
  try {
    json = JSON.parse(await fs.readFile(join(folder, TRAINER), 'utf8')) as typeof json;
  } catch (error) {
    throw fileError(error, where);
  }
  if (json?.format === 1) throw new CheckpointError(`${where} was saved by io.saveCheckpoint; load it with io.loadCheckpoint`);
  if (json?.format !== FORMAT) throw new CheckpointError(`${where}: format ${describe(json?.format)} is unknown; it was written by another version`);
  for (const [name, entry] of Object.entries(json.entries ?? {})) {
    if (typeof entry?.stateful !== 'boolean') throw new CheckpointError(`${where}: malformed entry "${name}"`);
  }
  return new Map(Object.entries(json.entries ?? {}));
}
