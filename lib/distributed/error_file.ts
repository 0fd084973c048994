// The file in which torchrun's agent looks for the reason of a rank's failure (TORCHELASTIC_ERROR_FILE): it shows the message, and takes
// the earliest of all ranks for the cause.
import { writeFileSync } from 'node:fs';
import { DistributedError } from '../errors.js';
import type { Environment } from './environment.js';

let writes = false;

/** From now on what ends this process is written there. Once for a process. */
export function keepErrorFile(env: Environment): void {
  const file = env['TORCHELASTIC_ERROR_FILE'];
  if (!file || writes) return;
  writes = true;
  process.on('uncaughtExceptionMonitor', (error: unknown) => {
    const { message, stack } = error instanceof Error ? error : { message: String(error), stack: '' };
    // the format has whole seconds: one that failed for another's sake must not come before it
    const seconds = Date.now() / 1000;
    const timestamp = String(error instanceof DistributedError ? Math.ceil(seconds) : Math.floor(seconds));
    try {
      writeFileSync(file, JSON.stringify({ message: { message, extraInfo: { py_callstack: stack ?? '', timestamp } } }));
    } catch {
      // the process ends with its own error all the same
    }
  });
}
