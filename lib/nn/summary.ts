// A model as text: one line a module, with its parameters' shapes and their number.
import { dtypeSize } from '../dtype.js';
import { showShape } from '../shape.js';
import type { Module } from './module.js';

const grouped = (n: number): string => n.toLocaleString('en-US');

/** The tree of modules with their own parameters; a shared parameter is counted where it stands first. */
export function summarize(model: Module): string {
  const lines: [left: string, shapes: string, count: string][] = [];
  const counted = new Set<unknown>();
  let [total, trained, bytes] = [0, 0, 0];
  const visit = (module: Module, name: string, depth: number): void => {
    const label = `${'  '.repeat(depth)}${name ? `${name}: ` : ''}${module.constructor.name}`;
    if (counted.has(module)) {
      lines.push([label, 'shared', '']);
      return;
    }
    counted.add(module);
    let own = 0;
    const shapes: string[] = [];
    for (const [key, p] of module.ownParameters()) {
      const shared = counted.has(p);
      shapes.push(`${key} ${showShape(p.shape)}${shared ? ' shared' : ''}${p.requiresGrad ? '' : ' frozen'}`);
      if (shared) continue;
      counted.add(p);
      own += p.numel;
      bytes += p.numel * dtypeSize[p.dtype];
      if (p.requiresGrad) trained += p.numel;
    }
    total += own;
    lines.push([label, shapes.join(', '), own ? grouped(own) : '']);
    for (const [child, m] of module.namedChildren()) visit(m, child, depth + 1);
  };
  visit(model, '', 0);
  const width = (column: 0 | 1 | 2): number => Math.max(...lines.map((line) => line[column].length));
  const [left, middle, right] = [width(0), width(1), width(2)];
  const rows = lines.map(([a, b, c]) => `${a.padEnd(left)}  ${b.padEnd(middle)}  ${c.padStart(right)}`.trimEnd());
  return [...rows, `${grouped(total)} parameters, ${grouped(trained)} trained, ${(bytes / 2 ** 20).toFixed(1)} MiB`].join('\n');
}
