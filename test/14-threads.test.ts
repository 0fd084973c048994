// The addon in several threads at once, and ends in mid-work: no crash, no hang, the device is free again.
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { expect, test } from 'vitest';
import * as sg from '../lib/index.js';

const child = (name: string): string => fileURLToPath(new URL(`./children/${name}.mjs`, import.meta.url));

function start(device: string, ending: string, value: number): { worker: Worker; answer: Promise<number>; ended: Promise<unknown> } {
  const worker = new Worker(child('worker_ops'), { workerData: { device, ending, value } });
  const answer = new Promise<number>((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
  return { worker, answer, ended: new Promise((resolve) => worker.once('exit', resolve)) };
}

test('workers compute side by side on devices of their own', async () => {
  const runs = [1, 2, 3].map((i) => start(`cpu:${i}`, 'return', i));
  const values = await Promise.all(runs.map((r) => r.answer));
  for (const [i, value] of values.entries()) expect(value).toBeCloseTo(i + 1, 4);
  await Promise.all(runs.map((r) => r.ended));
});

test('a device belongs to one thread at a time, and says so', async () => {
  sg.ones([1], { device: 'cpu:5' });
  const { answer } = start('cpu:5', 'return', 1);
  await expect(answer).rejects.toThrow(/cpu:5 belongs to another thread/);
});

test.each(['exit', 'hang'])('a worker that ends in mid-work (%s) gives its device back', async (ending) => {
  const device = ending === 'exit' ? 'cpu:6' : 'cpu:7'; // this thread keeps the one it takes back
  for (let round = 0; round < 3; round++) {
    const { worker, answer, ended } = start(device, ending, 1);
    await answer;
    if (ending === 'hang') await worker.terminate();
    await ended;
  }
  expect(sg.ones([3], { device }).sum().itemSync()).toBe(3);
});

test('process.exit in mid-work ends at once with its code', () => {
  for (let round = 0; round < 3; round++) {
    const run = spawnSync(process.execPath, [child('exit_in_work')], { encoding: 'utf8', timeout: 60_000 });
    expect(run.stderr).toBe('');
    expect(run.status).toBe(7);
  }
});

test('the event loop is free while kernels run', async () => {
  let ticks = 0;
  const timer = setInterval(() => ticks++, 1);
  let x = sg.ones([400, 400]);
  for (let i = 0; i < 60; i++) x = x.matmul(x).div(400);
  await x.mean().item();
  clearInterval(timer);
  expect(ticks).toBeGreaterThan(3);
});

test('a fault of a kernel arrives at the next wait, names op and values, and the next op works', async () => {
  const table = sg.ones([3, 2]);
  const wrong = sg.embedding(sg.tensor([7], { dtype: 'int64' }), table);
  await expect(wrong.sum().item()).rejects.toThrow(/embedding: .*7.*/);
  await expect(table.sum().item()).resolves.toBe(6);
});
