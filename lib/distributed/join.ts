// join: ranks whose data end at different steps. Every step begins with the ranks telling each other who has a batch; those that
// have none contribute nothing to each collective of the others, as it is announced (ensemble.ts), until nobody has one, and then
// take over the model of a rank that was there last. Only the iterator waits; the training step itself does not.
import { DistributedError, describe, ValueError } from '../errors.js';
import type { Stateful } from '../io/checkpoint.js';
import type { Tensor } from '../tensor.js';
import type { CombinationOptions } from './combinations.js';
import type { Ensemble } from './ensemble.js';
import { broadcastState } from './follow.js';

/** Options of the `join` of DistributedDataParallel. */
export interface JoinOptions extends CombinationOptions {
  /**
   * What the gradients of a step that some ranks have no data for are divided by, when they are averaged: by `initial` (default) all ranks,
   * so that every sample of an epoch counts about the same, or the ranks still `active`, so that every step does.
   */
  divideBy?: 'initial' | 'active';
  /** When the first rank ends, all others throw and say which. For steps with collectives of your own, which nobody could shadow. Default false. */
  throwOnEarlyEnd?: boolean;
  /** Optimizers, schedules and the like, which ranks that ended early take over with the model. */
  states?: readonly Stateful[];
}

/** What join needs of the wrapper. */
export interface Joinable {
  readonly parameters: () => readonly Tensor[];
  /** Those that ranks have in common. */
  readonly buffers: () => readonly Tensor[];
  /** What the wrapper itself must know to go on. */
  readonly states: readonly Stateful[];
  readonly divideByActive: (on: boolean) => void;
}

function batchesOf<B>(source: AsyncIterable<B> | Iterable<B>): AsyncIterator<B> | Iterator<B> {
  const make = (source as AsyncIterable<B>)?.[Symbol.asyncIterator] ?? (source as Iterable<B>)?.[Symbol.iterator];
  if (typeof make !== 'function') throw new ValueError(`join: expected a loader or another iterable, got ${describe(source)}`);
  return make.call(source);
}

export async function* join<B>(
  source: AsyncIterable<B> | Iterable<B>,
  ensemble: Ensemble,
  joined: Joinable,
  options: JoinOptions,
): AsyncGenerator<B, void, void> {
  const { divideBy = 'initial', throwOnEarlyEnd = false, states = [] } = options ?? {};
  if (divideBy !== 'initial' && divideBy !== 'active') throw new ValueError(`join: divideBy must be initial or active, got ${describe(divideBy)}`);
  const batches = batchesOf(source);
  let ended = false;
  let last: readonly number[] = ensemble.active;
  joined.divideByActive(divideBy === 'active');
  try {
    for (let step = 0; ; step++) {
      const next: IteratorResult<B> | null = ended ? null : await batches.next();
      if (step > 0 && !ended) ensemble.endStep();
      ended ||= next!.done === true;
      const active = await ensemble.meet(!ended);
      if (active.length === 0) break;
      last = active;
      if (throwOnEarlyEnd && active.length < ensemble.size) throw earlyEnd(ensemble, step);
      if (ended) await ensemble.shadowStep();
      else yield next!.value as B;
    }
  } finally {
    ensemble.everybody();
    joined.divideByActive(false);
    if (!ended) await batches.return?.();
  }
  // buffers may differ between ranks that ended together, parameters and states do not
  const together = last.length === ensemble.size;
  const src = last.at(-1)!;
  for (const t of [...(together ? [] : joined.parameters()), ...joined.buffers()]) await ensemble.group.broadcast(t, { src, label: 'at the end of join' });
  if (together) return;
  for (const state of [...joined.states, ...states]) await broadcastState(ensemble.group, state, src);
}

function earlyEnd({ active, size }: Ensemble, step: number): DistributedError {
  const list = (ranks: readonly number[]): string => `${ranks.length === 1 ? 'rank' : 'ranks'} ${ranks.join(', ')}`;
  const gone = Array.from({ length: size }, (_, r) => r).filter((r) => !active.includes(r));
  return new DistributedError(`join: ${list(gone)} ended ${gone.length === 1 ? 'its' : 'their'} data at step ${step}, ${list(active)} went on`);
}
