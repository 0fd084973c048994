// One table in the terminal, and the same as Markdown, JSON and a picture.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { Machine } from './environment.js';
import { type Row, type Spread, shown } from './rows.js';

/** Three digits that count. */
export function number(x: number): string {
  const digits = x === 0 ? 0 : Math.max(0, 2 - Math.floor(Math.log10(Math.abs(x))));
  return digits > 0 ? x.toFixed(Math.min(digits, 3)) : x.toFixed(0).replace(/\B(?=(\d{3})+$)/g, ' ');
}

const value = (s: Spread | null, unit: string): string => (s ? `${number(s.median)} ${unit}` : '');
const verdict = ({ ratio, bar }: Row): string => (ratio === null || bar === null ? '' : `${bar.toFixed(2)}${ratio.median >= bar ? '' : ' missed'}`);

const COLUMNS: readonly [string, (r: Row) => string, number][] = [
  ['case', (r) => r.name, 62],
  ['shardgrad', (r) => value(r.ours, r.unit), 18],
  ['PyTorch', (r) => value(r.theirs, r.unit), 18],
  ['tfjs', (r) => value(r.tfjs, r.unit), 16],
  ['times better (range)', (r) => (r.ratio ? shown(r.ratio) : ''), 25],
  ['goal', verdict, 13],
];

export const header = (): string => COLUMNS.map(([title, , width]) => title.padEnd(width)).join('');
export const line = (r: Row): string => `${COLUMNS.map(([, text, width]) => text(r).padEnd(width)).join('')}${r.note}`.trimEnd();

export interface Result {
  readonly date: string;
  readonly machine: Machine;
  readonly torch: string | null;
  readonly rounds: number;
  readonly rows: readonly Row[];
  readonly failures: readonly string[];
}

function markdown({ date, machine, torch, rounds, rows, failures }: Result, picture: string | null): string {
  const groups = [...new Set(rows.map(({ group }) => group))];
  const cell = (text: string): string => text.replaceAll('|', '\\|');
  const tables = groups.map((group) => {
    const own = rows.filter((r) => r.group === group);
    const columns = COLUMNS.filter(([, text]) => own.some((r) => text(r) !== ''));
    const titles = [...columns.map(([title]) => title), ...(own.some(({ note }) => note) ? ['note'] : [])];
    const lines = own.map((r) => [...columns.map(([, text]) => text(r)), ...(titles.at(-1) === 'note' ? [r.note] : [])].map(cell).join(' | '));
    return `## ${group}\n\n| ${titles.join(' | ')} |\n|${titles.map(() => '---').join('|')}|\n${lines.map((l) => `| ${l} |`).join('\n')}\n`;
  });
  return `${[
    `# shardgrad beside PyTorch ${torch ?? '(not measured)'}, ${date.slice(0, 10)}`,
    `${machine.cpu}, ${machine.cores} cores, ${machine.memoryGiB} GiB, ${machine.system}, Node ${machine.node}, commit ${machine.commit}; load of other work ` +
      `before it began: ${machine.load.toFixed(1)}. Medians of ${rounds} rounds in which the sides took turns. A ratio is the median of the rounds' ratios, with the ` +
      'lowest and the highest; above 1 ours is better, whatever the unit.',
    ...(picture ? [`![ratios to PyTorch](${picture})`] : []),
    ...tables,
    ...(failures.length ? [`## failed\n\n${failures.map((f) => `- ${f}`).join('\n')}\n`] : []),
  ].join('\n\n')}`;
}

/** How often better than PyTorch, on a logarithmic axis, with the range of the rounds and the goal. */
async function svg(rows: readonly Row[], tools: string): Promise<string> {
  const load = (name: string): Promise<Record<string, never>> => import(pathToFileURL(join(tools, 'node_modules', name)).href);
  const [vega, vegaLite] = [await load('vega/build/vega-node.js'), await load('vega-lite/build/vega-lite.js')] as unknown as [
    {
      View: new (runtime: unknown, options: object) => { toSVG(): Promise<string> };
      parse(spec: unknown): unknown;
      logger(level: number): unknown;
      Error: number;
    },
    { compile(spec: object, options: object): { spec: unknown } },
  ];
  const values = rows
    .filter((r) => r.ratio)
    .map((r) => ({ group: r.group, name: r.name, ratio: r.ratio!.median, low: r.ratio!.low, high: r.ratio!.high, bar: r.bar }));
  const y = { field: 'name', type: 'nominal', sort: null, axis: { title: null, labelLimit: 420 } };
  const scale = { type: 'log' };
  const spec = {
    $schema: 'https://vega.github.io/schema/vega-lite/v5.json',
    background: 'white',
    data: { values },
    facet: { row: { field: 'group', type: 'nominal', sort: null, header: { title: null, labelAngle: 0, labelAlign: 'left', labelFontWeight: 'bold' } } },
    resolve: { scale: { y: 'independent' } },
    spec: {
      width: 460,
      height: { step: 15 },
      layer: [
        { mark: { type: 'rule', color: '#888' }, encoding: { x: { datum: 1, type: 'quantitative', scale } } },
        {
          mark: { type: 'rule', color: '#4c78a8', opacity: 0.5, strokeWidth: 5 },
          encoding: { y, x: { field: 'low', type: 'quantitative', scale, title: 'times better than PyTorch' }, x2: { field: 'high' } },
        },
        { mark: { type: 'point', filled: true, size: 45, color: '#1f4e79' }, encoding: { y, x: { field: 'ratio', type: 'quantitative', scale } } },
        {
          mark: { type: 'tick', color: '#d62728', thickness: 2 },
          transform: [{ filter: 'isValid(datum.bar)' }],
          encoding: { y, x: { field: 'bar', type: 'quantitative', scale } },
        },
      ],
    },
  };
  return new vega.View(vega.parse(vegaLite.compile(spec, { logger: vega.logger(vega.Error) }).spec), { renderer: 'none' }).toSVG();
}

/** Writes <folder>/<day>-<machine>.{json,md,svg}; gives their path without the ending. */
export async function write(result: Result, folder: string, name: string, tools: string | null): Promise<string> {
  const path = join(folder, `${result.date.slice(0, 10)}-${name}`);
  mkdirSync(folder, { recursive: true });
  writeFileSync(`${path}.json`, `${JSON.stringify(result, null, 1)}\n`);
  const drawn = tools !== null && result.rows.some((r) => r.ratio);
  if (drawn) writeFileSync(`${path}.svg`, `${await svg(result.rows, tools)}\n`);
  writeFileSync(`${path}.md`, markdown(result, drawn ? `./${result.date.slice(0, 10)}-${name}.svg` : null));
  return path;
}
