// `shardgrad run`: from the command line to an exit code.
import { DistributedError } from '../../errors.js';
import { runJob, type Signals } from './job.js';
import { parseRunOptions, RUN_HELP, UsageError } from './options.js';
import { LiveLine, Terminal } from './output.js';
import { makePlan } from './plan.js';

const FORWARDED = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
/** One signal may come twice, from Slurm and by way of npx for example; one after this time is somebody who insists. */
const ECHO_MS = 1000;

/**
 * Runs the command.
 * @param args what follows `run`
 * @returns the exit code: 0, that of the rank that failed first, or 1 when the job could not be run. Throws UsageError
 */
export async function run(args: readonly string[]): Promise<number> {
  const options = parseRunOptions(args);
  const { env } = process;
  const foot = new LiveLine();
  const [out, err] = [new Terminal(process.stdout, env, foot), new Terminal(process.stderr, env, foot)];
  if (options === 'help') {
    out.write(RUN_HELP);
    return 0;
  }
  try {
    const plan = await makePlan(options, env);
    return await runJob(plan, listen(), { out, err });
  } catch (error) {
    if (!(error instanceof DistributedError)) throw error;
    err.write(`shardgrad run: ${error.message}\n`);
    return 1;
  }
}

function listen(): Signals {
  const settle: ((signal: NodeJS.Signals) => void)[] = [];
  const first = new Promise<NodeJS.Signals>((resolve) => settle.push(resolve));
  const second = new Promise<NodeJS.Signals>((resolve) => settle.push(resolve));
  let echoesUntil = 0;
  for (const name of FORWARDED) {
    process.on(name, () => {
      if (Date.now() < echoesUntil) return;
      echoesUntil = Date.now() + ECHO_MS;
      settle.shift()?.(name);
    });
  }
  return { first, second };
}

export { UsageError };
