// The one door: every op, forward or backward, passes here. It fills the block, crosses once into native code, wraps what
// came out, registers it with its scope and records the call. An op's author touches none of that.

import { checkInference, record, recording } from '../autograd/node.js';
import type { NativeOpName, OpAttrs, PointwiseName } from '../autograd/rules/types.js';
import { type Context, context } from '../context.js';
import { debugMode, enqueueAndWait } from '../debug.js';
import type { Device } from '../device.js';
import { computeType, type DType, dtypeCode, dtypeSize, isFloating, resultType } from '../dtype.js';
import { AutogradError, DeviceError, DisposedError, DTypeError, InternalError, ShapeError } from '../errors.js';
import { ABSENT, block, FRESH, growBlock, HEADER, native, RECORD, Rec, SCALAR } from '../native.js';
import { againWithRelief } from '../pressure.js';
import { broadcastShapes, numel, type Shape, showShape } from '../shape.js';
import { born, META } from '../storage.js';
import { type Operand, Tensor, wrap } from '../tensor.js';
import { wideResult } from './autocast.js';

/** An output that the native side allocates, contiguous. */
export class Fresh {
  constructor(
    readonly shape: Shape,
    readonly dtype: DType,
  ) {}
}
export function fresh(shape: Shape, dtype: DType): Fresh {
  return new Fresh(shape, dtype);
}
export function like(x: Tensor): Fresh {
  return new Fresh(x.shape, x.dtype);
}

export type Input = Tensor | number | null;

// the names as keys of an object have been: only such strings V8 compares by address
const opId = new Map<string, number>(Object.entries(Object.fromEntries(native.ops.map((op, id) => [op.name, id]))));

function idOf(op: string): number {
  const id = opId.get(op);
  if (id === undefined) throw new InternalError(`the addon has no op "${op}": rebuild it`);
  return id;
}

function checkUsable(t: Tensor, op: string, which: number): void {
  if (t.storage.handle === 0) {
    throw new DisposedError(
      `${op}: input ${which} (${showShape(t.shape)} ${t.dtype}) was disposed, or the scope that made it has ended; return it from the scope or keep() it`,
    );
  }
}

/** Writes one tensor record; strides follow the tensor's own shape. */
function writeTensor(m: Float64Array, at: number, t: Tensor): void {
  m[at + Rec.Handle] = t.storage.handle;
  m[at + Rec.DType] = dtypeCode[t.dtype];
  const n = t.shape.length;
  m[at + Rec.Dims] = n;
  m[at + Rec.Offset] = t.offset;
  for (let i = 0; i < n; i++) {
    m[at + Rec.Shape + i] = t.shape[i]!;
    m[at + Rec.Strides + i] = t.strides[i]!;
  }
}

/** As writeTensor, with the tensor broadcast to `shape` by zero strides. */
function writeBroadcast(m: Float64Array, at: number, t: Tensor, shape: Shape): void {
  m[at + Rec.Handle] = t.storage.handle;
  m[at + Rec.DType] = dtypeCode[t.dtype];
  const n = shape.length;
  const lead = n - t.shape.length;
  m[at + Rec.Dims] = n;
  m[at + Rec.Offset] = t.offset;
  for (let i = 0; i < n; i++) {
    m[at + Rec.Shape + i] = shape[i]!;
    m[at + Rec.Strides + i] = i < lead || t.shape[i - lead] === 1 ? 0 : t.strides[i - lead]!;
  }
}

function writeScalar(m: Float64Array, at: number, value: number, dtype: DType): void {
  m[at + Rec.Handle] = SCALAR;
  m[at + Rec.DType] = dtypeCode[dtype];
  m[at + Rec.Dims] = 0;
  m[at + Rec.Offset] = value;
}

function writeFresh(m: Float64Array, at: number, shape: Shape, dtype: DType): void {
  m[at + Rec.Handle] = FRESH;
  m[at + Rec.DType] = dtypeCode[dtype];
  const n = shape.length;
  m[at + Rec.Dims] = n;
  m[at + Rec.Offset] = 0;
  for (let i = 0; i < n; i++) m[at + Rec.Shape + i] = shape[i]!;
}

function cross(op: string, device: Device, records: number, attrs: readonly number[], stream = 0): void {
  const m = block;
  m[0] = idOf(op);
  m[1] = device.slot;
  m[2] = records;
  m[3] = attrs.length;
  m[4] = stream;
  const at = HEADER + RECORD * records;
  for (let i = 0; i < attrs.length; i++) m[at + i] = attrs[i]!;
  try {
    enqueue(device);
  } catch (error) {
    const copy = block.slice(0, at + attrs.length); // relief uses the block
    const restore = (): void => block.set(copy);
    const again = (): void => enqueue(device);
    againWithRelief(error, device, op, () => restore, again);
  }
}

