// The examples as a newcomer runs them: a mistake ends in one sentence and exit code 1, an interrupted run in a checkpoint and the line
// that resumes it.
import { spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { scratchFolder } from './helpers/files.js';
import { expectClose } from './helpers/metric.js';

const dir = scratchFolder();

interface Ended {
  code: number | null;
  out: string;
  err: string;
}

const built = (path: string): string => fileURLToPath(new URL(`../dist/${path}.js`, import.meta.url));

/** Processes: by itself without. */
async function run(example: string, args: readonly string[], interruptAt?: string, processes?: number): Promise<Ended> {
  const launcher = processes ? [built('bundle/cli'), 'run', '--nproc-per-node', `${processes}`] : [];
  const child = spawn(process.execPath, [...launcher, built(`examples/${example}`), ...args]);
  const ended: Ended = { code: null, out: '', err: '' };
  child.stderr.on('data', (text) => {
    ended.err += text;
  });
  let interrupted = false;
  child.stdout.on('data', (text) => {
    ended.out += text;
    if (interrupted || interruptAt === undefined || !ended.out.includes(interruptAt)) return;
    interrupted = true;
    child.kill('SIGINT');
  });
  ended.code = await new Promise((resolve) => child.once('close', resolve));
  return ended;
}

const small = ['--batch', '2', '--layers', '1', '--heads', '1', '--dim', '16', '--context', '16'];

test.each([
  ['train_gpt --dtype float31', /^--dtype must be float32, float64, float16 or bfloat16, got "float31"\n$/],
  ['train_gpt --layers 0', /^--layers must be a whole number from 1, got "0"\n$/],
  ['train_gpt --lr fast', /^--lr must be a number from 0, got "fast"\n$/],
  ['train_gpt --autocast int8', /^--autocast must be none, float16 or bfloat16, got "int8"\n$/],
  ['train_gpt --heads 3', /^GPT: dim 128 is not a multiple of 3 heads\n$/],
  ['train_gpt --unknown 3', /^Unknown option '--unknown'.*\n$/],
  ['train_gpt --steps', /^Option '--steps <value>' argument missing\n$/],
  ['train_gpt --batch 100000', /^--batch 100000 is more than there are windows of 128 characters\n$/],
  ['train_gpt --device gpu', /^unknown device a string "gpu": expected .*\n$/],
  [`train_gpt --resume --out ${join(dir, 'none')}`, /^loadCheckpoint: there is no complete checkpoint in ".*none"\n$/],
  ['train_gpt --out /dev/null', /^saveCheckpoint: cannot write "\/dev\/null\/step-00000000": a file with that name exists \(EEXIST\)\n$/],
  ['train_gpt_3d --simulate 4 --pp 3', /^initDeviceMesh: pp 3 × dpShard -1 does not make 4 ranks\n$/],
  ['train_gpt_3d --tp two', /^--tp must be a whole number from 1, got "two"\n$/],
  ['train_gpt_3d --simulate 2 --pp 2 --schedule zigzag', /^.*schedule.*zigzag.*\n$/],
  ['train_gpt_3d --simulate 2 --pp 2 --micro-batches 1', /^schedule 1f1b: 1 micro-batches are fewer than the 2 stages, .*\n$/],
  ['train_gpt_3d --simulate 3 --batch 16', /^--batch 16 cannot be divided over 3 data-parallel ranks\n$/],
  ['train_digits --epochs none', /^--epochs must be a whole number from 1, got "none"\n$/],
])('%s', async (line, text) => {
  const [example, ...args] = line.split(' ') as [string, ...string[]];
  const { code, err } = await run(example, args);
  expect(err).toMatch(text);
  expect(code).toBe(1);
});

test('an interrupted run saves, says how to resume, and goes on from there', async () => {
  const out = join(dir, 'my run');
  const first = await run('train_gpt', [...small, '--steps', '100000', '--out', out], 'tokens/s');
  expect([first.code, first.err]).toEqual([0, '']);
  const step = Number(/interrupted at step (\d+)/.exec(first.out)![1]);
  expect(readdirSync(out)).toContain(`step-${String(step).padStart(8, '0')}`);
  expect(readFileSync(join(out, 'loss.svg'), 'utf8')).toMatch(/^<svg /);
  const line = /resume {6}npm run quickstart -- --resume --steps 100000 (.*)\n/.exec(first.out)![1]!;
  expect(line).toBe(`--batch 2 --layers 1 --heads 1 --dim 16 --context 16 --out "${out}"`);
  const again = await run('train_gpt', [...small, '--out', out, '--resume', '--steps', String(step + 2)]);
  expect([again.code, again.err]).toEqual([0, '']);
  expect(again.out).toContain(`resumed from step ${step}\n`);
  expect(again.out).toContain(`step ${step + 2}/${step + 2}`);
  const over = await run('train_gpt', [...small, '--out', out, '--resume', '--steps', '1']);
  expect([over.code, over.err]).toEqual([1, `the run in ${out} stands at step ${step + 2}: give --steps more than that\n`]);
});

describe('the GPT over a mesh', () => {
  const little = ['--batch', '8', '--layers', '3', '--heads', '2', '--dim', '16', '--context', '16', '--dtype', 'float64', '--eval-every', '3'];
  interface Saved {
    history: { step: number; loss: number; validation?: number }[];
    out: string;
  }
  async function train(steps: number, out: string, args: readonly string[], processes?: number): Promise<Saved> {
    const ended = await run('train_gpt_3d', [...little, '--steps', `${steps}`, '--out', join(dir, out), ...args], undefined, processes);
    expect([ended.code, processes && ended.code === 0 ? '' : ended.err]).toEqual([0, '']); // the launcher says which job it is
    const trainer = join(dir, out, `step-${String(steps).padStart(8, '0')}`, 'trainer.json');
    return { history: JSON.parse(readFileSync(trainer, 'utf8')).entries.history.state, out: ended.out };
  }

  test('has the losses of one process on simulated ranks and on processes, and goes on on another mesh', async () => {
    const one = await train(6, 'one', []);
    expect(one.out).toContain('step 6/6');
    const eight = await train(6, 'eight', ['--simulate', '8', '--pp', '2', '--tp', '2']);
    expect(eight.out).toContain('mesh of pp 2 × dpShard 2 × tp 2\n');
    // the learning rate is that of 6 steps in all three
    const first = await train(6, 'two', ['--schedule', 'interleaved', '--stages-per-rank', '2', '--pp', '2', '--sequence-parallel', '--tp', '2'], 4);
    const bare = ({ history }: Saved): number[] => history.flatMap(({ loss, validation }) => [loss, validation ?? 0]);
    for (const run of [eight, first]) {
      expect(run.history.map((h) => h.step)).toEqual([3, 6]);
      expectClose(bare(run), bare(one), 1e-10, 'losses');
    }
    const on = await train(8, 'two', ['--resume', '--simulate', '3', '--pp', '3', '--schedule', 'gpipe']);
    expect(on.out).toContain('resumed from step 6\n');
    const alone = await train(8, 'one', ['--resume']);
    expectClose(bare(on), bare(alone), 1e-10, 'losses');
    expect(/\n(CHAPTER [\s\S]*)\n\ncheckpoint/.exec(on.out)![1]).toBe(/\n(CHAPTER [\s\S]*)\n\ncheckpoint/.exec(alone.out)![1]);
  });

  test('trains in mixed precision with a scaled loss', async () => {
    const args = ['--simulate', '4', '--pp', '2', '--dtype', 'float32', '--autocast', 'float16'];
    const { history, out } = await train(3, 'half', args);
    expect(out).toContain('float32 under float16 autocast');
    expect(history[0]!.loss).toBeGreaterThan(3);
    expect(history[0]!.loss).toBeLessThan(5);
  });
});
