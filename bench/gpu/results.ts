// Where the benches of GPUs write: one text and one JSON file a run, named by day and machine. Also what a GPU can do on paper.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { cuda, type Device } from '../../lib/index.js';

/** As the driver names it; the CPU where the bench runs on that. */
export function machineName(device: Device): string {
  return device.type === 'cuda' ? cuda.deviceProperties(device.index).name : 'CPU';
}

/** Dense bfloat16 products in FLOP/s from the data sheet; null: not a GPU we know, and shares are of what was measured. */
export function peakOnPaper(machine: string): number | null {
  const known: [RegExp, number][] = [
    [/H100.*(HBM3|SXM)|H200|GH200/, 989e12],
    [/H100.*PCIe/, 756e12],
    [/A100/, 312e12],
    [/B200/, 2250e12],
  ];
  return known.find(([name]) => name.test(machine))?.[1] ?? null;
}

/** Lines that are printed and kept. */
export class Report {
  private readonly lines: string[] = [];
  print(line = ''): void {
    console.log(line);
    this.lines.push(line);
  }
  /** Writes FOLDER/<day>-<machine>-<bench>.txt and .json; gives their path without the ending. */
  write(folder: string, machine: string, bench: string, data: object): string {
    const slug = machine
      .toLowerCase()
      .replace(/^nvidia /, '')
      .replace(/[^a-z0-9]+/g, '-');
    const path = join(folder, `${new Date().toISOString().slice(0, 10)}-${slug}-${bench}`);
    mkdirSync(folder, { recursive: true });
    writeFileSync(`${path}.txt`, `${this.lines.join('\n')}\n`);
    writeFileSync(`${path}.json`, `${JSON.stringify({ machine, date: new Date().toISOString(), ...data }, null, 1)}\n`);
    return path;
  }
}
