// Checkpoints of a training run: everything that has a state, by name. Tensors go to `<name>.safetensors` (so `model.safetensors` is
// an ordinary weights file), the rest to trainer.json. The default random generator is always part of it: a resumed run draws the
// numbers that the interrupted one would have drawn.
import nodeFs from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { DeviceLike } from '../device.js';
import { CheckpointError, describe, ValueError } from '../errors.js';
import { scope } from '../memory.js';
import { defaultGenerator, type GeneratorState } from '../random.js';
import { checkInteger } from '../shape.js';
import type { Tensor } from '../tensor.js';
import { type Commit, checkSum, listCheckpoints, prune, resolveFolder, verifyFiles, writeFolder } from './checkpoint_folder.js';
import { checkPath, type FileSink, type FileSystem, fileError } from './files.js';
import { writeSafetensors } from './safetensors.js';
import { openSafetensorsFile } from './safetensors_reader.js';
import { decodeState, encodeState } from './state_tree.js';

/** What can be saved and restored in place: modules, optimizers, schedulers, loaders, and classes of your own. */
export interface Stateful {
  /** The state: tensors and plain data in objects and arrays, or a promise of them. */
  stateDict(): unknown;
  /** Goes on from such a state. */
  // biome-ignore lint/suspicious/noExplicitAny: each class takes its own kind of state, and may return a report
  loadStateDict(state: any): unknown;
}

/**
 * What a checkpoint holds, by name. `step` is required. Objects with stateDict() and loadStateDict() are restored in place; plain
 * data, which may contain tensors, is returned by loadCheckpoint.
 */
export interface CheckpointState {
  /** The step that was done last; it names the folder. */
  readonly step: number;
  readonly [name: string]: unknown;
}

/** One name in trainer.json. */
interface Entry {
  stateful: boolean;
  /** Where its tensors are; null when it has none. */
  file: string | null;
  state: unknown;
}

const TRAINER = 'trainer.json';
const RESERVED = 'rng';

function isStateful(value: unknown): value is Stateful {
  const object = value as Partial<Stateful> | null;
  return typeof object === 'object' && typeof object?.stateDict === 'function' && typeof object.loadStateDict === 'function';
}

/**
 * Saves a training state as `<root>/step-<step>`, atomically: a full disk, a crash or a power cut leaves the earlier checkpoints whole.
 *
 * ```ts
 * await io.saveCheckpoint('runs/gpt', { model, optimizer, schedule, loader, step }, { keep: 3 });
 * ```
 *
 * The state is read while the call runs: do not train until it resolves. Calls for the same root run one after another.
 * @param root a folder, made if needed
 * @param options.keep how many of the checkpoints saved last to leave in the root, this one included; all by default
 * @returns the path of the checkpoint
 * @throws ValueError for state that cannot be stored, CheckpointError when it cannot be written
 */
export async function saveCheckpoint(root: string, state: CheckpointState, options: { keep?: number; fs?: FileSystem } = {}): Promise<string> {
  const fs = options?.fs ?? nodeFs;
  const folder = resolve(checkPath(root, 'saveCheckpoint'));
  const step = checkInteger(state?.step, 'step', 'saveCheckpoint', 0);
  const keep = options?.keep === undefined ? null : checkInteger(options.keep, 'keep', 'saveCheckpoint', 1);
  const before = saving.get(folder);
  const mine = (async () => {
    await before?.catch(() => {});
    return save(root, step, state, keep, fs);
  })();
  saving.set(folder, mine);
  try {
    return await mine;
  } finally {
    if (saving.get(folder) === mine) saving.delete(folder);
  }
}

/** The last save into each folder that runs: two at once would take each other's folders for leftovers. */
const saving = new Map<string, Promise<string>>();

