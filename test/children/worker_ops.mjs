// A worker that computes on a device of its own and then ends as it is told: 'return', 'exit' in mid-work, or 'hang' until terminated.
import { parentPort, workerData } from 'node:worker_threads';
import * as sg from '../../dist/lib/index.js';

const { device, ending, value } = workerData;
const x = sg.full([256, 256], value, { device });
let y = x;
for (let i = 0; i < 20; i++) y = y.matmul(x).div(256 * value);
parentPort.postMessage(y.mean().itemSync());
if (ending !== 'return') {
  for (let i = 0; i < 2000; i++) y = y.matmul(x).div(256 * value);
  if (ending === 'exit') process.exit(0);
  await y.mean().item();
}
