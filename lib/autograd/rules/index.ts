// The whole table of gradient rules: complete by type (a missing op does not compile), and equal to the addon's list by the check
// at load.
import { InternalError } from '../../errors.js';
import { native } from '../../native.js';
import { compositeRules, copyRule, matmulRule, reduceRules, viewRules } from './basic.js';
import { indexingRules } from './indexing.js';
import { neuralRules } from './neural.js';
import { pointwiseRules } from './pointwise.js';
import type { CompositeName, OpName, Rules, ViewName } from './types.js';

export const rules: Rules<OpName> = {
  ...pointwiseRules,
  ...reduceRules,
  ...viewRules,
  ...compositeRules,
  ...neuralRules,
  ...indexingRules,
  copy: copyRule,
  matmul: matmulRule,
  fill: null,
  arange: null,
  uniform: null,
  normal: null,
  randint: null,
  sgdStep: null,
  adamStep: null,
  adagradStep: null,
  rmspropStep: null,
  lambStep: null,
  lionStep: null,
  prepareStep: null,
  unscaleMany: null,
  updateScale: null,
  globalNorm: null,
  scaleMany: null,
  clampMany: null,
  allReduce: null,
  reduceTo: null,
  broadcastFrom: null,
  allGather: null,
  gatherTo: null,
  scatterFrom: null,
  reduceScatter: null,
  allToAll: null,
  exchange: null,
  barrier: null,
};

const withoutNative = { ...viewRules, ...compositeRules } satisfies Rules<ViewName | CompositeName>;
const here = Object.keys(rules).filter((name) => !(name in withoutNative));
const there = new Set(native.ops.map((op) => op.name));
const missing = here.filter((name) => !there.delete(name));
if (missing.length || there.size) {
  throw new InternalError(
    `ops of lib/autograd/rules and of the addon differ: without native op: ${missing.join() || 'none'}; without rule: ${[...there].join() || 'none'}`,
  );
}
