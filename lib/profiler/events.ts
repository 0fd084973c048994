// What a profile is made of. Times are microseconds of a clock that all processes of a host share.

/** A call of an operation, on JavaScript's thread: what it takes to check and enqueue it. */
export interface OpEvent {
  readonly kind: 'op';
  /** As the native side calls it: `matmul`, `softmaxBackward`. */
  readonly name: string;
  readonly begin: number;
  readonly end: number;
  /** The module whose forward called it, or whose forward call is being differentiated: `Linear "encoder.fc1"`. Empty outside of modules. */
  readonly module: string;
  /** `recompute`: forward once more, within backward, of what was checkpointed. */
  readonly phase: 'forward' | 'backward' | 'recompute';
  readonly device: string;
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
  /** Bytes of live tensors and of memory held from the system on its device, once it was enqueued. */
  readonly liveBytes: number;
  readonly reservedBytes: number;
  /** Of a collective: its group, and its number in that (0: a message). */
  readonly collective: { readonly group: string; readonly sequence: number } | null;
}

/** A command that ran on a stream. */
export interface CommandEvent {
  readonly kind: 'command';
  readonly name: string;
  readonly begin: number;
  readonly end: number;
  readonly device: string;
  readonly stream: StreamName;
  readonly number: number;
  /** Whether the device told the time. Otherwise the thread did that ran it, which on a GPU is the time of launching. */
  readonly timedByDevice: boolean;
  /** The call that enqueued it; null for copies, waits and what else is no operation. */
  readonly op: OpEvent | null;
}

/** Something that lasted on JavaScript's thread. `wait`: a call that waited for a device, or copied from or to one. */
export interface SpanEvent {
  readonly kind: 'module' | 'range' | 'step' | 'wait';
  readonly name: string;
  readonly begin: number;
  readonly end: number;
}

export type StreamName = 'compute' | 'communication';
export type ProfilerEvent = OpEvent | CommandEvent | SpanEvent;

/** Commands in which a stream stands still or says how far it is: they are no work. */
const STANDSTILLS: ReadonlySet<string> = new Set(['waitEvent', 'recordEvent', 'streamDone', 'synchronize']);

export function isWork(command: CommandEvent): boolean {
  return !STANDSTILLS.has(command.name);
}
