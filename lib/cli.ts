#!/usr/bin/env node
// The command `shardgrad`. Commands are rows of a table; a mistake on the command line is one sentence and exit code 2. Nothing
// here loads the addon.
import { readFileSync } from 'node:fs';
import { build } from './cli/build.js';
import { checkpoint } from './cli/checkpoint.js';
import { doctor } from './cli/doctor.js';
import { schedule } from './cli/schedule.js';
import { trace } from './cli/trace.js';
import { debug } from './distributed/launcher/debug.js';
import { UsageError } from './distributed/launcher/options.js';
import { run } from './distributed/launcher/run.js';

interface Command {
  readonly summary: string;
  readonly start: (args: readonly string[]) => Promise<number>;
}

const commands: Readonly<Record<string, Command>> = {
  run: { summary: 'start the ranks of a training job', start: run },
  doctor: { summary: 'show what was found of processors, GPUs, drivers and libraries', start: doctor },
  checkpoint: { summary: 'show, verify or merge what a training has saved', start: checkpoint },
  schedule: { summary: 'check and draw what the ranks of a pipeline do when', start: schedule },
  build: { summary: 'compile the native part of an installed package', start: build },
  trace: { summary: 'put the traces of all ranks into one', start: trace },
  debug: { summary: 'show what the ranks of a job do, or did before it failed', start: debug },
};

const HELP = `shardgrad <command> [options]

${Object.entries(commands)
  .map(([name, { summary }]) => `  ${name.padEnd(12)}${summary}`)
  .join('\n')}

shardgrad <command> --help describes a command, shardgrad --version says which version this is.
`;

function version(): string {
  // the same place from the compiled file and from the bundle
  const file = new URL('../../package.json', import.meta.url);
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version;
}

async function main([name, ...args]: readonly string[]): Promise<number> {
  if (name === undefined || name === '--help' || name === '-h') {
    process.stdout.write(HELP);
    return name === undefined ? 2 : 0;
  }
  if (name === '--version') {
    process.stdout.write(`${version()}\n`);
    return 0;
  }
  const command = Object.hasOwn(commands, name) ? commands[name] : undefined;
  try {
    if (!command) throw new UsageError(`unknown ${name.startsWith('-') ? 'option' : 'command'} ${name}; shardgrad --help lists all`);
    return await command.start(args);
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    process.stderr.write(`shardgrad${command ? ` ${name}` : ''}: ${error.message}\n`);
    return 2;
  }
}

process.exitCode = await main(process.argv.slice(2));
