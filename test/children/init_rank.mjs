// One rank of a job that joins and leaves in ways it should not.
import { isMainThread, Worker } from 'node:worker_threads';
import * as sg from 'shardgrad';
import * as dist from 'shardgrad/distributed';
const [what] = process.argv.slice(2);
const say = (error) => console.log(`${error.name}: ${error.message}`);
if (!isMainThread) {
  await dist.init().catch(say);
} else if (what === 'absent' && process.env.RANK !== '0') {
  await new Promise((resolve) => setTimeout(resolve, 3000));
} else {
  const { rank, world, close } = await dist.init(what === 'absent' ? { timeoutMs: 500 } : {});
  if (what === 'again') await dist.init().catch(say);
  if (what === 'worker') await new Promise((resolve) => new Worker(new URL(import.meta.url)).on('exit', resolve));
  const x = sg.full([1], rank + 1);
  world.allReduce(x).wait();
  console.log('sum', await x.item());
  await Promise.all([close(), close()]);
  await close();
  console.log('closed');
}
