// What the examples read and print: options, one sentence for a mistake, a progress line that stays readable in a log file, and a loss
// curve as SVG.
import { parseArgs } from 'node:util';
import { ShardgradError, ValueError } from 'shardgrad';

/** From here on a user's mistake ends the program with its sentence and exit code 1; what is unexpected keeps its stack. */
export function explainMistakes(): void {
  process.on('uncaughtException', (error: Error & { code?: string }) => {
    const mistake = error instanceof ShardgradError || error.code?.startsWith('ERR_PARSE_ARGS');
    console.error(mistake ? error.message.replaceAll(/\n(?=[A-Z])/g, ' ') : error);
    process.exit(1);
  });
}

/** The options of the command line, all of them texts with a default or switches, and a reader for those that are numbers. */
export function readOptions<T extends Record<string, { type: 'string'; default: string } | { type: 'boolean'; default: boolean }>>(options: T) {
  const { values } = parseArgs({ options });
  const args = values as unknown as { [K in keyof T]: T[K]['default'] extends boolean ? boolean : string };
  const read = (name: keyof T & string, kind: string, right: (value: number) => boolean): number => {
    const value = args[name] === '' ? Number.NaN : Number(args[name]);
    if (!right(value)) throw new ValueError(`--${name} must be ${kind}, got "${args[name]}"`);
    return value;
  };
  return {
    args,
    number: (name: keyof T & string): number => read(name, 'a number from 0', (x) => x >= 0 && x < Number.POSITIVE_INFINITY),
    count: (name: keyof T & string, least = 1): number => read(name, `a whole number from ${least}`, (x) => Number.isSafeInteger(x) && x >= least),
  };
}

export interface Progress {
  step: number;
  loss: number;
  validation: number;
  /** Bytes, of all ranks. */
  memory: number;
  /** Share of the time in which computation stood still for other ranks, 0 to 1, averaged over the ranks; null for one rank. */
  communication: number | null;
}

function duration(seconds: number): string {
  const s = Math.max(0, Math.round(seconds));
  return s < 3600
    ? `${Math.floor(s / 60)}:${String(s % 60).padStart(2, '0')}`
    : `${Math.floor(s / 3600)}:${String(Math.floor((s % 3600) / 60)).padStart(2, '0')}:${String(s % 60).padStart(2, '0')}`;
}

/**
 * On a terminal, also through `shardgrad run`, the line is rewritten; elsewhere a new line appears about every five seconds.
 * @param options.tokensPerStep of all ranks together
 */
export function progressLine(options: { total: number; tokensPerStep: number; from: number }): { update(p: Progress): void; end(): void } {
  const start = performance.now();
  const tty = process.stdout.isTTY === true || process.env['SHARDGRAD_LIVE_LINE'] === '1';
  let shown = 0;
  let last: Progress | null = null;
  let printed: Progress | null = null;
  const line = (p: Progress): string => {
    const elapsed = (performance.now() - start) / 1000;
    const perSecond = (p.step - options.from) / elapsed;
    const valid = Number.isNaN(p.validation) ? '   -  ' : p.validation.toFixed(4);
    const text =
      `step ${String(p.step).padStart(String(options.total).length)}/${options.total}  loss ${p.loss.toFixed(4)}  val ${valid}  ` +
      `${Math.round(perSecond * options.tokensPerStep).toLocaleString('en')} tokens/s  ` +
      `${p.communication === null ? '' : `comm ${(100 * p.communication).toFixed(0)}%  `}${duration(elapsed)}, ` +
      `${duration((options.total - p.step) / perSecond)} left  ${(p.memory / 2 ** 20).toFixed(0)} MiB`;
    // a line that wraps could not be rewritten
    return process.stdout.isTTY ? text.slice(0, (process.stdout.columns || 80) - 1) : text;
  };
  return {
    update(p) {
      last = p;
      const now = performance.now();
      if (now - shown < (tty ? 100 : 5000)) return;
      shown = now;
      printed = last;
      process.stdout.write(tty ? `\r\x1b[2K${line(p)}` : `${line(p)}\n`);
    },
    end() {
      if (last) process.stdout.write(tty ? `\r\x1b[2K${line(last)}\n` : printed === last ? '' : `${line(last)}\n`);
    },
  };
}

/** Training and validation loss over steps. */
export function curve(history: readonly { step: number; loss: number; validation?: number }[]): string {
  const [width, height, left, bottom, margin] = [720, 400, 56, 40, 16];
  const valid = history.filter((h) => h.validation !== undefined) as { step: number; validation: number }[];
  const values = [...history.map((h) => h.loss), ...valid.map((h) => h.validation)].filter(Number.isFinite);
  const top = Math.ceil(Math.max(...values, 1) * 2) / 2;
  const floor = Math.floor(Math.min(...values, top - 0.5) * 2) / 2;
  const lastStep = Math.max(1, ...history.map((h) => h.step));
  const x = (step: number): string => (left + (step / lastStep) * (width - left - margin)).toFixed(1);
  const y = (loss: number): string => (margin + ((top - loss) / (top - floor)) * (height - bottom - margin)).toFixed(1);
  const path = (points: [number, number][], colour: string): string =>
    `<polyline fill="none" stroke="${colour}" stroke-width="1.5" points="${points
      .filter(([, v]) => Number.isFinite(v))
      .map(([s, v]) => `${x(s)},${y(v)}`)
      .join(' ')}"/>`;
  const ticks = Array.from({ length: Math.round((top - floor) * 2) + 1 }, (_, i) => floor + i / 2)
    .map(
      (v) =>
        `<line x1="${left}" x2="${width - margin}" y1="${y(v)}" y2="${y(v)}" stroke="#ddd"/><text x="${left - 8}" y="${y(v)}" text-anchor="end" dy="4">${v}</text>`,
    )
    .join('');
  const steps = Array.from({ length: 5 }, (_, i) => Math.round((lastStep * i) / 4))
    .map((s) => `<text x="${x(s)}" y="${height - bottom + 20}" text-anchor="middle">${s}</text>`)
    .join('');
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="sans-serif" font-size="12" fill="#444">` +
    `<rect width="100%" height="100%" fill="white"/>${ticks}${steps}` +
    path(
      history.map((h) => [h.step, h.loss]),
      '#4477aa',
    ) +
    path(
      valid.map((h) => [h.step, h.validation]),
      '#cc6644',
    ) +
    `<text x="${width - margin}" y="${margin + 4}" text-anchor="end"><tspan fill="#4477aa">training loss</tspan>  <tspan fill="#cc6644">validation loss</tspan></text>` +
    `<text x="${(width + left) / 2}" y="${height - 6}" text-anchor="middle">step</text></svg>\n`
  );
}
