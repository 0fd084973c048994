// The examples as a newcomer runs them: a mistake ends in one sentence and exit code 1, an interrupted run in a checkpoint and the line
// that resumes it.
import { spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { scratchFolder } from './helpers/files.js';

const dir = scratchFolder();

interface Ended {
  code: number | null;
  out: string;
  err: string;
}

async function run(example: string, args: readonly string[], interruptAt?: string): Promise<Ended> {
  const child = spawn(process.execPath, [fileURLToPath(new URL(`../dist/examples/${example}.js`, import.meta.url)), ...args]);
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
