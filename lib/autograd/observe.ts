// Whoever looks at what is recorded: one observer, in debug mode.
import type { Tensor } from '../tensor.js';

export type RecordObserver = (op: string, inputs: readonly (Tensor | number | null)[], outputs: readonly Tensor[], attrs: unknown, module: string) => void;

let observer: RecordObserver | null = null;

export function setRecordObserver(fn: RecordObserver | null): void {
  observer = fn;
}

/** What the op `record` was called for has become part of the graph. */
export function observeRecord(...call: Parameters<RecordObserver>): void {
  observer?.(...call);
}
