// `shardgrad trace merge`: one trace of what `shardgrad run --profile` left of each rank.
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { UsageError } from '../distributed/launcher/options.js';
import { ShardgradError } from '../errors.js';
import { type MergedTrace, mergeTraces, parseTrace } from '../profiler/merge.js';

const HELP = `shardgrad trace merge DIR [-o FILE]

Puts the traces DIR/rank-<i>.json into one, a process a rank, for ui.perfetto.dev or chrome://tracing. Ranks of one host have one clock;
those of several hosts are aligned by the ends of their common collectives. To profile on several hosts, bring the files into one folder.

  -o, --output FILE     default DIR/trace.json
  -h, --help            this text
`;

export async function trace(args: readonly string[]): Promise<number> {
  const { values, positionals } = parse(args);
  if (values.help || args.length === 0) {
    process.stdout.write(HELP);
    return values.help ? 0 : 2;
  }
  const [command, folder, ...more] = positionals;
  if (command !== 'merge') throw new UsageError(command === undefined ? 'give a command: merge' : `unknown command ${command}; there is: merge`);
  if (folder === undefined) throw new UsageError('merge: give the folder of the traces');
  if (more.length > 0) throw new UsageError(`merge takes no ${more[0]}`);
  const output = values.output ?? join(folder, 'trace.json');
  try {
    const merged = await merge(folder);
    await writeFile(output, merged.text);
    process.stdout.write(report(merged, output));
    return 0;
  } catch (error) {
    if (!(error instanceof ShardgradError) && (error as NodeJS.ErrnoException).syscall === undefined) throw error;
    process.stderr.write(`shardgrad trace: ${(error as Error).message}\n`);
    return 1;
  }
}

async function merge(folder: string): Promise<MergedTrace> {
  const names = (await readdir(folder)).filter((name) => /^rank-\d+\.json$/.test(name));
  if (names.length === 0) throw new ShardgradError(`${folder} has no rank-<i>.json: shardgrad run --profile ${folder} writes them`);
  return mergeTraces(await Promise.all(names.map(async (name) => parseTrace(await readFile(join(folder, name), 'utf8'), join(folder, name)))));
}

function report({ ranks, hosts }: MergedTrace, output: string): string {
  const lines = [`${ranks.length} ${ranks.length === 1 ? 'rank' : 'ranks'} in ${output}`];
  for (const [i, { host, ranks: own, collectives, spread }] of hosts.entries()) {
    if (hosts.length === 1) break;
    const how =
      i === 0
        ? 'its clock counts'
        : collectives === 0
          ? 'by the wall clock: no collectives in common'
          : `by ${collectives} collectives, half of them within ${spread.toFixed(0)} us`;
    lines.push(`ranks ${own.join(', ')} on ${host}: ${how}`);
  }
  return `${lines.join('\n')}\n`;
}

function parse(args: readonly string[]) {
  try {
    const options = { output: { type: 'string', short: 'o' }, help: { type: 'boolean', short: 'h' } } as const;
    return parseArgs({ args: [...args], allowPositionals: true, options });
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}
