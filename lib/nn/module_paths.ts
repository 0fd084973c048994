// How paths find modules: `transformer.h.*.attn`, and what may have been meant when they find none.
import { ValueError } from '../errors.js';
import type { Module } from './module.js';

export interface ModuleAt {
  readonly path: string;
  readonly module: Module;
}

/** The modules below a model that patterns mean, in the order of the model. Every pattern must mean one. */
export function modulesAt(model: Module, patterns: readonly string[], where: string): ModuleAt[] {
  const modules = [...model.namedModules()].filter(([path]) => path !== '').map(([path, module]) => ({ path, module }));
  const paths = modules.map(({ path }) => path);
  const lost = patterns.filter((pattern) => !paths.some((path) => fits(pattern, path)));
  if (lost.length > 0) {
    const texts = lost.map((pattern) => `"${pattern}"${hint(pattern, paths)}`);
    throw new ValueError(`${where}: no module of ${model.constructor.name} is at ${texts.join(', nor at ')}`);
  }
  return modules.filter(({ path }) => patterns.some((pattern) => fits(pattern, path)));
}

/** Whether a pattern means a path; `*` stands for one part of it. */
export function fits(pattern: string, path: string): boolean {
  const [wanted, parts] = [pattern.split('.'), path.split('.')];
  return wanted.length === parts.length && wanted.every((part, i) => part === '*' || part === parts[i]);
}

/** ` (did you mean "transformer.h.*.attn.c_attn"?)` */
function hint(pattern: string, paths: readonly string[]): string {
  // numbers become * where the pattern has one, so that layers count once
  const known = new Set(paths.flatMap((path) => (pattern.includes('*') ? [path.replace(/(^|\.)\d+(?=\.|$)/g, '$1*')] : [path])));
  const limit = Math.max(2, Math.floor(pattern.length / 3));
  const near = [...known]
    .map((path) => ({ path, distance: editDistance(pattern, path) }))
    .filter(({ distance }) => distance <= limit)
    .sort((a, b) => a.distance - b.distance)
    .slice(0, 3);
  return near.length > 0 ? ` (did you mean ${near.map(({ path }) => `"${path}"`).join(' or ')}?)` : '';
}

/** How many characters have to be put in, left out or replaced (Levenshtein, 1966). */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + Number(a[i - 1] !== b[j - 1])));
    row = next;
  }
  return row[b.length]!;
}

/** Paths end, unless a module contains itself. */
export function checkPath(path: string): string {
  if (path.length > 4096) throw new ValueError(`Module: a module contains itself: ${path.slice(0, 60)}…`);
  return path;
}
