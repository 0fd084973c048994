// Ways to spread one GPT over processes of one thread, beside data parallelism on the same cores: the same weights and batches, losses compared
// first, rounds in turn.
//
//   node dist/bench/sharding.js --config small --dtype float32 [--ranks 2] [--rounds 5] [--steps 3]
import { parseArgs } from 'node:util';
import { compareLosses, median, ourWorker, Side, SPREADS, speedsInTurn, withSetup } from './sides.js';

const { values: args } = parseArgs({
  options: {
    config: { type: 'string', default: 'small' },
    dtype: { type: 'string', default: 'float32' },
    ranks: { type: 'string', default: '2' },
    rounds: { type: 'string', default: '5' },
    steps: { type: 'string', default: '3' },
  },
});

await withSetup(args.config, args.dtype, async (setup) => {
  const sides = SPREADS.map((spread) => new Side(spread, ourWorker, { ...setup, spread }, { ranks: Number(args.ranks), threads: 1 }));
  const losses = [];
  for (const side of sides) losses.push(await side.round(2));
  for (const other of losses.slice(1)) compareLosses(other, losses[0]!, args.dtype);
  console.log(`${args.config} ${args.dtype}, ${args.ranks} processes of one thread; losses ${losses[0]!.losses.map((x) => x.toFixed(5)).join(' ')} agree`);
  const speeds = await speedsInTurn(sides, setup, Number(args.rounds), Number(args.steps));
  for (const [i, side] of sides.entries()) {
    const ratios = speeds[i]!.map((speed, round) => speed / speeds[0]![round]!);
    const { peakMiB } = await side.round(1);
    console.log(
      `${side.name.padEnd(6)} ${median(speeds[i]!).toFixed(0)} tokens/s, of ddp ${median(ratios).toFixed(2)} ` +
        `(${Math.min(...ratios).toFixed(2)} to ${Math.max(...ratios).toFixed(2)}), peak of all ranks ${peakMiB.toFixed(0)} MiB`,
    );
    side.end();
  }
});
