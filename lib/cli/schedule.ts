// `shardgrad schedule`: what the ranks of a pipeline do when, how long they wait, and what they keep; for schedules by name and from files.
import { writeFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { UsageError } from '../distributed/launcher/options.js';
import { percent, titleOf, trim } from '../distributed/pipeline/captions.js';
import { drawSchedule } from '../distributed/pipeline/draw.js';
import { lowerSchedule } from '../distributed/pipeline/lower.js';
import { makeSchedule, SCHEDULE_NAMES, type ScheduleName } from '../distributed/pipeline/make_schedule.js';
import { readSchedule, type Schedule, writeSchedule } from '../distributed/pipeline/schedule.js';
import { type ScheduleCosts, type Simulation, simulateSchedule } from '../distributed/pipeline/simulate_schedule.js';
import { scheduleSvg } from '../distributed/pipeline/svg.js';
import { ShardgradError, ValueError } from '../errors.js';

const HELP = `shardgrad schedule show --schedule NAME --stages N --micro-batches M [options]
shardgrad schedule show --file FILE [options]

Checks a pipeline schedule, draws what each rank does when, and prints the bubble and the most activations that ranks keep.

  --schedule NAME       ${SCHEDULE_NAMES.join(', ')}
  --file FILE           a plan: a line for each rank, its actions parted by commas, as 0F0,0F1,0B0,0B1
  --stages N            stages of the whole model
  --stages-per-rank V   how many of them each rank has (2 for interleaved and zbv, else 1)
  --micro-batches M     micro-batches of a step
  --group G             interleaved: micro-batches that a rank takes through one stage before its next one
  --costs F=1,B=2,...   how long a forward (F), a whole backward (B), its parts (I, W) and a message (send) take; F=1,B=2,send=0
  --lower               put in the messages between ranks, and go by them
  --svg FILE            also write a picture
  --write FILE          also write the plan, as --file reads it
  -h, --help            this text
`;

export async function schedule(args: readonly string[]): Promise<number> {
  const { values, positionals } = parse(args);
  if (values.help || (positionals.length === 0 && args.length === 0)) {
    process.stdout.write(HELP);
    return values.help ? 0 : 2;
  }
  const [command, ...more] = positionals;
  if (command !== 'show') throw new UsageError(command === undefined ? 'give a command: show' : `unknown command ${command}; there is: show`);
  if (more.length > 0) throw new UsageError(`show takes no ${more[0]}`);
  const costs = costsOf(values.costs);
  const ask = asked(values);
  try {
    const plan = await ask();
    const shown = values.lower && !plan.communicates ? lowerSchedule(plan) : plan;
    const simulation = simulateSchedule(shown, { costs });
    process.stdout.write(answer(shown, simulation));
    if (values.svg !== undefined) await save(values.svg, () => writeFile(values.svg!, scheduleSvg(shown, simulation)));
    if (values.write !== undefined) await save(values.write, () => writeSchedule(values.write!, shown));
    return 0;
  } catch (error) {
    if (!(error instanceof ShardgradError)) throw error;
    process.stderr.write(`shardgrad schedule: ${error.message}\n`);
    return 1;
  }
}

function answer(plan: Schedule, simulation: Simulation): string {
  const { columns, isTTY } = process.stdout;
  const grid = drawSchedule(plan, simulation, { columns: isTTY ? columns : undefined, colours: Boolean(isTTY) && !process.env['NO_COLOR'] });
  const ranks = simulation.ranks.map(
    ({ bubble, peakActivations }, rank) => `rank ${rank}  idle ${percent(bubble)}  keeps up to ${peakActivations} activations`,
  );
  return `${titleOf(plan, simulation)}\n\n${grid}\n${ranks.join('\n')}\nmakespan ${trim(simulation.makespan)}\n`;
}

/** What the command line asks for, checked as far as that can be done without reading a file. */
function asked(values: Values): () => Promise<Schedule> {
  const { file, schedule: name } = values;
  if ((file === undefined) === (name === undefined)) throw new UsageError('give either --schedule or --file');
  if (file !== undefined) {
    const sizes = (['stages', 'micro-batches', 'stages-per-rank', 'group'] as const).find((option) => values[option] !== undefined);
    if (sizes) throw new UsageError(`--${sizes} does not go with --file; the file says it`);
    return () => readSchedule(file);
  }
  if (!SCHEDULE_NAMES.includes(name as ScheduleName)) throw new UsageError(`--schedule ${name}: there are ${SCHEDULE_NAMES.join(', ')}`);
  const stages = whole(values, 'stages');
  const microBatches = whole(values, 'micro-batches');
  if (stages === undefined || microBatches === undefined) throw new UsageError(`--schedule ${name} needs --stages and --micro-batches`);
  const stagesPerRank = whole(values, 'stages-per-rank') ?? (name === 'interleaved' || name === 'zbv' ? 2 : 1);
  if (stages % stagesPerRank !== 0) throw new UsageError(`--stages ${stages} is no multiple of the ${stagesPerRank} stages on each rank`);
  const sizes = { ranks: stages / stagesPerRank, microBatches, stagesPerRank, microBatchesPerGroup: whole(values, 'group') };
  return async () => makeSchedule(name as ScheduleName, sizes);
}

function whole(values: Values, option: 'stages' | 'micro-batches' | 'stages-per-rank' | 'group'): number | undefined {
  const text = values[option];
  if (text === undefined) return undefined;
  if (!/^[1-9]\d{0,5}$/.test(text)) throw new UsageError(`--${option} must be a whole number from 1, not ${text}`);
  return Number(text);
}

function costsOf(text: string | undefined): ScheduleCosts {
  const pairs = (text ?? '').split(',').filter((pair) => pair !== '');
  return Object.fromEntries(
    pairs.map((pair) => {
      const [, name, value] = /^\s*(F|B|I|W|send)\s*=\s*(\d+(?:\.\d+)?|\.\d+)\s*$/.exec(pair) ?? [];
      if (name === undefined || (name !== 'send' && Number(value) === 0)) {
        throw new UsageError(`--costs ${pair}: give positive numbers for F, B, I, W or send, as F=1,B=2`);
      }
      return [name, Number(value)];
    }),
  );
}

async function save(path: string, write: () => Promise<void>): Promise<void> {
  try {
    await write();
  } catch (error) {
    throw new ValueError(`${path} cannot be written (${(error as NodeJS.ErrnoException).code})`);
  }
}

type Values = ReturnType<typeof parse>['values'];

function parse(args: readonly string[]) {
  const text = { type: 'string' } as const;
  const options = {
    schedule: text,
    file: text,
    stages: text,
    'stages-per-rank': text,
    'micro-batches': text,
    group: text,
    costs: text,
    lower: { type: 'boolean' },
    svg: text,
    write: text,
    help: { type: 'boolean', short: 'h' },
  } as const;
  try {
    return parseArgs({ args: [...args], allowPositionals: true, options });
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}
