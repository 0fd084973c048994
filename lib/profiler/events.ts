// What a profile is made of. Times are microseconds of a clock that all processes of a host share.

/** A call of a collective. */
export interface CollectiveCall {
  /** Name of its group. */
  readonly group: string;
  /** Its number in the group, the same on every rank; 0 of a message. */
  readonly sequence: number;
}

/** A call of an operation, on JavaScript's thread: what it takes to check and enqueue it. */
export interface OpEvent {
  /** What kind of event this is. */
  readonly kind: 'op';
  /** As the native side calls it: `matmul`, `softmaxBackward`. */
  readonly name: string;
  /** When the call began: microseconds. */
  readonly begin: number;
  /** When the call had enqueued its command. */
  readonly end: number;
  /** The module whose forward called it, or whose forward call is being differentiated: `Linear "encoder.fc1"`. Empty outside of modules. */
  readonly module: string;
  /** `recompute`: forward once more, within backward, of what was checkpointed. */
  readonly phase: 'forward' | 'backward' | 'recompute';
  /** The device: `cuda:0`. */
  readonly device: string;
  /** The stream it was enqueued on. */
  readonly stream: StreamName;
  /** Counts the commands of the stream: the command with this number carries the call out. */
  readonly number: number;
  /** Dtypes and shapes of its tensors, results last: `float32[8,16]`. At most 8, then `…`. */
  readonly tensors: readonly string[];
  /** Dtype of the first tensor. */
  readonly dtype: string;
  /** Bytes of all its tensors, each counted once. */
  readonly bytes: number;
  /** Floating-point operations of products, convolutions and attention; 0 for others. */
  readonly flops: number;
  /** Bytes of live tensors on its device, once it was enqueued. */
  readonly liveBytes: number;
  /** Bytes held from the system on its device, once it was enqueued. */
  readonly reservedBytes: number;
  /** Of a collective: which one it was. */
  readonly collective: CollectiveCall | null;
}

/** A command that ran on a stream. */
export interface CommandEvent {
  /** What kind of event this is. */
  readonly kind: 'command';
  /** What it was: an operation, or a step of the stream such as `waitEvent`. */
  readonly name: string;
  /** When it began to run: microseconds. */
  readonly begin: number;
  /** When it had ended. */
  readonly end: number;
  /** The device: `cuda:0`. */
  readonly device: string;
  /** The stream it ran on. */
  readonly stream: StreamName;
  /** Counts the commands of the stream. */
  readonly number: number;
  /** Whether the device told the time. Otherwise the thread did that ran it, which on a GPU is the time of launching. */
  readonly timedByDevice: boolean;
  /** The call that enqueued it; null for copies, waits and what else is no operation. */
  readonly op: OpEvent | null;
}

/** Something that lasted on JavaScript's thread. `wait`: a call that waited for a device, or copied from or to one. */
export interface SpanEvent {
  /** What lasted: the forward of a module, a `profiler.range`, a step, or a wait for a device. */
  readonly kind: 'module' | 'range' | 'step' | 'wait';
  /** Of the module or range; the step's number; what was waited for. */
  readonly name: string;
  /** When it began: microseconds. */
  readonly begin: number;
  /** When it had ended. */
  readonly end: number;
}

/** The two streams of a device. */
export type StreamName = 'compute' | 'communication';
/** Anything that a profile holds. */
export type ProfilerEvent = OpEvent | CommandEvent | SpanEvent;

/** Commands in which a stream stands still or says how far it is: they are no work. */
const STANDSTILLS: ReadonlySet<string> = new Set(['waitEvent', 'recordEvent', 'streamDone', 'synchronize']);

export function isWork(command: CommandEvent): boolean {
  return !STANDSTILLS.has(command.name);
}
