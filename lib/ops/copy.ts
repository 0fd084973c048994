// Copies, casts, moves between devices and filling.

import { record, recording } from '../autograd/node.js';
import { deferFill } from '../deferred.js';
import { type Device, type DeviceLike, device as deviceNamed } from '../device.js';
import { checkDType, type DType, isFloating } from '../dtype.js';
import { DeviceError, DTypeError, describe, ShapeError, ValueError } from '../errors.js';
import { broadcastShapes, checkNumber, sameShape, showShape } from '../shape.js';
import { Tensor } from '../tensor.js';
import { transfer } from '../transfer.js';
import { checkInPlace, deviceOf, fresh, invoke, pointwiseInto } from './door.js';
import { expand } from './view.js';

function checkTensor(x: unknown, op: string): asserts x is Tensor {
  if (!(x instanceof Tensor)) throw new ValueError(`${op}: expected a tensor, got ${describe(x)}`);
}

function cast(x: Tensor, dtype: DType): Tensor {
  const y = invoke('copy', x.device, [x, fresh(x.shape, dtype)])[0]!;
  if (recording([x])) record('copy', [x], [y], undefined);
  return y;
}

/** A contiguous copy, inside the graph. */
export function clone(x: Tensor): Tensor {
  checkTensor(x, 'clone');
  return cast(x, x.dtype);
}

/** The tensor itself when it is laid out in row-major order without gaps, else a copy that is. */
export function contiguous(x: Tensor): Tensor {
  checkTensor(x, 'contiguous');
  return x.isContiguous ? x : cast(x, x.dtype);
}

/** Where a tensor or a module goes. */
export interface MoveOptions {
  /** Element type; by default what it is. */
  dtype?: DType;
  /** Device; by default where it is. */
  device?: DeviceLike;
}

/** The tensor in another dtype, on another device, or both; itself when nothing changes. Differentiable. */
export function to(x: Tensor, target: DType | DeviceLike | MoveOptions): Tensor {
  checkTensor(x, 'to');
  let dtype: DType = x.dtype;
  let on: Device = x.device;
  if (typeof target === 'string' && !/^(cpu|cuda|meta)/.test(target)) dtype = checkDType(target, 'to');
  else if (typeof target === 'object' && target !== null && !('type' in target)) {
    if (target.dtype !== undefined) dtype = checkDType(target.dtype, 'to');
    if (target.device !== undefined) on = deviceNamed(target.device);
  } else on = deviceNamed(target as DeviceLike);
  let y = x;
  if (on !== x.device) {
    if (x.isMeta) throw new DeviceError('to: a tensor on device meta has no values to move');
    y = transfer(x, on);
    if (recording([x])) record('copy', [x], [y], undefined);
  }
  return dtype === y.dtype ? y : cast(y, dtype);
}

/** Copies `source` into this tensor, converting and broadcasting. Returns the tensor. */
export function copy_(x: Tensor, source: Tensor): Tensor {
  checkTensor(x, 'copy_');
  checkTensor(source, 'copy_');
  checkInPlace('copy_', x, [source]);
  if (!sameShape(broadcastShapes(x.shape, source.shape, 'copy_'), x.shape)) {
    throw new ShapeError(`copy_: ${showShape(source.shape)} does not broadcast to ${showShape(x.shape)}`);
  }
  let from = source.device === x.device ? source : to(source.detach(), x.device);
  // parts of the same memory may overlap
  if (from.storage === x.storage && (from.offset !== x.offset || from.strides.some((s, i) => s !== x.strides[i]))) from = clone(from.detach());
  invoke('copy', deviceOf('copy_', [x, from]), [sameShape(from.shape, x.shape) ? from : expand(from.detach(), x.shape), x]);
  x.storage.wrote('copy_');
  if (recording([source, x])) record('copy', [source], [x], undefined, x);
  return x;
}

/** Writes one value everywhere. */
export function fill_(x: Tensor, value: number): Tensor {
  checkTensor(x, 'fill_');
  if (typeof value !== 'number') checkNumber(value, 'value', 'fill_');
  checkInPlace('fill_', x);
  if (!isFloating(x.dtype) && !Number.isFinite(value)) throw new DTypeError(`fill_: ${value} cannot be stored as ${x.dtype}`);
  invoke('fill', x.device, [x], [value]);
  x.storage.wrote('fill_');
  if (x.isMeta) deferFill(x, (real) => invoke('fill', real.device, [real], [value]));
  if (recording([x])) record('copy', [null], [x], undefined, x); // what led here no longer matters
  return x;
}
/** In place: zeros. */
export function zero_(x: Tensor): Tensor {
  return fill_(x, 0);
}

/** x += g outside any graph: how gradients accumulate. */
export function addInto(x: Tensor, g: Tensor): void {
  const target = x.detach();
  pointwiseInto('add', 'same', target, [target, g.detach()]);
}

/** The tensor as float32; itself if it is already, as for the other six. */
export const float = (x: Tensor): Tensor => to(x, 'float32');
/** The tensor as float64. */
export const double = (x: Tensor): Tensor => to(x, 'float64');
/** The tensor as float16. */
export const half = (x: Tensor): Tensor => to(x, 'float16');
/** The tensor as bfloat16. */
export const bfloat16 = (x: Tensor): Tensor => to(x, 'bfloat16');
/** The tensor as int64: the part after the point is cut off. */
export const long = (x: Tensor): Tensor => to(x, 'int64');
/** The tensor as int32. */
export const int = (x: Tensor): Tensor => to(x, 'int32');
/** The tensor as bool: true where it is not 0. */
export const bool = (x: Tensor): Tensor => to(x, 'bool');