function enqueue(device: Device): void {
  if (debugMode) enqueueAndWait(device, () => native.run());
  else native.run();
}

function wrapFresh(handle: number, device: Device, shape: Shape, dtype: DType, { scope, inference }: Context = context()): Tensor {
  const storage = born(handle, device, numel(shape) * dtypeSize[dtype], scope);
  storage.inference = inference;
  return wrap(storage, shape, dtype);
}

/**
 * The native call alone: records in the order of the Device method, numbers after them. Returns the tensors of the Fresh
 * records, in order. Nothing is recorded for backward. Stream 1 is the communication stream.
 */
export function invoke(op: NativeOpName, device: Device, records: readonly (Input | Fresh)[], attrs: readonly number[] = [], stream = 0): Tensor[] {
  const { kept } = context();
  // what a collective makes is kept, if so, by the function that waits for it
  const made = kept === null || stream !== 0 ? [] : records.filter((r) => r instanceof Fresh);
  return made.length > 0 ? kept!.of(op, () => call(op, device, records, attrs, stream), made) : call(op, device, records, attrs, stream);
}

function call(op: NativeOpName, device: Device, records: readonly (Input | Fresh)[], attrs: readonly number[], stream: number): Tensor[] {
  const n = records.length;
  if (device.type === 'meta') {
    return records.filter((r) => r instanceof Fresh).map((r) => wrapFresh(META, device, (r as Fresh).shape, (r as Fresh).dtype));
  }
  const m = growBlock(HEADER + RECORD * n + attrs.length);
  for (let i = 0; i < n; i++) {
    const r = records[i]!;
    const at = HEADER + RECORD * i;
    if (r === null) m[at] = ABSENT;
    else if (typeof r === 'number') writeScalar(m, at, r, 'float64');
    else if (r instanceof Fresh) writeFresh(m, at, r.shape, r.dtype);
    else {
      checkUsable(r, op, i);
      if (r.storage.device !== device) {
        throw new DeviceError(`${op}: tensors are on different devices: ${device} and ${r.storage.device}`);
      }
      writeTensor(m, at, r);
    }
  }
  cross(op, device, n, attrs, stream);
  // handles first: making a storage may sweep, and the sweep uses the block
  const handles: number[] = [];
  for (let i = 0; i < n; i++) if (records[i] instanceof Fresh) handles.push(block[HEADER + RECORD * i]!);
  const made: Tensor[] = [];
  for (let i = 0, k = 0; i < n; i++) {
    const r = records[i];
    if (r instanceof Fresh) made.push(wrapFresh(handles[k++]!, device, r.shape, r.dtype));
  }
  return made;
}

/** The device shared by the tensors among the inputs. */
export function deviceOf(op: string, inputs: readonly Input[]): Device {
  let device: Device | null = null;
  for (const x of inputs) {
    if (!(x instanceof Tensor)) continue;
    if (device === null) device = x.storage.device;
    else if (x.storage.device !== device) {
      throw new DeviceError(`${op}: tensors are on different devices: ${device} and ${x.storage.device}; move one with to()`);
    }
  }
  return device!;
}

/**
 * A structured op: inputs, then fresh outputs, in the native order; recorded for backward when an input requires a gradient.
 */
export function door<K extends NativeOpName>(
  op: K,
  inputs: readonly Input[],
  outputs: readonly Fresh[],
  attrs: readonly number[],
  saved: OpAttrs<K>,
): Tensor[] {
  const made = invoke(op, deviceOf(op, inputs), [...inputs, ...outputs], attrs);
  if (recording(inputs)) record(op, inputs, made, saved);
  return made;
}

/** In-place work that has no defined result, or that a graph could not follow, is refused before anything is written. */
export function checkInPlace(op: string, target: Tensor, sources: readonly Input[] = []): void {
  // elements that share memory: what a write to one of them means is not defined
  if (target.strides.some((s, i) => s === 0 && target.shape[i]! > 1))
    throw new ShapeError(`${op}: the target ${showShape(target.shape)} is expanded; clone() it to write to it`);
  if (!context().gradEnabled) return;
  if (recording(sources)) {
    checkInference(op, sources);
    // the base would never learn of the gradient
    if (target.isView) throw new AutogradError(`${op}: what requires a gradient cannot be written into a view; write into the base with indexPut_`);
  }
  if (!target.requiresGrad) return;
  if (target.isLeaf) throw new AutogradError(`${op}: a leaf that requires a gradient cannot be changed in place; use noGrad(() => …)`);
  if (target.isView) throw new AutogradError(`${op}: a view inside a graph cannot be changed in place; use the out-of-place form`);
}

