// Saving from all ranks: each writes its own pieces once, rank 0 the rest and the commit. Everything that ranks have to agree on is agreed before
// a byte is written.
import nodeFs from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { CheckpointError, describe, ValueError } from '../../errors.js';
import type { CheckpointState } from '../../io/checkpoint.js';
import { beginFolder, commitFolder, type FileSums, folderOf, prune } from '../../io/checkpoint_folder.js';
import { checkPath, type FileSystem, fileError, writeFile } from '../../io/files.js';
import { scope } from '../../memory.js';
import { defaultGenerator } from '../../random.js';
import { checkInteger } from '../../shape.js';
import type { Tensor } from '../../tensor.js';
import type { DeviceMesh } from '../device_mesh.js';
import { ProcessGroup } from '../process_group.js';
import { exchangeText } from '../split.js';
import { awaitCommit, collectNotes, giveUp, leaveNote } from './meeting.js';
import { type Parts, partsOf, writeParts } from './shards.js';
import { encodeEntry, isStateful, parameterNames, stageOf } from './states.js';
import { union } from './union.js';

/** How a checkpoint is saved. */
export interface SaveOptions {
  /** All ranks that have a part of the state. */
  readonly group: ProcessGroup;
  /** How many of the checkpoints saved last to leave in the root, this one included; all by default. */
  readonly keep?: number;
  /** How long ranks wait for each other's files. Default 10 minutes. */
  readonly timeoutMs?: number;
  /** Where the files go; `node:fs/promises` unless given. */
  readonly fs?: FileSystem;
}

/** A save that goes on while training does. */
export interface Saving {
  /** The path of the checkpoint when it is complete; rejects when it failed, on every rank. */
  readonly done: Promise<string>;
}

export const TRAINER = 'trainer.json';
export const FORMAT = 2;

/**
 * Saves a training state of all ranks as `<root>/step-<step>`, atomically, as io.saveCheckpoint does: tensors with a layout piece by piece, each
 * element once, in the layout of PyTorch's HuggingFaceStorageWriter; everything else once. Any number of ranks, cut in any way, loads it.
 * Every rank calls it, at the same step; the root is a folder that all of them see.
 *
 * The state is read while the call runs: do not train until it resolves, or use saveCheckpointAsync.
 * @throws CheckpointError on every rank when one of them cannot write
 */
export async function saveCheckpoint(root: string, state: CheckpointState, options: SaveOptions): Promise<string> {
  return (await begin(root, state, options, false)).done;
}

/**
 * As saveCheckpoint, but resolves as soon as this rank's pieces are copied: training goes on while they are written. The copies take as much
 * memory as the pieces; warmUpSave finds it beforehand. A save into a root waits for the one before.
 */
export async function saveCheckpointAsync(root: string, state: CheckpointState, options: SaveOptions): Promise<Saving> {
  return begin(root, state, options, true);
}

/** The last save into each folder. */
const running = new Map<string, Promise<string>>();

async function begin(root: string, state: CheckpointState, options: SaveOptions, copies: boolean): Promise<Saving> {
  const where = 'saveCheckpoint';
  const { group, keep, timeoutMs = 600_000, fs = nodeFs } = options ?? {};
  if (!(group instanceof ProcessGroup)) throw new ValueError(`${where}: expected { group }, the ranks that save, got ${describe(group)}`);
  const folder = resolve(checkPath(root, where));
  const step = checkInteger(state?.step, 'step', where, 0);
  if (keep !== undefined) checkInteger(keep, 'keep', where, 1);
  checkInteger(timeoutMs, 'timeoutMs', where, 1);
  if ('rng' in state) throw new ValueError(`${where}: "rng" is the name of the default generator's state; choose another`);
  await running.get(`${group.rank} ${folder}`)?.catch(() => {});

  const temporary = await agree(group, folder, step, Object.keys(state), fs);
  const tensors = new Map<string, Tensor>();
  const entries: Entries = {};
  const states: Record<string, unknown> = {};
  // what a state is gathered or cast into for saving ends here, but for what is still to be written
  const write = scope(async () => {
    const names = parameterNames(state);
    for (const [name, value] of Object.entries({ ...state, rng: defaultGenerator().getState() })) {
      if (!/^[A-Za-z0-9_-]{1,100}$/.test(name)) throw new ValueError(`${where}: a name must consist of letters, digits, _ and -, got ${describe(name)}`);
      const json = await encodeEntry(name, value, names, tensors);
      entries[name] = { stateful: isStateful(value), state: json };
      const mesh = stageOf(value);
      if (mesh && group.rank > 0 && speaksForStage(mesh)) states[name] = json;
    }
    const parts = partsOf(tensors, group, copies);
    const job: Job = { group, folder, step, temporary, keep: keep ?? null, timeoutMs, fs };
    const done = finish(job, parts, group.rank === 0 ? entries : states, copies);
    if (copies)
      done.catch(() => {}); // whoever does not wait for it meets the failure in the next save's root, or not at all
    else await done;
    return { done };
  });
  let saving: Saving;
  try {
    saving = await write;
  } catch (error) {
    // this rank's files will not come
    await leaveNote(temporary, group.rank, { failed: String((error as Error)?.message ?? error) }, fs).catch(() => {});
    throw error;
  }
  running.set(`${group.rank} ${folder}`, saving.done);
  return saving;
}

