import { readFileSync, statSync } from 'node:fs';
import { hostname } from 'node:os';

/** Equal for processes that can share memory: one kernel and one /dev/shm. Two containers are two hosts, whatever a launcher says. */
export function hostIdentity(): string {
  try {
    return `${readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()} ${statSync('/dev/shm').dev}`;
  } catch {
    // no Linux: its name is all there is
    return hostname();
  }
}
