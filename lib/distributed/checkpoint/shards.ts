// Tensors of all ranks in one folder, in the layout of PyTorch's HuggingFaceStorageWriter: each rank writes safetensors files with its own
// boxes, and says in the header where in the whole they begin. Nothing says who had them, so any number of ranks, cut in any
// way, reads what it needs; a file without such a header holds whole tensors.
import nodeFs from 'node:fs/promises';
import { join } from 'node:path';
import { noGrad } from '../../autograd/modes.js';
import { empty } from '../../create.js';
import { type DType, dtypeSize } from '../../dtype.js';
import { CheckpointError, ShapeError } from '../../errors.js';
import { CHUNK_BYTES } from '../../io/chunks.js';
import { type FileSink, type FileSystem, fileError } from '../../io/files.js';
import { writeSafetensors } from '../../io/safetensors.js';
import { show } from '../../io/safetensors_header.js';
import { openSafetensorsFile, type SafetensorsFile } from '../../io/safetensors_reader.js';
import { scope } from '../../memory.js';
import { clone, copy_ } from '../../ops/copy.js';
import { narrow } from '../../ops/view.js';
import { numel, type Shape, sameShape, showShape } from '../../shape.js';
import type { Tensor } from '../../tensor.js';
import { Layout } from '../layout.js';
import { layoutOf, stagePlaceOf } from '../layout_of.js';
import type { ProcessGroup } from '../process_group.js';
import { type Box, boxesOf, intersection, ownBoxes } from './boxes.js';

const SHARDING = 'DCP_SHARDING_INFO';
const digits = (n: number): string => String(n).padStart(5, '0');

/** What this rank writes: parts of tensors, by file and name. */
export type Parts = Map<string, Map<string, { readonly part: Tensor; readonly offsets: readonly number[] }>>;

/**
 * What this rank has to write. Tensors without a layout are the same on all ranks of the group, or on all that have this stage of a pipeline, and
 * written once; what several stages have, by the one that counts it.
 * @param copies parts are copies, which later changes of the tensors do not reach; free them
 */
export function partsOf(tensors: ReadonlyMap<string, Tensor>, group: ProcessGroup, copies = false): Parts {
  const files: Map<string, { part: Tensor; offsets: readonly number[] }>[] = [];
  const turns = { staged: 0, everywhere: 0 }; // each the same on all ranks that take turns
  for (const [name, tensor] of [...tensors].toSorted(([a], [b]) => (a < b ? -1 : 1))) {
    const place = stagePlaceOf(tensor);
    if (place?.counted === false) continue;
    const layout = layoutOf(tensor) ?? (place && new Layout(place.mesh, tensor.shape, {}));
    const turn = turns[place ? 'staged' : 'everywhere']++;
    const whole = boxesOf(tensor.shape.map((length) => [{ start: 0, length }]));
    const boxes = layout ? ownBoxes(layout, turn, place !== null) : turn % group.size === group.rank ? whole : [];
    boxes.forEach((box, i) => {
      const own = partOf(tensor, box);
      files[i] ??= new Map(); // a file holds a name once
      files[i]!.set(name, { part: copies ? noGrad(() => clone(own)).keep() : own, offsets: box.offsets });
    });
  }
  return new Map(files.map((parts, i) => [`shard-${digits(group.rank + 1)}-model-${digits(i + 1)}-of-${digits(files.length)}.safetensors`, parts]));
}

/** Writes one of the files of partsOf. */
export async function writeParts(sink: FileSink, parts: ReadonlyMap<string, { readonly part: Tensor; readonly offsets: readonly number[] }>): Promise<void> {
  const offsets = Object.fromEntries([...parts].map(([name, part]) => [name, { saved_offsets: part.offsets }]));
  const tensors = new Map([...parts].map(([name, { part }]) => [name, part]));
  await writeSafetensors(sink, tensors, { [SHARDING]: JSON.stringify(offsets), DCP_VERSION: '1.0' }, 'saveCheckpoint');
}

function partOf(tensor: Tensor, { local, sizes }: Box): Tensor {
  return sizes.reduce((t, size, d) => narrow(t, d, local[d]!, size), tensor.detach());
}

/** A stored box. */
interface Stored {
  readonly file: SafetensorsFile;
  readonly offsets: readonly number[];
  readonly sizes: Shape;
}