async function save(root: string, step: number, state: CheckpointState, keep: number | null, fs: FileSystem): Promise<string> {
  const entries = new Map<string, Entry>();
  const files = new Map<string, (sink: FileSink) => Promise<void>>();
  if (RESERVED in state) throw new ValueError(`saveCheckpoint: "${RESERVED}" is the name of the default generator's state; choose another`);
  const all = { ...state, [RESERVED]: defaultGenerator().getState() };
  // a state may be gathered or cast for saving: what is made for it ends with the call
  const path = await scope(async () => {
    for (const [name, value] of Object.entries(all)) {
      if (!/^[A-Za-z0-9_-]{1,100}$/.test(name)) throw new ValueError(`saveCheckpoint: a name must consist of letters, digits, _ and -, got ${describe(name)}`);
      const tensors = new Map<string, Tensor>();
      const stateful = isStateful(value);
      const encoded = encodeState(stateful ? await value.stateDict() : value, tensors, name);
      const file = tensors.size > 0 ? `${name}.safetensors` : null;
      entries.set(name, { stateful, file, state: encoded });
      if (file) files.set(file, (sink) => writeSafetensors(sink, tensors, {}, `saveCheckpoint: ${name}`));
    }
    files.set(TRAINER, (sink) => sink.write(Buffer.from(`${JSON.stringify({ format: 1, entries: Object.fromEntries(entries) }, null, 1)}\n`)));
    return writeFolder(root, step, files, fs);
  });
  if (keep !== null) await prune(root, keep, fs);
  return path;
}

/** The complete checkpoint that was saved last under `root`, or null. Folders that a crash left incomplete are passed over. */
export async function latestCheckpoint(root: string, options: { fs?: FileSystem } = {}): Promise<string | null> {
  try {
    return (await listCheckpoints(checkPath(root, 'latestCheckpoint'), options?.fs ?? nodeFs))[0]?.path ?? null;
  } catch (error) {
    throw fileError(error, `latestCheckpoint: cannot read "${root}"`);
  }
}

/**
 * Restores a training state.
 *
 * ```ts
 * const { step } = await io.loadCheckpoint('runs/gpt/latest', { model, optimizer, schedule, loader });
 * ```
 *
 * Files are compared with their checksums before anything is restored: for a moment, what is restored is there twice. The default random
 * generator is restored too.
 * @param path a checkpoint, or the root of several or `<root>/latest` for the one saved last
 * @param into what to restore in place; names that the checkpoint has beside these are not read
 * @param options.device where tensors are made before they are handed over; `cpu` by default
 * @param options.verify compare with the checksums, true by default
 * @returns what was saved as plain data: `step` and whatever else the state held. Its tensors belong to the caller's scope; those
 *   given to a loadStateDict of your own live on only if it calls keep()
 * @throws CheckpointError when there is no complete checkpoint, a file is corrupted, or a name is missing in it
 */
export async function loadCheckpoint(
  path: string,
  into: Readonly<Record<string, Stateful>> = {},
  options: { device?: DeviceLike; verify?: boolean; fs?: FileSystem } = {},
): Promise<CheckpointState> {
  const { device, verify = true, fs = nodeFs } = options ?? {};
  if (typeof into !== 'object' || into === null) throw new ValueError(`loadCheckpoint: expected what to restore, by name, got ${describe(into)}`);
  const { folder, commit } = await resolveFolder(checkPath(path, 'loadCheckpoint'), fs);
  const entries = await readTrainer(folder, commit, fs);
  for (const [name, object] of Object.entries(into)) {
    if (!isStateful(object)) throw new ValueError(`loadCheckpoint: ${name} must have stateDict() and loadStateDict(), got ${describe(object)}`);
    if (entries.get(name)?.stateful !== true) {
      const names = [...entries].filter(([, entry]) => entry.stateful).map(([other]) => other);
      throw new CheckpointError(`loadCheckpoint: "${folder}" has no state called "${name}"; it has ${names.join(', ') || 'none'}`);
    }
  }
  const wanted = [...entries].filter(([name, entry]) => !entry.stateful || Object.hasOwn(into, name));
  const rng = wanted.find(([name]) => name === RESERVED);
  const generator = rng ? checkRng(rng[1].state, folder) : null;
  const open: Opening = { folder, device, fs, commit: verify ? commit : null };
  const plain: [string, unknown][] = [];
  for (const [name, entry] of wanted) if (!entry.stateful && name !== RESERVED) plain.push([name, await decodeEntry(open, entry)]);
  await scope(async () => {
    const states: [Stateful, unknown][] = [];
    for (const [name, entry] of wanted) if (Object.hasOwn(into, name)) states.push([into[name]!, await decodeEntry(open, entry)]);
    for (const [object, state] of states) await object.loadStateDict(state);
  });
  // last: restoring a state may itself draw numbers
  if (generator) defaultGenerator().setState(generator);
  return Object.fromEntries(plain) as unknown as CheckpointState;
}

