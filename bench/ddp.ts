// Data-parallel GPT training beside PyTorch's DistributedDataParallel over gloo: processes of one thread that share every batch, rounds in
// turn, losses compared first. Beside them run ours as one process of one thread, and as many such processes that do not communicate,
// each on a rank's part of the batch: what the machine could give at most. With --weak every rank has the model's whole batch.
//
//   node dist/bench/ddp.js --config tiny --dtype float32 [--ranks 2] [--weak] [--rounds 7] [--steps 10] [--python /path/to/python]
import { parseArgs } from 'node:util';
import { compareLosses, median, ourWorker, Side, torchWorker, withSetup } from './sides.js';

const { values: args } = parseArgs({
  options: {
    config: { type: 'string', default: 'tiny' },
    dtype: { type: 'string', default: 'float32' },
    ranks: { type: 'string', default: '2' },
    weak: { type: 'boolean', default: false },
    rounds: { type: 'string', default: '7' },
    steps: { type: 'string', default: '10' },
    python: { type: 'string', default: 'python3' },
  },
});

await withSetup(args.config, args.dtype, async (whole) => {
  const ranks = Number(args.ranks);
  const setup = { ...whole, batch: args.weak ? whole.batch * ranks : whole.batch };
  const ours = new Side('shardgrad', ourWorker, setup, { ranks, threads: 1 });
  const theirs = new Side('pytorch', torchWorker(args.python), setup, { ranks, threads: 1 });
  const alone = new Side('one process', ourWorker, whole, { threads: 1 });
  const part = { ...setup, batch: setup.batch / ranks };
  const apart = Array.from({ length: ranks }, (_, r) => new Side(`process ${r} of those apart`, ourWorker, part, { threads: 1 }));
  const [a, b, one] = [await ours.round(3), await theirs.round(3), await alone.round(3)];
  await Promise.all(apart.map((side) => side.round(3)));
  const difference = Math.max(compareLosses(a, b, args.dtype), args.weak ? 0 : compareLosses(a, one, args.dtype));
  console.log(
    `${args.config} ${args.dtype} ${ranks} processes of one thread, ${part.batch} rows each; losses ${a.losses.map((x) => x.toFixed(5)).join(' ')}, largest relative difference ${difference.toExponential(1)}`,
  );
  const speed = (ms: readonly number[], batch = setup.batch): number => (1000 * batch * setup.model.context) / median(ms);
  const rows: { ours: number; theirs: number; alone: number; apart: number; waited: number }[] = [];
  for (let r = 0; r < Number(args.rounds); r++) {
    const steps = Number(args.steps);
    const mine = await ours.round(steps);
    const other = await theirs.round(steps);
    const single = await alone.round(steps);
    const limit = await Promise.all(apart.map((side) => side.round(steps)));
    const row = {
      ours: speed(mine.ms),
      theirs: speed(other.ms),
      alone: speed(single.ms, whole.batch),
      apart: limit.reduce((sum, { ms }) => sum + speed(ms, part.batch), 0),
      waited: mine.waited!,
    };
    rows.push(row);
    console.log(
      `round ${r + 1}: tokens/s shardgrad ${row.ours.toFixed(0)} (waited ${(100 * row.waited).toFixed(1)}%), pytorch ${row.theirs.toFixed(0)}, ` +
        `one process ${row.alone.toFixed(0)}, without communication ${row.apart.toFixed(0)}`,
    );
  }
  const over = (name: string, ratios: number[]): string =>
    `${name} ${median(ratios).toFixed(2)} (${Math.min(...ratios).toFixed(2)} to ${Math.max(...ratios).toFixed(2)})`;
  console.log(
    `median: shardgrad ${median(rows.map((r) => r.ours)).toFixed(0)} tokens/s, pytorch ${median(rows.map((r) => r.theirs)).toFixed(0)}; ` +
      [
        over(
          'of pytorch',
          rows.map((r) => r.ours / r.theirs),
        ),
        over(
          `of ${ranks} times one process`,
          rows.map((r) => r.ours / r.alone / ranks),
        ),
        over(
          'of no communication',
          rows.map((r) => r.ours / r.apart),
        ),
      ].join(', '),
  );
  for (const side of [ours, theirs, alone, ...apart]) side.end();
});
