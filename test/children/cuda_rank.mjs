// One rank of a job on GPUs; with SHARDGRAD_EMULATED_NCCL_STALL=2 its second collective never ends on the GPU, and rank 1 comes to grief.
import * as sg from 'shardgrad';
import * as dist from 'shardgrad/distributed';
const [what, backend] = process.argv.slice(2);
const { rank, world, device, close } = await dist.init({ device: 'cuda', backend });
const x = sg.full([4], rank + 1, { device });
await world.allReduce(x);
console.log(`${world.backend} sum ${await x.sum().item()}`);
if (what !== 'sum') {
  const work = world.allReduce(x, { label: 'of the test', timeoutMs: what === 'late' ? 1000 : 60_000 });
  setTimeout(() => {
    if (rank !== 1) return;
    if (what === 'kill') process.kill(process.pid, 'SIGKILL');
    if (what === 'stop') process.kill(process.pid, 'SIGSTOP');
    if (what === 'exit') process.exit(0);
    if (what === 'abort') world.abort('rank 1 has had enough');
  }, 500);
  await work;
}
await close();
console.log('closed');
