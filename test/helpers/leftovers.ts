// What ranks may leave in /dev/shm: nothing. What lies there when the file is loaded is of processes that somebody killed before.
import { readdirSync } from 'node:fs';
import { expect } from 'vitest';

const segments = (): string[] => readdirSync('/dev/shm').filter((name) => /^shardgrad-[0-9a-f]{12}-/.test(name));
const earlier = new Set(segments());

export const nothingLeft = (): Promise<void> => expect.poll(() => segments().filter((name) => !earlier.has(name)), { timeout: 5000 }).toEqual([]);
