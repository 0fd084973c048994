// One collective on its way into native code, and several of them made into fewer.
import type { NativeOpName } from '../autograd/rules/types.js';
import type { Device } from '../device.js';
import { type DType, dtypeCode, dtypeSize } from '../dtype.js';
import { fromNative } from '../errors.js';
import { native } from '../native.js';
import { type Fresh, fresh, invoke } from '../ops/door.js';
import { narrow } from '../ops/view.js';
import type { Tensor } from '../tensor.js';
import { COMMUNICATION, type Work } from './work.js';

const CODES = new Map(native.collectiveNames().map((name, code) => [name, code]));
/** The number of a collective, by the name the addon has for it. */
export const codeOf = (name: string): number => CODES.get(name)!;
/** Larger ones gain nothing from being packed. */
const PACK_BYTES = 64 << 10;

/** The row of the op table behind each collective. */
export const ROWS = {
  allReduce: 'allReduce',
  reduce: 'reduceTo',
  broadcast: 'broadcastFrom',
  allGather: 'allGather',
  gather: 'gatherTo',
  scatter: 'scatterFrom',
  reduceScatter: 'reduceScatter',
  allToAll: 'allToAll',
  send: 'exchange',
  recv: 'exchange',
  exchange: 'exchange',
  barrier: 'barrier',
} as const satisfies Record<string, NativeOpName>;
export type CallName = keyof typeof ROWS;

export interface Call {
  readonly name: CallName;
  readonly records: readonly (Tensor | Fresh | null)[];
  /** What follows group, entry and timeout. */
  readonly numbers: readonly number[];
  readonly dtype: DType;
  /** Elements, as the other ranks count them. */
  readonly count: number;
  /** Root or peer; −1: none. */
  readonly root: number;
  readonly place: number;
  readonly timeoutMs: number;
  /** Called when it was enqueued, with the fresh output. */
  enqueued(made: Tensor | undefined): void;
}

/** Enqueues on the communication stream, behind what the compute stream has been given. */
export function launch(group: number, device: Device, call: Call): void {
  const { name, records, numbers, dtype, count, root, place, timeoutMs } = call;
  try {
    const entry = native.enqueueCollective(group, device.slot, codeOf(name), dtypeCode[dtype], count, root, place);
    call.enqueued(invoke(ROWS[name], device, records, [group, entry, timeoutMs, ...numbers], COMMUNICATION)[0]);
  } catch (error) {
    throw fromNative(error);
  }
}

/** A call whose work settles with the result of `result`. */
export function settling<T>(work: Work<T>, result: (made: Tensor | undefined) => T): (made: Tensor | undefined) => void {
  return (made) => void work.launched(result(made));
}

/** All messages become one exchange, small all-reduces or broadcasts of one kind one of all their elements. */
export function merged(calls: readonly Call[], device: Device): Call[] {
  const kinds = new Map<string, Call[]>();
  calls.forEach((call, i) => {
    const kind = kindOf(call) ?? `alone ${i}`;
    const same = kinds.get(kind);
    if (same) same.push(call);
    else kinds.set(kind, [call]);
  });
  return [...kinds.values()].map((same) => (same.length === 1 ? same[0]! : ROWS[same[0]!.name] === 'exchange' ? exchange(same) : packed(same, device)));
}

function kindOf({ name, dtype, count, numbers, timeoutMs }: Call): string | null {
  if (ROWS[name] === 'exchange') return `messages ${timeoutMs}`;
  const small = (name === 'allReduce' || name === 'broadcast') && count * dtypeSize[dtype] <= PACK_BYTES;
  return small ? `${name} ${dtype} ${numbers.join()} ${timeoutMs}` : null;
}

function exchange(calls: readonly Call[]): Call {
  return {
    ...calls[0]!,
    name: 'exchange',
    records: calls.flatMap((c) => c.records),
    numbers: calls.flatMap((c) => c.numbers),
    dtype: 'uint8',
    count: 0,
    root: -1,
    enqueued: () => {
      for (const c of calls) c.enqueued(undefined);
    },
  };
}

function packed(calls: readonly Call[], device: Device): Call {
  const tensors = calls.map((c) => c.records[0] as Tensor);
  const total = calls.reduce((n, c) => n + c.count, 0);
  const whole = invoke('cat', device, [fresh([total], calls[0]!.dtype), ...tensors], [0])[0]!;
  return {
    ...calls[0]!,
    records: [whole],
    count: total,
    enqueued: () => {
      let at = 0;
      calls.forEach((c, i) => {
        invoke('copy', device, [narrow(whole, 0, at, c.count), tensors[i]!], [], COMMUNICATION);
        at += c.count;
        c.enqueued(undefined);
      });
      whole.dispose();
    },
  };
}
