#!/usr/bin/env node
// Compares two recordings of what the PTX wrappers give (hardware_test --record, emulation_test --record). Words must be equal, except
// where the hardware approximates or adds in an order of its own: there they are floats, and the bound says how far apart.
//
//   scripts/kit/recordings.mjs test/golden/ptx.json FILE
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

// Relative to the value, and for sums to the largest accumulator of the recording.
const BOUNDS = [
  { name: /^fast_/, relative: 2 ** -21, ofLargest: 2 ** -22 },
  { name: /^mma_.* (rounded|onto large)$/, relative: 0, ofLargest: 2 ** -20 },
];

function floats(hex) {
  const view = new DataView(new ArrayBuffer(4));
  return (hex.match(/.{8}/g) ?? []).map((word) => {
    view.setUint32(0, Number.parseInt(word, 16));
    return view.getFloat32(0);
  });
}

/** What differs, one sentence each. */
export function differences(expected, found) {
  const lines = [];
  for (const [name, hex] of Object.entries(expected.outputs)) {
    const other = found.outputs[name];
    if (other === undefined) lines.push(`${name}: not recorded on ${found.device}`);
    else if (other.length !== hex.length) lines.push(`${name}: ${other.length / 8} words on ${found.device}, ${hex.length / 8} on ${expected.device}`);
    else if (other !== hex) {
      const line = difference(name, hex, other);
      if (line) lines.push(`${name}: ${line}`);
    }
  }
  for (const name of Object.keys(found.outputs)) if (!(name in expected.outputs)) lines.push(`${name}: not recorded on ${expected.device}`);
  return lines;
}

function difference(name, expected, found) {
  const bound = BOUNDS.find((b) => b.name.test(name));
  const [a, b] = [floats(expected), floats(found)];
  const largest = Math.max(...a.filter(Number.isFinite).map(Math.abs));
  const far = a.flatMap((x, i) => {
    const [from, to] = [expected.slice(8 * i, 8 * i + 8), found.slice(8 * i, 8 * i + 8)];
    if (from === to || (bound && (Object.is(x, b[i]) || Math.abs(x - b[i]) <= bound.relative * Math.abs(x) + bound.ofLargest * (name.startsWith('mma') ? largest : 1)))) return [];
    return [`word ${i} is ${to} and not ${from}`];
  });
  return far.length ? `${far.length} of ${a.length} words differ; ${far[0]}` : null;
}

/** Reads two files and compares them. */
export function compareFiles(expected, found) {
  return differences(JSON.parse(readFileSync(expected, 'utf8')), JSON.parse(readFileSync(found, 'utf8')));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const lines = compareFiles(process.argv[2], process.argv[3]);
  for (const line of lines) console.error(line);
  process.exitCode = lines.length ? 1 : 0;
}
