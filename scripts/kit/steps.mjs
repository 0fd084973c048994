// What gpu-check does, in order. A step is a command with a limit; `read` says what its end means. Steps of one `stage` run beside each
// other, as many as there are cores for; stages follow one another, so that nothing runs beside a bench.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { compareFiles } from './recordings.mjs';

/**
 * @typedef {{ state: 'passed' | 'failed' | 'skipped', detail: string, passed?: number, failed?: number, skipped?: number, failures?: string[] }} Outcome
 * @typedef {{ name: string, stage: string, command: string[] | ((seconds: number) => string[]), env?: Record<string, string>, seconds: number, read(end): Outcome, skip?: string }} Step
 */

const lastLine = (text) => text.trimEnd().split('\n').at(-1) ?? '';
const clean = (text) => text.replace(/\x1b\[[0-9;]*m/g, '');

/** By exit code, with the last line as detail. */
function byStatus({ status, output }) {
  return { state: status === 0 ? 'passed' : 'failed', detail: lastLine(output), failures: status === 0 ? [] : [lastLine(output)] };
}

/** The line of the first GPU, or the one that says why there is none. */
function doctorsWord({ status, output }) {
  const detail = /^(cuda:0|CUDA) +.*$/gm;
  const lines = output.match(detail) ?? [lastLine(output)];
  return { state: status === 0 ? 'passed' : 'failed', detail: lines.at(-1), failures: status === 0 ? [] : [lastLine(output)] };
}

/** Programs that end with `N passed, M failed`, or say `skipped: reason`. */
function byCounts({ status, output }) {
  const reason = /^skipped: (.*)$/m.exec(output)?.[1];
  if (reason) return { state: 'skipped', detail: reason };
  const counts = /(\d+) passed, (\d+) failed/.exec(output);
  const failures = output.split('\n').filter((line) => line.startsWith('FAILED'));
  if (status !== 0 && failures.length === 0) failures.push(lastLine(output));
  return { state: status === 0 ? 'passed' : 'failed', detail: counts?.[0] ?? lastLine(output), passed: Number(counts?.[1] ?? 0), failed: Number(counts?.[2] ?? 0), failures };
}

/** vitest's own report of one run; with a filter, what it calls skipped is what the filter left out. */
function byReport(file, filtered) {
  return ({ status, output }) => {
    if (!existsSync(file)) return { state: 'failed', detail: 'the tests ended without a report', failures: [lastLine(clean(output))] };
    const report = JSON.parse(readFileSync(file, 'utf8'));
    const failures = report.testResults.flatMap((suite) => {
      const cases = suite.assertionResults.filter((test) => test.status === 'failed');
      if (suite.status === 'failed' && cases.length === 0) return [`${suite.name}: ${clean(suite.message).split('\n')[0]}`];
      return cases.map((test) => `${test.fullName}: ${clean(test.failureMessages[0] ?? '').split('\n')[0]}`);
    });
    if (status !== 0 && failures.length === 0) failures.push(lastLine(clean(output)));
    const counts = { passed: report.numPassedTests, failed: failures.length, skipped: filtered ? 0 : report.numPendingTests };
    if (failures.length === 0 && counts.passed === 0) return { state: 'skipped', detail: 'no test of this file is for this device', ...counts };
    return { state: failures.length ? 'failed' : 'passed', detail: `${counts.passed} passed, ${counts.failed} failed`, failures, ...counts };
  };
}

const OF_CUDA = /^9\d-cuda/;
// What lets ranks share the GPU: device contexts of ours, and from NCCL 2.30 on its own. NCCL's kernels of two ranks must be able to run
// beside each other, and nothing may be loaded while one waits for the other.
const SHARING = { SHARDGRAD_SHARE_GPUS: '1', NCCL_MULTI_RANK_GPU_ENABLE: '1', NCCL_MAX_CTAS: '4', CUDA_MODULE_LOADING: 'EAGER' };

/** The test files that run on every device, as they say themselves, and those that are about CUDA; the op table family by family. */
function testSteps({ root, node, work }) {
  const files = readdirSync(join(root, 'test')).filter((file) => {
    if (!file.endsWith('.test.ts')) return false;
    return OF_CUDA.test(file) || readFileSync(join(root, 'test', file), 'utf8').includes('helpers/devices');
  });
  const vitest = join(root, 'node_modules', 'vitest', 'vitest.mjs');
  const step = (name, file, pattern, { stage = 'tests', env = {} } = {}) => {
    const report = join(work, `${name.replace(/\W+/g, '-')}.json`);
    const filter = pattern ? ['-t', pattern] : [];
    const command = [node, vitest, 'run', `test/${file}`, ...filter, '--reporter=default', '--reporter=json', `--outputFile=${report}`];
    return { name, stage, command, env, seconds: 200, read: byReport(report, pattern !== null) };
  };
  const onCuda = 'cuda|captured';
  const ranks = { stage: 'ranks', env: SHARING };
  return files.flatMap((file) => {
    const name = file.replace('.test.ts', '');
    if (name === '90-cuda-groups') return [step(`${name} staged`, file, '^staged', ranks), step(`${name} nccl`, file, '^(?!staged)', ranks)];
    if (name === '91-cuda-jobs' || name === '93-cuda-tensor-parallel' || name === '94-cuda-sharded') return [step(name, file, null, ranks)];
    if (OF_CUDA.test(file)) return [step(name, file, null)];
    if (name !== '10-ops') return [step(name, file, onCuda)];
    const table = /const families = \{([^}]*)\}/.exec(readFileSync(join(root, 'test', file), 'utf8'))[1];
    return table.split(',').map((family) => step(`${name} ${family.trim()}`, file, `${family.trim()} on cuda`));
  });
}

