// The command line of `shardgrad run`: torchrun's options, in kebab-case or snake_case, up to the script; what follows the script
// is the script's.
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { DEFAULT_STEPS, parseSteps } from '../../profiler/environment_names.js';
import { parseNodes, parseRankCount, type RankCount } from '../environment_sources.js';

/** A mistake on the command line: one sentence, exit code 2. */
export class UsageError extends Error {}

/** What was asked for; null: not said. */
export interface RunOptions {
  readonly nprocPerNode: RankCount | null;
  readonly nnodes: number | null;
  readonly nodeRank: number | null;
  readonly masterAddr: string | null;
  readonly masterPort: number | null;
  readonly localAddr: string | null;
  readonly rdzvId: string | null;
  readonly maxRestarts: number;
  readonly logDir: string | null;
  readonly standalone: boolean;
  readonly tokenFile: string | null;
  readonly shutdownTimeoutMs: number;
  /** Folder for the ranks' profiles, and the optimizer's steps that they are of. */
  readonly profile: { readonly folder: string; readonly steps: string } | null;
  /** The script or command and its arguments. */
  readonly command: readonly string[];
}

export const RUN_HELP = `shardgrad run [options] <script or command> [arguments...]

Starts the ranks of a job on this host, or this host's part of a job on several hosts (then run it on each).
A .js or .ts file is run by Node, anything else as a command. Ranks find each other by the environment.

  --nproc-per-node N    ranks on this host: a number, or cpu, gpu or auto for one a core or GPU (default 1)
  --nnodes N            number of hosts (default 1)
  --node-rank I         which of the hosts this is, from 0
  --master-addr HOST    address of host 0
  --master-port PORT    port of the store on host 0 (default 29500; on one host any free port)
  --local-addr ADDRESS  on host 0: address to listen on, where it differs from --master-addr
  --rdzv-id ID          name of the job, the same on all hosts
  --max-restarts N      how often to start the whole job again after a failure (default 0)
  --log-dir DIR         also write each rank's output to DIR/<job>/attempt_<i>/<rank>/stdout.log and stderr.log
  --standalone          one host, whatever the environment says
  --token-file FILE     file with the job's token, at least 16 characters, the same on all hosts; or set SHARDGRAD_TOKEN
                        (needed for several hosts; made for one)
  --shutdown-timeout S  after SIGINT or SIGTERM, how long ranks may take to end (default 30)
  --profile DIR         record some steps of each rank into DIR/rank-<i>.json, for Perfetto, with a summary in DIR/rank-<i>.txt;
                        shardgrad trace merge DIR makes one trace of all
  --profile-steps A-B   which steps of the optimizer, counted from 1 (default 10-14)
  -h, --help            this text

Options that are not given are taken from the environment of Kubernetes (PET_*, PyTorchJob, indexed jobs), Slurm or MPI.
SHARDGRAD_NUM_THREADS is set to cores / ranks unless it is set.
`;

const text = { type: 'string' } as const;
const declared = {
  'nproc-per-node': text,
  nnodes: text,
  'node-rank': text,
  'master-addr': text,
  'master-port': text,
  'local-addr': text,
  'rdzv-id': text,
  'max-restarts': text,
  'log-dir': text,
  standalone: { type: 'boolean' },
  'token-file': text,
  'shutdown-timeout': text,
  profile: text,
  'profile-steps': text,
  help: { type: 'boolean', short: 'h' },
} as const;

/**
 * Parses the arguments after `run`.
 * @returns the options, or 'help' when they were asked for
 * @throws UsageError
 */
export function parseRunOptions(args: readonly string[]): RunOptions | 'help' {
  // names in snake_case become kebab-case; the places of arguments stay, so the split found here holds for the original
  const spelled = args.map((arg) => (arg.startsWith('--') ? arg.replace(/^[^=]*/, (name) => name.replaceAll('_', '-')) : arg));
  const { tokens } = parseArgs({ args: spelled, options: declared, strict: false, tokens: true });
  const first = tokens.find(({ kind }) => kind === 'positional' || kind === 'option-terminator');
  const split = first?.index ?? args.length;
  const values = parseStrict(spelled.slice(0, split));
  if (values.help) return 'help';

  const integer = (name: keyof typeof declared, min: number, max: number): number | null => {
    const value = values[name];
    if (value === undefined) return null;
    if (/^\d{1,9}$/.test(String(value)) && Number(value) >= min && Number(value) <= max) return Number(value);
    throw new UsageError(`--${name} must be a whole number from ${min} to ${max}, got ${JSON.stringify(value)}`);
  };
  const parsed = <T>(name: 'nnodes' | 'nproc-per-node', parse: (value: string, where: string) => T): T | null => {
    try {
      return values[name] === undefined ? null : parse(values[name], `--${name}`);
    } catch (error) {
      throw new UsageError((error as Error).message);
    }
  };
  const options = {
    nprocPerNode: parsed('nproc-per-node', parseRankCount),
    nnodes: parsed('nnodes', parseNodes),
    nodeRank: integer('node-rank', 0, 999_999),
    masterAddr: values['master-addr'] ?? null,
    masterPort: integer('master-port', 1, 65535),
    localAddr: values['local-addr'] ?? null,
    rdzvId: values['rdzv-id'] ?? null,
    maxRestarts: integer('max-restarts', 0, 1_000_000) ?? 0,
    logDir: values['log-dir'] ?? null,
    standalone: values.standalone ?? false,
    tokenFile: values['token-file'] ?? null,
    shutdownTimeoutMs: (integer('shutdown-timeout', 0, 1_000_000) ?? 30) * 1000,
    profile: profileOf(values.profile, values['profile-steps']),
  };
  // last: an option without its value has taken the script for it
  const command = args.slice(first?.kind === 'option-terminator' ? split + 1 : split);
  if (!command[0]) throw new UsageError('a script or command is missing');
  return { ...options, command };
}

function profileOf(folder: string | undefined, steps: string | undefined): RunOptions['profile'] {
  if (folder === undefined && steps !== undefined) throw new UsageError('--profile-steps goes with --profile');
  if (folder === undefined) return null;
  if (steps !== undefined && !parseSteps(steps))
    throw new UsageError(`--profile-steps must be steps from 1 on, such as ${DEFAULT_STEPS}, got ${JSON.stringify(steps)}`);
  return { folder: resolve(folder), steps: steps ?? DEFAULT_STEPS };
}

function parseStrict(args: string[]) {
  try {
    return parseArgs({ args, options: declared, strict: true, allowPositionals: false }).values;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const unknown = /^Unknown option '([^']*)'/.exec(message)?.[1];
    if (code === 'ERR_PARSE_ARGS_UNKNOWN_OPTION' && unknown) throw new UsageError(`unknown option ${unknown}; shardgrad run --help lists all`);
    const [, lacking, dashed] = /^Option '(?:-\w, )?(--[\w-]+).*' argument (?:missing|(is ambiguous))/.exec(message) ?? [];
    if (lacking) throw new UsageError(`${lacking} needs a value${dashed ? `; one that begins with a dash is given as ${lacking}=…` : ''}`);
    // Node's sentence about superfluous values is clear; what follows the first is advice on their syntax
    throw new UsageError(message.split('\n')[0]!.replace(/\.$/, ''));
  }
}
