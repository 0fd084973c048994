// The header of NumPy's .npy format: a magic, a version, and the text of a Python dict. The text is read by a strict little grammar,
// never evaluated.
import type { DType } from '../dtype.js';
import { CheckpointError } from '../errors.js';

export interface NpyHeader {
  /** What the array loads as. */
  readonly dtype: DType;
  /** Bytes of an element in the file. */
  readonly itemSize: number;
  readonly bigEndian: boolean;
  /** u8 in the file: values from 2^63 on do not fit into int64. */
  readonly unsigned64: boolean;
  readonly fortranOrder: boolean;
  readonly shape: readonly number[];
}

export const MAGIC = '\x93NUMPY';
/** NumPy itself refuses longer ones unless told; structured types, which have them, are refused here anyway. */
export const MAX_NPY_HEADER = 65536;

/** NumPy's letter and size of each dtype; bfloat16 and the 8-bit floats have none. */
const descrOf: Partial<Record<DType, string>> = {
  float64: '<f8',
  float32: '<f4',
  float16: '<f2',
  int64: '<i8',
  int32: '<i4',
  int16: '<i2',
  int8: '|i1',
  uint32: '<u4',
  uint16: '<u2',
  uint8: '|u1',
  bool: '|b1',
};
const dtypeOfKind = new Map<string, DType>(Object.entries(descrOf).map(([dtype, descr]) => [descr.slice(1), dtype as DType]));
dtypeOfKind.set('u8', 'int64');

/** The text NumPy uses for a dtype, or null. */
export function npyDescr(dtype: DType): string | null {
  return descrOf[dtype] ?? null;
}

const TOKEN = /\s*(?:'([^'\\\n]*)'|"([^"\\\n]*)"|(\d+)L?|(True|False)|([{}()[\],:]))/y;

/** Reads the dict text. `where` begins every error text. */
export function parseNpyHeader(text: string, where: string): NpyHeader {
  const bad = (why: string): CheckpointError => new CheckpointError(`${where}: malformed header: ${why}`);
  const tokens: (string | number | boolean | { text: string })[] = [];
  TOKEN.lastIndex = 0;
  const body = text.trimEnd();
  while (TOKEN.lastIndex < body.length) {
    const at = TOKEN.lastIndex;
    const m = TOKEN.exec(body);
    if (!m) throw bad(`unexpected ${JSON.stringify(body.slice(at, at + 20))}`);
    const string = m[1] ?? m[2];
    if (string !== undefined) tokens.push({ text: string });
    else if (m[3] !== undefined) tokens.push(Number(m[3]));
    else if (m[4] !== undefined) tokens.push(m[4] === 'True');
    else tokens.push(m[5]!);
  }
  let next = 0;
  const expect = (punctuation: string): void => {
    if (tokens[next++] !== punctuation) throw bad(`expected "${punctuation}"`);
  };
  const fields = new Map<string, unknown>();
  expect('{');
  while (tokens[next] !== '}') {
    const key = tokens[next++];
    if (typeof key !== 'object') throw bad('expected a key');
    if (fields.has(key.text)) throw bad(`"${key.text}" appears twice`);
    expect(':');
    const value = tokens[next++];
    if (value === '[') throw new CheckpointError(`${where}: structured types are not supported`);
    if (value === '(') {
      const items: number[] = [];
      while (tokens[next] !== ')') {
        const item = tokens[next++];
        if (typeof item !== 'number' || !Number.isSafeInteger(item)) throw bad(`a size of the shape is not a whole number below 2^53`);
        items.push(item);
        if (tokens[next] !== ')') expect(',');
      }
      next++;
      fields.set(key.text, items);
    } else if (typeof value === 'object') fields.set(key.text, value.text);
    else if (typeof value === 'boolean') fields.set(key.text, value);
    else throw bad(`"${key.text}" has no readable value`);
    if (tokens[next] !== '}') expect(',');
  }
  if (++next !== tokens.length) throw bad('text after the closing brace');
  return interpret(fields, where);
}

function interpret(fields: Map<string, unknown>, where: string): NpyHeader {
  const [descr, fortranOrder, shape] = [fields.get('descr'), fields.get('fortran_order'), fields.get('shape')];
  if (typeof descr !== 'string' || typeof fortranOrder !== 'boolean' || !Array.isArray(shape) || fields.size !== 3) {
    throw new CheckpointError(`${where}: malformed header: expected exactly descr, fortran_order and shape`);
  }
  const dtype = dtypeOfKind.get(descr.slice(1));
  if (!dtype || !'<>|='.includes(descr[0]!)) throw new CheckpointError(`${where}: dtype ${JSON.stringify(descr)} has no counterpart here`);
  return { dtype, itemSize: Number(descr.slice(2)), bigEndian: descr[0] === '>', unsigned64: descr.slice(1) === 'u8', fortranOrder, shape: shape as number[] };
}

/** Magic, version and dict text, padded so that the data begins at a multiple of 64. */
export function encodeNpyHeader(descr: string, shape: readonly number[]): Uint8Array {
  const tuple = shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(', ')})`;
  const dict = `{'descr': '${descr}', 'fortran_order': False, 'shape': ${tuple}, }`;
  const total = Math.ceil((10 + dict.length + 1) / 64) * 64;
  const out = Buffer.alloc(total, ' ');
  out.write(MAGIC, 0, 'latin1');
  out.set([1, 0], 6);
  out.writeUInt16LE(total - 10, 8);
  out.write(dict, 10, 'latin1');
  out.write('\n', total - 1, 'latin1');
  return out;
}
