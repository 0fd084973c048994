// The main thread's side of the loader's workers. Each worker answers its requests in order; the batches are taken from the workers
// in turn, so their order does not depend on timing. A worker that dies fails the wait for it with a DataError, at once.
import { Worker } from 'node:worker_threads';
import { DataError } from '../errors.js';
import { END, showIndices } from './producer.js';
import type { NextEpoch, WorkerAnswer, WorkerRequest, WorkerStart } from './worker.js';

class WorkerThread {
  private readonly thread: Worker;
  private readonly answers: WorkerAnswer[] = [];
  /** Requests without an answer, for the text of an error. */
  private readonly open: WorkerRequest[] = [];
  private failure: Error | null = null;
  private wake: (() => void) | null = null;

  constructor(
    private readonly index: number,
    start: WorkerStart,
    private readonly timeoutMs: number,
  ) {
    // `node --input-type=module -e …` hands its flag down, and a worker with a file would refuse to start with it
    const inline = process.execArgv.some((flag) => flag.startsWith('--input-type'));
    try {
      this.thread = new Worker(new URL('./worker.js', import.meta.url), {
        workerData: start,
        name: `shardgrad loader ${index}`,
        ...(inline && { execArgv: [] }),
      });
    } catch (cause) {
      throw new DataError(`DataLoader: worker ${index} cannot be started: ${(cause as Error).message}`, { cause });
    }
    this.thread.on('message', (answer: WorkerAnswer) => {
      this.open.shift();
      this.answers.push(answer);
      this.wake?.();
    });
    this.thread.on('messageerror', (cause) => this.fail(`sent a batch that cannot be read: ${cause.message}`, cause));
    this.thread.on('error', (cause: Error) => this.fail(`died: ${cause?.message ?? cause}`, cause));
    this.thread.on('exit', (code) => this.fail(`ended by itself with exit code ${code}`));
    // only a wait for a batch keeps the process alive
    this.thread.unref();
  }

  /** Nothing was asked that is not delivered yet. */
  get idle(): boolean {
    return this.open.length === 0 && this.answers.length === 0 && this.failure === null;
  }

  private get doing(): string {
    const request = this.open[0];
    return request === undefined ? '' : request === null ? ' while reading the stream' : ` while loading samples ${showIndices(request)}`;
  }

  private fail(what: string, cause?: unknown): void {
    this.failure ??= new DataError(`DataLoader: worker ${this.index} ${what}${this.doing}`, { cause });
    this.wake?.();
  }

  request(request: WorkerRequest): void {
    this.open.push(request);
    this.thread.postMessage(request);
  }

  nextEpoch(epoch: NextEpoch): void {
    this.thread.postMessage(epoch);
  }

  /** The answer to the oldest request: a batch or END. */
  async take(): Promise<unknown> {
    if (this.answers.length === 0 && this.failure === null) await this.wait();
    const answer = this.answers.shift();
    if (answer === undefined) throw this.failure!;
    if (answer.kind === 'end') return END;
    if (answer.kind === 'batch') return answer.batch;
    const cause = Object.assign(new Error(answer.cause.message), answer.cause);
    throw new DataError(`${answer.message} (in worker ${this.index})`, { cause });
  }

  private async wait(): Promise<void> {
    this.thread.ref();
    const timer = setTimeout(() => this.fail(`delivered nothing for ${this.timeoutMs / 1000} s`), this.timeoutMs);
    try {
      await new Promise<void>((resolve) => {
        this.wake = resolve;
      });
    } finally {
      clearTimeout(timer);
      this.wake = null;
      this.thread.unref();
    }
  }

  async end(): Promise<void> {
    this.failure ??= new DataError('DataLoader: the iteration has ended');
    this.wake?.();
    await this.thread.terminate();
  }
}

/** Deals requests to workers in turn and takes their batches in the same order. */
export class WorkerPool {
  private readonly workers: readonly WorkerThread[];
  private readonly slots: number;
  private rotation: number[] = [];
  private requests: Iterator<WorkerRequest> = [].values();
  private last: number | null = null;

  /** @param starts what to tell each worker */
  constructor(starts: readonly WorkerStart[], timeoutMs: number) {
    this.workers = starts.map((start, i) => new WorkerThread(i, start, timeoutMs));
    this.slots = starts[0]!.slots;
  }

  /** All that was asked for was delivered, and no worker has ended: another epoch may begin. */
  get rests(): boolean {
    return this.workers.every((worker) => worker.idle);
  }

  /** Between two epochs. */
  nextEpoch(starts: readonly WorkerStart[]): void {
    for (const [i, { settings }] of starts.entries()) this.workers[i]!.nextEpoch({ settings });
  }

  /**
   * Begins an epoch.
   * @param rotation the workers that have data left, the one whose turn it is first; updated with every batch
   * @param requests what is to be loaded, in order
   */
  begin(rotation: number[], requests: Iterator<WorkerRequest>): void {
    Object.assign(this, { rotation, requests, last: null });
    for (let i = 0; i < this.slots; i++) for (const worker of rotation) this.ask(worker);
  }

  private ask(worker: number): void {
    const { value, done } = this.requests.next();
    if (!done) this.workers[worker]!.request(value);
  }

  /** The next batch and the worker it came from; END when there is none. Its arrays are valid until `copied`. */
  async next(): Promise<{ batch: unknown; worker: number } | typeof END> {
    while (this.rotation.length > 0) {
      const worker = this.rotation[0]!;
      // turns go round in the order of the requests: nothing asked of this one means that all was delivered
      if (this.workers[worker]!.idle) return END;
      const batch = await this.workers[worker]!.take();
      this.rotation.shift();
      if (batch === END) continue;
      this.rotation.push(worker);
      this.last = worker;
      return { batch, worker };
    }
    return END;
  }

  /** The arrays of the last batch are no longer needed: its worker may go on with another. */
  copied(): void {
    if (this.last !== null) this.ask(this.last);
    this.last = null;
  }

  async end(): Promise<void> {
    await Promise.all(this.workers.map((worker) => worker.end()));
  }
}