/** The recording on the GPU beside what the emulator said when the kit was made, and beside an earlier GPU's, where there is one. */
function recordingStep({ root, program, out }) {
  const file = join(out, 'ptx.json');
  const known = ['data/ptx_emulated.json', 'test/golden/ptx.json'].map((path) => join(root, path)).filter(existsSync);
  return {
    name: 'recordings of PTX',
    stage: 'wrappers',
    command: [program, '--record', file],
    seconds: 30,
    read: (end) => {
      if (end.status !== 0) return byStatus(end);
      const failures = known.flatMap((path) => compareFiles(path, file));
      const detail = known.length ? `${failures.length} differences from ${known.length} earlier recordings` : 'nothing to compare with';
      return { state: failures.length ? 'failed' : 'passed', detail: `${detail}; written to ptx.json`, failures };
    },
  };
}

/** compute-sanitizer on a short list. */
function sanitizerSteps({ root, node, program, out, sanitizer }) {
  const check = (name, tool, command, env = {}) => ({
    name: `${tool}: ${name}`,
    stage: 'sanitizer',
    command: [sanitizer ?? 'compute-sanitizer', '--tool', tool, '--error-exitcode', '86', '--report-api-errors', 'no', '--target-processes', 'all', ...command],
    env,
    seconds: 60,
    skip: sanitizer ? undefined : 'compute-sanitizer is not installed',
    read: (end) => {
      const errors = /ERROR SUMMARY: (\d+) error/.exec(end.output);
      const lines = end.output.split('\n').filter((line) => /^=+ (Invalid|Error|Uninitialized|Race|Barrier)/.test(line));
      return { state: end.status === 0 ? 'passed' : 'failed', detail: errors?.[0] ?? lastLine(end.output), failures: end.status === 0 ? [] : [lines[0] ?? lastLine(end.output)] };
    },
  });
  const step = [node, join(root, 'dist', 'bench', 'gpu', 'train.js'), '--tiny', '--sides', 'eager', '--rounds', '1', '--batches', '1', '--out', join(out, 'tiny')];
  return [check('wrappers', 'memcheck', [program]), check('wrappers', 'racecheck', [program]), check('a training step', 'memcheck', step)];
}

/** Each bench stops by itself in time to write what it has; `least`: what its last part may still take when its minutes are over. */
function benchSteps({ root, node, out, python, tiny }) {
  const bench = (name, file, seconds, least) => ({
    name,
    stage: `bench ${name}`, // a stage of its own: benches run alone
    command: (time) => {
      const minutes = Math.max(0.1, (time - least) / 60).toFixed(2);
      return [node, join(root, 'dist', 'bench', 'gpu', file), '--out', out, '--python', python, '--minutes', minutes, ...(tiny ? ['--tiny', '--rounds', '1'] : [])];
    },
    seconds,
    read: (end) => ({ ...byStatus(end), failures: end.output.split('\n').filter((line) => line.includes('FAILED')) }),
  });
  return [bench('kernels', 'kernels.js', 90, 10), bench('training', 'train.js', 260, 60)];
}

/**
 * All steps.
 * @param {{ root: string, node: string, out: string, work: string, program: string | null, sanitizer: string | null, python: string, bench: boolean, tiny: boolean }} at
 * @returns {Step[]}
 */
export function allSteps(at) {
  const { root, node, program } = at;
  const cli = join(root, 'dist', 'bundle', 'cli.js');
  const ranks = (n) => ({
    name: `NCCL, ${n} rank${n > 1 ? 's on one GPU' : ''}`,
    stage: 'ranks',
    command: [node, join(root, 'scripts', 'kit', 'ranks.mjs'), String(n)],
    env: SHARING,
    seconds: 60,
    read: byCounts,
  });
  const steps = [
    { name: 'doctor', stage: 'doctor', command: [node, cli, 'doctor'], seconds: 30, read: doctorsWord },
    { name: 'wrappers of PTX', stage: 'wrappers', command: [program], seconds: 60, read: byCounts },
    recordingStep(at),
    ...testSteps(at),
    ranks(1),
    ranks(2),
    ...sanitizerSteps(at),
    ...(at.bench ? benchSteps(at) : []),
  ];
  const needsProgram = (step) => Array.isArray(step.command) && step.command.includes(null);
  return steps.map((step) => (needsProgram(step) ? { ...step, skip: 'hardware_test was not built: scripts/gpu-bundle builds it' } : step));
}

/** The program of the wrappers' tests: the kit's, the checkout's, or for the emulated addon the emulator's. */
export function findProgram(root, emulated) {
  const kit = join(root, 'bin', 'hardware_test');
  if (!emulated && existsSync(kit)) return kit;
  const [folder, name] = emulated ? [join(dirname(emulated), '..'), 'emulation_test'] : [join(root, 'build-cmake'), 'hardware_test'];
  if (!existsSync(folder)) return null;
  const found = readdirSync(folder, { recursive: true, withFileTypes: true }).find((entry) => entry.isFile() && entry.name === name);
  return found ? join(found.parentPath ?? found.path, name) : null;
}
