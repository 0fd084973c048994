// What is done with the NCCL that was found, or was not: its version, a group of two ranks, and what only newer ones can.
import * as sg from 'shardgrad';
import * as dist from 'shardgrad/distributed';
const say = (error) => console.log(`${error.name}: ${error.message}`);
console.log('version', sg.cuda.report().libraries.find(({ name }) => name === 'NCCL')?.version);
await dist
  .init({ device: 'cuda' })
  .then((job) => job.close(), say);
await dist.init({ rank: 0, worldSize: 2, masterAddr: '127.0.0.1', device: 'cuda' }).catch(say);
const gathered = async ({ rank, world, device }) => {
  const all = await world.gather(sg.full([2], rank, { device }), { dst: 1 });
  const mine = await world.scatter(all, { src: 1, like: { shape: [2], dtype: 'float32' } });
  return Array.from(await mine.toTypedArray());
};
await dist.simulate(2, gathered, { device: 'cuda', backend: 'nccl' }).then((all) => console.log('gathered', JSON.stringify(all)), say);
const eights = ({ world, device }) => world.allReduce(sg.ones([2], { device }).to('float8_e4m3'));
await dist.simulate(2, eights, { device: 'cuda', backend: 'nccl' }).then(() => console.log('float8 reduced'), say);
process.exit(0);
