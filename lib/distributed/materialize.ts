// Memory for a model that was made on device meta, and the values that its constructors gave it: one whole parameter at a time is made and cut, so
// what does not fit into the memory of one rank can be built.
import { noGrad } from '../autograd/modes.js';
import { empty } from '../create.js';
import { repeatFills, wholeOf } from '../deferred.js';
import { type Device, type DeviceLike, device as deviceNamed } from '../device.js';
import { DeviceError, describe, ValueError } from '../errors.js';
import { scope } from '../memory.js';
import { Module } from '../nn/module.js';
import { clone } from '../ops/copy.js';
import type { StorageKind } from '../storage.js';
import { takeOut } from '../storage.js';
import type { Tensor } from '../tensor.js';
import { Layout } from './layout.js';
import { layoutOf, stagePlaceOf } from './layout_of.js';
import { convert } from './redistribute.js';

/** How `materialize` fills tensors. */
export interface MaterializeOptions {
  /**
   * Fills a whole parameter or buffer, called for each by name on every rank, with equal numbers on all. When it returns false, and without it, the tensor gets what
   * its constructor filled it with: random numbers too are those that the model would have without meta, if the generator was in the same state.
   */
  readonly init?: (name: string, whole: Tensor) => boolean | void;
  /** For what is not sharded; the device of the mesh of the first parameter that has one unless given, else `cpu`. */
  readonly device?: DeviceLike;
}

/**
 * Gives the parameters and buffers of a model on device meta memory and values; what has them already stays.
 *
 * ```ts
 * const model = new nn.GPT({ ...options, device: 'meta' });
 * for (const block of model.transformer.h) fullyShard(block, { mesh });
 * materialize(fullyShard(model, { mesh }));
 * ```
 *
 * @returns the module
 * @throws DeviceError for a tensor whose values came of an operation that cannot be repeated: give `init`, or load it from a checkpoint
 */
export function materialize<M extends Module>(module: M, options: MaterializeOptions = {}): M {
  const where = 'materialize';
  if (!(module instanceof Module)) throw new ValueError(`${where}: expected a module, got ${describe(module)}`);
  const { init, device } = options ?? {};
  if (init !== undefined && typeof init !== 'function') throw new ValueError(`${where}: init must be a function, got ${describe(init)}`);
  const parameters = [...module.namedParameters()];
  const mesh = parameters.flatMap(([, p]) => layoutOf(p)?.mesh ?? stagePlaceOf(p)?.mesh ?? [])[0];
  const rest = device === undefined ? (mesh?.device ?? deviceNamed('cpu')) : deviceNamed(device);
  if (rest.type === 'meta') throw new DeviceError(`${where}: device meta is where the model is`);
  const fill = (name: string, t: Tensor, kind: StorageKind): void => {
    if (!t.isMeta) return;
    const layout = layoutOf(t);
    noGrad(() => scope(() => give(t, filled(name, t, layout, layout?.mesh.device ?? rest, init), kind)));
  };
  for (const [name, p] of parameters) fill(name, p, 'parameter');
  for (const [name, b] of module.namedBuffers()) fill(name, b, 'buffer');
  return module;
}

/** This rank's part, with its values. */
function filled(name: string, t: Tensor, layout: Layout | null, device: Device, init: MaterializeOptions['init']): Tensor {
  const origin = wholeOf(t);
  const whole = empty(layout?.shape ?? t.shape, { dtype: t.dtype, device });
  const done = (init !== undefined && init(name, whole) !== false) || repeatFills(origin, whole);
  if (!done) {
    throw new DeviceError(
      `materialize: how "${name}" got its values is not known: only what fill_, normal_, uniform_ and the functions of nn.init write to device meta ` +
        'can be repeated; pass init',
    );
  }
  if (!layout) return whole;
  const part = convert(whole, new Layout(layout.mesh, layout.shape, {}), layout);
  return part === whole || part.isView ? clone(part) : part;
}

function give(t: Tensor, { storage, shape, strides, offset }: Tensor, kind: StorageKind): void {
  takeOut(storage, kind);
  Object.assign(t, { storage, shape, strides, offset, isView: false });
}
