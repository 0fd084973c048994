// The flight recorders of all ranks side by side: one row a collective, one column a rank, and above it what stands still.
import type { RecordedCall, Recording } from '../native.js';

export interface RankRecording extends Recording {
  /** False: the process is gone. Null: it is on another host, or nobody knows. */
  readonly alive: boolean | null;
}

export interface DumpOptions {
  /** Rows of each group, the last ones; collectives that are not done everywhere are always shown. Default 20. */
  readonly last?: number;
  /** Milliseconds of the wall clock that ages are counted from. */
  readonly now?: number;
}

/** More ranks than this are listed by state and have no columns. */
const MAX_COLUMNS = 8;

interface Row {
  readonly sequence: number;
  readonly call: string;
  /** By rank; absent where the rank did not call it. */
  readonly calls: Map<number, RecordedCall>;
}

/** A text for people; ends with a line break. */
export function showRecordings(recordings: readonly RankRecording[], { last = 20, now = Date.now() }: DumpOptions = {}): string {
  const ranks = [...recordings].sort((a, b) => a.rank - b.rank);
  const lines: string[] = [];
  for (const { rank, alive, process } of ranks) if (alive === false) lines.push(`rank ${rank}: its process (${process}) has ended`);
  for (const name of new Set(ranks.flatMap((r) => r.entries.map((e) => e.group)))) {
    const members = ranks.filter((r) => r.entries.some((e) => e.group === name));
    const rows = rowsOf(name, members);
    lines.push(...standstill(name, rows, members, now));
    const open = rows.filter((row) => !doneEverywhere(row, members));
    const shown = new Set([...rows.slice(-last), ...open.slice(-last)]);
    lines.push('', `process group ${name}, ranks ${members.map((m) => m.rank).join(' ')}`, '');
    lines.push(
      ...table(
        rows.filter((row) => shown.has(row)),
        members,
        now,
      ),
    );
    lines.push(...messages(name, members, now));
  }
  if (lines.length === 0) lines.push('no collective was called');
  return `${lines.join('\n')}\n`;
}

function textOf({ call, where }: RecordedCall): string {
  return where === '' ? call : `${call} ${where}`;
}

/** What each rank chooses for itself in an all-to-all. */
const SENT = /\d+(?= elements sent)/;

/** Of ranks that have called the same. */
function textOfAll(calls: readonly RecordedCall[]): string {
  const sent = calls.map(({ call }) => Number(SENT.exec(call)?.[0] ?? 0));
  const [least, most] = [Math.min(...sent), Math.max(...sent)];
  const text = textOf(calls[0]!);
  return least === most ? text : text.replace(SENT, `${least} to ${most}`);
}

/** Collectives of a group in their order. Ranks that called different ones under a number have a row each. */
function rowsOf(group: string, members: readonly RankRecording[]): Row[] {
  const rows = new Map<string, { sequence: number; calls: Map<number, RecordedCall> }>();
  for (const { rank, entries } of members) {
    for (const entry of entries) {
      if (entry.group !== group || entry.sequence === 0) continue;
      const key = `${entry.sequence} ${textOf(entry).replace(SENT, '')}`;
      const row = rows.get(key) ?? { sequence: entry.sequence, calls: new Map() };
      rows.set(key, row);
      row.calls.set(rank, entry);
    }
  }
  return [...rows.values()].map((row) => ({ ...row, call: textOfAll([...row.calls.values()]) })).sort((a, b) => a.sequence - b.sequence);
}

function doneEverywhere(row: Row, members: readonly RankRecording[]): boolean {
  return members.every(({ rank, entries }) => {
    const call = row.calls.get(rank);
    return call ? call.done > 0 && !call.failed : forgotten(row.sequence, entries);
  });
}

/** Whether the recorder has been overwritten since. */
function forgotten(sequence: number, entries: readonly RecordedCall[]): boolean {
  const first = entries[0];
  return first !== undefined && first.number > 1 && sequence < Math.min(...entries.filter((e) => e.sequence > 0).map((e) => e.sequence));
}

