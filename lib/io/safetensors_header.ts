// The header of a safetensors file: JSON text that gives every tensor's dtype, shape and byte range. All of it may be hostile: the
// checks here are those of the reference implementation (no holes, no overlap, no trailing bytes) plus repeated keys, which
// JSON.parse would silently merge, so that two readers could see different tensors in one file.
import type { DType } from '../dtype.js';
import { CheckpointError, describe } from '../errors.js';

/** What is known of a tensor without reading it. */
export interface TensorInfo {
  /** The dtype in the file, in the format's own spelling: F32, BF16, I64… */
  readonly stored: string;
  /** The dtype it loads as; null when no tensor here can hold it (C64). */
  readonly dtype: DType | null;
  /** Size of each dimension. */
  readonly shape: readonly number[];
  /** Size of the data. */
  readonly bytes: number;
}

/** One tensor of a file. */
export interface TensorEntry extends TensorInfo {
  /** Where the bytes begin, from the start of the data section. */
  readonly start: number;
}

/** The format's name of each dtype here. */
export const storedName: Record<DType, string> = {
  float64: 'F64',
  int64: 'I64',
  float32: 'F32',
  int32: 'I32',
  uint32: 'U32',
  float16: 'F16',
  bfloat16: 'BF16',
  int16: 'I16',
  uint16: 'U16',
  float8_e4m3: 'F8_E4M3',
  float8_e5m2: 'F8_E5M2',
  int8: 'I8',
  uint8: 'U8',
  bool: 'BOOL',
};

/** Bits of an element, for every dtype of the format. */
const storedBits: Record<string, number> = {
  ...{ F64: 64, I64: 64, U64: 64, C64: 64, F32: 32, I32: 32, U32: 32, F16: 16, BF16: 16, I16: 16, U16: 16 },
  ...{ F8_E4M3: 8, F8_E5M2: 8, F8_E8M0: 8, I8: 8, U8: 8, BOOL: 8, F6_E2M3: 6, F6_E3M2: 6, F4: 4 },
};

const loadsAs = new Map<string, DType>(Object.entries(storedName).map(([dtype, stored]) => [stored, dtype as DType]));
loadsAs.set('U64', 'int64');

/** The reference implementation's limit. */
export const MAX_HEADER = 100_000_000;

export interface Header {
  readonly entries: ReadonlyMap<string, TensorEntry>;
  readonly metadata: Readonly<Record<string, string>>;
}

/** A key that some object of valid JSON text has twice, or null. */
export function repeatedKey(text: string): string | null {
  const objects: (Set<string> | null)[] = [];
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (c === '{') objects.push(new Set());
    else if (c === '[') objects.push(null);
    else if (c === '}' || c === ']') objects.pop();
    else if (c === '"') {
      const start = i++;
      while (text[i] !== '"') i += text[i] === '\\' ? 2 : 1;
      const keys = objects.at(-1);
      let next = i + 1;
      while (text.charCodeAt(next) <= 32) next++;
      if (!keys || text[next] !== ':') continue;
      const key = JSON.parse(text.slice(start, i + 1)) as string;
      if (keys.has(key)) return key;
      keys.add(key);
    }
  }
  return null;
}

const isCount = (n: unknown): n is number => Number.isSafeInteger(n) && (n as number) >= 0 && !Object.is(n, -0);
const isObject = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null && !Array.isArray(value);

/**
 * Reads and checks a header.
 * @param bytes the header as it stands in the file
 * @param dataBytes length of the data section, from the file's size
 * @param where begins every error text: the call and the file
 * @throws CheckpointError naming the file and the tensor
 */
export function parseHeader(bytes: Uint8Array, dataBytes: number, where: string): Header {
  let text: string;
  let json: unknown;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    json = JSON.parse(text);
  } catch (cause) {
    throw new CheckpointError(`${where}: the header is not JSON in UTF-8 (${(cause as Error).message.slice(0, 100)})`, { cause });
  }
  if (text[0] !== '{' || !isObject(json)) throw new CheckpointError(`${where}: the header does not begin with "{"`);
  const repeated = repeatedKey(text);
  if (repeated !== null) throw new CheckpointError(`${where}: the header has ${show(repeated)} twice`);

  const entries = new Map<string, TensorEntry>();
  let metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(json)) {
    if (name === '__metadata__') metadata = checkMetadata(value, where);
    else entries.set(name, checkEntry(value, `${where}: tensor ${show(name)}`));
  }
  checkCoverage(entries, dataBytes, where);
  return { entries, metadata };
}

