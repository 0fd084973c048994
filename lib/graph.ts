// Captured graphs: what a function gives a GPU is recorded once and launched as a whole from then on, without the host's work for
// each kernel. Everything that changes from step to step lies in the device's memory (inputs, learning rates, step counts, random
// keys) and is written before a launch.
import { Capture, MAX_KEYS } from './capture.js';
import { context, withContext } from './context.js';
import { empty } from './create.js';
import { type DeviceLike, device as deviceNamed, synchronizeSync } from './device.js';
import { DeviceError, DisposedError, describe, fromNative, ShapeError, ValueError } from './errors.js';
import { scope } from './memory.js';
import { native } from './native.js';
import { copy_ } from './ops/copy.js';
import { checkInteger, sameShape, showShape } from './shape.js';
import { Tensor } from './tensor.js';

/** Device and warm-up of `capture`. */
export interface CaptureOptions {
  /** Where the function computes; by default the device of the first input. */
  device?: DeviceLike;
  /** How often the function runs, for real, before it is captured: 1 unless said otherwise. Whatever is made at first use (an
   * optimizer's state, plans of matrix products) has to be there by then. */
  warmup?: number;
}

/** A captured function. Its inputs and outputs keep their memory; it can be used in a `using` declaration. */
export class CapturedGraph<T> {
  private disposed = false;
  /** @internal */
  constructor(
    private readonly handle: number,
    private readonly recorded: Capture,
    private readonly keys: Tensor,
    /** Static: a replay reads them. */
    readonly inputs: readonly Tensor[],
    /** What the function returned; a replay writes the tensors in it anew. */
    readonly outputs: T,
  ) {}

  /**
   * Runs the captured step once more, on these values, which are copied into the inputs; none: on what the inputs hold.
   * Enqueues and does not wait. Returns the outputs.
   */
  replay(values: readonly Tensor[] = []): T {
    if (this.disposed) throw new DisposedError('graph.replay: the graph was disposed of');
    if (values.length !== 0 && values.length !== this.inputs.length) {
      throw new ValueError(`graph.replay: the graph has ${this.inputs.length} inputs, got ${values.length} values`);
    }
    values.forEach((value, i) => {
      const input = this.inputs[i]!;
      if (!(value instanceof Tensor)) throw new ValueError(`graph.replay: expected a tensor as value ${i}, got ${describe(value)}`);
      if (!sameShape(value.shape, input.shape)) {
        throw new ShapeError(`graph.replay: value ${i} is ${showShape(value.shape)}, the graph was captured for ${showShape(input.shape)}`);
      }
      if (value !== input) copy_(input.detach(), value.detach());
    });
    for (const effect of this.recorded.effects) effect();
    try {
      const { keysInUse } = this.recorded;
      if (keysInUse.length > 0) native.write(this.keys.storage.handle, 0, keysInUse);
      native.graphLaunch(this.handle);
    } catch (error) {
      throw fromNative(error);
    }
    return this.outputs;
  }

  /** Gives the graph's memory back; its outputs stay until they are disposed of. */
  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    this.keys.dispose();
    native.graphFree(this.handle);
  }
  /** For `using` declarations: `dispose()`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/**
 * Captures what `fn(...inputs)` gives a GPU, whole training steps included: forward, backward, clipping, optimizer, dropout. The
 * function is called `warmup` times first and then once more to be recorded, without taking effect; what it returns are
 * the graph's outputs. Shapes and the control flow of the host are those of this call, and values cannot be read within.
 *
 * Method: CUDA graphs by stream capture, with the memory of the graph in a pool of its own.
 */
export function capture<T, const I extends readonly Tensor[]>(fn: (...inputs: I) => T, inputs?: I, options: CaptureOptions = {}): CapturedGraph<T> {
  if (typeof fn !== 'function') throw new ValueError(`graph.capture: expected a function, got ${describe(fn)}`);
  const given = (inputs ?? []) as unknown as I;
  given.forEach((x, i) => {
    if (!(x instanceof Tensor)) throw new ValueError(`graph.capture: expected a tensor as input ${i}, got ${describe(x)}`);
  });
  const name = options.device ?? given[0]?.device;
  if (name === undefined) throw new ValueError('graph.capture: without inputs it needs the option device');
  const device = deviceNamed(name);
  if (device.type !== 'cuda') throw new DeviceError(`graph.capture: graphs are for cuda, got ${device}`);
  const warmup = checkInteger(options.warmup ?? 1, 'warmup', 'graph.capture', 0);
  if (context().capture) throw new ValueError('graph.capture: a graph is being captured');
  for (let i = 0; i < warmup; i++) scope(() => void fn(...given));

  const recorded = new Capture();
  const keys = empty([4 * MAX_KEYS], { dtype: 'uint32', device }).keep();
  let handle = -1;
  try {
    native.captureBegin(device.slot, keys.storage.handle);
    let outputs: T;
    try {
      outputs = withContext({ capture: recorded }, () => scope(() => fn(...given)));
      if (outputs instanceof Promise) throw new ValueError('graph.capture: the function must not be async');
    } finally {
      handle = native.captureEnd(device.slot);
    }
    synchronizeSync(device);
    return new CapturedGraph(handle, recorded, keys, given, outputs);
  } catch (error) {
    if (handle >= 0) native.graphFree(handle);
    keys.dispose();
    throw fromNative(error);
  }
}
