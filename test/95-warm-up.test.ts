// warmUpSave: the first asynchronous save finds its memory, and training goes on while it is being made.
import { expect, test } from 'vitest';
import { saveCheckpointAsync } from '../lib/distributed/checkpoint/save.js';
import { warmUpSave } from '../lib/distributed/checkpoint/warm_up.js';
import { initDeviceMesh } from '../lib/distributed/device_mesh.js';
import { fullyShard } from '../lib/distributed/fully_shard.js';
import { simulate } from '../lib/distributed/simulate.js';
import * as sg from '../lib/index.js';
import { scratchFolder } from './helpers/files.js';

const folder = scratchFolder();

test.each([false, true])('warmed up: %s', async (warm) => {
  await simulate(2, async ({ world, device }) => {
    sg.emptyCache(device);
    const mesh = await initDeviceMesh({ dpShard: 2 }, { group: world });
    const model = fullyShard(new sg.nn.Linear(1024, 3000, { device }), { mesh });
    const optimizer = new sg.optim.AdamW(model.parameters(), { lr: 0.01 });
    const losses: Promise<number>[] = [];
    const step = (): void =>
      sg.scope(() => {
        const loss = model
          .forward(sg.ones([2, 1024], { device }))
          .square()
          .mean();
        losses.push(loss.item());
        loss.backward();
        optimizer.step();
        optimizer.zeroGrad();
      });
    step();
    await world.barrier();
    sg.emptyCache(device);
    const live = sg.memory(device).live;
    const warming = warm ? warmUpSave({ model, optimizer }, { group: world }) : null;
    await world.barrier(); // a state dict waits for the device, and the ranks share a thread
    for (let s = 0; s < 3; s++) step();
    await warming;
    for (const loss of losses) expect(await loss).toBeGreaterThan(0);
    sg.collectGarbage();
    expect(sg.memory(device).live).toBeLessThan(live + 1e5);
    await world.barrier();
    if (!warm) sg.emptyCache(device); // what training has used is memory for copies, too
    const { reserved } = sg.memory(device);
    const { done } = await saveCheckpointAsync(`${folder}/${warm}`, { step: 1, model, optimizer }, { group: world });
    // three times the piece of the model
    if (warm) expect(sg.memory(device).reserved).toBe(reserved);
    else expect(sg.memory(device).reserved).toBeGreaterThan(reserved + 8e6);
    await done;
  });
});

test('misuse is named', async () => {
  await simulate(1, async ({ world }) => {
    await expect(warmUpSave(3 as never, { group: world })).rejects.toThrow(/warmUpSave: expected what will be saved, by name, got 3/);
    await expect(warmUpSave({}, {} as never)).rejects.toThrow(/warmUpSave: expected \{ group \}/);
  });
});