function checkMetadata(value: unknown, where: string): Record<string, string> {
  if (!isObject(value)) throw new CheckpointError(`${where}: __metadata__ must map strings to strings, got ${describe(value)}`);
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== 'string') throw new CheckpointError(`${where}: __metadata__ ${show(key)} must be a string, got ${describe(text)}`);
  }
  return value as Record<string, string>;
}

function checkEntry(value: unknown, where: string): TensorEntry {
  if (!isObject(value)) throw new CheckpointError(`${where}: expected { dtype, shape, data_offsets }, got ${describe(value)}`);
  const { dtype: stored, shape, data_offsets: offsets } = value;
  const bits = typeof stored === 'string' && Object.hasOwn(storedBits, stored) ? storedBits[stored]! : 0;
  if (bits === 0) throw new CheckpointError(`${where}: unknown dtype ${describe(stored)}`);
  if (!Array.isArray(shape) || !shape.every(isCount)) {
    throw new CheckpointError(`${where}: shape must be an array of whole numbers from 0, got ${JSON.stringify(shape)?.slice(0, 80)}`);
  }
  const [start, end] = Array.isArray(offsets) && offsets.length === 2 && offsets.every(isCount) ? (offsets as [number, number]) : [1, 0];
  if (start > end) {
    throw new CheckpointError(`${where}: data_offsets must be two whole numbers in order, got ${JSON.stringify(offsets)?.slice(0, 80)}`);
  }
  // a zero anywhere makes it empty; without one, a product past 2^53 cannot fall back below it
  const needed = shape.includes(0) ? 0 : (shape.reduce((n: number, size: number) => n * size, 1) * bits) / 8;
  if (needed !== end - start) {
    throw new CheckpointError(
      `${where}: ${stored as string} [${shape.join(',').slice(0, 80)}] needs ${needed} bytes, data_offsets [${start},${end}] hold ${end - start}`,
    );
  }
  return { stored: stored as string, dtype: loadsAs.get(stored as string) ?? null, shape: shape as number[], start, bytes: end - start };
}

/** The tensors must cover the data section exactly: no byte unowned, none owned twice. */
function checkCoverage(entries: ReadonlyMap<string, TensorEntry>, dataBytes: number, where: string): void {
  let at = 0;
  for (const [name, { start, bytes }] of [...entries].sort(([, a], [, b]) => a.start - b.start || a.bytes - b.bytes)) {
    if (start !== at) {
      const what = start < at ? `overlaps the tensor before it, which ends at ${at}` : `leaves a hole after byte ${at}`;
      throw new CheckpointError(`${where}: tensor ${show(name)}: data_offsets [${start},${start + bytes}] ${what}`);
    }
    at += bytes;
    if (at > dataBytes) {
      throw new CheckpointError(
        `${where}: tensor ${show(name)}: data_offsets [${start},${at}] reach past the end of the data at ${dataBytes}: the file is truncated`,
      );
    }
  }
  if (at !== dataBytes) throw new CheckpointError(`${where}: ${dataBytes - at} bytes after the last tensor belong to none`);
}

/** A tensor's name for an error text: quoted, and never longer than a line. */
export function show(name: string): string {
  return JSON.stringify(name.length > 80 ? `${name.slice(0, 77)}…` : name);
}

/**
 * The bytes before the data: length and header, padded with spaces to a multiple of 8.
 * @param entries in the order of their data
 */
export function encodeHeader(
  entries: readonly (readonly [string, { dtype: DType; shape: readonly number[]; bytes: number }])[],
  metadata: Record<string, string>,
): Uint8Array {
  let at = 0;
  const parts: string[] = [];
  // assembled by hand: an object would reorder names that look like integers
  if (Object.keys(metadata).length > 0) parts.push(`"__metadata__":${JSON.stringify(metadata)}`);
  for (const [name, { dtype, shape, bytes }] of entries) {
    parts.push(`${JSON.stringify(name)}:${JSON.stringify({ dtype: storedName[dtype], shape, data_offsets: [at, at + bytes] })}`);
    at += bytes;
  }
  const json = Buffer.from(`{${parts.join(',')}}`);
  const out = Buffer.alloc(8 + Math.ceil(json.length / 8) * 8, ' ');
  out.writeBigUInt64LE(BigInt(out.length - 8), 0);
  json.copy(out, 8);
  return out;
}
