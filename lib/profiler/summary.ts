// A profile as text: what took the time, where the time of each device went, and how much of its peak was used.
import type { Breakdown } from './breakdown.js';
import { isWork } from './events.js';
import type { Profile } from './profile.js';

/** Options of `Profile.summary`. */
export interface SummaryOptions {
  /** Rows of the table of ops. Default 15. */
  top?: number;
}

/** What all commands of a name did together; times in microseconds. */
export interface OpTotal {
  readonly name: string;
  readonly stream: string;
  readonly calls: number;
  readonly time: number;
  /** On JavaScript's thread, for enqueueing. */
  readonly hostTime: number;
  readonly bytes: number;
  readonly flops: number;
}

/** Commands by name and stream, the longest first. */
export function totalsOf(profile: Profile): OpTotal[] {
  const totals = new Map<string, { -readonly [K in keyof OpTotal]: OpTotal[K] }>();
  for (const command of profile.commands) {
    if (!isWork(command)) continue;
    const { stream, op, begin, end } = command;
    const name = op?.name ?? command.name;
    let total = totals.get(`${name} ${stream}`);
    if (!total) {
      total = { name, stream, calls: 0, time: 0, hostTime: 0, bytes: 0, flops: 0 };
      totals.set(`${name} ${stream}`, total);
    }
    total.calls++;
    total.time += end - begin;
    if (!op) continue;
    total.hostTime += op.end - op.begin;
    total.bytes += op.bytes;
    total.flops += op.flops;
  }
  return [...totals.values()].sort((a, b) => b.time - a.time);
}

export function duration(us: number): string {
  return us < 1000 ? `${us.toFixed(1)} us` : us < 1e6 ? `${(us / 1000).toFixed(2)} ms` : `${(us / 1e6).toFixed(2)} s`;
}
const percent = (share: number): string => `${(100 * share).toFixed(1)}%`;
/** `3.2 G`, of 1000s. */
function scaled(n: number): string {
  const i = n > 0 ? Math.min(5, Math.max(0, Math.floor(Math.log10(n) / 3))) : 0;
  return `${(n / 1000 ** i).toFixed(i === 0 ? 0 : 1)} ${'_kMGTP'[i]!.replace('_', '')}`.trimEnd();
}
function rateOf({ flops, bytes, time }: OpTotal): string {
  const seconds = time * 1e-6;
  return flops > 0 ? `${scaled(flops / seconds)}FLOP/s` : bytes > 0 ? `${scaled(bytes / seconds)}B/s` : '';
}
const mebibytes = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

/** Columns, the first `left` of them flush left. */
export function tableOf(rows: readonly (readonly string[])[], left: number): string[] {
  const widths = rows[0]!.map((_, c) => Math.max(...rows.map((row) => row[c]!.length)));
  return rows.map((row) =>
    row
      .map((cell, c) => (c < left ? cell.padEnd(widths[c]!) : cell.padStart(widths[c]!)))
      .join('  ')
      .trimEnd(),
  );
}

export function summarize(profile: Profile, { top = 15 }: SummaryOptions = {}): string {
  const totals = totalsOf(profile);
  const { steps, breakdowns } = profile;
  const total = profile.end - profile.begin;
  const lines = [`${steps} ${steps === 1 ? 'step' : 'steps'} in ${duration(total)}, ${duration(total / steps)} each, rank ${profile.rank}`, ''];

  const sum = totals.reduce((a, t) => a + t.time, 0);
  const cells = totals
    .slice(0, top)
    .map((t) => [
      t.name,
      t.stream,
      String(t.calls),
      duration(t.time),
      percent(t.time / sum),
      duration(t.time / t.calls),
      rateOf(t),
      duration(t.hostTime / t.calls),
    ]);
  lines.push(...tableOf([['op', 'stream', 'calls', 'time', 'share', 'a call', 'rate', 'host a call'], ...cells], 2));
  if (totals.length > top) lines.push(`… and ${totals.length - top} more`);

  const shares = (b: Breakdown): string[] => [
    b.device,
    ...[b.compute, b.communication, b.exposedCommunication, b.host, b.idle].map((t) => percent(t / b.total)),
  ];
  lines.push('', ...tableOf([['device', 'compute', 'communication', 'exposed', 'host', 'idle'], ...breakdowns.map(shares)], 1));
  lines.push('compute + exposed communication + host (nothing to do yet) + idle = 100%');

  lines.push('');
  for (const { device, modelFlops, mfu, hfu, peak } of profile.utilization) {
    if (modelFlops === 0) continue;
    const share = mfu === null ? 'MFU not known' : `MFU ${percent(mfu)}${hfu! > mfu * 1.001 ? ` (${percent(hfu!)} with what is computed again)` : ''}`;
    lines.push(`${device}: ${scaled(modelFlops)}FLOP/s in products, ${share} of ${peak}`);
  }
  for (const { device, peakLive, peakReserved } of profile.memory)
    lines.push(`${device}: at most ${mebibytes(peakLive)} in tensors, ${mebibytes(peakReserved)} from the system`);
  if (profile.lost > 0) lines.push(`${profile.lost} commands are missing: there was no room for them; record fewer steps`);
  return lines.join('\n');
}
