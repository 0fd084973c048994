// The documents say what happens: their code has the right types, runs, prints what stands behind →, and needs no network and no
// folder but its own. Each page is a module in an empty project in which the package is installed; helpers/documents.ts says how.
import { spawn } from 'node:child_process';
import { mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { transformSync } from 'esbuild';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type DocumentModule, pageNames, readPage, statedOutput, typeErrors, withLines } from './helpers/documents.js';
import { newFolder, root } from './helpers/installed.js';

const SECONDS = 60;
const cli = join(root, 'dist', 'bundle', 'cli.js');
const options = ['--enable-source-maps', '--import', pathToFileURL(join(root, 'test', 'children', 'document.mjs')).href];

interface Said {
  readonly status: number | string;
  readonly out: string;
  readonly err: string;
  readonly printed: readonly { readonly line: number; readonly text: string }[];
}

const nameOf = ({ use, line }: DocumentModule): string => (typeof use === 'object' ? use.script.replace(/\.js$/, '') : `line-${line}`);

/** A page's project: its folder is the only place for files, temporary ones too; `npx shardgrad` is the command of this checkout. */
class Project {
  readonly folder = newFolder('document');
  private readonly files = new Map<string, DocumentModule>();

  constructor() {
    for (const name of ['node_modules', 'bin', 'temporary']) mkdirSync(join(this.folder, name));
    symlinkSync(root, join(this.folder, 'node_modules', 'shardgrad'));
    symlinkSync(process.execPath, join(this.folder, 'bin', 'node'));
    writeFileSync(join(this.folder, 'package.json'), '{ "private": true, "type": "module" }\n');
    const npx = `#!/bin/sh\n[ "$1" = shardgrad ] || { echo "npx: only shardgrad is installed here" >&2; exit 1; }\nshift\nexec node ${cli} "$@"\n`;
    writeFileSync(join(this.folder, 'bin', 'npx'), npx, { mode: 0o755 });
  }

  /** Writes a module for the type check. */
  add(module: DocumentModule): void {
    const source = join(this.folder, `${nameOf(module)}.ts`);
    writeFileSync(source, module.text);
    this.files.set(source, module);
  }
  /** Writes it as JavaScript whose errors name the page. */
  compile(module: DocumentModule): string {
    const text = withLines(module.text, statedOutput(module).keys());
    const { code } = transformSync(text, { loader: 'ts', target: 'es2022', sourcemap: 'inline', sourcefile: join(root, module.page), logLevel: 'silent' });
    writeFileSync(join(this.folder, `${nameOf(module)}.js`), code);
    return `${nameOf(module)}.js`;
  }
  get modules(): ReadonlyMap<string, DocumentModule> {
    return this.files;
  }

  /** Settings of the machine stay outside, those of other jobs above all. */
  private get environment(): NodeJS.ProcessEnv {
    const path = [join(this.folder, 'bin'), process.env['PATH']].join(':');
    return { PATH: path, HOME: this.folder, TMPDIR: join(this.folder, 'temporary'), SHARDGRAD_NUM_THREADS: '1' };
  }

  run([program, ...args]: readonly [string, ...string[]], seconds = SECONDS): Promise<Said> {
    const child = spawn(program, args, { cwd: this.folder, env: this.environment, stdio: ['ignore', 'pipe', 'pipe', 'pipe'], detached: true });
    const timer = setTimeout(() => process.kill(-child.pid!, 'SIGKILL'), seconds * 1000);
    const texts = child.stdio.slice(1).map((stream, i) => {
      const text = { value: '' };
      stream?.on('data', (part) => {
        text.value += part;
      });
      return [i, text] as const;
    });
    return new Promise((resolve) => {
      child.on('close', (code, signal) => {
        clearTimeout(timer);
        const [out, err, printed] = texts.map(([, { value }]) => value) as [string, string, string];
        const lines = printed.split('\n').filter((line) => line !== '');
        resolve({ status: code ?? `${signal} after ${seconds} s`, out, err, printed: lines.map((line) => JSON.parse(line)) });
      });
    });
  }
}

const pages = pageNames()
  .map((name) => readPage(name))
  .filter(({ modules, shell }) => modules.length + shell.length > 0);

