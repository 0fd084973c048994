// Loaded before a page's code: reports on descriptor 3 what the lines print whose output the page states.
import { writeSync } from 'node:fs';
import { format } from 'node:util';

globalThis.printedAt = (line, ...values) => {
  console.log(...values);
  writeSync(3, `${JSON.stringify({ line, text: format(...values) })}\n`);
};
