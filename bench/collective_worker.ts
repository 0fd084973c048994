// One rank of ours in collectives.ts: a line names an operation and its sizes, the answer is microseconds, the median of many.
import { createInterface } from 'node:readline';
import * as dist from '../lib/distributed/index.js';
import * as sg from '../lib/index.js';
import type { CollectiveQuestion } from './collectives.js';
import { median } from './rows.js';

const { world, close } = await dist.init();

/** What waits for one call. */
function prepare(op: CollectiveQuestion['op'], bytes: number, shared: boolean): () => { wait(): unknown } {
  const elements = bytes / 4 / (op === 'allGather' ? world.size : 1);
  const x = (shared ? world.sharedZeros([elements]) : sg.zeros([elements])).keep();
  const calls = {
    allReduce: () => world.allReduce(x),
    broadcast: () => world.broadcast(x),
    allGather: () => world.allGather(x),
    reduceScatter: () => world.reduceScatter(x),
  };
  inUse.push(x);
  return calls[op];
}
const inUse: sg.Tensor[] = [];

for await (const line of createInterface({ input: process.stdin })) {
  const { op, sizes, shared, repeats } = JSON.parse(line) as CollectiveQuestion;
  const calls = sizes.map((bytes) => prepare(op, bytes, shared));
  const times: number[] = [];
  for (let i = 0; i < repeats + 3; i++) {
    world.barrier().wait();
    sg.synchronizeSync();
    const start = process.hrtime.bigint();
    sg.scope(() => {
      for (const work of calls.map((call) => call())) work.wait();
      sg.synchronizeSync();
    });
    if (i >= 3) times.push(Number(process.hrtime.bigint() - start) / 1000);
  }
  for (const t of inUse.splice(0)) t.dispose();
  console.log(JSON.stringify({ us: median(times) }));
}
await close();
