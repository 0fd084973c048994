// TensorBoard's event files: TFRecords, each an Event in protobuf's encoding. Of that only what a scalar takes is written.
import { maskedCrc32c } from './crc32c.js';

/** Kinds of values on protobuf's wire. */
const VARINT = 0;
const FIXED64 = 1;
const BYTES = 2;
const FIXED32 = 5;

function varint(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  for (; rest > 127; rest = Math.floor(rest / 128)) bytes.push((rest % 128) | 128);
  return [...bytes, rest];
}
const key = (field: number, wire: number): number[] => varint(field * 8 + wire);
const double = (field: number, value: number): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleLE(value);
  return Buffer.concat([Buffer.from(key(field, FIXED64)), bytes]);
};
const float = (field: number, value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return Buffer.concat([Buffer.from(key(field, FIXED32)), bytes]);
};
const integer = (field: number, value: number): Buffer => Buffer.from([...key(field, VARINT), ...varint(value)]);
const message = (field: number, bytes: Uint8Array): Buffer => Buffer.concat([Buffer.from([...key(field, BYTES), ...varint(bytes.length)]), bytes]);
const text = (field: number, value: string): Buffer => message(field, Buffer.from(value));

/** A record: length, its checksum, data, its checksum. */
function record(data: Uint8Array): Buffer {
  const [head, tail] = [Buffer.alloc(12), Buffer.alloc(4)];
  head.writeBigUInt64LE(BigInt(data.length));
  head.writeUInt32LE(maskedCrc32c(head.subarray(0, 8)), 8);
  tail.writeUInt32LE(maskedCrc32c(data));
  return Buffer.concat([head, data, tail]);
}

/** The record that such a file begins with; `time` in seconds. */
export function versionRecord(time: number): Buffer {
  // Event { wall_time = 1, file_version = 3 }
  return record(Buffer.concat([double(1, time), text(3, 'brain.Event:2')]));
}

/** Numbers of a step, by name. */
export function scalarRecord(time: number, step: number, values: Readonly<Record<string, number>>): Buffer {
  // Event { wall_time = 1, step = 2, summary = 5 }, Summary { value = 1 }, Value { tag = 1, simple_value = 2 }
  const summary = Object.entries(values).map(([tag, value]) => message(1, Buffer.concat([text(1, tag), float(2, value)])));
  // as protobuf has it, a 0 is left out
  const stepField = step > 0 ? [integer(2, step)] : [];
  return record(Buffer.concat([double(1, time), ...stepField, message(5, Buffer.concat(summary))]));
}
