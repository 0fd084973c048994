// Nested states (of models, optimizers, loaders, of a user's own) as JSON plus tensors: tensors are taken out under the path they
// were found at, everything else is written so that it comes back identical, also what JSON has no form for: NaN, infinities, −0,
// bigints, undefined, typed arrays. What cannot come back identical (a Map, a class) is an error, never dropped.
import { CheckpointError, describe, ValueError } from '../errors.js';
import { Tensor } from '../tensor.js';
import { show } from './safetensors_header.js';

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

const arrayKinds = {
  Float32Array,
  Float64Array,
  BigInt64Array,
  BigUint64Array,
  Int32Array,
  Uint32Array,
  Int16Array,
  Uint16Array,
  Int8Array,
  Uint8Array,
};
const MAX_DEPTH = 200;

function isPlain(value: object): value is Record<string, unknown> {
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

/**
 * The JSON of a state. Tensors found inside are added to `tensors`, named by their path, and referred to by that name.
 * @param path begins the paths in error texts
 * @throws ValueError naming the path of a value that cannot be stored
 */
export function encodeState(value: unknown, tensors: Map<string, Tensor>, path: string): Json {
  const encode = (x: unknown, keys: readonly string[]): Json => {
    const place = [path, ...keys].join('.');
    if (keys.length > MAX_DEPTH) throw new ValueError(`saveCheckpoint: ${place.slice(0, 100)}… is nested more than ${MAX_DEPTH} deep, or contains itself`);
    if (x === null || typeof x === 'boolean' || typeof x === 'string') return x;
    if (typeof x === 'number') return Number.isFinite(x) && !Object.is(x, -0) ? x : { $number: Object.is(x, -0) ? '-0' : String(x) };
    if (typeof x === 'bigint') return { $bigint: String(x) };
    if (x === undefined) return { $undefined: true };
    if (x instanceof Tensor) return { $tensor: addTensor(tensors, keys.join('.') || 'value', x) };
    // from, not map: map would leave the holes of a sparse array, which JSON writes as null
    if (Array.isArray(x)) return Array.from(x, (item, i) => encode(item, [...keys, String(i)]));
    if (ArrayBuffer.isView(x)) {
      const kind = x instanceof Uint8Array ? 'Uint8Array' : Object.prototype.toString.call(x).slice(8, -1);
      if (kind in arrayKinds) return { $array: kind, base64: Buffer.from(x.buffer, x.byteOffset, x.byteLength).toString('base64') };
    }
    if (typeof x === 'object' && isPlain(x)) {
      const entries = Object.entries(x).map(([key, item]): [string, Json] => [key, encode(item, [...keys, key])]);
      return objectForm(entries) as Json;
    }
    throw new ValueError(
      `saveCheckpoint: ${place} is ${describe(x)}, which a checkpoint cannot hold; give plain data, tensors, or objects with stateDict() and loadStateDict()`,
    );
  };
  return encode(value, []);
}

/** An object's JSON: a user's own key with a dollar sign must not be taken for a form of ours. */
export function objectForm<T>(entries: [string, T][]): { [key: string]: T | [string, T][] } {
  return entries.some(([key]) => key.startsWith('$')) ? { $object: entries } : Object.fromEntries(entries);
}

/** Keys and values of an object that was encoded as objectForm says; none of anything else. */
export function entriesOf(json: unknown): [string, unknown][] {
  if (typeof json !== 'object' || json === null || Array.isArray(json)) return [];
  const { $object } = json as { $object?: unknown };
  return Array.isArray($object) ? ($object as [string, unknown][]) : Object.entries(json);
}

/** Two places may have the same path, as { "a.b": … } and { a: { b: … } } do. */
function addTensor(tensors: Map<string, Tensor>, name: string, tensor: Tensor): string {
  let free = name;
  for (let i = 2; tensors.has(free); i++) free = `${name}#${i}`;
  tensors.set(free, tensor);
  return free;
}

/**
 * The state that encodeState took apart.
 * @param where begins error texts: the file
 * @param load gets tensors by their names, all at once
 * @throws CheckpointError for JSON that encodeState did not write, before anything is loaded
 */
export async function decodeState(json: unknown, load: (names: readonly string[]) => Promise<readonly Tensor[]>, where: string): Promise<unknown> {
  const names: string[] = [];
  decode(json, (name) => names.push(name), where);
  const tensors = (await load(names)).values();
  return decode(json, () => tensors.next().value, where);
}

/** The state, with what `tensor` gives for each tensor in it. */
function decode(json: unknown, tensor: (name: string) => unknown, where: string): unknown {
  const bad = (what: unknown): CheckpointError => new CheckpointError(`${where}: malformed state: ${show(JSON.stringify(what) ?? String(what))}`);
  const at = (x: unknown, depth: number): unknown => {
    if (typeof x !== 'object' || x === null) return x;
    if (depth > MAX_DEPTH + 1) throw bad('nested too deep');
    const inner = (item: unknown): unknown => at(item, depth + 1);
    if (Array.isArray(x)) return x.map(inner);
    const entries = Object.entries(x);
    const [key, value] = entries[0] ?? ['', undefined];
    if (!key.startsWith('$')) return Object.fromEntries(entries.map(([name, item]) => [name, inner(item)]));
    if (key === '$tensor' && typeof value === 'string') return tensor(value);
    if (key === '$number' && typeof value === 'string' && /^(NaN|-?Infinity|-0)$/.test(value)) return Number(value);
    if (key === '$bigint' && typeof value === 'string' && /^-?\d+$/.test(value)) return BigInt(value);
    if (key === '$undefined') return undefined;
    if (key === '$array' && Object.hasOwn(arrayKinds, value as string)) return decodeArray(x as { $array: keyof typeof arrayKinds; base64: unknown });
    if (key === '$object' && Array.isArray(value) && value.every((pair) => Array.isArray(pair) && typeof pair[0] === 'string')) {
      return Object.fromEntries((value as [string, unknown][]).map(([name, item]) => [name, inner(item)]));
    }
    throw bad(x);
  };
  const decodeArray = ({ $array, base64 }: { $array: keyof typeof arrayKinds; base64: unknown }): unknown => {
    const Kind = arrayKinds[$array];
    const bytes = typeof base64 === 'string' ? Uint8Array.from(Buffer.from(base64, 'base64')) : null;
    if (bytes === null || bytes.length % Kind.BYTES_PER_ELEMENT !== 0) throw bad($array);
    return new Kind(bytes.buffer);
  };
  return at(json, 0);
}
