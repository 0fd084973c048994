// The package as its users get it: packed, installed from the tarball alone into an empty project, and run with nothing on the path but
// Node. Other versions of Node and TypeScript come from test/install, where `npm ci --prefix test/install` put them.
import { type SpawnSyncReturns, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');
const tools = join(root, 'test', 'install', 'node_modules');

const named = (name: string, file: string): readonly [string, string][] => (existsSync(file) ? [[name, file]] : []);
/** Programs by what to call them in a report. */
export const nodes: readonly [string, string][] = [
  [`this Node, ${process.versions.node}`, process.execPath],
  ...[20, 22, 24].flatMap((major) => named(`Node ${major}`, join(tools, `node${major}`, 'bin', 'node'))),
];
const compilers = ['5.9', '6.0', '7.0'].flatMap((v) => named(`TypeScript ${v}`, join(tools, `typescript${v.replace('.', '')}`, 'bin', 'tsc')));
export const typescripts: readonly [string, string][] =
  compilers.length > 0 ? compilers : [['the TypeScript of this checkout', join(root, 'node_modules', 'typescript', 'bin', 'tsc')]];
export const tool = (path: string): string | null => (existsSync(join(tools, path)) ? join(tools, path) : null);

export const newFolder = (name: string): string => mkdtempSync(join(tmpdir(), `${name}-`));

export interface Packed {
  readonly tarball: string;
  readonly size: number;
  readonly files: readonly { readonly path: string; readonly size: number }[];
}

export function pack(): Packed {
  const folder = newFolder('packed');
  const run = spawnSync('npm', ['pack', '--ignore-scripts', '--json', '--pack-destination', folder], { cwd: root, encoding: 'utf8' });
  if (run.status !== 0) throw new Error(`npm pack failed: ${run.stderr}`);
  const [made] = JSON.parse(run.stdout) as { filename: string; size: number; files: { path: string; size: number }[] }[];
  return { tarball: join(folder, made!.filename), size: made!.size, files: made!.files };
}

/** An empty project, with a path on which there is only Node. */
export class Project {
  readonly folder = newFolder('project');
  private readonly home = newFolder('home');
  private readonly bin = join(this.home, 'bin');

  constructor() {
    mkdirSync(this.bin);
    symlinkSync(process.execPath, join(this.bin, 'node'));
    this.write('package.json', '{ "private": true }\n');
  }

  write(name: string, text: string): string {
    writeFileSync(join(this.folder, name), text);
    return join(this.folder, name);
  }

  run(node: string, ...args: string[]): SpawnSyncReturns<string> {
    return spawnSync(node, args, { cwd: this.folder, encoding: 'utf8', env: { PATH: this.bin, HOME: this.home, TMPDIR: tmpdir() } });
  }

  /** Without a network, a cache or scripts. */
  install(tarball: string): SpawnSyncReturns<string> {
    const flags = ['--offline', '--ignore-scripts', '--no-audit', '--no-fund', '--cache', join(this.home, 'cache')];
    return this.run(process.execPath, npm(), 'install', ...flags, tarball);
  }
}

/** npm's own program, beside the Node that runs the tests. */
function npm(): string {
  const found = spawnSync('which', ['npm'], { encoding: 'utf8' }).stdout.trim();
  const program = realpathSync(found);
  return program.endsWith('.js') ? program : join(dirname(dirname(program)), 'lib', 'node_modules', 'npm', 'bin', 'npm-cli.js');
}

const IMPORT = /^import (?:\* as (\w+)|(\{[^}]+\})) from ('[^']+');$/;

/** The README's example of twenty lines, and the same with require() and as CommonJS written in TypeScript. */
export function readmeExample(): { readonly text: string; readonly required: string; readonly inFunction: string } {
  const text = readFileSync(join(root, 'README.md'), 'utf8').match(/^## Twenty lines\n+```ts\n([\s\S]*?)^```/m)?.[1];
  if (text === undefined) throw new Error('README.md has no example under "Twenty lines"');
  const lines = text.split('\n');
  const imports = lines.filter((line) => line.startsWith('import '));
  const body = lines.filter((line) => !line.startsWith('import ')).join('\n');
  const requires = imports.map((line) => line.replace(IMPORT, (_, whole, names, from) => `const ${whole ?? names} = require(${from});`));
  const wrapped = `async function main() {\n${body}}\nmain();\n`;
  return { text, required: `${requires.join('\n')}\n${wrapped}`, inFunction: `${imports.join('\n')}\n${wrapped}` };
}
