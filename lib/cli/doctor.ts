// `shardgrad doctor`: what was found on this machine, where, in which version, and the reason of every miss.
import { availableParallelism, release, totalmem } from 'node:os';
import { parseArgs } from 'node:util';
import type { CudaReport } from '../cuda.js';
import { UsageError } from '../distributed/launcher/options.js';

const HELP = `shardgrad doctor [--json]

Prints what there is of processors, GPUs, drivers and libraries, and why something is missing.
`;

interface Findings {
  readonly version: string;
  readonly node: string;
  readonly system: string;
  readonly cores: number;
  readonly instructionSet: string;
  readonly memoryBytes: number;
  readonly cuda: CudaReport;
}

export async function doctor(args: readonly string[]): Promise<number> {
  let values: { json?: boolean | undefined; help?: boolean | undefined };
  try {
    ({ values } = parseArgs({ args: [...args], options: { json: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } } }));
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  let found: Findings;
  try {
    found = await look();
  } catch (error) {
    process.stderr.write(`shardgrad doctor: ${(error as Error).message}\n`); // the binary itself could not be loaded
    return 1;
  }
  process.stdout.write(values.json ? `${JSON.stringify(found, null, 1)}\n` : show(found));
  return 0;
}

async function look(): Promise<Findings> {
  const { native } = await import('../native.js');
  return {
    version: native.version,
    node: process.versions.node,
    system: `${process.platform}-${process.arch} ${release()}`,
    cores: availableParallelism(),
    instructionSet: native.isa,
    memoryBytes: totalmem(),
    cuda: native.cudaReport(),
  };
}

const gibibytes = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(1)} GiB`;

function show(f: Findings): string {
  const lines: [string, string][] = [
    ['shardgrad', `${f.version}, Node ${f.node}, ${f.system}`],
    ['processor', `${f.cores} cores, ${f.instructionSet} kernels, ${gibibytes(f.memoryBytes)} of memory`],
    ['CUDA', cudaLine(f.cuda)],
    ...f.cuda.gpus.map((g, i): [string, string] => [
      `cuda:${i}`,
      `${g.name}, compute capability ${g.capability}, ${g.multiprocessors} multiprocessors, ${gibibytes(g.bytes)}, bus ${g.busId}`,
    ]),
  ];
  for (const library of f.cuda.libraries) {
    lines.push([library.name, library.path ? `${library.version} at ${library.path}` : 'not found']);
    if (!library.path) for (const attempt of library.tried) lines.push(['', `tried ${attempt}`]);
  }
  return lines.map(([name, text]) => `${name.padEnd(12)}${text}\n`).join('');
}

function cudaLine({ problem, driver, runtime, gpus }: CudaReport): string {
  const versions = [runtime && `built for ${runtime}`, driver && driver !== '0.0' && `driver for ${driver}`].filter(Boolean).join(', ');
  const what = gpus.length > 0 ? `${gpus.length} ${gpus.length === 1 ? 'GPU' : 'GPUs'}` : `none: ${problem}`;
  return versions ? `${what} (${versions})` : what;
}
