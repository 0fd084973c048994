// GPT training beside eager PyTorch: the same weights, batches, threads and precision, rounds in turn. Losses are compared before any time
// is printed.
//
//   node dist/bench/train.js --config tiny --dtype float32 --threads 2 [--rounds 7] [--steps 10] [--python /path/to/python]
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

await withSetup(args.config, args.dtype, async (setup) => {
  const threads = Number(args.threads);
  const ours = new Side('shardgrad', ourWorker, setup, { threads });
  const theirs = new Side('pytorch', torchWorker(args.python), setup, { threads });
  const [a, b] = [await ours.round(3), await theirs.round(3)];
  const difference = compareLosses(a, b, args.dtype);
  console.log(
    `${args.config} ${args.dtype} ${args.threads} threads; losses ${a.losses.map((x) => x.toFixed(5)).join(' ')}, largest relative difference ${difference.toExponential(1)}`,
  );
  let peaks = [0, 0];
  const rows: { ours: number; theirs: number }[] = [];
  for (let r = 0; r < Number(args.rounds); r++) {
    const mine = await ours.round(Number(args.steps));
    const other = await theirs.round(Number(args.steps));
    peaks = [mine.peakMiB, other.peakMiB];
    const row = { ours: median(mine.ms), theirs: median(other.ms) };
    rows.push(row);
    console.log(`round ${r + 1}: shardgrad ${row.ours.toFixed(1)} ms, pytorch ${row.theirs.toFixed(1)} ms, ratio ${(row.theirs / row.ours).toFixed(2)}`);
  }
  const [ms, msTorch] = [median(rows.map((r) => r.ours)), median(rows.map((r) => r.theirs))];
  const perStep = setup.batch * setup.model.context;
  console.log(
    `median: shardgrad ${ms.toFixed(1)} ms (${Math.round((perStep / ms) * 1000)} tokens/s, peak ${peaks[0]!.toFixed(0)} MiB), ` +
      `pytorch ${msTorch.toFixed(1)} ms (${Math.round((perStep / msTorch) * 1000)} tokens/s, peak ${peaks[1]!.toFixed(0)} MiB), ratio ${(msTorch / ms).toFixed(2)}`,
  );
  ours.end();
  theirs.end();
});
