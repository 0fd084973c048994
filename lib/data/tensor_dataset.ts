// Datasets over arrays that are in memory as a whole. Fields that are tensors are gathered on their device, a batch in one call;
// fields in JavaScript memory can also be used by workers, which share them.
import { fromTypedArray } from '../create.js';
import type { TypedArray } from '../dtype.js';
import { describe, ShapeError, ValueError } from '../errors.js';
import { indexSelect } from '../ops/indexing.js';
import { Tensor } from '../tensor.js';
import { checkIndex, type Dataset } from './dataset.js';
import { checkHostArray, type HostArray, isHostArray, isTypedArray, sameKind, toShared } from './host_array.js';
import { type ModuleRef, OWN_MODULE } from './module_ref.js';

/** One array of a TensorDataset: the first dimension counts the samples. */
export type Field = Tensor | HostArray | TypedArray;
/** A sample keeps the fields' names or places, without the first dimension. */
export type FieldSample<F> = { -readonly [K in keyof F]: F[K] extends Tensor ? Tensor : HostArray };

function fieldLength(field: Field): number {
  return isTypedArray(field) ? field.length : (field.shape[0] ?? 0);
}

/**
 * Samples are the rows of arrays of equal length.
 *
 * ```ts
 * new TensorDataset({ images: x, labels: y }); // batches { images, labels }
 * new TensorDataset([x, y]); //                   batches [x, y]
 * ```
 */
export class TensorDataset<F extends Readonly<Record<string, Field>> | readonly Field[]> implements Dataset<FieldSample<F>> {
  /** Rows of each array. */
  readonly length: number;
  private reference: ModuleRef | null = null;
  private readonly entries: readonly (readonly [string, Tensor | HostArray])[];

  constructor(private readonly fields: F) {
    const entries = Object.entries(fields ?? {}) as [string, Field][];
    if (entries.length === 0) throw new ValueError('TensorDataset: expected at least one tensor or array');
    this.entries = entries.map(([name, field]) => {
      if (isTypedArray(field)) return [name, { data: field, shape: [field.length] }];
      if (!(field instanceof Tensor) && !isHostArray(field))
        throw new ValueError(`TensorDataset: field ${name} must be a tensor or an array, got ${describe(field)}`);
      if (field.shape.length === 0) throw new ShapeError(`TensorDataset: field ${name} has no dimension that counts the samples`);
      return [name, field instanceof Tensor ? field : checkHostArray(field, `TensorDataset: field ${name}`)];
    });
    this.length = fieldLength(entries[0]![1]);
    for (const [name, field] of entries) {
      if (fieldLength(field) !== this.length)
        throw new ShapeError(`TensorDataset: field ${entries[0]![0]} has ${this.length} samples, field ${name} has ${fieldLength(field)}`);
    }
  }

  /** Views of row `index`: nothing is copied. */
  get(index: number): FieldSample<F> {
    checkIndex(index, this.length, 'TensorDataset.get');
    return this.assemble((field) => {
      if (field instanceof Tensor) return field.select(0, index);
      const size = field.data.length / this.length;
      return { ...field, data: field.data.subarray(index * size, (index + 1) * size), shape: field.shape.slice(1) };
    }) as FieldSample<F>;
  }

  /** The rows at `indices`, stacked. */
  getBatch(indices: readonly number[]): unknown {
    for (const index of indices) checkIndex(index, this.length, 'TensorDataset.getBatch');
    return this.assemble((field) => {
      if (field instanceof Tensor) {
        const rows = fromTypedArray(BigInt64Array.from(indices, BigInt), [indices.length], { device: field.device });
        const picked = indexSelect(field, 0, rows);
        rows.dispose();
        return picked;
      }
      const size = field.data.length / this.length;
      const data = sameKind(field.data, indices.length * size);
      for (const [i, index] of indices.entries()) data.set(field.data.subarray(index * size, (index + 1) * size) as never, i * size);
      return { ...field, data, shape: [indices.length, ...field.shape.slice(1)] };
    });
  }

  private assemble(part: (field: Tensor | HostArray) => Tensor | HostArray): unknown {
    const parts = this.entries.map(([name, field]) => [name, part(field)] as const);
    return Array.isArray(this.fields) ? parts.map(([, value]) => value) : Object.fromEntries(parts);
  }

  toWorker(): ModuleRef {
    // made once: every loop of every loader shares the same copy
    this.reference ??= { module: OWN_MODULE, export: 'TensorDataset', args: [this.assemble(shareField)] };
    return this.reference;
  }
}

function shareField(field: Tensor | HostArray): HostArray {
  if (field instanceof Tensor)
    throw new ValueError('TensorDataset: tensors cannot be sent to a worker thread; use workers: 0 (a batch is one gather) or typed arrays');
  return { ...field, data: toShared(field.data) };
}
