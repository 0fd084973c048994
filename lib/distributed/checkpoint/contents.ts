// A checkpoint seen from outside, whoever saved it: its states, their tensors as wholes, and whether all of it is there.
import nodeFs from 'node:fs/promises';
import { join } from 'node:path';
import { empty } from '../../create.js';
import { dtypeSize } from '../../dtype.js';
import { CheckpointError } from '../../errors.js';
import { type Commit, resolveFolder, verifyFiles } from '../../io/checkpoint_folder.js';
import { checkPath, type FileSystem, fileError } from '../../io/files.js';
import { saveSafetensors } from '../../io/safetensors.js';
import { entriesOf } from '../../io/state_tree.js';
import { numel, type Shape, showShape } from '../../shape.js';
import type { Tensor } from '../../tensor.js';
import { TRAINER } from './save.js';
import { ShardReader } from './shards.js';

export interface TensorSummary {
  readonly name: string;
  readonly dtype: string;
  readonly shape: Shape;
  readonly bytes: number;
  /** Files that have a piece of it. */
  readonly pieces: number;
}
export interface StateSummary {
  readonly name: string;
  /** Restored in place, or returned as plain data. */
  readonly stateful: boolean;
  readonly tensors: readonly TensorSummary[];
}
export interface Summary {
  readonly folder: string;
  readonly step: number;
  readonly files: number;
  readonly bytes: number;
  readonly states: readonly StateSummary[];
}

/** A state's tensors: where they are, what their names there begin with, and further names of those that are shared. */
interface Place {
  readonly stateful: boolean;
  readonly reader: ShardReader | null;
  readonly prefix: string;
  readonly aliases: readonly (readonly [alias: string, name: string])[];
}

export class CheckpointContents {
  private constructor(
    private readonly folder: string,
    private readonly commit: Commit,
    private readonly places: ReadonlyMap<string, Place>,
    private readonly fs: FileSystem,
  ) {}

  static async open(path: string, fs: FileSystem = nodeFs): Promise<CheckpointContents> {
    const { folder, commit } = await resolveFolder(checkPath(path, 'checkpoint'), fs);
    const trainer = join(folder, TRAINER);
    let json: { format?: unknown; entries?: Record<string, { stateful?: unknown; file?: unknown; state?: unknown }> };
    try {
      json = JSON.parse(await fs.readFile(trainer, 'utf8')) as typeof json;
    } catch (error) {
      throw fileError(error, `checkpoint: "${trainer}"`);
    }
    const places = new Map<string, Place>();
    // one process writes a file a state, ranks write all states together
    const together = json.format === 1 ? null : await ShardReader.open(folder, fs);
    for (const [name, entry] of Object.entries(json.entries ?? {})) {
      const file = typeof entry?.file === 'string' ? entry.file : null;
      const reader = together ?? (file && Object.hasOwn(commit.files, file) ? await ShardReader.open(folder, fs, [file]) : null);
      places.set(name, { stateful: entry?.stateful === true, reader, prefix: together ? `${name}.` : '', aliases: together ? aliasesIn(entry?.state) : [] });
    }
    return new CheckpointContents(folder, commit, places, fs);
  }

  private names({ reader, prefix }: Place): string[] {
    return reader ? reader.names.filter((name) => name.startsWith(prefix)).toSorted() : [];
  }

  summary(): Summary {
    const states = [...this.places].map(([name, place]) => ({
      name,
      stateful: place.stateful,
      tensors: this.names(place).map((full) => {
        const reader = place.reader!;
        const [shape, dtype] = [reader.shape(full), reader.dtype(full)];
        return { name: full.slice(place.prefix.length), dtype, shape, bytes: numel(shape) * dtypeSize[dtype], pieces: reader.pieces(full) };
      }),
    }));
    const files = Object.values(this.commit.files);
    return { folder: this.folder, step: this.commit.step, files: files.length, bytes: files.reduce((n, f) => n + f.bytes, 0), states };
  }

  /** The summary as text, with every tensor if asked for. */
  show(tensors: boolean): string {
    const { folder, step, files, bytes, states } = this.summary();
    const lines = [`${folder}: step ${step}, ${files} files, ${size(bytes)}`];
    for (const state of states) {
      const total = state.tensors.reduce((n, t) => n + t.bytes, 0);
      const what = state.tensors.length > 0 ? `${state.tensors.length} tensors, ${size(total)}` : 'no tensors';
      lines.push(`  ${state.name.padEnd(12)} ${what}${state.stateful ? '' : ', plain data'}`);
      if (!tensors) continue;
      for (const t of state.tensors) lines.push(`    ${t.name}  ${t.dtype} ${showShape(t.shape)}${t.pieces > 1 ? ` in ${t.pieces} pieces` : ''}`);
    }
    return `${lines.join('\n')}\n`;
  }

  /** Compares checksums, and looks that no element is missing or there twice. @throws CheckpointError naming the first that is wrong */
  async verify(): Promise<string> {
    const files = Object.keys(this.commit.files);
    await verifyFiles(this.folder, files, this.commit, this.fs);
    const { states } = this.summary();
    return `${this.folder} is whole: ${files.length} files, ${states.reduce((n, s) => n + s.tensors.length, 0)} tensors`;
  }

  /** Writes the tensors of a state whole into one safetensors file, shared ones under each of their names. @returns how many */
  async merge(state: string, path: string): Promise<number> {
    const place = this.places.get(state);
    const names = place ? this.names(place) : [];
    if (!place?.reader || names.length === 0) {
      const some = [...this.places].filter(([, p]) => this.names(p).length > 0).map(([name]) => name);
      throw new CheckpointError(`checkpoint: "${this.folder}" has no tensors of a state called "${state}"; it has those of ${some.join(', ') || 'none'}`);
    }
    const tensors = new Map<string, Tensor>();
    try {
      for (const name of names) {
        const whole = empty(place.reader.shape(name), { dtype: place.reader.dtype(name) }).keep();
        tensors.set(name.slice(place.prefix.length), whole);
        await place.reader.fill(name, whole);
      }
      for (const [alias, name] of place.aliases) if (tensors.has(name)) tensors.set(alias, tensors.get(name)!);
      await saveSafetensors(path, tensors, {}, { fs: this.fs });
    } finally {
      for (const t of tensors.values()) t.dispose();
    }
    return tensors.size;
  }

  async close(): Promise<void> {
    for (const reader of new Set([...this.places.values()].map((p) => p.reader))) await reader?.close();
  }
}

/** Keys of a module's state whose tensor is stored under another one. */
function aliasesIn(state: unknown): (readonly [string, string])[] {
  const keys = entriesOf(state).map(([key, value]) => [key, (value as { $tensor?: unknown } | null)?.$tensor] as const);
  return keys.filter((pair): pair is readonly [string, string] => typeof pair[1] === 'string' && pair[1] !== pair[0]);
}

function size(bytes: number): string {
  const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB'];
  const power = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log2(Math.max(1, bytes)) / 10)));
  return power === 0 ? `${bytes} bytes` : `${(bytes / 1024 ** power).toFixed(1)} ${units[power]}`;
}