/** By name: whether a state is restored in place, and its JSON. */
type Entries = Record<string, { stateful: boolean; state: unknown }>;

/** One of the ranks that have the same stages. */
function speaksForStage(mesh: DeviceMesh): boolean {
  const others = mesh.axes.filter((axis) => axis !== 'pp');
  return others.length === 0 || mesh.rank(...others) === 0;
}

/** Rank 0 makes the folder; all learn its name, and that they save the same. */
async function agree(group: ProcessGroup, root: string, step: number, names: readonly string[], fs: FileSystem): Promise<string> {
  let made: { path?: string; error?: string } = {};
  if (group.rank === 0) {
    try {
      made = { path: await beginFolder(root, step, fs) };
    } catch (error) {
      made = { error: fileError(error, `saveCheckpoint: cannot write "${folderOf(root, step)}"`).message };
    }
  }
  const texts = await exchangeText(group, JSON.stringify({ step, names, ...made }), 'of saveCheckpoint');
  const all = texts.map((text) => JSON.parse(text) as { step: number; names: string[]; path?: string; error?: string });
  const { path, error } = all[0]!;
  if (path === undefined) throw new CheckpointError(error!);
  const odd = all.findIndex((a) => a.step !== all[0]!.step || String(a.names) !== String(all[0]!.names));
  if (odd > 0) {
    if (group.rank === 0) await fs.rm(path, { recursive: true, force: true });
    const show = (r: number): string => `rank ${r} step ${all[r]!.step} with ${all[r]!.names.join(', ')}`;
    throw new CheckpointError(`saveCheckpoint: ranks save different states: ${show(0)}, ${show(odd)}`);
  }
  return path;
}

interface Job {
  readonly group: ProcessGroup;
  readonly folder: string;
  readonly step: number;
  readonly temporary: string;
  readonly keep: number | null;
  readonly timeoutMs: number;
  readonly fs: FileSystem;
}

/**
 * Writes this rank's files, and ends when the checkpoint is committed.
 * @param states of rank 0 all entries, of others the JSON of what they have stages of
 */
async function finish(job: Job, parts: Parts, states: Record<string, unknown>, copies: boolean): Promise<string> {
  const { group, folder, step, temporary, keep, timeoutMs, fs } = job;
  const target = folderOf(folder, step);
  try {
    const files: FileSums = {};
    try {
      for (const [file, own] of parts) files[file] = await writeFile(join(temporary, file), (sink) => writeParts(sink, own), fs);
    } finally {
      if (copies) for (const own of parts.values()) for (const { part } of own.values()) part.dispose();
    }
    if (group.rank > 0) {
      await leaveNote(temporary, group.rank, { files, ...(Object.keys(states).length > 0 && { states }) }, fs);
      await awaitCommit(temporary, target, files, timeoutMs, fs);
      return target;
    }
    await leaveNote(temporary, 0, { files }, fs);
    const notes = await collectNotes(temporary, group.size, timeoutMs, fs);
    const entries = states as Entries;
    for (const others of notes.states) for (const [name, json] of Object.entries(others)) entries[name]!.state = union(entries[name]!.state, json, name);
    const trainer = `${JSON.stringify({ format: FORMAT, entries }, null, 1)}\n`;
    const written = await writeFile(join(temporary, TRAINER), (sink) => sink.write(Buffer.from(trainer)), fs);
    await commitFolder(folder, step, temporary, { ...notes.files, [TRAINER]: written }, fs);
    if (keep !== null) await prune(folder, keep, fs);
    return target;
  } catch (error) {
    const failure = fileError(error, `saveCheckpoint: cannot write "${target}"`);
    if (group.rank === 0) await giveUp(temporary, failure.message, fs).catch(() => {});
    else await leaveNote(temporary, group.rank, { failed: failure.message }, fs).catch(() => {});
    throw failure;
  }
}
