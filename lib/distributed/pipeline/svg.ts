// A plan as a picture: a row a rank, time to the right, a legend of kinds, and for each rank its bubble and the activations that it keeps.
// It follows the reader's light or dark mode.
import { type ComputeKind, formatAction, isCompute } from './action.js';
import { labelsOf, percent, titleOf, trim } from './captions.js';
import type { Schedule } from './schedule.js';
import type { Simulation, TimedAction } from './simulate_schedule.js';

const ROW = 30;
const LEFT = 70;
const RIGHT = 200;
/** Room for all kinds in the legend. */
const LEGEND = 690;
const TOP = 62;
const TEXT = 11;
/** How wide a character of the labels is, generously. */
const CHARACTER = 7.4;

const KINDS: Readonly<Record<ComputeKind, string>> = { F: 'forward', B: 'backward', I: 'gradient of the input', W: 'gradients of the weights' };

// of each kind: fill by day and by night, and those of every other stage of a rank, which tell its stages apart
const FILLS: Readonly<Record<ComputeKind, readonly [string, string, string, string]>> = {
  F: ['#a9c9f5', '#1f4f8f', '#86aee6', '#2f6bbd'],
  B: ['#a8dcb4', '#1f6b36', '#84c795', '#2f8a4b'],
  I: ['#9fdcdc', '#14686b', '#7bc6c6', '#1f8a8e'],
  W: ['#f3d98b', '#7d5c0a', '#e3c161', '#9c7620'],
};

function style(): string {
  const fills = (night: 0 | 1): string =>
    Object.entries(FILLS)
      .map(([kind, fill]) => `.${kind} { fill: ${fill[night]}; } .${kind}-other { fill: ${fill[2 + night]}; }`)
      .join(' ');
  return `<style>
  svg { font: ${TEXT}px ui-sans-serif, system-ui, sans-serif; background: #ffffff; }
  text { fill: #1f2328; } .small { fill: #59636e; } .title { font-size: 14px; font-weight: 600; } .idle { fill: #f0f2f4; } .axis { stroke: #d1d9e0; }
  ${fills(0)}
  @media (prefers-color-scheme: dark) {
    svg { background: #0d1117; } text { fill: #f0f6fc; } .small { fill: #9198a1; } .idle { fill: #161b22; } .axis { stroke: #3d444d; }
    ${fills(1)}
  }
</style>`;
}

/** The text of an SVG file. */
export function scheduleSvg(schedule: Schedule, simulation: Simulation): string {
  const { makespan, ranks } = simulation;
  const label = labelsOf(schedule);
  const computing = ranks.map(({ actions }) => actions.filter(({ action }) => isCompute(action)));
  const shortest = Math.min(...computing.flat().map(({ start, end }) => end - start));
  const widest = Math.max(...computing.flat().map((timed) => label(timed).length));
  // the shortest action has room for the longest label
  const scale = (widest * CHARACTER + 6) / shortest;
  const title = titleOf(schedule, simulation);
  const width = Math.ceil(Math.max(LEFT + makespan * scale + RIGHT, title.length * 8 + 20, LEGEND));
  const height = TOP + ranks.length * ROW + 34;
  const x = (time: number): string => trim(LEFT + time * scale);
  const rows = computing.map((actions, rank) => {
    const y = TOP + rank * ROW;
    const { bubble, peakActivations } = ranks[rank]!;
    return [
      text(LEFT - 8, y + ROW / 2, `rank ${rank}`, 'end'),
      ...actions.map((timed) => box(schedule, timed, x(timed.start), y, (timed.end - timed.start) * scale, label(timed))),
      text(LEFT + makespan * scale + 10, y + ROW / 2, `idle ${percent(bubble)}, keeps up to ${peakActivations}`, 'start', 'small'),
    ].join('\n');
  });
  const grounds = ranks.map((_, rank) => `<rect class="idle" x="${x(0)}" y="${TOP + rank * ROW + 2}" width="${trim(makespan * scale)}" height="${ROW - 4}"/>`);
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img">
<title>${escaped(title)}</title>
${style()}
${text(10, 18, title, 'start', 'title')}
${legend(computing.flat())}
${grounds.join('\n')}
${axis(makespan, shortest, x, TOP + ranks.length * ROW + 6)}
${rows.join('\n')}
</svg>
`;
}

function box(schedule: Schedule, { action, start, end }: TimedAction, x: string, y: number, width: number, label: string): string {
  const shade = schedule.stagesOf(schedule.rankOf(action.stage)).indexOf(action.stage) % 2 === 1 ? '-other' : '';
  const middle = Number(x) + width / 2;
  return `<g><title>${formatAction(action)}: ${trim(start)} to ${trim(end)}</title><rect class="${action.kind}${shade}" x="${x}" y="${y + 2}" width="${trim(width - 1)}" height="${ROW - 4}" rx="2"/>${text(middle, y + ROW / 2, label, 'middle')}</g>`;
}

function text(x: number, y: number, content: string, anchor: string, kind = ''): string {
  // placed by its baseline: not all readers know dominant-baseline
  return `<text x="${trim(x)}" y="${trim(y + TEXT * 0.36)}" text-anchor="${anchor}"${kind && ` class="${kind}"`}>${escaped(content)}</text>`;
}

function legend(actions: readonly TimedAction[]): string {
  const there = (Object.keys(KINDS) as ComputeKind[]).filter((kind) => actions.some(({ action }) => action.kind === kind));
  let x = LEFT;
  return there
    .map((kind) => {
      const at = x;
      x += 36 + (KINDS[kind].length + 2) * CHARACTER * 0.9;
      return `<rect class="${kind}" x="${at}" y="32" width="18" height="14" rx="2"/>${text(at + 24, 39, `${kind}  ${KINDS[kind]}`, 'start', 'small')}`;
    })
    .join('\n');
}

/** Marks of time: about one for every ten of the shortest actions, at round numbers. */
function axis(makespan: number, shortest: number, x: (time: number) => string, y: number): string {
  const rough = shortest * 10;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough * 0.999)!;
  const marks = Array.from({ length: Math.floor(makespan / step + 1e-9) + 1 }, (_, i) => i * step);
  return marks
    .map(
      (time) =>
        `<line class="axis" x1="${x(time)}" x2="${x(time)}" y1="${TOP - 2}" y2="${y + 4}"/>${text(Number(x(time)), y + 12, trim(time), 'middle', 'small')}`,
    )
    .join('\n');
}

function escaped(content: string): string {
  return content.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
