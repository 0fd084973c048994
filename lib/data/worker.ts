// What runs in a loader's worker thread: makes the dataset, then answers every request with a batch or an error, in order. Batches
// are laid out in shared memory; a slot is used again only when the main thread has asked for as many batches more as there are
// slots, and by then it has copied the earlier one.
import { parentPort, workerData } from 'node:worker_threads';
import { withContext } from '../context.js';
import { Scope } from '../storage.js';
import { Arena, type CollateFunction, toMessage } from './collate.js';
import { checkDataset } from './dataset.js';
import { construct, type ModuleRef, resolveFunction } from './module_ref.js';
import { END, Producer, type ProducerSettings } from './producer.js';

/** What the main thread tells a worker at its start. */
export interface WorkerStart {
  readonly dataset: ModuleRef;
  readonly collate: ModuleRef | null;
  readonly settings: ProducerSettings;
  readonly slots: number;
}
/** The indices of a batch, or null for the next batch of a stream. */
export type WorkerRequest = readonly number[] | null;
/** Before another epoch's requests: the settings it has. */
export interface NextEpoch {
  readonly settings: ProducerSettings;
}
export type WorkerAnswer =
  | { readonly kind: 'batch'; readonly batch: unknown }
  | { readonly kind: 'end' }
  | {
      readonly kind: 'error';
      readonly message: string;
      readonly cause: { readonly name: string; readonly message: string; readonly stack: string | undefined };
    };

const FIRST_SLOT_BYTES = 1 << 16;

async function serve(start: WorkerStart): Promise<void> {
  const port = parentPort!;
  const requests: (WorkerRequest | NextEpoch)[] = [];
  let wake: () => void = () => {};
  port.on('message', (request: WorkerRequest | NextEpoch) => {
    requests.push(request);
    wake();
  });
  const slots = Array.from({ length: start.slots }, () => Arena.ofBytes(FIRST_SLOT_BYTES));
  let { settings } = start;
  let make: MakeProducer | null = null;
  let producer: Producer | null = null;
  for (let turn = 0; ; ) {
    if (requests.length === 0)
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    const request = requests.shift()!;
    if (isNextEpoch(request)) {
      ({ settings } = request);
      producer = null;
      continue;
    }
    const arena = slots[turn]!.next();
    slots[turn] = arena;
    turn = (turn + 1) % slots.length;
    const scope = new Scope();
    let answer: WorkerAnswer;
    try {
      make ??= await producerMaker(start);
      producer ??= make(settings);
      answer = await withContext({ scope }, async () => {
        const batch = await producer!.produce(request, arena);
        return batch === END ? { kind: 'end' } : { kind: 'batch', batch: toMessage(batch, arena) };
      });
      port.postMessage(answer);
    } catch (error) {
      const outer = error instanceof Error ? error : new Error(String(error));
      const { name, message, stack } = outer.cause instanceof Error ? outer.cause : outer;
      port.postMessage({ kind: 'error', message: outer.message, cause: { name, message, stack } } satisfies WorkerAnswer);
    } finally {
      scope.end(null);
    }
  }
}

function isNextEpoch(request: WorkerRequest | NextEpoch): request is NextEpoch {
  return request !== null && 'settings' in request;
}

type MakeProducer = (settings: ProducerSettings) => Producer;

/** Makes the dataset, once. */
async function producerMaker(start: WorkerStart): Promise<MakeProducer> {
  const dataset = checkDataset(await construct(start.dataset, 'DataLoader'), 'DataLoader');
  const collate = start.collate ? ((await resolveFunction(start.collate, 'DataLoader')) as CollateFunction) : null;
  return (settings) => new Producer(dataset, collate, settings);
}

await serve(workerData as WorkerStart);
