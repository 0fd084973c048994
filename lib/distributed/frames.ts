// What goes over a store connection after the handshake: frames of a length, a payload and a truncated HMAC over the frame's number
// and its payload, keyed by direction, so that nothing can be altered, repeated, reordered or sent back. A payload is one message
// of one layout for requests and replies alike.
import { createHmac, timingSafeEqual } from 'node:crypto';
import type { Message } from './store_message.js';

export const MAX_FRAME_BYTES = 16 * 2 ** 20;
const MAC_BYTES = 16;

export const Operation = { set: 1, get: 2, add: 3, wait: 4, compareSet: 5, delete: 6, will: 7 } as const;
export type OperationName = keyof typeof Operation;
export const Status = { ok: 0, timeout: 1, refused: 2 } as const;

/** A peer that broke the protocol; its connection is dropped. */
export class ProtocolFault extends Error {}

/** Bytes as they arrive, taken out in pieces of known size. */
export class ByteQueue {
  private chunks: Buffer[] = [];
  size = 0;

  push(chunk: Buffer): void {
    this.chunks.push(chunk);
    this.size += chunk.length;
  }

  /** The next `count` bytes, or null when they have not all arrived. */
  take(count: number): Buffer | null {
    if (this.size < count) return null;
    const all = this.chunks.length === 1 ? this.chunks[0]! : Buffer.concat(this.chunks);
    this.chunks = all.length > count ? [all.subarray(count)] : [];
    this.size -= count;
    return all.subarray(0, count);
  }
}

function mac(key: Buffer, sequence: bigint, payload: Uint8Array): Buffer {
  const number = Buffer.alloc(8);
  number.writeBigUInt64LE(sequence);
  return createHmac('sha256', key).update(number).update(payload).digest().subarray(0, MAC_BYTES);
}

/** Makes the frames of one direction of a connection. */
export class FrameWriter {
  private sequence = 0n;
  constructor(private readonly key: Buffer) {}

  frame(payload: Uint8Array): Buffer {
    const header = Buffer.alloc(4);
    header.writeUInt32LE(payload.length);
    return Buffer.concat([header, payload, mac(this.key, this.sequence++, payload)]);
  }
}

/** Takes the frames of one direction apart. */
export class FrameReader {
  private sequence = 0n;
  private readonly queue = new ByteQueue();
  private length: number | null = null;
  constructor(private readonly key: Buffer) {}

  /** The payloads that are complete with this chunk. Throws ProtocolFault for what no holder of the key can have sent. */
  *push(chunk: Buffer): Generator<Buffer> {
    this.queue.push(chunk);
    for (;;) {
      if (this.length === null) {
        const header = this.queue.take(4);
        if (!header) return;
        this.length = header.readUInt32LE();
        if (this.length > MAX_FRAME_BYTES) throw new ProtocolFault(`a frame of ${this.length} bytes (the limit is ${MAX_FRAME_BYTES})`);
      }
      const body = this.queue.take(this.length + MAC_BYTES);
      if (!body) return;
      const payload = body.subarray(0, this.length);
      if (!timingSafeEqual(body.subarray(this.length), mac(this.key, this.sequence++, payload))) throw new ProtocolFault('a frame with a wrong signature');
      this.length = null;
      yield payload;
    }
  }
}

/** The bytes of a message. Longer ones than MAX_FRAME_BYTES are the caller's to refuse. */
export function encodeMessage(message: Message): Buffer {
  const head = Buffer.alloc(17);
  head.writeUInt32LE(message.id, 0);
  head.writeUInt8(message.code, 4);
  head.writeDoubleLE(message.number, 5);
  head.writeUInt16LE(message.keys.length, 13);
  head.writeUInt16LE(message.values.length, 15);
  const parts: Uint8Array[] = [head];
  for (const key of message.keys) parts.push(...sized(Buffer.from(key)));
  for (const value of message.values) {
    parts.push(Buffer.from([value === null ? 0 : typeof value === 'string' ? 1 : 2]));
    parts.push(...sized(value === null ? Buffer.alloc(0) : typeof value === 'string' ? Buffer.from(value) : value));
  }
  return Buffer.concat(parts);
}

function sized(bytes: Uint8Array): [Buffer, Uint8Array] {
  const length = Buffer.alloc(4);
  length.writeUInt32LE(bytes.length);
  return [length, bytes];
}

/** The message in a payload, holding no reference to it. Throws ProtocolFault when it is malformed. */
export function decodeMessage(payload: Buffer): Message {
  let at = 17;
  const take = (count: number): Buffer => {
    if (at + count > payload.length) throw new ProtocolFault('a message that ends too early');
    at += count;
    return payload.subarray(at - count, at);
  };
  const sizedBytes = (): Buffer => take(take(4).readUInt32LE());
  if (payload.length < at) throw new ProtocolFault('a message without a head');
  const keys = Array.from({ length: payload.readUInt16LE(13) }, () => sizedBytes().toString());
  const values = Array.from({ length: payload.readUInt16LE(15) }, () => {
    const kind = take(1)[0];
    const bytes = sizedBytes();
    return kind === 0 ? null : kind === 1 ? bytes.toString() : Uint8Array.from(bytes);
  });
  if (at !== payload.length) throw new ProtocolFault('a message with bytes behind its end');
  return { id: payload.readUInt32LE(0), code: payload.readUInt8(4), number: payload.readDoubleLE(5), keys, values };
}
