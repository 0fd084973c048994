// The table of every name in docs/guide/from-pytorch.md is complete and true of this side: each public export, and each public member of the
// classes that people hold in their hands, has one row, and each row names something. scripts/check-pytorch-names looks at PyTorch's side.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import ts from 'typescript';
import { expect, test } from 'vitest';
import * as distributed from '../lib/distributed/index.js';
import * as sg from '../lib/index.js';

const root = join(import.meta.dirname, '..');
const page = readFileSync(join(root, 'docs', 'guide', 'from-pytorch.md'), 'utf8');
const rows = [...page.matchAll(/^\| `([\w.]+)` \| (?:`[\w.]+`|—) \| .*\|$/gm)].map((match) => match[1]!);

const program = ts.createProgram(
  ['index.ts', 'distributed/index.ts'].map((file) => join(root, 'lib', file)),
  ts.getParsedCommandLineOfConfigFile(join(root, 'tsconfig.json'), {}, { ...ts.sys, onUnRecoverableConfigFileDiagnostic: () => undefined })!.options,
);
const checker = program.getTypeChecker();
const actual = (symbol: ts.Symbol): ts.Symbol => (symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol);
const isInternal = (symbol: ts.Symbol): boolean =>
  actual(symbol)
    .getJsDocTags(checker)
    .some((tag) => tag.name === 'internal');
const exportsOf = (module: ts.Symbol): Map<string, ts.Symbol> => new Map(checker.getExportsOfModule(actual(module)).map((s) => [s.name, s]));
const [top, dist] = program.getRootFileNames().map((file) => checker.getSymbolAtLocation(program.getSourceFile(file)!)!) as [ts.Symbol, ts.Symbol];

/** What is there when the program runs, by the names that the page gives it: types alone are no rows. */
function values(prefix: string, space: object, module: ts.Symbol): [string, ts.Symbol][] {
  const symbols = exportsOf(module);
  return Object.entries(space).flatMap(([name, value]): [string, ts.Symbol][] => {
    const symbol = symbols.get(name)!;
    const isNamespace = actual(symbol).flags & ts.SymbolFlags.ValueModule && name !== 'nvtx';
    const inner = isNamespace ? values(`${prefix}${name}.`, value as object, symbol) : [];
    // namespaces of the top level are what the page is divided into
    return isNamespace && prefix === '' ? inner : [[`${prefix}${name}`, symbol], ...inner];
  });
}

/** How the page calls an object of a class. */
const held: Readonly<Record<string, string>> = {
  x: 'Tensor',
  generator: 'Generator',
  module: 'nn.Module',
  optimizer: 'optim.Optimizer',
  schedule: 'optim.Schedule',
  loader: 'data.DataLoader',
  scaler: 'amp.GradScaler',
  captured: 'graph.CapturedGraph',
  group: 'dist.ProcessGroup',
  mesh: 'dist.DeviceMesh',
  ddp: 'dist.DistributedDataParallel',
  pipeline: 'dist.Pipeline',
};

function classOf(path: string): ts.Symbol {
  const parts = path.split('.');
  return actual(parts.reduce((module, part) => (part === 'dist' ? dist : exportsOf(module).get(part)!), top));
}

/** Public members that the class itself declares, or of Tensor, which gets its methods from a table, all. */
function members(object: string, path: string): [string, ts.Symbol][] {
  const found = classOf(path);
  const inherited = checker.getBaseTypes(checker.getDeclaredTypeOfSymbol(found) as ts.InterfaceType).flatMap((base) => base.getProperties().map((p) => p.name));
  const hidden = ts.ModifierFlags.Private | ts.ModifierFlags.Protected;
  return checker
    .getDeclaredTypeOfSymbol(found)
    .getProperties()
    .filter((p) => !p.name.startsWith('__') && !p.declarations?.some((d) => ts.getCombinedModifierFlags(d) & hidden))
    .filter((p) => path === 'Tensor' || !inherited.includes(p.name))
    .map((p) => [`${object}.${p.name}`, p]);
}

const everything = new Map([
  ...values('', sg, top),
  ...values('dist.', distributed, dist),
  ...Object.entries(held).flatMap(([object, path]) => members(object, path)),
]);

/** A function of the top level and the method that it also is are one row, but for `slice`, where these are two things. */
const covers = (row: string): string[] => (row.includes('.') || row === 'slice' ? [row] : [row, `x.${row}`]);

test('the table has rows', () => {
  expect(rows.length).toBeGreaterThan(500);
});

test('each name has one row', () => {
  expect(rows.filter((row, i) => rows.indexOf(row) !== i)).toEqual([]);
});

test('each row names something public', () => {
  expect(rows.filter((row) => !everything.has(row) || isInternal(everything.get(row)!))).toEqual([]);
});

test('each public name has a row', () => {
  const covered = new Set(rows.flatMap(covers));
  expect([...everything].filter(([name, symbol]) => !covered.has(name) && !isInternal(symbol)).map(([name]) => name)).toEqual([]);
});