/** What is read from each file to where it belongs. */
type Direct = Map<SafetensorsFile, { name: string; tensor: Tensor; from: number }[]>;

/** An opened folder: the tensors in it, as wholes. Close it. */
export class ShardReader implements AsyncDisposable {
  private constructor(
    private readonly folder: string,
    private readonly files: readonly SafetensorsFile[],
    private readonly stored: ReadonlyMap<string, readonly Stored[]>,
  ) {}

  /** Opens the safetensors files of a folder, or some of them. Reads headers alone. */
  static async open(folder: string, fs: FileSystem = nodeFs, only?: readonly string[]): Promise<ShardReader> {
    const files: SafetensorsFile[] = [];
    const stored = new Map<string, Stored[]>();
    try {
      const names = only ?? (await fs.readdir(folder)).filter((name) => name.endsWith('.safetensors')).toSorted();
      for (const name of names) {
        const file = await openSafetensorsFile(join(folder, name), fs);
        files.push(file);
        const sharding = shardingOf(file, join(folder, name));
        for (const tensor of file.names) {
          const sizes = file.info(tensor).shape;
          const offsets = sharding ? sharding(tensor, sizes) : sizes.map(() => 0);
          stored.set(tensor, [...(stored.get(tensor) ?? []), { file, offsets, sizes }]);
        }
      }
    } catch (error) {
      for (const file of files) await file.close();
      throw fileError(error, `loadCheckpoint: cannot read "${folder}"`);
    }
    return new ShardReader(folder, files, stored);
  }

  get names(): string[] {
    return [...this.stored.keys()];
  }
  /** The shape of the whole: PyTorch stores none, so it is where the last box ends. */
  shape(name: string): number[] {
    const parts = this.partsOf(name);
    return parts[0]!.sizes.map((_, d) => Math.max(...parts.map((p) => p.offsets[d]! + p.sizes[d]!)));
  }

  dtype(name: string): DType {
    const { dtype } = this.partsOf(name)[0]!.file.info(name);
    if (dtype === null) throw new CheckpointError(`loadCheckpoint: tensor ${show(name)}: its dtype has no counterpart here`);
    return dtype;
  }

  /** How many files have a piece of a tensor. @throws CheckpointError unless each element is there once, or the same in replicas */
  pieces(name: string): number {
    const parts = this.partsOf(name);
    const unique: Stored[] = [];
    for (const part of parts) {
      const before = unique.find((other) => intersection(other, part));
      if (before && !sameBox(before, part)) throw new CheckpointError(`loadCheckpoint: "${this.folder}" has elements of tensor ${show(name)} twice`);
      if (!before) unique.push(part);
    }
    const missing = numel(this.shape(name)) - unique.reduce((n, part) => n + numel(part.sizes), 0);
    if (missing > 0) throw this.incomplete(name, missing);
    return parts.length;
  }

  private incomplete(name: string, missing: number): CheckpointError {
    return new CheckpointError(`loadCheckpoint: "${this.folder}" lacks ${missing} elements of tensor ${show(name)}: files of a rank are missing`);
  }

  private partsOf(name: string): readonly Stored[] {
    const parts = this.stored.get(name);
    if (!parts) throw new CheckpointError(`loadCheckpoint: "${this.folder}" has no tensor ${show(name)}; it has ${this.names.length}`);
    return parts;
  }

  /** Fills what this rank has of a tensor, in the tensor's own dtype. @throws CheckpointError where the files lack some of it */
  async fill(name: string, target: Tensor): Promise<void> {
    await this.fillAll([[name, target]]);
  }

  /** Fills tensors, which takes less time than one after another. */
  async fillAll(targets: readonly (readonly [name: string, target: Tensor])[]): Promise<void> {
    const direct: Direct = new Map();
    for (const [name, target] of targets) await this.fillOne(name, target, direct);
    for (const [file, parts] of direct) await file.fill(parts);
  }

