// Where a collective was called: the first line outside this package, known to the native side by a number. It is in the flight
// recorder and in the errors of every rank, so it has to be found before anything goes wrong, and cheaply.
import { relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { native } from '../native.js';

type Method = (...args: never[]) => unknown;

const labels = new Map<string, number>();
/** By file, then by the position in it. */
const sites = new Map<string | undefined, Map<number, number>>();

/** The number of a text such as `of gradient bucket 2`. */
export function labelled(label: string): number {
  let number = labels.get(label);
  if (number === undefined) {
    number = native.nameOfPlace(label);
    labels.set(label, number);
  }
  return number;
}

interface CallSite {
  getFileName(): string | undefined;
  getPosition(): number;
}
const firstSite = (_error: unknown, trace: readonly unknown[]): unknown => trace[0];
const holder: { stack?: unknown } = {};

/**
 * Where `method` was called, or what the label of its options says instead. To be asked by the method itself: V8 takes apart every
 * frame on the way, with all that lives in it, so a few helpers in between cost more than the rest.
 */
export function placeOf({ label }: { readonly label?: string }, method: Method): number {
  return label === undefined ? callerOf(method) : labelled(label);
}

/** The number of the line that called `method`. A line that was met before is known by its position: writing a stack out takes long. */
export function callerOf(method: Method): number {
  const { stackTraceLimit, prepareStackTrace } = Error;
  Error.stackTraceLimit = 1;
  Error.prepareStackTrace = firstSite;
  Error.captureStackTrace(holder, method);
  const site = holder.stack as CallSite | undefined;
  Error.prepareStackTrace = prepareStackTrace;
  const file = site?.getFileName();
  const position = site?.getPosition() ?? -1;
  let positions = sites.get(file);
  if (!positions) {
    positions = new Map();
    sites.set(file, positions);
  }
  let number = positions.get(position);
  if (number === undefined) {
    // as Node writes it, source maps included
    Error.captureStackTrace(holder, method);
    number = native.nameOfPlace(readable(String(holder.stack)));
    positions.set(position, number);
  }
  Error.stackTraceLimit = stackTraceLimit;
  return number;
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