describe('documents', () => {
  const projects = new Map(pages.map((page) => [page.name, new Project()]));
  let errors: Map<string, string[]>;

  beforeAll(() => {
    for (const { name, modules } of pages) for (const module of modules) projects.get(name)!.add(module);
    errors = typeErrors(new Map([...projects.values()].flatMap(({ modules }) => [...modules])));
  });
  afterAll(() => {
    for (const { folder } of projects.values()) rmSync(folder, { recursive: true, force: true });
  });

  test('nothing else is wrong with the types', () => expect(errors.get('') ?? []).toEqual([]));

  describe.each(pages.map((page) => [page.name, page] as const))('%s', (name, { modules, shell }) => {
    const project = projects.get(name)!;

    test('types', () => expect(errors.get(name)?.join('\n') ?? '').toBe(''));

    const scripts = modules.filter(({ use }) => typeof use === 'object');
    if (scripts.length > 0) test('scripts', () => scripts.forEach((module) => project.compile(module)));

    for (const module of modules.filter(({ use }) => use === 'run')) {
      test(`runs, from line ${module.line}`, { timeout: SECONDS * 1500 }, async () => {
        const stated = statedOutput(module);
        const said = await project.run(['node', ...options, project.compile(module)]);
        if (said.status !== 0) throw new Error(`${name} ended with ${said.status}\n${said.out}${said.err}`);
        const printed = new Map<number, string>();
        for (const { line, text } of said.printed) printed.set(line, printed.has(line) ? `${printed.get(line)}\n${text}` : text);
        const places = (lines: Map<number, string>) => Object.fromEntries([...lines].sort(([a], [b]) => a - b).map(([l, text]) => [`${name}:${l}`, text]));
        expect(places(printed)).toEqual(places(stated));
      });
    }

    for (const { line, text } of shell) {
      test(`commands, from line ${line}`, { timeout: SECONDS * 1500 }, async () => {
        const said = await project.run(['bash', '-euo', 'pipefail', '-c', text]);
        if (said.status !== 0) throw new Error(`${name}:${line} ended with ${said.status}\n${said.out}${said.err}`);
      });
    }
  });
});

describe('how documents are read', () => {
  const fence = '```';
  const page = (...parts: string[]) => readPage('page.md', parts.join('\n'));

  test('blocks of one module keep their lines', () => {
    const { modules } = page('# A', `${fence}ts`, 'const a = 1;', fence, 'text', '- item', '', `  ${fence}ts`, '  a + 1;', `  ${fence}`);
    expect(modules).toEqual([{ page: 'page.md', text: '\n\nconst a = 1;\n\n\n\n\n\na + 1;\n', use: 'run', line: 3 }]);
  });

  test('modules of their own, scripts and commands', () => {
    const one = (info: string) => [`${fence}${info}`, 'f();', fence];
    const { modules, shell } = page(...one('ts alone'), ...one('ts no-run'), ...one('ts script=train.js'), ...one('sh'), ...one('sh run'), ...one('json'));
    expect(modules.map(({ use, line }) => [use, line])).toEqual([
      ['run', 2],
      ['check', 5],
      [{ script: 'train.js' }, 8],
    ]);
    expect(shell).toEqual([{ line: 14, text: 'f();' }]);
  });

  test.each(['ts norun', 'typescript', 'js', 'sh  run it'])('%s is no kind of block', (info) => {
    expect(() => page('', `${fence}${info}`, 'f();', fence)).toThrow(`page.md:2: \`${info}\` is no kind of block`);
  });
  test('a block that is not closed', () => expect(() => page('', `${fence}ts`, 'f();')).toThrow('page.md:2: the block is not closed'));

  test('what lines print', () => {
    const module = page(`${fence}ts`, 'console.log(1); // → 1', 'console.log(`2', '3`); // → 2', '// → 3', fence).modules[0]!;
    expect(statedOutput(page(`${fence}ts`, 'f();', 'console.log(1); // → 1', '// → 2', fence).modules[0]!)).toEqual(new Map([[3, '1\n2']]));
    expect(() => statedOutput(module)).toThrow('page.md:4: → stands on no line that prints');
    expect(withLines('console.log(1);\nconsole.log(2);', [2])).toBe('console.log(1);\nprintedAt(2, 2);');
  });

  test('types', () => {
    const project = new Project();
    const { modules } = page('', `${fence}ts`, "import { zeros } from 'shardgrad';", "zeros('two');", fence);
    for (const module of modules) project.add(module);
    expect(typeErrors(project.modules).get('page.md')).toEqual([expect.stringMatching(/^page\.md:4:7 TS2345: /)]);
    rmSync(project.folder, { recursive: true });
  });

  test('an error names the line, output is told by line, and a module that does not end is stopped', async () => {
    const project = new Project();
    const { modules } = page('', `${fence}ts`, "console.log('a', 1); // → a 1", "const f = () => { throw new Error('no'); };", 'f();', fence);
    const said = await project.run(['node', ...options, project.compile(modules[0]!)]);
    expect(said.status).toBe(1);
    expect(said.err).toMatch(/page\.md:4:\d+\)\n[^\n]*page\.md:5:1/);
    expect(said.printed).toEqual([{ line: 3, text: 'a 1' }]);
    const endless = page(`${fence}ts`, 'setInterval(() => {}, 1000);', fence).modules[0]!;
    expect((await project.run(['node', project.compile(endless)], 2)).status).toBe('SIGKILL after 2 s');
    rmSync(project.folder, { recursive: true });
  });
});