  private async fillOne(name: string, target: Tensor, direct: Direct): Promise<void> {
    const layout = layoutOf(target);
    const whole = layout?.shape ?? target.shape;
    const shape = this.shape(name);
    if (!sameShape(shape, whole))
      throw new ShapeError(`loadCheckpoint: tensor ${show(name)} is ${showShape(shape)} in "${this.folder}", expected ${showShape(whole)}`);
    const ranges = layout ? layout.ranges() : whole.map((length) => [{ start: 0, length }]);
    for (const box of boxesOf(ranges)) await this.fillBox(name, target, box, direct);
  }

  private async fillBox(name: string, target: Tensor, box: Box, direct: Direct): Promise<void> {
    let missing = numel(box.sizes);
    const taken: Omit<Box, 'local'>[] = [];
    for (const stored of this.partsOf(name)) {
      const common = intersection(box, stored);
      if (!common) continue;
      const before = taken.find((t) => intersection(t, common));
      if (before && !sameBox(before, common)) throw new CheckpointError(`loadCheckpoint: "${this.folder}" has elements of tensor ${show(name)} twice`);
      if (before) continue; // a replica
      taken.push(common);
      missing -= numel(common.sizes);
      await this.copyBox(name, stored, common, target, box, direct);
    }
    if (missing > 0) throw this.incomplete(name, missing);
  }

  /**
   * Whole stored rows that lie in the target as they do in the file are read there. Of others, rows of dimension 0 at a time, what is wanted is
   * copied on the device.
   */
  private async copyBox(name: string, stored: Stored, common: Omit<Box, 'local'>, target: Tensor, box: Box, direct: Direct): Promise<void> {
    const dtype = this.dtype(name);
    const inner = stored.sizes.slice(1);
    const rowBytes = numel(inner) * dtypeSize[dtype];
    const scalar = stored.sizes.length === 0;
    const rows = scalar ? 1 : common.sizes[0]!;
    const first = scalar ? 0 : common.offsets[0]! - stored.offsets[0]!;
    const to = common.sizes.reduce((t, size, d) => narrow(t, d, box.local[d]! + common.offsets[d]! - box.offsets[d]!, size), target.detach());
    if (target.dtype === dtype && to.isContiguous && inner.every((size, d) => size === common.sizes[d + 1])) {
      to.storage.wrote('load');
      const part = { name, tensor: to, from: first * rowBytes };
      if (!direct.get(stored.file)?.push(part)) direct.set(stored.file, [part]);
      return;
    }
    const step = Math.max(1, Math.floor(CHUNK_BYTES / Math.max(1, rowBytes)));
    for (let at = 0; at < rows; at += step) {
      const count = Math.min(step, rows - at);
      const read = empty(scalar ? [] : [count, ...inner], { dtype, device: target.device });
      await stored.file.fill([{ name, tensor: read, from: (first + at) * rowBytes }]);
      scope(() => {
        const from = inner.reduce((t, _, d) => narrow(t, d + 1, common.offsets[d + 1]! - stored.offsets[d + 1]!, common.sizes[d + 1]!), read);
        copy_(scalar ? to : narrow(to, 0, at, count), from);
      });
      read.dispose();
    }
  }

  async close(): Promise<void> {
    await Promise.all(this.files.map((file) => file.close()));
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

const sameBox = (a: Omit<Box, 'local'>, b: Omit<Box, 'local'>): boolean => `${a.offsets}:${a.sizes}` === `${b.offsets}:${b.sizes}`;

/** Where each tensor of a file begins in its whole; null when they are whole. The header may be anybody's. */
function shardingOf(file: SafetensorsFile, path: string): ((name: string, sizes: Shape) => number[]) | null {
  const text = file.metadata[SHARDING];
  if (text === undefined) return null;
  let json: Record<string, { saved_offsets?: unknown } | undefined> | null;
  try {
    json = JSON.parse(text) as typeof json;
  } catch (cause) {
    throw new CheckpointError(`loadCheckpoint: "${path}": ${SHARDING} is not JSON`, { cause });
  }
  return (name, sizes) => {
    const offsets = json && Object.hasOwn(json, name) ? json[name]?.saved_offsets : undefined;
    const valid = Array.isArray(offsets) && offsets.length === sizes.length && offsets.every((o, d) => Number.isSafeInteger(o + sizes[d]!) && o >= 0);
    if (!valid) throw new CheckpointError(`loadCheckpoint: "${path}": ${SHARDING} has no valid offsets of tensor ${show(name)}`);
    return offsets as number[];
  };
}
