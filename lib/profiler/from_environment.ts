// `shardgrad run --profile DIR` profiles a script that knows nothing of it: every rank finds DIR in its environment when it loads the package, counts
// the steps of the optimizer that steps first, and records those that it was told to. A step here ends when the optimizer's has been enqueued.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { isMainThread } from 'node:worker_threads';
import { ValueError } from '../errors.js';
import { block, HEADER, Head, native, replaceNative } from '../native.js';
import { DEFAULT_STEPS, PROFILE_FOLDER, PROFILE_STEPS, parseSteps } from './environment_names.js';
import { Capture, idleSync } from './profiler.js';

const STEP_OPS = ['sgdStep', 'adamStep', 'adagradStep', 'rmspropStep', 'lambStep', 'lionStep'];

/** Watches the optimizer's steps and records from the end of step `first` − 1 to the end of step `last`. */
function profileSteps(folder: string, first: number, last: number): void {
  const addon = native;
  const stepOps = new Set(addon.ops.flatMap(({ name }, id) => (STEP_OPS.includes(name) ? [id] : [])));
  let optimizer = 0;
  let step = 0;
  let capture: Capture | null = null;
  const missing = (): void => {
    process.stderr.write(`shardgrad: no profile: the optimizer has made ${step} steps of those to record, ${first} to ${last}\n`);
  };
  const begin = (): void => {
    replaceNative(addon);
    idleSync();
    capture = new Capture(first, watch);
  };
  const finish = (): void => {
    process.off('exit', missing);
    idleSync();
    const profile = capture!.finish();
    save(folder, profile.rank, profile.chromeTrace(), profile.summary());
  };
  const watch = (): void => {
    if (!stepOps.has(block[Head.Op]!)) return;
    const handle = block[HEADER]!;
    optimizer ||= handle;
    if (handle !== optimizer) return;
    step++;
    capture?.endStep();
    if (step === first - 1) begin();
    if (step === last) finish();
  };
  process.once('exit', missing);
  const run = (): void => {
    addon.run();
    watch();
  };
  if (first === 1) begin();
  else replaceNative({ ...addon, run });
}

function save(folder: string, rank: number, trace: string, summary: string): void {
  try {
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, `rank-${rank}.json`), trace);
    writeFileSync(join(folder, `rank-${rank}.txt`), `${summary}\n`);
  } catch (error) {
    // a training goes on without its profile
    process.stderr.write(`shardgrad: the profile of rank ${rank} could not be written: ${(error as Error).message}\n`);
  }
}

const folder = process.env[PROFILE_FOLDER];
if (folder && isMainThread) {
  const text = process.env[PROFILE_STEPS] ?? DEFAULT_STEPS;
  const steps = parseSteps(text);
  if (!steps) throw new ValueError(`${PROFILE_STEPS} must be steps from 1 on, such as ${DEFAULT_STEPS}, got ${JSON.stringify(text)}`);
  // what this process starts is no rank
  delete process.env[PROFILE_FOLDER];
  profileSteps(folder, ...steps);
}
