// `shardgrad checkpoint`: what a checkpoint holds, whether it is whole, and its weights as one file.
import { parseArgs } from 'node:util';
import type { CheckpointContents } from '../distributed/checkpoint/contents.js';
import { UsageError } from '../distributed/launcher/options.js';

const HELP = `shardgrad checkpoint inspect <path> [--tensors] [--json]
shardgrad checkpoint verify <path>
shardgrad checkpoint merge <path> <file.safetensors> [--state NAME]

<path> is a checkpoint, or the folder of several or <folder>/latest for the one saved last; saved by one process or by many ranks.

  inspect    the states it holds, with the sizes of their tensors; --tensors names each
  verify     compares every file with its checksum, and looks whether every tensor is complete
  merge      writes the tensors of a state (model, unless --state says another) whole into one file
`;

const COMMANDS = { inspect: 1, verify: 1, merge: 2 } as const;

export async function checkpoint(args: readonly string[]): Promise<number> {
  const [command, ...rest] = args;
  if (command === undefined || command === '--help' || command === '-h') {
    process.stdout.write(HELP);
    return command === undefined ? 2 : 0;
  }
  if (!Object.hasOwn(COMMANDS, command)) throw new UsageError(`unknown command ${command}; there are: ${Object.keys(COMMANDS).join(', ')}`);
  const { values, positionals } = parse(rest);
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  const count = COMMANDS[command as keyof typeof COMMANDS];
  if (positionals.length !== count)
    throw new UsageError(count === 1 ? `${command}: give the path of a checkpoint` : `${command}: give the path of a checkpoint and of the file to write`);
  const { CheckpointContents } = await import('../distributed/checkpoint/contents.js');
  try {
    const contents = await CheckpointContents.open(positionals[0]!);
    try {
      process.stdout.write(await answer(contents, command, values, positionals[1]));
    } finally {
      await contents.close();
    }
    return 0;
  } catch (error) {
    if (!(error instanceof Error) || !('code' in error)) throw error;
    process.stderr.write(`shardgrad checkpoint: ${error.message}\n`);
    return 1;
  }
}

async function answer(contents: CheckpointContents, command: string, { state = 'model', json, tensors }: Values, file = ''): Promise<string> {
  if (command === 'merge') return `${await contents.merge(state, file)} tensors of ${state} in ${file}\n`;
  if (command === 'verify') return `${await contents.verify()}\n`;
  return json ? `${JSON.stringify(contents.summary(), null, 1)}\n` : contents.show(tensors ?? false);
}

type Values = ReturnType<typeof parse>['values'];

function parse(args: readonly string[]) {
  try {
    const options = { tensors: { type: 'boolean' }, json: { type: 'boolean' }, state: { type: 'string' }, help: { type: 'boolean', short: 'h' } } as const;
    return parseArgs({ args: [...args], allowPositionals: true, options });
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}
