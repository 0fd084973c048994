// A model of 12 layers in two stages on two processes of one thread, beside one process of one thread with the same micro-batches and with the
// whole batch at once: how much of twice that speed is left after the bubble, which no schedule of whole backwards can avoid.
//
//   node dist/bench/pipeline.js [--config deep] [--dtype float32] [--schedule 1f1b] [--micro-batches 8] [--rounds 5] [--steps 3]
import { parseArgs } from 'node:util';
import { makeSchedule, type ScheduleName, simulateSchedule } from '../lib/distributed/index.js';
import { compareLosses, median, ourWorker, Side, speedsInTurn, withSetup } from './sides.js';

const { values: args } = parseArgs({
  options: {
    config: { type: 'string', default: 'deep' },
    dtype: { type: 'string', default: 'float32' },
    schedule: { type: 'string', default: '1f1b' },
    'micro-batches': { type: 'string', default: '8' },
    rounds: { type: 'string', default: '5' },
    steps: { type: 'string', default: '3' },
  },
});
const RANKS = 2;
const [schedule, microBatches] = [args.schedule as ScheduleName, Number(args['micro-batches'])];
const { bubble } = simulateSchedule(makeSchedule(schedule, { ranks: RANKS, microBatches }));

await withSetup(args.config, args.dtype, async (setup) => {
  const stages = { schedule, microBatches };
  const sides = [
    new Side('one thread', ourWorker, setup, { threads: 1 }),
    new Side('in micro-batches', ourWorker, { ...setup, spread: stages }, { threads: 1 }),
    new Side('pipeline', ourWorker, { ...setup, spread: stages }, { ranks: RANKS, threads: 1 }),
  ];
  const losses = [];
  for (const side of sides) losses.push(await side.round(2));
  for (const other of losses.slice(1)) compareLosses(other, losses[0]!, args.dtype);
  const speeds = await speedsInTurn(sides, setup, Number(args.rounds), Number(args.steps));
  const ideal = RANKS * (1 - bubble);
  for (const [i, side] of sides.slice(0, -1).entries()) {
    const shares = speeds.at(-1)!.map((speed, round) => speed / (ideal * speeds[i]![round]!));
    console.log(
      `${schedule}, ${microBatches} micro-batches, bubble ${bubble.toFixed(3)}: ${median(shares).toFixed(2)} (${Math.min(...shares).toFixed(2)} to ` +
        `${Math.max(...shares).toFixed(2)}) of ${ideal.toFixed(2)} times "${side.name}"`,
    );
  }
  for (const side of sides) side.end();
});
