// Gradients of gradients for rows of the op table: the first gradients, made with createGraph, are themselves a function of the
// inputs, whose gradients are held against finite differences.
import { grad } from '../../lib/index.js';
import type { Tensor } from '../../lib/tensor.js';
import { checkGradients, cotangent, draw, type Row, run, wantsGradient } from './op_table.js';
import { make } from './tensors.js';

/** Rows with something to differentiate and few enough elements for a difference each. Fused blocks refuse createGraph. */
export function hasSecondOrder(row: Row): boolean {
  return !/^(mlp|attentionPacked)/.test(row.name) && !row.elementwise && row.inputs.some(wantsGradient) && (row.dtypes ?? ['float64']).includes('float64');
}

/** Checks the second gradients of one row; returns how many first gradients it found. */
export function checkSecondOrder(row: Row, device: string): number {
  let found = 0;
  const first: Row = {
    ...row,
    name: `${row.name}, second gradient`,
    fn: (...given) => {
      const x = given.map((t, i) => {
        if (wantsGradient(row.inputs[i]!)) t.requiresGrad = true;
        return t;
      });
      const roots = ([row.fn(...x)].flat() as Tensor[]).filter((y) => y.requiresGrad);
      if (roots.length === 0) return [];
      const loss = roots.map((y, i) => y.mul(make(cotangent(y.shape, i + 1), 'float64', device)).sum()).reduce((a, b) => a.add(b));
      const gradients = grad(
        loss,
        x.filter((t) => t.requiresGrad),
        { createGraph: true },
      ).filter((g) => g !== null);
      found = gradients.length;
      return gradients;
    },
  };
  const values = draw(row, 'float64', device);
  checkGradients(first, values, run(first, values, 'float64', device, 'contiguous', true), device);
  return found;
}
