// A synchronous training loop without scope and without await: resident memory must not grow. Arguments: steps, garbage bytes a step,
// bytes of JavaScript heap that stay alive. Prints the most resident MiB seen in the first and in the second
// half, as the allocator's free lists take some thousand steps to fill.
import { isMainThread, parentPort, workerData } from 'node:worker_threads';
import * as sg from '../../dist/lib/index.js';

const { nn, optim } = sg;
const [steps, garbage, heap] = isMainThread ? process.argv.slice(2).map(Number) : workerData;
const held = [];
for (let bytes = 0; bytes < heap; bytes += 100) held.push({ a: bytes, b: String(bytes), c: [bytes, bytes + 1] });

sg.manualSeed(0);
const model = new nn.Sequential(new nn.Linear(64, 128), new nn.GELU(), new nn.Linear(128, 64));
const optimizer = new optim.AdamW(model.parameters(), { lr: 1e-3 });
const x = sg.randn([256, 64]);
let early = 0;
let late = 0;
let junk = null;
for (let step = 1; step <= steps; step++) {
  const loss = sg.mseLoss(model.forward(x), x);
  loss.backward();
  optimizer.step();
  optimizer.zeroGrad();
  if (garbage) junk = new Array(garbage / 8).fill(step);
  if (step % 20 === 0) {
    const resident = process.memoryUsage.rss() / 2 ** 20;
    if (step <= steps / 2) early = Math.max(early, resident);
    else late = Math.max(late, resident);
  }
}
sg.synchronizeSync();
const result = { early, late, live: sg.memory().live / 2 ** 20, held: held.length, junk: junk?.length ?? 0 };
if (isMainThread) console.log(JSON.stringify(result));
else parentPort.postMessage(result);
