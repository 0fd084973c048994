// The micro-batches of a step, and what each counts in the loss of all: by its rows, or by its valid targets.
import { describe, ShapeError, ValueError } from '../../errors.js';
import { narrow } from '../../ops/view.js';
import { Tensor } from '../../tensor.js';

export interface MicroBatch {
  readonly inputs: readonly Tensor[];
  readonly targets: Tensor | null;
  /** Of all rows of this rank's batch. */
  readonly share: number;
}

/** One that the caller has made. */
export interface GivenMicroBatch {
  /** What the first stage is given. */
  readonly inputs: Tensor | readonly Tensor[];
  /** What the loss is given; none for a forward alone. */
  readonly targets?: Tensor;
}

/** A batch, to be cut along its first dimension, or the micro-batches themselves, which may differ in shape. */
export type Batch = Tensor | readonly GivenMicroBatch[];

const WHERE = 'Pipeline';

/** @throws ShapeError for a batch with too few rows, ValueError for another number of micro-batches than the schedule has */
export function microBatchesOf(batch: Batch, targets: Tensor | undefined, count: number): MicroBatch[] {
  const given = batch instanceof Tensor ? cut(batch, targets, count) : batch;
  if (!Array.isArray(given)) throw new ValueError(`${WHERE}: expected a batch or a list of micro-batches, got ${describe(batch)}`);
  if (given.length !== count) throw new ValueError(`${WHERE}: the schedule has ${count} micro-batches, got ${given.length}`);
  if (!(batch instanceof Tensor) && targets !== undefined) throw new ValueError(`${WHERE}: micro-batches bring their own targets`);
  const all = given.map((b, i) => microBatchOf(b, `micro-batch ${i}`));
  const total = all.reduce((n, { inputs }) => n + rowsOf(inputs), 0);
  return all.map((b) => ({ ...b, share: rowsOf(b.inputs) / total }));
}

const rowsOf = (inputs: readonly Tensor[]): number => inputs[0]!.shape[0] ?? 1;

function cut(batch: Tensor, targets: Tensor | undefined, count: number): GivenMicroBatch[] {
  const rows = batch.shape[0] ?? 0;
  if (rows < count) throw new ShapeError(`${WHERE}: a batch of ${rows} rows cannot be cut into ${count} micro-batches`);
  if (targets && targets.shape[0] !== rows) throw new ShapeError(`${WHERE}: the batch has ${rows} rows, its targets ${targets.shape[0] ?? 'none'}`);
  return Array.from({ length: count }, (_, i) => {
    const [from, to] = [Math.floor((i * rows) / count), Math.floor(((i + 1) * rows) / count)];
    return { inputs: narrow(batch, 0, from, to - from), ...(targets && { targets: narrow(targets, 0, from, to - from) }) };
  });
}

/** @param name for error texts */
export function microBatchOf(b: GivenMicroBatch, name: string, where: string = WHERE): MicroBatch {
  const inputs = b?.inputs instanceof Tensor ? [b.inputs] : b?.inputs;
  if (!Array.isArray(inputs) || inputs.length === 0 || !inputs.every((x) => x instanceof Tensor))
    throw new ValueError(`${where}: ${name} must be { inputs, targets }, got ${describe(b?.inputs ?? b)}`);
  const { targets = null } = b;
  if (targets !== null && !(targets instanceof Tensor)) throw new ValueError(`${where}: the targets of ${name} must be a tensor, got ${describe(targets)}`);
  return { inputs, targets, share: 0 };
}
