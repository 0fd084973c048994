// Saves a tensor that is cut over the ranks again and again, until one rank kills itself: node save_rank.mjs <root> <rank> <milliseconds>,
// counted from the end of the first save.
import { writeSync } from 'node:fs';
import * as sg from 'shardgrad';
import * as dist from 'shardgrad/distributed';

const [root, killed, after] = process.argv.slice(2);
const { rank, world, device } = await dist.init({ timeoutMs: 20_000 });
const mesh = await dist.initDeviceMesh({ dpShard: world.size }, { group: world });
for (let step = 0; ; step++) {
  const x = dist.distributeTensor(sg.full([64, 512], step, { device }), mesh, { dpShard: dist.Shard(0) }, { src: null });
  const { done } = await dist.saveCheckpointAsync(root, { step, x }, { group: world, keep: 2, timeoutMs: 20_000 });
  x.dispose();
  await done;
  if (step === 0) writeSync(1, 'saved\n');
  if (step === 0 && rank === Number(killed)) setTimeout(() => process.kill(process.pid, 'SIGKILL'), Number(after));
}
