// How the two ends of a store connection show each other that they know the job's token without sending it: both choose a nonce, the
// client proves first and the server after, and the keys of the session come from the token and both nonces. A stranger learns one
// random number from the server and nothing else. Traffic is signed, not encrypted.
import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import { DistributedError } from '../errors.js';

const HELLO = Buffer.from('shardgrad store 1\n');
const NONCE_BYTES = 32;
const PROOF_BYTES = 32;
const MIN_TOKEN = 16;

/** Sizes of the three messages, in the order they are sent: client, server, client; then the server's proof. */
export const HELLO_BYTES: number = HELLO.length + NONCE_BYTES;
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
    `${where}: the job's token ${token ? `has ${token.length} characters, at least ${MIN_TOKEN} are needed` : 'is missing'}; give every host the same one in SHARDGRAD_TOKEN or by --token-file`,
  );
}

function derive(token: string, label: string, nonces: Buffer): Buffer {
  return createHmac('sha256', token).update(`shardgrad store 1 ${label}\n`).update(nonces).digest();
}

/** One end's part in a handshake, from the nonces to the keys. */
export class Handshake {
  private readonly own = randomBytes(NONCE_BYTES);
  private nonces = Buffer.alloc(0);
  constructor(private readonly token: string) {}

  /** Client: the first message. */
  hello(): Buffer {
    return Buffer.concat([HELLO, this.own]);
  }

  /** Server: the answer to a hello, or null when it is none. */
  challenge(hello: Buffer): Buffer | null {
    if (!hello.subarray(0, HELLO.length).equals(HELLO)) return null;
    this.nonces = Buffer.concat([hello.subarray(HELLO.length), this.own]);
    return this.own;
  }

  /** Client: the proof that answers a challenge. */
  respond(challenge: Buffer): Buffer {
    this.nonces = Buffer.concat([this.own, challenge]);
    return this.proof('client');
  }

  /** This side's knowledge of the token, shown by the server last. */
  proof(role: 'client' | 'server'): Buffer {
    return derive(this.token, `proof of the ${role}`, this.nonces);
  }

  /** Whether the other end, which is the `role`, knows the token. */
  accepts(role: 'client' | 'server', proof: Buffer): boolean {
    return timingSafeEqual(proof, this.proof(role));
  }

  keys(): SessionKeys {
    return {
      clientToServer: derive(this.token, 'frames to the server', this.nonces),
      serverToClient: derive(this.token, 'frames to the client', this.nonces),
    };
  }
}
