// NCCL with N ranks of one process: every collective once, against what it must give. `ranks.mjs N`; more than one rank share the
// GPUs there are, for which NCCL has to be 2.30 or newer. Prints `skipped: reason` where that is not so.
import { cuda, fromTypedArray, ones, synchronize } from 'shardgrad';
import { simulate } from 'shardgrad/distributed';

const size = Number(process.argv[2] ?? 1);
const SHARES_GPUS = [2, 30];

/** Why it cannot run here; null: it can. */
function missing() {
  const nccl = cuda.report().libraries.find(({ name }) => name === 'NCCL');
  if (!nccl?.path) return 'NCCL was not found';
  const [major, minor] = nccl.version.split('.').map(Number);
  const old = major < SHARES_GPUS[0] || (major === SHARES_GPUS[0] && minor < SHARES_GPUS[1]);
  return size > cuda.deviceCount() && old ? `NCCL ${nccl.version} refuses two ranks on one GPU; from 2.30 on it allows them` : null;
}

function same(what, found, expected) {
  if (JSON.stringify(found) !== JSON.stringify(expected)) throw new Error(`${what}: expected ${JSON.stringify(expected)}, got ${JSON.stringify(found)}`);
}

async function collectives({ rank, device, world }) {
  const sum = (size * (size + 1)) / 2;
  const mine = () => fromTypedArray(Float32Array.of(rank + 1, 10 * (rank + 1)), [2], { device });
  for (const dtype of ['float32', 'bfloat16', 'float16', 'int32']) {
    same(`allReduce ${dtype}`, await (await world.allReduce(mine().to(dtype))).toArray(), [sum, 10 * sum]);
  }
  same('allReduce max', await (await world.allReduce(mine(), { op: 'max' })).toArray(), [size, 10 * size]);
  same('broadcast', await (await world.broadcast(mine(), { src: size - 1 })).toArray(), [size, 10 * size]);
  const large = ones([1 << 20], { device }).mul(rank + 1);
  same('allReduce of 4 MiB', await (await world.allReduce(large)).sum().item(), sum * 2 ** 20);
  await world.barrier();
  await synchronize(device);
  return 9;
}

const why = missing();
if (why) console.log(`skipped: ${why}`);
else {
  const counts = await simulate(size, collectives, { device: 'cuda', backend: 'nccl', timeoutMs: 60_000 });
  console.log(`${counts.length} ranks, ${counts[0]} collectives each: 1 passed, 0 failed`);
}
