// A listening socket that believes nobody until the handshake is done. What it keeps of strangers is bounded: some bytes each, a fixed
// number of them, five seconds. It does not keep its process alive.
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { DistributedError } from '../errors.js';
import { ByteQueue } from './frames.js';
import { contextBytes, HANDSHAKE_TIMEOUT_MS, Handshake, helloHeadBytes, type Purpose, RESPONSE_BYTES } from './handshake.js';

/** Connections in their handshake at one time; the oldest goes when there are more. */
const MAX_STRANGERS = 256;
/** Addresses whose first fault is logged; those beyond are dropped silently. */
const MAX_LOGGED_PEERS = 1000;
const NO_HANDSHAKE = 'it sent something else than a handshake';

export interface ReceptionOptions {
  readonly purpose: Purpose;
  /** The job's token, already checked. */
  readonly token: string;
  /** Address of the one interface to listen on. */
  readonly host: string;
  /** 0: any free port. */
  readonly port: number;
  /** Takes a line about a dropped peer; standard error by default. */
  readonly log?: (line: string) => void;
}

/**
 * Gets a connection whose handshake is done, within the event that completed it: nothing more has been read from it. A text that it
 * returns is the reason to drop the connection all the same.
 */
export type Welcome = (socket: Socket, handshake: Handshake) => string | null;

export class Reception {
  private readonly sockets = new Set<Socket>();
  private readonly strangers = new Set<Socket>();
  private readonly loggedPeers = new Set<string>();
  private readonly log: (line: string) => void;
  /** Where it listens. */
  readonly host: string;
  readonly port: number;

  private constructor(
    private readonly server: Server,
    private readonly options: ReceptionOptions,
    private readonly welcome: Welcome,
  ) {
    const address = server.address() as AddressInfo;
    this.host = address.address;
    this.port = address.port;
    this.log = options.log ?? ((line) => process.stderr.write(`${line}\n`));
    server.removeAllListeners('error');
    server.on('error', (error) => this.log(`shardgrad ${options.purpose}: ${error.message}`));
    server.on('connection', (socket) => this.meet(socket));
    server.unref();
  }

  /** @throws DistributedError when the address cannot be listened on (its cause has the system's `code`) */
  static async listen(options: ReceptionOptions, welcome: Welcome): Promise<Reception> {
    const { purpose, host, port } = options;
    const server = createServer({ noDelay: true, keepAlive: true, keepAliveInitialDelay: 5000 });
    await new Promise<void>((resolve, reject) => {
      server.once('error', (cause: NodeJS.ErrnoException) => {
        const why = cause.code === 'EADDRINUSE' ? 'another program uses the port' : cause.message;
        reject(new DistributedError(`${purpose}: cannot listen on ${host}:${port}: ${why}`, { cause }));
      });
      server.listen({ host, port, backlog: 1024 }, resolve);
    });
    return new Reception(server, options, welcome);
  }

  /** Ends every connection that was met here. */
  async close(): Promise<void> {
    for (const socket of this.sockets) socket.destroy();
    await new Promise<void>((resolve) => this.server.close(() => resolve()));
  }

  /** Ends one connection, and says so once for each address. */
  drop(socket: Socket, reason: string): void {
    const peer = socket.remoteAddress ?? 'unknown address';
    socket.destroy();
    if (this.loggedPeers.has(peer) || this.loggedPeers.size > MAX_LOGGED_PEERS) return;
    this.loggedPeers.add(peer);
    const more = this.loggedPeers.size > MAX_LOGGED_PEERS ? '; further addresses are dropped silently' : '';
    this.log(`shardgrad ${this.options.purpose}: dropped a connection from ${peer}: ${reason}${more}`);
  }

  private meet(socket: Socket): void {
    this.sockets.add(socket);
    this.strangers.add(socket);
    socket.unref();
    const late = setTimeout(() => this.drop(socket, `no handshake within ${HANDSHAKE_TIMEOUT_MS / 1000} s`), HANDSHAKE_TIMEOUT_MS);
    late.unref();
    socket.on('error', () => {});
    socket.once('close', () => {
      clearTimeout(late);
      this.sockets.delete(socket);
      this.strangers.delete(socket);
    });
    if (this.strangers.size > MAX_STRANGERS) this.drop(this.strangers.values().next().value!, `more than ${MAX_STRANGERS} connections without a handshake`);

    const conversation = new Conversation(new Handshake(this.options.token, this.options.purpose));
    const onData = (chunk: Buffer): void => {
      const reply = conversation.hear(chunk);
      if (typeof reply === 'string') {
        this.drop(socket, reply);
        return;
      }
      if (!reply) return;
      if (conversation.done) {
        clearTimeout(late);
        this.strangers.delete(socket);
        socket.off('data', onData);
      }
      socket.write(reply);
      const refusal = conversation.done ? this.welcome(socket, conversation.handshake) : null;
      if (refusal !== null) this.drop(socket, refusal);
    };
    socket.on('data', onData);
  }
}

/** The server's part of a handshake, from bytes as they come. */
class Conversation {
  private readonly queue = new ByteQueue();
  private head: Buffer | null = null;
  private expected: number;
  private challenged = false;
  done = false;

  constructor(readonly handshake: Handshake) {
    this.expected = helloHeadBytes(handshake.purpose);
  }

  /** What to send now (nothing yet: null), or the reason to drop the peer. */
  hear(chunk: Buffer): Buffer | string | null {
    // a client says nothing before it is answered; the first bytes may hold its context as well
    if (this.challenged && this.queue.size + chunk.length > this.expected) return NO_HANDSHAKE;
    // copied: a view of a few bytes would keep the whole chunk alive
    this.queue.push(Buffer.from(chunk));
    for (;;) {
      const message = this.queue.take(this.expected);
      if (!message) return null;
      if (this.challenged) {
        if (!this.handshake.accepts('client', message)) return 'its token differs';
        this.done = true;
        return this.handshake.proof('server');
      }
      if (this.head) {
        this.challenged = true;
        this.expected = RESPONSE_BYTES;
        if (this.queue.size > 0) return NO_HANDSHAKE;
        return this.handshake.challenge(Buffer.concat([this.head, message])) ?? NO_HANDSHAKE;
      }
      const context = contextBytes(this.handshake.purpose, message);
      if (context === null) return NO_HANDSHAKE;
      this.head = message;
      this.expected = context;
    }
  }
}
