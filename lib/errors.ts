// Every error a user can meet is a ShardgradError with a stable `code`. Native errors carry the class name as their code and
// are rebuilt here, so that `instanceof` works whichever side found the mistake.

/** Base of every error that this package throws for a user's mistake or a fault that a user can meet. */
export class ShardgradError extends Error {
  /** Stable, machine-readable kind: the class name. */
  readonly code: string;
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = new.target.name;
  }
}

/** Shapes, dimensions, sizes or counts that do not fit the operation. */
export class ShapeError extends ShardgradError {}
/** An element type the operation does not take, or two that do not go together. */
export class DTypeError extends ShardgradError {}
/** A device that does not exist, cannot be used here, or differs between operands. */
export class DeviceError extends ShardgradError {}
/** Use of a tensor whose memory was given back. */
export class DisposedError extends ShardgradError {}
/** The device, or its limit, has no room for an allocation. */
export class OutOfMemoryError extends ShardgradError {}
/** A rank died, stalled or disagreed, or a group was used after a failure. */
export class DistributedError extends ShardgradError {}
/** A file that is missing, truncated, hostile, or does not match what it is loaded into. */
export class CheckpointError extends ShardgradError {}
/** A data file that is missing or malformed, or a dataset, collate function or loader worker that failed. */
export class DataError extends ShardgradError {}
/** A value outside what an option, an index or an argument may be. */
export class ValueError extends ShardgradError {}
/** Gradients that are not finite at the smallest loss scale a GradScaler may use. */
export class LossScaleError extends ShardgradError {}
/** A gradient that cannot be had: a freed graph, a changed saved tensor, an op without a rule. */
export class AutogradError extends ShardgradError {}
/** A broken promise of this package's own: please report it. */
export class InternalError extends ShardgradError {}

const classes: Record<string, new (message: string) => ShardgradError> = {
  ShapeError,
  DTypeError,
  DeviceError,
  DisposedError,
  OutOfMemoryError,
  DistributedError,
  CheckpointError,
  ValueError,
  InternalError,
};

/** The typed form of an error thrown or rejected by the addon; other errors pass unchanged. */
export function fromNative(error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof ShardgradError) return error;
  const Class = classes[(error as { code?: string }).code ?? ''];
  if (!Class) return error;
  const typed = new Class(error.message);
  if (error.stack) typed.stack = error.stack.replace(/^[^\n]*/, `${typed.name}: ${error.message}`);
  return typed;
}

/** Describes a value of the wrong kind in an error text: `null`, `a string "abc"`, `NaN`. */
export function describe(value: unknown): string {
  if (value === null || value === undefined || typeof value === 'boolean') return String(value);
  if (typeof value === 'number' || typeof value === 'bigint' || typeof value === 'symbol') return String(value);
  if (typeof value === 'string') return `a string ${JSON.stringify(value.slice(0, 40))}`;
  if (typeof value === 'function') return 'a function';
  if (Array.isArray(value)) return `an array of ${value.length}`;
  return `an object of class ${(value as object).constructor?.name ?? 'unknown'}`;
}
