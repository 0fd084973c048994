// The folders that training checkpoints are made of. A root holds one folder for each saved step; a folder counts only when it has a
// COMMIT file, written after everything else is on the disk, that lists the other files with sizes and checksums. A save of a step
// that exists keeps the old folder aside until the new one is committed.
import { basename, dirname, join } from 'node:path';
import { CheckpointError } from '../errors.js';
import { type FileSink, type FileSystem, fileError, isAbandoned, makeFolder, syncFolder, temporaryName, writeAtomically, writeFile } from './files.js';
import { RangeReader } from './range_reader.js';

const COMMIT = 'COMMIT';
const FOLDER = /^step-(\d+)(\.replaced)?$/;

/** What COMMIT says. */
export interface Commit {
  readonly format: 1;
  readonly step: number;
  /** Counts the saves into a root: the newest checkpoint is the one saved last, also when a run began anew at an earlier step. */
  readonly save: number;
  readonly files: Readonly<Record<string, { readonly bytes: number; readonly crc32: number }>>;
}

async function exists(path: string, fs: FileSystem): Promise<boolean> {
  try {
    await fs.stat(path);
    return true;
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) return false;
    throw error;
  }
}

/** The commit record of a folder, or null when the folder is not a complete checkpoint. */
export async function readCommit(folder: string, fs: FileSystem): Promise<Commit | null> {
  if (!(await exists(join(folder, COMMIT), fs))) return null;
  let commit: Commit;
  try {
    commit = JSON.parse(await fs.readFile(join(folder, COMMIT), 'utf8')) as Commit;
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
  if (
    commit?.format !== 1 ||
    !Number.isSafeInteger(commit.step) ||
    !Number.isSafeInteger(commit.save) ||
    typeof commit.files !== 'object' ||
    commit.files === null
  )
    return null;
  for (const [file, entry] of Object.entries(commit.files)) {
    if (file !== basename(file) || !(await exists(join(folder, file), fs))) return null;
    if ((await fs.stat(join(folder, file))).size !== entry?.bytes) return null;
  }
  return commit;
}

/** All complete checkpoints under a root, newest first. */
export async function listCheckpoints(root: string, fs: FileSystem): Promise<{ path: string; save: number }[]> {
  if (!(await exists(root, fs))) return [];
  const found: { path: string; save: number }[] = [];
  for (const name of await fs.readdir(root)) {
    if (!FOLDER.test(name)) continue;
    const commit = await readCommit(join(root, name), fs);
    if (commit) found.push({ path: join(root, name), save: commit.save });
  }
  return found.sort((a, b) => b.save - a.save);
}

/** Throws CheckpointError unless the checksums are equal. */
export function checkSum(path: string, sum: number, expected: number | undefined): void {
  if (sum !== expected) throw new CheckpointError(`loadCheckpoint: "${path}" is corrupted: its checksum differs from the one it was saved with`);
}

/** Compares every file with its checksum. Throws CheckpointError naming the first that differs. */
export async function verifyFiles(folder: string, files: readonly string[], commit: Commit, fs: FileSystem): Promise<void> {
  for (const name of files) {
    const path = join(folder, name);
    const expected = commit.files[name];
    if (!expected) throw new CheckpointError(`loadCheckpoint: "${path}" is not listed in ${COMMIT}`);
    const file = await RangeReader.open(path, 'loadCheckpoint', fs);
    try {
      checkSum(path, await file.sum(), expected.crc32);
    } finally {
      await file.close();
    }
  }
}

/** Sizes and checksums of files, by name. */
export type FileSums = Record<string, { bytes: number; crc32: number }>;

/** Where a checkpoint of this step belongs. */
export function folderOf(root: string, step: number): string {
  return join(root, `step-${String(step).padStart(8, '0')}`);
}

/** Makes a temporary folder under `root` for a checkpoint, and sweeps what dead processes left of theirs. */
export async function beginFolder(root: string, step: number, fs: FileSystem): Promise<string> {
  const temporary = temporaryName(folderOf(root, step));
  await makeFolder(root, fs);
  for (const name of await fs.readdir(root)) if (isAbandoned(name)) await fs.rm(join(root, name), { recursive: true, force: true });
  await fs.mkdir(temporary);
  return temporary;
}

/**
 * Makes a temporary folder whose files are on the disk the checkpoint of its step: renamed, COMMIT last. When it throws, the root holds the
 * complete checkpoints it held before.
 */
export async function commitFolder(root: string, step: number, temporary: string, sizes: FileSums, fs: FileSystem): Promise<string> {
  const target = folderOf(root, step);
  const aside = `${target}.replaced`;
  let undo = async (): Promise<void> => {};
  try {
    await syncFolder(temporary, fs);
    const save = ((await listCheckpoints(root, fs))[0]?.save ?? 0) + 1;
    const replaces = (await readCommit(target, fs)) !== null;
    if (replaces) {
      await fs.rm(aside, { recursive: true, force: true });
      await fs.rename(target, aside);
    } else await fs.rm(target, { recursive: true, force: true });
    undo = async () => {
      await fs.rm(target, { recursive: true, force: true });
      if (replaces) await fs.rename(aside, target);
    };
    await fs.rename(temporary, target);
    await syncFolder(root, fs);
    const commit: Commit = { format: 1, step, save, files: sizes };
    await writeAtomically(join(target, COMMIT), 'saveCheckpoint', (sink) => sink.write(Buffer.from(`${JSON.stringify(commit, null, 2)}\n`)), fs);
  } catch (error) {
    // what the disk refuses to undo is ignored by readers, having no COMMIT
    await undo().catch(() => {});
    throw error;
  }
  await fs.rm(aside, { recursive: true, force: true }).catch(() => {});
  return target;
}

/**
 * Writes a checkpoint folder `step-…` under `root`: into a temporary folder, synced, renamed, COMMIT last. When it throws, the root
 * holds the complete checkpoints it held before.
 * @param files the content of each file
 */
export async function writeFolder(root: string, step: number, files: ReadonlyMap<string, (sink: FileSink) => Promise<void>>, fs: FileSystem): Promise<string> {
  let temporary: string | null = null;
  try {
    temporary = await beginFolder(root, step, fs);
    const sizes: FileSums = {};
    for (const [name, fill] of files) sizes[name] = await writeFile(join(temporary, name), fill, fs);
    return await commitFolder(root, step, temporary, sizes, fs);
  } catch (error) {
    if (temporary) await fs.rm(temporary, { recursive: true, force: true }).catch(() => {});
    throw fileError(error, `saveCheckpoint: cannot write "${folderOf(root, step)}"`);
  }
}

/**
 * Removes all complete checkpoints but the newest `keep`, and folders that an interrupted save or removal left without COMMIT, which is
 * written last and removed first.
 */
export async function prune(root: string, keep: number, fs: FileSystem): Promise<void> {
  try {
    for (const { path } of (await listCheckpoints(root, fs)).slice(keep)) {
      await fs.rm(join(path, COMMIT), { force: true });
    }
    for (const name of await fs.readdir(root)) {
      if (FOLDER.test(name) && !(await exists(join(root, name, COMMIT), fs))) await fs.rm(join(root, name), { recursive: true, force: true });
    }
  } catch (error) {
    throw fileError(error, `saveCheckpoint: cannot remove old checkpoints of "${root}"`);
  }
}

/** The folder that a user's path means: a checkpoint, its root, or `root/latest`. Throws CheckpointError when there is none. */
export async function resolveFolder(path: string, fs: FileSystem): Promise<{ folder: string; commit: Commit }> {
  try {
    const own = await readCommit(path, fs);
    if (own) return { folder: path, commit: own };
    if (FOLDER.test(basename(path)) && (await exists(path, fs))) {
      throw new CheckpointError(`loadCheckpoint: "${path}" is not a complete checkpoint: its ${COMMIT} file is missing or does not match the other files`);
    }
    const root = basename(path) === 'latest' && !(await exists(path, fs)) ? dirname(path) : path;
    const newest = (await listCheckpoints(root, fs))[0];
    const commit = newest && (await readCommit(newest.path, fs));
    if (!commit) throw new CheckpointError(`loadCheckpoint: there is no complete checkpoint in "${root}"`);
    return { folder: newest.path, commit };
  } catch (error) {
    throw fileError(error, `loadCheckpoint: cannot read "${path}"`);
  }
}
