import { hostname } from 'node:os';
import { join } from 'node:path';
import { AppendingFile } from './appending_file.js';
import { scalarRecord, versionRecord } from './event_file.js';
import { checkScalar, type MetricsWriter } from './metrics.js';

const now = (): number => Date.now() / 1000;
let files = 0;

/**
 * Writes metrics that `tensorboard --logdir` shows, into a new event file in a folder; the folder's name is the run's. Names with a slash,
 * `loss/train`, are grouped by what is before it. Values are float32 in the file.
 */
export class TensorBoardWriter implements MetricsWriter {
  private readonly file: AppendingFile;

  constructor(folder: string) {
    const name = `events.out.tfevents.${Math.floor(now())}.${hostname()}.${process.pid}.${files++}`;
    this.file = new AppendingFile(join(folder, name));
    this.file.add(versionRecord(now()));
  }
  addScalar(name: string, value: number, step: number): void {
    this.addScalars({ [name]: value }, step);
  }
  addScalars(values: Readonly<Record<string, number>>, step: number): void {
    for (const [name, value] of Object.entries(values)) checkScalar('TensorBoardWriter', name, value, step);
    this.file.add(scalarRecord(now(), step, values));
  }
  flush(): Promise<void> {
    return this.file.flush();
  }
  close(): Promise<void> {
    return this.file.close();
  }
}
