// Recording: while it runs, something stands in the addon's place that notes every call before it passes it on. So nothing of the library knows of
// profiles, and one that is not recorded costs nothing. What an op is about lies in the block anyway; it is copied as numbers and put into
// words when the recording has ended.
import { isAheadOfBackward, moduleInBackward } from '../autograd/current.js';
import { productsInBlock } from '../block_operations.js';
import { context } from '../context.js';
import { openDevices } from '../device.js';
import type { DType } from '../dtype.js';
import { fromNative } from '../errors.js';
import { ABSENT, block, COMMAND_COLUMNS, FRESH, HEADER, Head, type Native, native, RECORD, Rec, replaceNative, SCALAR } from '../native.js';
import type { CommandEvent, OpEvent, SpanEvent, StreamName } from './events.js';

const STREAMS: readonly StreamName[] = ['compute', 'communication'];
const PHASES = ['forward', 'backward', 'recompute'] as const;
/** Tensors of an op that are put into words. */
const SHOWN = 8;
/** Numbers of an op, before those of its tensors. */
enum At {
  Op,
  Slot,
  Stream,
  Number,
  Begin,
  End,
  Module,
  Phase,
  Flops,
  Bytes,
  Live,
  Reserved,
  Group,
  Sequence,
  Tensors,
  Shown,
  Size,
}

export interface Recorded {
  readonly ops: readonly OpEvent[];
  readonly commands: readonly CommandEvent[];
  readonly spans: readonly SpanEvent[];
  /** When it was recorded. */
  readonly begin: number;
  readonly end: number;
  /** Commands there was no room for. */
  readonly lost: number;
}

/** The recording under way. */
export let recording: Recording | null = null;

export class Recording {
  private readonly addon: Native = native;
  /** From performance.now() to the clock of the commands. */
  private readonly offset: number;
  private numbers = new Float64Array(1 << 16);
  private used = 0;
  private readonly modules = new Map<string, number>();
  private lastModule: string | null = null;
  private lastModuleNumber = 0;
  private readonly spans: SpanEvent[] = [];
  private readonly groups = new Map<number, string>();
  private collective: { group: number; sequence: number } = { group: -1, sequence: 0 };
  private readonly begin: number;

  /** Begins to record. What was enqueued before should be done. `afterOp` is called after each op that was noted. @throws ValueError where another profile is being recorded in this process */
  constructor(private readonly afterOp: (() => void) | null = null) {
    try {
      this.addon.startCommandLog();
    } catch (error) {
      throw fromNative(error);
    }
    this.offset = this.addon.now() - 1000 * performance.now();
    this.begin = this.now();
    recording = this;
    replaceNative(this.standIn());
  }

  now(): number {
    return 1000 * performance.now() + this.offset;
  }

  /** Notes something that lasted. */
  span(kind: SpanEvent['kind'], name: string, begin: number): void {
    this.spans.push({ kind, name, begin, end: this.now() });
  }

  /** Ends the recording. What was enqueued should be done: of other commands nothing is known. */
  stop(): Recorded {
    const end = this.now();
    replaceNative(this.addon);
    recording = null;
    const { names, rows, lost } = this.addon.stopCommandLog();
    const devices = new Map(openDevices().map((d) => [d.slot, String(d)]));
    const ops = this.readOps(devices);
    const byCommand = new Map(ops.map((op) => [`${op.device} ${op.stream} ${op.number}`, op]));
    const commands: CommandEvent[] = [];
    for (let at = 0; at < rows.length; at += COMMAND_COLUMNS) {
      const [slot, stream, number, name, from, to, timed] = rows.subarray(at, at + COMMAND_COLUMNS) as unknown as [
        number,
        number,
        number,
        number,
        number,
        number,
        number,
      ];
      if (from < this.begin) continue;
      const where = { device: devices.get(slot) ?? `device ${slot}`, stream: STREAMS[stream]! };
      const op = byCommand.get(`${where.device} ${where.stream} ${number}`) ?? null;
      commands.push({ kind: 'command', name: names[name]!, begin: from, end: to, ...where, number, timedByDevice: timed === 1, op });
    }
    return { ops, commands, spans: this.spans, begin: this.begin, end, lost };
  }

  private standIn(): Native {
    const { addon } = this;
    const timed = <A extends unknown[], T>(name: string, call: (...args: A) => T): ((...args: A) => T) => {
      return (...args) => {
        const begin = this.now();
        const done = (): void => this.span('wait', name, begin);
        const result = call(...args);
        if (result instanceof Promise) result.then(done, done);
        else done();
        return result;
      };
    };
    return {
      ...addon,
      run: () => this.run(),
      enqueueCollective: (group, ...rest) => {
        const entry = addon.enqueueCollective(group, ...rest);
        if (!this.groups.has(group)) this.groups.set(group, addon.nameOfGroup(group));
        this.collective = { group, sequence: block[Head.Number]! };
        return entry;
      },
      upload: timed('upload', addon.upload),
      write: timed('write', addon.write),
      read: timed('read', addon.read),
      readAsync: timed('read', addon.readAsync),
      item: timed('item', addon.item),
      itemSync: timed('item', addon.itemSync),
      synchronize: timed('synchronize', addon.synchronize),
      synchronizeAsync: timed('synchronize', addon.synchronizeAsync),
      streamDone: timed('collective', addon.streamDone),
    };
  }

