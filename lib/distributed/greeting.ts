// The client's end of a new connection: it connects, says what for, and takes the connection over once both sides have proved that they
// know the job's token.
import { connect, type Socket } from 'node:net';
import { ByteQueue } from './frames.js';
import { CHALLENGE_BYTES, HANDSHAKE_TIMEOUT_MS, type Handshake, type Purpose, RESPONSE_BYTES } from './handshake.js';

const SERVERS: Readonly<Record<Purpose, string>> = { store: 'store', data: 'rank' };

/** A handshake that cannot succeed by waiting. */
export class Refusal extends Error {}

export interface Destination {
  readonly host: string;
  readonly port: number;
  /** Address of the interface to go out by; the system's choice unless given. */
  readonly localAddress?: string;
}

/**
 * Connects and does the client's part of the handshake.
 * @param take makes of the connection what it is to be, within the event that completed the handshake: nothing more has been read from it
 * @throws Error, or Refusal, that says what the server does ("refuses connections")
 */
export function greet<T>(to: Destination, handshake: Handshake, take: (socket: Socket) => T): Promise<T> {
  return new Promise((resolve, reject) => {
    const socket = connect({ ...to, noDelay: true });
    const server = SERVERS[handshake.purpose];
    const queue = new ByteQueue();
    let answered = false;
    const fail = (error: Error): void => {
      clearTimeout(late);
      socket.destroy();
      reject(error);
    };
    const late = setTimeout(() => fail(socket.connecting ? new Error('does not answer') : new Refusal(`does not answer as a ${server}`)), HANDSHAKE_TIMEOUT_MS);
    const onError = (error: NodeJS.ErrnoException): void => fail(new Error(error.code === 'ECONNREFUSED' ? 'refuses connections' : error.message));
    const onClose = (): void =>
      fail(answered ? new Refusal('knows another token') : new Error(`closed the connection: another program, or a ${server} with too many strangers`));
    const onData = (chunk: Buffer): void => {
      queue.push(chunk);
      if (!answered) {
        const challenge = queue.take(CHALLENGE_BYTES);
        if (!challenge) return;
        answered = true;
        socket.write(handshake.respond(challenge));
      }
      const proof = queue.take(RESPONSE_BYTES);
      if (!proof) return;
      if (queue.size > 0 || !handshake.accepts('server', proof)) {
        fail(new Refusal(`is no ${server}, or knows another token`));
        return;
      }
      clearTimeout(late);
      socket.off('error', onError).off('close', onClose).off('data', onData);
      resolve(take(socket));
    };
    socket.on('connect', () => socket.write(handshake.hello()));
    socket.on('error', onError).on('close', onClose).on('data', onData);
  });
}
