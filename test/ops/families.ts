// The op table, one file a family.
import { rows as activation } from './activation.js';
import { rows as attention } from './attention.js';
import { rows as conv } from './conv.js';
import { rows as counting } from './counting.js';
import { rows as extremes } from './extremes.js';
import { rows as images } from './images.js';
import { rows as indexing } from './indexing.js';
import { rows as large } from './large.js';
import { rows as loss } from './loss.js';
import { rows as margins } from './margins.js';
import { rows as matmul } from './matmul.js';
import { rows as normalize } from './normalize.js';
import { rows as pointwise } from './pointwise.js';
import { rows as products } from './products.js';
import { rows as reduce } from './reduce.js';
import { rows as shape } from './shape.js';
import { rows as sort } from './sort.js';

export const families = {
  pointwise,
  reduce,
  matmul,
  normalize,
  indexing,
  shape,
  sort,
  extremes,
  loss,
  attention,
  conv,
  images,
  activation,
  margins,
  products,
  counting,
};
/** Also the rows that are about size alone. */
export const everyFamily = { ...families, large };
