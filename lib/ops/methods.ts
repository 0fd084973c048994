// Every free function whose first argument is a tensor is also a method. This is the one list: the types of the methods are
// derived from it, and so are the methods.

import { backward } from '../autograd/backward.js';
import * as random from '../random.js';
import { Tensor } from '../tensor.js';
import * as activation from './activation.js';
import * as blend from './blend.js';
import { allclose, equal } from './check.js';
import * as copy from './copy.js';
import * as counting from './counting.js';
import * as extremes from './extremes.js';
import * as indexing from './indexing.js';
import * as joining from './joining.js';
import * as matmul from './matmul.js';
import * as pointwise from './pointwise.js';
import * as products from './products.js';
import * as reduce from './reduce.js';
import * as softmax from './softmax.js';
import * as sort from './sort.js';
import * as view from './view.js';

const { addInto: _addInto, ...copies } = copy;
const { sumTo: _sumTo, variance, ...reductions } = reduce;
const { Slice: _Slice, slice: _slice, ...indexed } = indexing;
const { cat: _cat, stack: _stack, meshgrid: _meshgrid, ...pieces } = joining;
const { searchsorted: _searchsorted, ...counted } = counting;
const { tensordot: _tensordot, cdist: _cdist, ...multiplied } = products;
const { matmul: product, mm, bmm, dot, outer, addmm, trace } = matmul;

const methods = {
  backward,
  allclose,
  equal,
  ...pointwise,
  ...blend,
  ...activation,
  ...copies,
  ...view,
  ...reductions,
  var: variance,
  matmul: product,
  mm,
  bmm,
  dot,
  outer,
  addmm,
  trace,
  normal_: random.normal_,
  uniform_: random.uniform_,
  softmax: softmax.softmax,
  logSoftmax: softmax.logSoftmax,
  logsumexp: softmax.logsumexp,
  ...indexed,
  ...sort,
  ...extremes,
  ...counted,
  ...multiplied,
  ...pieces,
};

type Method<F> = F extends (x: Tensor, ...rest: infer A) => infer R ? (...rest: A) => R : never;
/** The methods that lib/ops gives a Tensor. */
export type Methods = { [K in keyof typeof methods]: Method<(typeof methods)[K]> };

for (const [name, fn] of Object.entries(methods) as [string, (...args: unknown[]) => unknown][]) {
  Object.defineProperty(Tensor.prototype, name, {
    value(this: Tensor, ...args: unknown[]) {
      return fn(this, ...args);
    },
    writable: true,
    configurable: true,
  });
}
