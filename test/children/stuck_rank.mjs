// A job that stands still: rank 1 never comes to the second collective, nor to the message that rank 2 waits for.
import * as sg from 'shardgrad';
import * as dist from 'shardgrad/distributed';
const [what] = process.argv.slice(2);
const { rank, world } = await dist.init();
await world.allReduce(sg.ones([4]));
console.log('started');
if (rank === 1) {
  if (what === 'fail') throw new Error('my own mistake');
  setTimeout(() => {}, 60_000);
} else {
  await world.allReduce(sg.ones([8]), { op: 'avg' });
}
