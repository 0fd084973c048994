// How the ranks of a save meet: in the folder itself. Each leaves a note beside its files when they are on the disk, or why they are not; rank 0
// waits for all notes, commits, and the others see the folder under its name. No collective runs after the save has begun, so it may go on
// while training uses the group; and a rank that dies leaves a folder that no reader takes for a checkpoint.
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { CheckpointError } from '../../errors.js';
import { type FileSums, readCommit } from '../../io/checkpoint_folder.js';
import { type FileSystem, writeAtomically } from '../../io/files.js';

export interface Note {
  readonly files?: FileSums;
  readonly failed?: string;
  /** JSON of states of which this rank has a part, by name. */
  readonly states?: Readonly<Record<string, unknown>>;
}
const LOOK_MS = 20;
const noteOf = (rank: number): string => `rank-${String(rank).padStart(5, '0')}.json`;

export async function leaveNote(folder: string, rank: number, note: Note, fs: FileSystem): Promise<void> {
  await writeAtomically(join(folder, noteOf(rank)), 'saveCheckpoint', (sink) => sink.write(Buffer.from(JSON.stringify(note))), fs);
}

async function readNote(folder: string, rank: number, fs: FileSystem): Promise<Note | null> {
  try {
    return JSON.parse(await fs.readFile(join(folder, noteOf(rank)), 'utf8')) as Note;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

async function until<T>(look: () => Promise<T | null>, timeoutMs: number, late: () => string): Promise<T> {
  for (const end = Date.now() + timeoutMs; ; await sleep(LOOK_MS)) {
    const found = await look();
    if (found !== null) return found;
    if (Date.now() > end) throw new CheckpointError(`saveCheckpoint: ${late()}`);
  }
}

/** Waits for the notes of all ranks, and takes them away. @throws CheckpointError with the first rank's failure */
export async function collectNotes(
  folder: string,
  ranks: number,
  timeoutMs: number,
  fs: FileSystem,
): Promise<{ files: FileSums; states: NonNullable<Note['states']>[] }> {
  const all: FileSums = {};
  const states: NonNullable<Note['states']>[] = [];
  for (let rank = 0; rank < ranks; rank++) {
    const note = await until(
      () => readNote(folder, rank, fs),
      timeoutMs,
      () => `rank ${rank} has not written its files after ${timeoutMs / 1000} s`,
    );
    if (note.failed !== undefined) throw new CheckpointError(`saveCheckpoint: rank ${rank} failed: ${note.failed}`);
    Object.assign(all, note.files);
    if (note.states) states.push(note.states);
  }
  for (const [file, { bytes }] of Object.entries(all)) {
    const size = await fs.stat(join(folder, file)).then(
      (s) => s.size,
      () => -1,
    );
    if (size !== bytes)
      throw new CheckpointError(`saveCheckpoint: "${join(folder, file)}" is not as its rank has written it: is the folder shared by all hosts?`);
  }
  for (let rank = 0; rank < ranks; rank++) await fs.rm(join(folder, noteOf(rank)), { force: true });
  return { files: all, states };
}

/** Tells the others that there will be no checkpoint, and frees what was written of it. */
export async function giveUp(folder: string, reason: string, fs: FileSystem): Promise<void> {
  await leaveNote(folder, 0, { failed: reason }, fs);
  for (const name of await fs.readdir(folder)) if (name.endsWith('.safetensors')) await fs.rm(join(folder, name), { force: true });
}

/** Waits until rank 0 has committed what lay in `temporary` as `target`. @throws CheckpointError when it gave up */
export async function awaitCommit(temporary: string, target: string, mine: FileSums, timeoutMs: number, fs: FileSystem): Promise<void> {
  const exists = (path: string): Promise<boolean> =>
    fs.stat(path).then(
      () => true,
      () => false,
    );
  await until(
    async () => {
      const given = await readNote(temporary, 0, fs).catch(() => null);
      if (given?.failed !== undefined) throw new CheckpointError(`saveCheckpoint: rank 0 failed: ${given.failed}`);
      if (await exists(temporary)) return null;
      // renamed, then committed; without a commit in the end it was taken back
      const commit = await readCommit(target, fs).catch(() => null);
      return commit && Object.entries(mine).every(([file, sum]) => commit.files[file]?.crc32 === sum.crc32) ? true : null;
    },
    timeoutMs,
    () => `rank 0 has not committed "${target}" after ${timeoutMs / 1000} s`,
  );
}
