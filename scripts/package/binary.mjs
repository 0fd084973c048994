// What a built addon asks of the system that loads it, shows to others, and holds for which GPUs. Needs objdump, and nothing of CUDA:
// the images of kernels are read by their headers, which is all that cuobjdump does for a list.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

function objdump(option, file) {
  const run = spawnSync('objdump', [option, file], { encoding: 'utf8', maxBuffer: 1 << 28 });
  if (run.error) throw new Error(`objdump could not be run: ${run.error.message} (Debian: apt-get install binutils)`);
  if (run.status !== 0) throw new Error(run.stderr.trim());
  return run.stdout;
}

/** Whether version a, as `2.36`, is newer than b. */
export function newer(a, b) {
  const [x, y] = [a, b].map((version) => version.split('.').map(Number));
  for (let i = 0; i < Math.max(x.length, y.length); i++) if ((x[i] ?? 0) !== (y[i] ?? 0)) return (x[i] ?? 0) > (y[i] ?? 0);
  return false;
}

/** { asked: [{ version, name }] of glibc, needed: libraries, shown: names that others can link to }. */
export function symbolsOf(file) {
  const asked = [];
  const shown = [];
  for (const line of objdump('-T', file).split('\n')) {
    const name = line.trim().split(/\s+/).at(-1);
    const version = line.match(/GLIBC_([\d.]+)/)?.[1];
    if (version) asked.push({ version, name });
    else if (/^[0-9a-f]{8}/.test(line) && !line.includes('*UND*')) shown.push(name);
  }
  const needed = [...objdump('-p', file).matchAll(/NEEDED\s+(\S+)/g)].map((match) => match[1]);
  return { asked, needed, shown };
}

/** Bytes of machine code and PTX by GPU: `sm_80`, `compute_80`; only for what every image of kernels has. */
export function kernelsOf(file) {
  const bytes = readFileSync(file);
  const MAGIC = Buffer.from([0x50, 0xed, 0x55, 0xba]);
  const total = {};
  const images = {};
  let count = 0;
  for (let at = bytes.indexOf(MAGIC); at >= 0; at = bytes.indexOf(MAGIC, at + 4)) {
    if (bytes.readUInt16LE(at + 4) !== 1 || bytes.readUInt16LE(at + 6) !== 16) continue; // version and size of a header
    count++;
    const end = at + 16 + Number(bytes.readBigUInt64LE(at + 8));
    for (let entry = at + 16; entry < end; ) {
      const kind = bytes.readUInt16LE(entry) === 1 ? 'compute' : 'sm';
      const name = `${kind}_${bytes.readUInt32LE(entry + 28)}`;
      const size = Number(bytes.readBigUInt64LE(entry + 8));
      total[name] = (total[name] ?? 0) + size;
      images[name] = (images[name] ?? 0) + 1;
      entry += bytes.readUInt32LE(entry + 4) + size;
    }
  }
  return Object.fromEntries(Object.entries(total).filter(([name]) => images[name] === count));
}
