// With SHARDGRAD_DEBUG=1 the read out of range throws where it was called, not where its values are asked for.
import * as sg from '../../dist/lib/index.js';

let y = null;
try {
  y = sg.ones([3]).index(sg.tensor([7n])); // the line
  y.toArraySync();
  console.log('silent');
} catch (error) {
  console.log(y === null ? 'at once' : 'late', error.name, error.message);
}
