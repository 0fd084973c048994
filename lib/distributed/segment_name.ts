// Names of shared memory. A name exists only while ranks join a group; should they all be killed in that moment, the launcher knows
// the names of its job by their beginning and takes them away.
import { createHash, randomUUID } from 'node:crypto';
import { readdirSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import type { Environment } from './environment.js';

const FOLDER = '/dev/shm';

/** What the names of one start of a job begin with. The token keeps it from being guessed. */
function beginning(env: Environment): string {
  const job = [env['SHARDGRAD_TOKEN'], env['SHARDGRAD_RUN_ID'], env['SHARDGRAD_RESTART_COUNT']].join(' ');
  return `shardgrad-${createHash('sha256').update(job).digest('hex').slice(0, 12)}`;
}

/** A name that no other group will ever use. */
export function segmentName(env: Environment = process.env): string {
  return `/${beginning(env)}-${randomUUID()}`;
}

/** Takes away what the ranks of a job that has ended have left. `env` is what the launcher gave them. */
export function removeSegments(env: Environment): void {
  let names: string[];
  try {
    names = readdirSync(FOLDER);
  } catch {
    return; // no Linux: such memory has no folder
  }
  for (const name of names) {
    if (!name.startsWith(`${beginning(env)}-`)) continue;
    try {
      unlinkSync(join(FOLDER, name));
    } catch {
      // gone meanwhile
    }
  }
}
