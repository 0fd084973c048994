// Parameters of parallel layers: they stay the same objects, whatever of the whole they hold, so weights that layers share stay shared, and an
// optimizer that was made before finds them.
import { noGrad } from '../../autograd/modes.js';
import { empty } from '../../create.js';
import { cutFrom } from '../../deferred.js';
import { DeviceError, describe, ValueError } from '../../errors.js';
import { scope } from '../../memory.js';
import type { Parameter } from '../../nn/module.js';
import { takeOut } from '../../storage.js';
import type { Tensor } from '../../tensor.js';
import { DeviceMesh } from '../device_mesh.js';
import { layoutOf, setLayout } from '../distribute.js';
import { Layout, lengthOf, type Placements } from '../layout.js';
import { convert } from '../redistribute.js';

/** Whose values count when a whole parameter is cut. */
export interface SourceOptions {
  /** Its rank along `tp`; 0. Null: all have the same already, and nothing is sent. */
  readonly src?: number | null;
}

export function checkMesh(mesh: unknown, where: string): DeviceMesh {
  if (!(mesh instanceof DeviceMesh)) throw new ValueError(`${where}: expected a mesh, of initDeviceMesh, got ${describe(mesh)}`);
  if (!mesh.axes.includes('tp')) throw new ValueError(`${where}: the mesh has no axis tp; it has ${mesh.axes.join(', ')}`);
  return mesh;
}

/** Whether all ranks have parts of one size: the first has the largest, the last the smallest. */
export function cutEvenly(p: Parameter): boolean {
  const layout = layoutOf(p);
  const sizes = (rank: number): string => JSON.stringify(layout?.ranges((axis) => (axis === 'tp' ? rank : layout.mesh.rank(axis))).map(lengthOf));
  return !layout || sizes(0) === sizes(layout.mesh.size('tp') - 1);
}

/** Leaves in a whole parameter what this rank has of it; the whole is freed. One that has these placements already, since layers share it, stays as it is. */
export function shardParameter(p: Parameter, mesh: DeviceMesh, placements: Placements, where: string, { src = 0 }: SourceOptions = {}): void {
  const known = layoutOf(p);
  const layout = new Layout(mesh, known?.shape ?? p.shape, placements, where);
  if (known) {
    if (known.equals(layout)) return;
    throw new ValueError(`${where}: a parameter that layers share is ${known} already and cannot be ${layout} as well`);
  }
  if (p.device !== mesh.device && !p.isMeta)
    throw new DeviceError(`${where}: a parameter is on ${p.device}, the mesh on ${mesh.device}; move the module with to()`);
  if (p.grad) throw new ValueError(`${where}: a parameter has a gradient, which is that of the whole; call zeroGrad() before`);
  const group = mesh.group('tp');
  noGrad(() => {
    const part = scope(() => {
      const whole = p.detach();
      if (group.size === 1 || (p.isMeta && layout.entries.length === 0)) return whole;
      if (p.isMeta) return pieceOf(whole, layout);
      if (src !== null) group.broadcast(whole, { src, label: `of ${where}` }).wait();
      return convert(whole, new Layout(mesh, p.shape, {}), layout);
    });
    if (part.storage !== p.storage) {
      if (!p.isMeta && !p.isView) p.dispose();
      takeOut(part.storage, 'parameter');
      const { storage, shape, strides, offset } = part;
      Object.assign(p, { storage, shape, strides, offset, isView: false });
    }
  });
  setLayout(p, layout);
}

/** Of a tensor that has no values yet, but will. */
function pieceOf(whole: Tensor, layout: Layout): Tensor {
  const piece = empty(layout.localShape, { dtype: whole.dtype, device: whole.device });
  cutFrom(piece, whole);
  return piece;
}
