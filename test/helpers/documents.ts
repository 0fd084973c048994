// The code in the documents. Blocks fenced as `ts` are one module a page, in which each stands at its line of the page, so that what
// goes wrong is named by page and line; blocks that say `alone`, `no-run` or `script=NAME` are modules of their own. CONTRIBUTING.md tells
// writers of documents how to use this.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import ts from 'typescript';
import { root } from './installed.js';

/** What is done with a module: run, only checked for its types, or written to a file that a shell block runs. */
export type Use = 'run' | 'check' | { readonly script: string };

export interface DocumentModule {
  readonly page: string;
  /** A line of the page, counted from 1, is the same line of this text. */
  readonly text: string;
  readonly use: Use;
  /** The line on which its first block begins. */
  readonly line: number;
}

export interface ShellBlock {
  readonly line: number;
  readonly text: string;
}

export interface Page {
  /** The path from the root of the repository. */
  readonly name: string;
  readonly modules: readonly DocumentModule[];
  readonly shell: readonly ShellBlock[];
}

interface Block {
  readonly info: string;
  readonly first: number;
  readonly lines: readonly string[];
}

/** README.md, the pages beside it and those of docs/ that are written by hand. */
export function pageNames(): string[] {
  const markdown = (folder: string): string[] =>
    readdirSync(join(root, folder), { withFileTypes: true })
      .filter((entry) => entry.isFile() && entry.name.endsWith('.md'))
      .map((entry) => join(folder, entry.name))
      .sort();
  const folders = readdirSync(join(root, 'docs'), { withFileTypes: true }).filter((entry) => entry.isDirectory() && /^[a-z]/.test(entry.name));
  const written = folders.map((entry) => entry.name).filter((name) => name !== 'api' && name !== 'public');
  return ['.', 'docs', ...written.map((name) => join('docs', name))].flatMap(markdown);
}

/** Fenced blocks; those that stand in a list lose its indentation. */
function blocksOf(text: string, name: string): Block[] {
  const blocks: Block[] = [];
  const lines = text.split('\n');
  for (let at = 0; at < lines.length; at++) {
    const open = lines[at]!.match(/^( *)(`{3,})(.*)$/);
    if (!open) continue;
    const [, indent, fence, info] = open as unknown as [string, string, string, string];
    const end = lines.findIndex((line, i) => i > at && line.trimEnd() === indent + fence);
    if (end < 0) throw new Error(`${name}:${at + 1}: the block is not closed`);
    const body = lines.slice(at + 1, end).map((line) => (line.startsWith(indent) ? line.slice(indent.length) : line));
    blocks.push({ info: info.trim(), first: at + 2, lines: body });
    at = end;
  }
  return blocks;
}

/** The blocks at their lines, with empty lines between. */
function inPlace(blocks: readonly Block[]): string {
  const lines: string[] = [];
  for (const block of blocks) {
    while (lines.length < block.first - 1) lines.push('');
    lines.push(...block.lines);
  }
  return `${lines.join('\n')}\n`;
}

/** Takes a page apart; a fence whose words mean nothing is an error. */
export function readPage(name: string, text = readFileSync(join(root, name), 'utf8')): Page {
  const whole: Block[] = [];
  const modules: DocumentModule[] = [];
  const shell: ShellBlock[] = [];
  const single = (block: Block, use: Use) => modules.push({ page: name, text: inPlace([block]), use, line: block.first });
  for (const block of blocksOf(text, name)) {
    const script = block.info.match(/^ts script=([\w-]+\.js)$/)?.[1];
    if (block.info === 'ts') whole.push(block);
    else if (block.info === 'ts alone') single(block, 'run');
    else if (block.info === 'ts no-run') single(block, 'check');
    else if (script !== undefined) single(block, { script });
    else if (block.info === 'sh run') shell.push({ line: block.first, text: block.lines.join('\n') });
    else if (/^(ts|js|typescript|javascript|sh)\b(?=.)|^(js|typescript|javascript)$/.test(block.info))
      throw new Error(`${name}:${block.first - 1}: \`${block.info}\` is no kind of block; see "Documents" in CONTRIBUTING.md`);
  }
  if (whole.length > 0) modules.unshift({ page: name, text: inPlace(whole), use: 'run', line: whole[0]!.first });
  return { name, modules, shell };
}

/** What the types of the modules have against them, by page, in one program with the settings of a strict project. */
export function typeErrors(files: ReadonlyMap<string, DocumentModule>): Map<string, string[]> {
  const program = ts.createProgram([...files.keys()], {
    strict: true,
    target: ts.ScriptTarget.ES2022,
    lib: ['lib.es2023.d.ts', 'lib.esnext.disposable.d.ts'],
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    moduleDetection: ts.ModuleDetectionKind.Force,
    types: ['node'],
    typeRoots: [join(root, 'node_modules', '@types')],
    noEmit: true,
    skipLibCheck: true,
  });
  const errors = new Map<string, string[]>();
  for (const diagnostic of ts.getPreEmitDiagnostics(program)) {
    const page = diagnostic.file && files.get(diagnostic.file.fileName)?.page;
    const { line, character } = diagnostic.file?.getLineAndCharacterOfPosition(diagnostic.start ?? 0) ?? { line: 0, character: 0 };
    const place = `${page ?? diagnostic.file?.fileName}:${line + 1}:${character + 1}`;
    const said = `${place} TS${diagnostic.code}: ${ts.flattenDiagnosticMessageText(diagnostic.messageText, '\n')}`;
    errors.set(page ?? '', [...(errors.get(page ?? '') ?? []), said]);
  }
  return errors;
}

const STATED = /^(.*?)\/\/ → ?(.*)$/;

/** What the page says that lines of it print: after `// →` on the line of a console.log, and on lines of their own below it. */
export function statedOutput({ page, text }: DocumentModule): Map<number, string> {
  const stated = new Map<number, string>();
  let at = 0;
  text.split('\n').forEach((line, i) => {
    const [, code, value] = line.match(STATED) ?? [];
    if (/\bconsole\.log\(/.test(line)) at = i + 1;
    if (code === undefined) return;
    if (at === 0 || (code.trim() !== '' && at !== i + 1)) throw new Error(`${page}:${i + 1}: → stands on no line that prints`);
    const before = stated.get(at);
    stated.set(at, before === undefined ? value! : `${before}\n${value}`);
  });
  return stated;
}

/** Has the lines whose output is stated say which they are; see children/document.mjs. */
export const withLines = (text: string, lines: Iterable<number>): string => {
  const wanted = new Set(lines);
  const told = (line: string, i: number) => (wanted.has(i + 1) ? line.replace(/\bconsole\.log\(/, `printedAt(${i + 1}, `) : line);
  return text.split('\n').map(told).join('\n');
};
