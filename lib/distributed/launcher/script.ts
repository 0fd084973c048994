// What to start for the script on the command line: Node for JavaScript and TypeScript files, anything else as it stands. TypeScript
// runs by Node's own type stripping where this Node has it, else by the `tsx` that the script's own project has installed.
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { extname, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { UsageError } from './options.js';

export interface Program {
  readonly file: string;
  readonly args: readonly string[];
}

const JAVASCRIPT = ['.js', '.mjs', '.cjs'];
const TYPESCRIPT = ['.ts', '.mts', '.cts'];

/** The program and arguments for a command line. Throws UsageError when a script is missing or cannot be run here. */
export function programOf(command: readonly string[]): Program {
  const [script = '', ...args] = command;
  const extension = extname(script);
  const isTypeScript = TYPESCRIPT.includes(extension);
  if (!isTypeScript && !JAVASCRIPT.includes(extension)) return { file: script, args };
  if (!existsSync(script)) throw new UsageError(`there is no file ${script}`);
  return { file: process.execPath, args: [...(isTypeScript ? typeScriptFlags(script) : []), script, ...args] };
}

function typeScriptFlags(script: string): string[] {
  // not yet in the types of Node 20
  const { typescript } = process.features as { typescript?: 'strip' | 'transform' | false };
  if (typescript) return [];
  try {
    return ['--import', pathToFileURL(createRequire(resolve(script)).resolve('tsx')).href];
  } catch {
    throw new UsageError(
      `${script} is TypeScript, which Node ${process.versions.node} does not run by itself (22.18 does): install tsx beside the script (npm install --save-dev tsx), or compile it`,
    );
  }
}