/** Result dtype of a pointwise op: that of the promoted operands, at least float32, or bool; `test` is bool computed in floats. */
export type ResultKind = 'same' | 'float' | 'bool' | 'test';

/** A row of the pointwise table: broadcasts, promotes, computes in the promoted type, records. */
export function pointwise(op: PointwiseName, kind: ResultKind, inputs: readonly Operand[]): Tensor {
  const device = deviceOf(op, inputs);
  const first = inputs[0]!;
  let shape: Shape | null = null;
  // of tensors that agree, and numbers that adapt: what resultType would say, without asking
  let common: DType | null = typeof first === 'number' ? null : first.dtype;
  for (let i = 0; i < inputs.length; i++) {
    const x = inputs[i]!;
    if (typeof x === 'number') {
      if (common !== null && !isFloating(common)) common = null;
    } else {
      shape = shape === null ? x.shape : broadcastShapes(shape, x.shape, op);
      if (x.dtype !== common) common = null;
    }
  }
  common ??= resultType(op === 'where' ? inputs.slice(1) : inputs);
  if ((kind === 'float' || kind === 'test') && !isFloating(common)) common = 'float32';
  common = wideResult(op, common);
  return runPointwise(op, device, inputs, shape!, common, kind === 'bool' || kind === 'test' ? 'bool' : common, null);
}

/** In place: the result goes into `target`, whose shape and dtype stay. */
export function pointwiseInto(op: PointwiseName, kind: ResultKind, target: Tensor, inputs: readonly Operand[]): Tensor {
  const device = deviceOf(op, inputs);
  const name = `${op}_`;
  checkInPlace(name, target, inputs);
  for (const x of inputs) {
    if (typeof x !== 'number' && broadcastShapes(target.shape, x.shape, name).some((s, i) => s !== target.shape[i])) {
      throw new DTypeError(`${name}: the result does not fit in place: ${showShape(x.shape)} into ${showShape(target.shape)}`);
    }
  }
  let common = resultType(op === 'where' ? inputs.slice(1) : inputs);
  if (kind === 'float' && !isFloating(common)) common = 'float32';
  if (kind !== 'bool' && ((isFloating(common) && !isFloating(target.dtype)) || (target.dtype === 'bool' && common !== 'bool'))) {
    throw new DTypeError(`${name}: the result is ${common} and cannot go into a tensor of ${target.dtype}`);
  }
  return runPointwise(op, device, inputs, target.shape, common, target.dtype, target);
}

function runPointwise(op: PointwiseName, device: Device, inputs: readonly Operand[], shape: Shape, common: DType, dtype: DType, target: Tensor | null): Tensor {
  const around = context();
  const y =
    around.kept === null || target !== null
      ? callPointwise(op, device, inputs, shape, common, dtype, target, around)
      : around.kept.of(op, () => [callPointwise(op, device, inputs, shape, common, dtype, null, around)], [{ shape, dtype }])[0]!;
  if (recording(inputs, around)) record(op, inputs, [y], undefined, target);
  return y;
}

function callPointwise(
  op: PointwiseName,
  device: Device,
  inputs: readonly Operand[],
  shape: Shape,
  common: DType,
  dtype: DType,
  target: Tensor | null,
  around: Context,
): Tensor {
  const n = inputs.length;
  if (device.type === 'meta') return target ?? wrapFresh(META, device, shape, dtype, around);
  const m = block;
  for (let i = 0; i < n; i++) {
    const x = inputs[i]!;
    const at = HEADER + RECORD * i;
    if (typeof x === 'number') writeScalar(m, at, x, common);
    else {
      checkUsable(x, op, i);
      writeBroadcast(m, at, x, shape);
    }
  }
  const at = HEADER + RECORD * n;
  if (target === null) writeFresh(m, at, shape, dtype);
  else writeTensor(m, at, target);
  ATTR[0] = dtypeCode[computeType(common)];
  cross(op, device, n + 1, ATTR);
  if (target !== null) {
    target.storage.wrote(`${op}_`);
    return target;
  }
  return wrapFresh(block[at]!, device, shape, dtype, around);
}
const ATTR = [0];