/** The first collective that some ranks wait in, and what the others do. */
function standstill(group: string, rows: readonly Row[], members: readonly RankRecording[], now: number): string[] {
  const stuck = rows.find((row) => [...row.calls.values()].some((call) => call.started > 0 && call.done === 0));
  if (!stuck) return [];
  const inside = members.filter(({ rank }) => {
    const call = stuck.calls.get(rank);
    return call && call.started > 0 && call.done === 0;
  });
  const since = Math.min(...inside.map(({ rank }) => stuck.calls.get(rank)!.started));
  const lines = [`${group} #${stuck.sequence}: ${some(inside)} in ${stuck.call} since ${age(now - since)}`];
  for (const other of rows.filter((row) => row.sequence === stuck.sequence && row !== stuck)) {
    lines.push(`${group} #${stuck.sequence}: ${some(members.filter((m) => other.calls.has(m.rank)))} called ${other.call}`);
  }
  for (const member of members) {
    if (rows.some((row) => row.sequence === stuck.sequence && row.calls.has(member.rank))) continue;
    const latest = rows.findLast((row) => row.calls.has(member.rank));
    lines.push(`${group} #${stuck.sequence}: rank ${member.rank} has not called it; its last is #${latest?.sequence ?? 0} ${latest?.call ?? ''}`);
  }
  return lines;
}

function some(members: readonly RankRecording[]): string {
  return `${members.length === 1 ? 'rank' : 'ranks'} ${members.map((m) => m.rank).join(', ')}`;
}

function age(ms: number): string {
  return ms < 1 ? `${(ms * 1000).toFixed(0)} us` : ms < 1000 ? `${ms.toFixed(1)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

function state(call: RecordedCall | undefined, forgot: boolean, now: number, alive: boolean | null): string {
  if (!call) return forgot ? 'overwritten' : 'not called';
  if (call.failed) return 'failed';
  if (call.done > 0) return `done ${age(call.done - call.started)}`;
  if (call.started === 0) return 'enqueued';
  return alive === false ? 'ended in it' : `in it ${age(now - call.started)}`;
}

function table(rows: readonly Row[], members: readonly RankRecording[], now: number): string[] {
  const states = rows.map((row) => members.map(({ rank, entries, alive }) => state(row.calls.get(rank), forgotten(row.sequence, entries), now, alive)));
  const columns = members.length <= MAX_COLUMNS;
  const cells = [
    ['#', ...(columns ? members.map((m) => `rank ${m.rank}`) : ['ranks']), 'call'],
    ...rows.map((row, i) => [String(row.sequence), ...(columns ? states[i]! : [byState(states[i]!, members)]), row.call]),
  ];
  const widths = cells[0]!.map((_, c) => Math.max(...cells.map((line) => line[c]!.length)));
  return cells.map(
    (line) => `  ${line.map((cell, c) => (c === 0 ? cell.padStart(widths[c]!) : c === line.length - 1 ? cell : cell.padEnd(widths[c]!))).join('  ')}`,
  );
}

function byState(states: readonly string[], members: readonly RankRecording[]): string {
  const kinds = new Map<string, number[]>();
  states.forEach((text, i) => {
    const kind = text.startsWith('done') ? 'done' : text;
    kinds.set(kind, [...(kinds.get(kind) ?? []), members[i]!.rank]);
  });
  return [...kinds].map(([kind, list]) => (kinds.size === 1 ? `all ${kind}` : `${kind}: ${list.join(' ')}`)).join('; ');
}

/** Messages between two ranks have no number; those under way are shown. */
function messages(group: string, members: readonly RankRecording[], now: number): string[] {
  return members.flatMap(({ rank, entries, alive }) =>
    entries
      .filter((e) => e.group === group && e.sequence === 0 && (e.done === 0 || e.failed))
      .map((e) => `  rank ${rank}: ${textOf(e)}: ${state(e, false, now, alive)}`),
  );
}
