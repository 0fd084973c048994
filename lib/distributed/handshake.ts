// How the two ends of a connection show each other that they know the job's token without sending it: both choose a nonce, the client
// proves first and the server after, and the keys of the session come from the token and both nonces. What the client says of itself
// (its context) is part of what is proved. A stranger learns one random number and nothing else. Traffic is not encrypted.
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { DistributedError } from '../errors.js';

/** What a connection is for; a proof for one is none for the other. */
export type Purpose = 'store' | 'data';

const NONCE_BYTES = 32;
const PROOF_BYTES = 32;
const MIN_TOKEN = 16;
/** Of what a client may say of itself. */
const MAX_CONTEXT_BYTES: Readonly<Record<Purpose, number>> = { store: 0, data: 512 };

/** Sizes of the messages after the hello: the server's challenge, then a proof by the client and one by the server. */
export const CHALLENGE_BYTES: number = NONCE_BYTES;
export const RESPONSE_BYTES: number = PROOF_BYTES;
/** A connection that has not finished its handshake by then is dropped. */
export const HANDSHAKE_TIMEOUT_MS = 5000;

export interface SessionKeys {
  readonly clientToServer: Buffer;
  readonly serverToClient: Buffer;
}

/** Checks a token. Throws DistributedError for one that is missing or so short that it could be guessed. */
export function checkToken(token: string | undefined, where: string): string {
  if (typeof token === 'string' && token.length >= MIN_TOKEN) return token;
  throw new DistributedError(
    `${where}: the job's token ${token ? `has ${token.length} characters, at least ${MIN_TOKEN} are needed` : 'is missing'}; give every host the same one in SHARDGRAD_TOKEN, or to shardgrad run by --token-file`,
  );
}

function label(purpose: Purpose): string {
  return `shardgrad ${purpose} 1`;
}

/** Bytes of a hello before its context: label, nonce, and the context's length. */
export function helloHeadBytes(purpose: Purpose): number {
  return label(purpose).length + 1 + NONCE_BYTES + 2;
}

/** How many bytes of context follow the head of a hello, or null when it is none. */
export function contextBytes(purpose: Purpose, head: Buffer): number | null {
  if (head.toString('latin1', 0, label(purpose).length + 1) !== `${label(purpose)}\n`) return null;
  const count = head.readUInt16LE(head.length - 2);
  return count <= MAX_CONTEXT_BYTES[purpose] ? count : null;
}

/** One end's part in a handshake, from the nonces to the keys. */
export class Handshake {
  private readonly own = randomBytes(NONCE_BYTES);
  private nonces = Buffer.alloc(0);

  constructor(
    private readonly token: string,
    readonly purpose: Purpose = 'store',
    /** What the client says of itself; the server learns it from the hello. */
    public context: Buffer = Buffer.alloc(0),
  ) {}

  /** Client: the first message. */
  hello(): Buffer {
    const length = Buffer.alloc(2);
    length.writeUInt16LE(this.context.length);
    return Buffer.concat([Buffer.from(`${label(this.purpose)}\n`), this.own, length, this.context]);
  }

  /** Server: the answer to a hello, or null when it is none. */
  challenge(hello: Buffer): Buffer | null {
    const head = helloHeadBytes(this.purpose);
    if (hello.length < head || contextBytes(this.purpose, hello.subarray(0, head)) !== hello.length - head) return null;
    this.nonces = Buffer.concat([hello.subarray(head - 2 - NONCE_BYTES, head - 2), this.own]);
    this.context = Buffer.from(hello.subarray(head));
    return this.own;
  }

  /** Client: the proof that answers a challenge. */
  respond(challenge: Buffer): Buffer {
    this.nonces = Buffer.concat([this.own, challenge]);
    return this.proof('client');
  }

  /** This side's knowledge of the token, shown by the server last. */
  proof(role: 'client' | 'server'): Buffer {
    return this.derive(`proof of the ${role}`);
  }

  /** Whether the other end, which is the `role`, knows the token. */
  accepts(role: 'client' | 'server', proof: Buffer): boolean {
    return timingSafeEqual(proof, this.proof(role));
  }

  keys(): SessionKeys {
    return { clientToServer: this.derive('frames to the server'), serverToClient: this.derive('frames to the client') };
  }

  private derive(what: string): Buffer {
    return createHmac('sha256', this.token)
      .update(`${label(this.purpose)} ${what}\n`)
      .update(this.nonces)
      .update(this.context)
      .digest();
  }
}
