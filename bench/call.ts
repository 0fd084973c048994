// Host time of one op on a tiny tensor: what JavaScript spends until the call returns. Budget: 1 µs. The kernels run meanwhile on the
// stream's own thread; a pause between rounds lets it catch up, so that no round measures a full queue.
//
//   node dist/bench/call.js
import * as sg from '../lib/index.js';

const COUNT = 4000;
const ROUNDS = 41;

const x = sg.ones([2, 4]);
const y = sg.full([2, 4], 2);
const row = sg.ones([4]);
const parameter = sg.ones([2, 4], { requiresGrad: true });
const square = sg.ones([4, 4]);

const cases: Record<string, () => unknown> = {
  'a.add(b)': () => x.add(y),
  'a.add(1)': () => x.add(1),
  'a.add(row), broadcast': () => x.add(row),
  'a.exp()': () => x.exp(),
  'a.sum()': () => x.sum(),
  'a.matmul(b)': () => x.matmul(square),
  'p.mul(b), recorded': () => parameter.mul(y),
  'a.reshape([8]), a view': () => x.reshape([8]),
  'a.softmax(-1)': () => x.softmax(-1),
  '(p*b).sum().backward()': () => {
    parameter.mul(y).sum().backward();
    parameter.grad!.dispose();
    parameter.grad = null;
  },
};

console.log(`${'call'.padEnd(28)}${'median ns'.padStart(10)}${'fastest'.padStart(10)}`);
for (const [name, call] of Object.entries(cases)) {
  const times: number[] = [];
  for (let r = 0; r < ROUNDS; r++) {
    sg.scope(() => {
      const start = process.hrtime.bigint();
      for (let i = 0; i < COUNT; i++) call();
      times.push(Number(process.hrtime.bigint() - start) / COUNT);
    });
    await sg.synchronize();
  }
  times.sort((a, b) => a - b);
  console.log(`${name.padEnd(28)}${times[ROUNDS >> 1]!.toFixed(0).padStart(10)}${times[0]!.toFixed(0).padStart(10)}`);
}