  private run(): void {
    const at = this.used;
    const m = block;
    this.describe(at, m);
    const begin = performance.now();
    this.addon.run();
    const end = performance.now();
    const n = this.numbers;
    n[at + At.Begin] = 1000 * begin + this.offset;
    n[at + At.End] = 1000 * end + this.offset;
    n[at + At.Number] = m[Head.Number]!;
    n[at + At.Live] = m[Head.LiveBytes]!;
    n[at + At.Reserved] = m[Head.ReservedBytes]!;
    this.used = at + n[at + At.Size]!;
    this.afterOp?.();
  }

  /** Copies what the block says of a call; it counts when the call has succeeded. */
  private describe(at: number, m: Float64Array): void {
    const records = m[Head.Records]!;
    const room = at + At.Size + 1 + SHOWN * 10;
    if (room > this.numbers.length) {
      const larger = new Float64Array(2 * room);
      larger.set(this.numbers);
      this.numbers = larger;
    }
    const n = this.numbers;
    const op = m[Head.Op]!;
    const { module } = context();
    const differentiated = moduleInBackward();
    n[at + At.Op] = op;
    n[at + At.Slot] = m[Head.Slot]!;
    n[at + At.Stream] = m[Head.Stream]!;
    n[at + At.Module] = this.moduleNumber(module || differentiated || '');
    n[at + At.Phase] = isAheadOfBackward() ? 1 : differentiated === null ? 0 : module ? 2 : 1;
    n[at + At.Flops] = productsInBlock(this.addon.ops[op]!.name);
    // the collective that was announced just now
    n[at + At.Group] = this.collective.group;
    n[at + At.Sequence] = this.collective.sequence;
    this.collective.group = -1;
    n[at + At.Tensors] = records;
    let to = at + At.Size + 1;
    let bytes = 0;
    let shown = 0;
    for (let i = 0; i < records; i++) {
      const from = HEADER + RECORD * i;
      const handle = m[from]!;
      if (handle === ABSENT || handle === SCALAR) continue;
      const [dtype, dims] = [m[from + Rec.DType]!, m[from + Rec.Dims]!];
      let size = this.addon.dtypeSizes[dtype]!;
      // what is broadcast is read once; of a fresh tensor the block has no strides
      for (let d = 0; d < dims; d++) if (handle === FRESH || m[from + Rec.Strides + d] !== 0) size *= m[from + Rec.Shape + d]!;
      bytes += size;
      if (shown === SHOWN) continue;
      shown++;
      n[to++] = dtype;
      n[to++] = dims;
      for (let d = 0; d < dims; d++) n[to++] = m[from + Rec.Shape + d]!;
    }
    n[at + At.Bytes] = bytes;
    n[at + At.Shown] = shown;
    n[at + At.Size] = to - at;
  }

  private moduleNumber(label: string): number {
    // the ops of a module follow one another, and its label was put together for each forward
    if (label === this.lastModule) return this.lastModuleNumber;
    let number = this.modules.get(label);
    if (number === undefined) {
      number = this.modules.size;
      this.modules.set(label, number);
    }
    this.lastModule = label;
    this.lastModuleNumber = number;
    return number;
  }

  private readOps(devices: ReadonlyMap<number, string>): OpEvent[] {
    const modules = [...this.modules.keys()];
    const ops: OpEvent[] = [];
    const { numbers: n, addon } = this;
    for (let at = 0; at < this.used; at += n[at + At.Size]!) {
      const tensors: string[] = [];
      let dtype: DType | '' = '';
      let from = at + At.Size + 1;
      for (let i = 0; i < n[at + At.Shown]!; i++) {
        const name = addon.dtypes[n[from]!] as DType;
        const dims = n[from + 1]!;
        dtype ||= name;
        tensors.push(`${name}[${n.subarray(from + 2, from + 2 + dims).join()}]`);
        from += 2 + dims;
      }
      if (n[at + At.Tensors]! > SHOWN && tensors.length === SHOWN) tensors.push('…');
      const group = this.groups.get(n[at + At.Group]!);
      ops.push({
        kind: 'op',
        name: addon.ops[n[at + At.Op]!]!.name,
        begin: n[at + At.Begin]!,
        end: n[at + At.End]!,
        module: modules[n[at + At.Module]!]!,
        phase: PHASES[n[at + At.Phase]!]!,
        device: devices.get(n[at + At.Slot]!) ?? `device ${n[at + At.Slot]}`,
        stream: STREAMS[n[at + At.Stream]!]!,
        number: n[at + At.Number]!,
        tensors,
        dtype,
        bytes: n[at + At.Bytes]!,
        flops: n[at + At.Flops]!,
        liveBytes: n[at + At.Live]!,
        reservedBytes: n[at + At.Reserved]!,
        collective: group === undefined ? null : { group, sequence: n[at + At.Sequence]! },
      });
    }
    return ops;
  }
}
