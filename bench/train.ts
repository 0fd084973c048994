// GPT training beside eager PyTorch: the same weights, batches, threads and precision, rounds in turn. Losses are compared before any time
// is printed.
//
//   node dist/bench/train.js --config tiny --dtype float32 --threads 2 [--rounds 7] [--steps 10] [--python /path/to/python]
//
// `--dtype autocast` trains float32 parameters under autocast, on both sides, beside our own float32.
import { parseArgs } from 'node:util';
import { compareLosses, median, ourWorker, Side, torchWorker, withSetup } from './sides.js';

const { values: args } = parseArgs({
  options: {
    config: { type: 'string', default: 'tiny' },
    dtype: { type: 'string', default: 'float32' },
    threads: { type: 'string', default: '2' },
    rounds: { type: 'string', default: '7' },
    steps: { type: 'string', default: '10' },
    python: { type: 'string', default: 'python3' },
  },
});

/** Our own float32, where it runs too. */
const beside = (wide: number, ours: number): string => (Number.isNaN(wide) ? '' : `; in float32 ${wide.toFixed(1)} ms, ratio ${(wide / ours).toFixed(2)}`);

await withSetup(args.config, args.dtype, async (setup) => {
  const threads = Number(args.threads);
  const ours = new Side('shardgrad', ourWorker, setup, { threads });
  const theirs = new Side('pytorch', torchWorker(args.python), setup, { threads });
  const wide = setup.autocast ? new Side('shardgrad in float32', ourWorker, { ...setup, autocast: false }, { threads }) : null;
  await wide?.round(3);
  const [a, b] = [await ours.round(3), await theirs.round(3)];
  const difference = compareLosses(a, b, args.dtype);
  console.log(
    `${args.config} ${args.dtype} ${args.threads} threads; losses ${a.losses.map((x) => x.toFixed(5)).join(' ')}, largest relative difference ${difference.toExponential(1)}`,
  );
  let peaks = [0, 0];
  const rows: { ours: number; theirs: number; wide: number }[] = [];
  for (let r = 0; r < Number(args.rounds); r++) {
    const mine = await ours.round(Number(args.steps));
    const other = await theirs.round(Number(args.steps));
    peaks = [mine.peakMiB, other.peakMiB];
    const row = { ours: median(mine.ms), theirs: median(other.ms), wide: wide ? median((await wide.round(Number(args.steps))).ms) : Number.NaN };
    rows.push(row);
    console.log(
      `round ${r + 1}: shardgrad ${row.ours.toFixed(1)} ms, pytorch ${row.theirs.toFixed(1)} ms, ratio ${(row.theirs / row.ours).toFixed(2)}${beside(row.wide, row.ours)}`,
    );
  }
  const [ms, msTorch] = [median(rows.map((r) => r.ours)), median(rows.map((r) => r.theirs))];
  const perStep = setup.batch * setup.model.context;
  console.log(
    `median: shardgrad ${ms.toFixed(1)} ms (${Math.round((perStep / ms) * 1000)} tokens/s, peak ${peaks[0]!.toFixed(0)} MiB), ` +
      `pytorch ${msTorch.toFixed(1)} ms (${Math.round((perStep / msTorch) * 1000)} tokens/s, peak ${peaks[1]!.toFixed(0)} MiB), ratio ${(msTorch / ms).toFixed(2)}${beside(median(rows.map((r) => r.wide)), ms)}`,
  );
  ours.end();
  wide?.end();
  theirs.end();
});
