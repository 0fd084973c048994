// Reads what scripts/goldens.py wrote. It has a safetensors reader of its own, so that lib/io is not needed to test lib/ops.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { fromTypedArray } from '../../lib/index.js';
import type { Tensor } from '../../lib/tensor.js';

export interface Case {
  readonly name: string;
  readonly kind: string;
  readonly options: Readonly<Record<string, any>>;
  readonly inputs: number;
  readonly outputs: number;
  /** Inputs that have a gradient. */
  readonly grads: readonly number[];
  readonly [field: string]: any;
}

interface Entry {
  readonly dtype: 'F32' | 'I64' | 'I32' | 'BOOL';
  readonly shape: readonly number[];
  readonly data_offsets: readonly [number, number];
}

const ARRAYS = { F32: Float32Array, I64: BigInt64Array, I32: Int32Array, BOOL: Uint8Array };

export function goldenPath(name: string): string {
  return fileURLToPath(new URL(`../golden/${name}`, import.meta.url));
}

export class Golden {
  readonly cases: readonly Case[];
  private readonly entries: Record<string, Entry> = {};
  private readonly body: ArrayBuffer = new ArrayBuffer(0);

  constructor(family: string) {
    this.cases = JSON.parse(readFileSync(goldenPath(`${family}.json`), 'utf8'));
    let file: Buffer;
    try {
      file = readFileSync(goldenPath(`${family}.safetensors`));
    } catch {
      return; // a family of numbers only
    }
    const headerBytes = Number(file.readBigUInt64LE(0));
    this.entries = JSON.parse(file.toString('utf8', 8, 8 + headerBytes));
    this.body = file.buffer.slice(file.byteOffset + 8 + headerBytes, file.byteOffset + file.length) as ArrayBuffer;
  }

  /** Names of the tensors below `prefix`, without it. */
  names(prefix: string): string[] {
    return Object.keys(this.entries)
      .filter((k) => k.startsWith(prefix))
      .map((k) => k.slice(prefix.length));
  }

  shape(name: string): readonly number[] {
    return this.entry(name).shape;
  }

  values(name: string): Float32Array | BigInt64Array | Int32Array | Uint8Array {
    const { dtype, data_offsets } = this.entry(name);
    return new ARRAYS[dtype](this.body.slice(...data_offsets));
  }

  /** The tensor on a device; floating-point ones in `float`. */
  tensor(name: string, float: 'float32' | 'float64' = 'float32', device = 'cpu'): Tensor {
    const { dtype, shape } = this.entry(name);
    const t = fromTypedArray(this.values(name), [...shape], { device });
    return dtype === 'BOOL' ? t.to('bool') : dtype === 'F32' && float === 'float64' ? t.to('float64') : t;
  }

  private entry(name: string): Entry {
    const entry = this.entries[name];
    if (!entry) throw new Error(`golden: no tensor "${name}"`);
    return entry;
  }
}