function checkRng(state: unknown, folder: string): GeneratorState {
  const { seed, draws, step } = (state ?? {}) as Partial<GeneratorState>;
  if (typeof seed === 'string' && /^\d{1,20}$/.test(seed) && Number.isSafeInteger(draws) && Number.isSafeInteger(step)) return state as GeneratorState;
  throw new CheckpointError(`loadCheckpoint: "${join(folder, TRAINER)}": malformed state of the random generator`);
}

async function readTrainer(folder: string, commit: Commit, fs: FileSystem): Promise<Map<string, Entry>> {
  await verifyFiles(folder, [TRAINER], commit, fs);
  const where = `loadCheckpoint: "${join(folder, TRAINER)}"`;
  let json: { format?: unknown; entries?: Record<string, Entry> };
  try {
    json = JSON.parse(await fs.readFile(join(folder, TRAINER), 'utf8')) as typeof json;
  } catch (error) {
    throw fileError(error, where);
  }
  if (json?.format !== 1) throw new CheckpointError(`${where}: format ${describe(json?.format)} is unknown; it was written by another version`);
  const entries = new Map(Object.entries(json.entries ?? {}));
  for (const [name, entry] of entries) {
    if (typeof entry?.stateful !== 'boolean' || (entry.file !== null && entry.file !== `${name}.safetensors`)) {
      throw new CheckpointError(`${where}: malformed entry "${name}"`);
    }
  }
  return entries;
}

interface Opening {
  readonly folder: string;
  readonly device: DeviceLike | undefined;
  readonly fs: FileSystem;
  /** What the checksums are; null: they are not compared. */
  readonly commit: Commit | null;
}

/** Reads and verifies the state of an entry. */
async function decodeEntry(opening: Opening, entry: Entry): Promise<unknown> {
  const { folder, fs, commit } = opening;
  const where = `loadCheckpoint: "${join(folder, TRAINER)}"`;
  const { file } = entry;
  if (file === null) {
    const none = async (names: readonly string[]): Promise<Tensor[]> => {
      if (names.length > 0) throw new CheckpointError(`loadCheckpoint: "${folder}" has no file for tensor "${names[0]}"`);
      return [];
    };
    return decodeState(entry.state, none, where);
  }
  try {
    return await decodeWith(opening, entry.state, file, where);
  } catch (error) {
    // a file that is corrupted may be anything else, too
    if (commit) await verifyFiles(folder, [file], commit, fs);
    throw error;
  }
}

async function decodeWith({ folder, device, fs, commit }: Opening, state: unknown, file: string, where: string): Promise<unknown> {
  const path = join(folder, file);
  const reader = await openSafetensorsFile(path, fs, commit !== null);
  try {
    const options = device === undefined ? {} : { device };
    const decoded = await decodeState(state, (names) => reader.loadMany(names.map((name) => ({ name, options }))), where);
    if (commit) checkSum(path, await reader.sum(), commit.files[file]?.crc32);
    return decoded;
  } finally {
    await reader.close();
  }
}
