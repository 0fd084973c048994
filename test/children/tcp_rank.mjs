// A rank that reduces again and again, until something happens. The first argument says what becomes of rank 1.
import * as sg from 'shardgrad';
import * as dist from 'shardgrad/distributed';

const [what] = process.argv.slice(2);
const { rank, world } = await dist.init();
const x = sg.ones([100_000]);
const end = Date.now() + 60_000;
let last = Date.now();
try {
  for (let i = 0; Date.now() < end; i++) {
    await world.allReduce(x, { op: 'avg' });
    last = Date.now();
    if (i === 20) console.log('going');
    if (i === 20 && rank === 1) {
      if (what === 'kill') process.kill(process.pid, 'SIGKILL');
      if (what === 'stop') process.kill(process.pid, 'SIGSTOP');
      if (what === 'busy') {
        while (Date.now() < last + 4500);
        console.log('not busy any more');
      }
    }
    if (what === 'busy' && i === 40) break;
  }
  console.log(`rank ${rank} done`);
} catch (error) {
  console.log(`rank ${rank} knows after ${((Date.now() - last) / 1000).toFixed(1)} s: ${error.message}`);
  process.exitCode = 7;
}
await world.close().catch(() => {});
process.exit();
