// What ranks have in pieces, put together and read.
import { fullTensor, layoutOf, setLayout } from '../../lib/distributed/distribute.js';
import * as sg from '../../lib/index.js';

export type Values = Record<string, ArrayLike<number>>;

export const read = async (t: sg.Tensor): Promise<Float64Array> => (await t.detach().to('float64').toTypedArray()) as Float64Array;

/** Of each parameter by name: itself, or its gradient, where it has one. */
export async function whole(model: sg.nn.Module, of: (p: sg.Tensor) => sg.Tensor | null): Promise<Values> {
  const found: Values = {};
  for (const [name, p] of model.namedParameters()) {
    const [value, layout] = [of(p), layoutOf(p)];
    if (value) found[name] = await read(sg.noGrad(() => (layout ? fullTensor(setLayout(value.detach().clone(), layout)) : value)));
  }
  return found;
}
