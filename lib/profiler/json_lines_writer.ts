import { AppendingFile } from './appending_file.js';
import { checkScalar, type MetricsWriter } from './metrics.js';

/** Not JSON's. */
const text = (value: number): number | string => (Number.isFinite(value) ? value : String(value));

/**
 * Writes metrics as JSON lines, one a call: `{"step":3,"time":1732290000.123,"loss":2.31}`, time in seconds. NaN and infinities, which JSON does not have,
 * are texts. A file that exists is continued.
 */
export class JsonLinesWriter implements MetricsWriter {
  private readonly file: AppendingFile;

  constructor(path: string) {
    this.file = new AppendingFile(path);
  }
  addScalar(name: string, value: number, step: number): void {
    this.addScalars({ [name]: value }, step);
  }
  addScalars(values: Readonly<Record<string, number>>, step: number): void {
    for (const [name, value] of Object.entries(values)) checkScalar('JsonLinesWriter', name, value, step);
    const row = Object.fromEntries(Object.entries(values).map(([name, value]) => [name, text(value)]));
    this.file.add(Buffer.from(`${JSON.stringify({ step, time: Date.now() / 1000, ...row })}\n`));
  }
  flush(): Promise<void> {
    return this.file.flush();
  }
  close(): Promise<void> {
    return this.file.close();
  }
}
