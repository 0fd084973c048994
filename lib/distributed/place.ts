// Where a collective was called: the first line outside this package, known to the native side by a number. It is in the flight
// recorder and in the errors of every rank, so it has to be found before anything goes wrong, and cheaply.
import { relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { native } from '../native.js';

/** By the one line of a stack, or by a label. */
const known = new Map<string, number>();

function numberOf(key: string, text: (key: string) => string): number {
  const number = known.get(key);
  if (number !== undefined) return number;
  const made = native.nameOfPlace(text(key));
  known.set(key, made);
  return made;
}

/** The number of a text such as `of gradient bucket 2`. */
export function labelled(label: string): number {
  return numberOf(label, (text) => text);
}

/** The number of the line that called `method`. */
export function callerOf(method: (...args: never[]) => unknown): number {
  const holder: { stack?: string } = {};
  const limit = Error.stackTraceLimit;
  Error.stackTraceLimit = 1;
  Error.captureStackTrace(holder, method);
  Error.stackTraceLimit = limit;
  return numberOf(String(holder.stack), readable);
}

/** `at train.ts:12:5` of a stack of one line. */
function readable(stack: string): string {
  const line = stack.split('\n').find((text) => /^\s*at /.test(text));
  if (line === undefined) return '';
  const where = /\(?([^()\s]+:\d+:\d+)\)?$/.exec(line.trim())?.[1];
  if (where === undefined) return line.trim();
  const path = where.startsWith('file:') ? fileURLToPath(where.replace(/:\d+:\d+$/, '')) : where.replace(/:\d+:\d+$/, '');
  const near = relative(process.cwd(), path);
  return `at ${near.startsWith('..') ? path : near}${/:\d+:\d+$/.exec(where)![0]}`;
}
