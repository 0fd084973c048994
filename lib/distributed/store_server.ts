// The server of a job's key-value store: rendezvous of ranks and agreement of launchers, not a path for data. It believes nobody
// until the handshake is done, and what it keeps of strangers is bounded: a few bytes each, a fixed number of them, five seconds.
// It does not keep its process alive.
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { DistributedError } from '../errors.js';
import {
  ByteQueue,
  decodeMessage,
  encodeMessage,
  FrameReader,
  FrameWriter,
  type Message,
  Operation,
  ProtocolFault,
  Status,
  type StoreValue,
} from './frames.js';
import { checkToken, HANDSHAKE_TIMEOUT_MS, Handshake, HELLO_BYTES, RESPONSE_BYTES } from './handshake.js';
import { StoreTable } from './store_table.js';

/** Connections in their handshake at one time; the oldest goes when there are more. */
const MAX_STRANGERS = 256;
/** Addresses whose first fault is logged; those beyond are dropped silently. */
const MAX_LOGGED_PEERS = 1000;

export interface StoreServerOptions {
  /** The job's token, at least 16 characters. */
  readonly token: string;
  /** Address of the one interface to listen on; loopback by default. */
  readonly host?: string;
  /** 0 (default): any free port. */
  readonly port?: number;
  /** Takes a line about a dropped peer; standard error by default. */
  readonly log?: (line: string) => void;
}

/** A key-value store that listens. Values are lost with it. */
export class StoreServer {
  private readonly table = new StoreTable();
  private readonly sockets = new Set<Socket>();
  private readonly strangers = new Set<Socket>();
  private readonly loggedPeers = new Set<string>();

  private constructor(
    private readonly server: Server,
    /** Where it listens. */
    readonly host: string,
    readonly port: number,
    private readonly token: string,
    private readonly log: (line: string) => void,
  ) {}

  /**
   * Starts a store.
   * @throws DistributedError when the token is too short or the address cannot be listened on (its cause has the system's `code`)
   */
  static async listen(options: StoreServerOptions): Promise<StoreServer> {
    const { host = '127.0.0.1', port = 0 } = options;
    const token = checkToken(options.token, 'store');
    const server = createServer({ noDelay: true, keepAlive: true, keepAliveInitialDelay: 5000 });
    await new Promise<void>((resolve, reject) => {
      server.once('error', (cause: NodeJS.ErrnoException) => {
        const why = cause.code === 'EADDRINUSE' ? 'another program uses the port' : cause.message;
        reject(new DistributedError(`store: cannot listen on ${host}:${port}: ${why}`, { cause }));
      });
      server.listen({ host, port, backlog: 1024 }, resolve);
    });
    const address = server.address() as AddressInfo;
    const store = new StoreServer(server, address.address, address.port, token, options.log ?? ((line) => process.stderr.write(`${line}\n`)));
    server.removeAllListeners('error');
    server.on('error', (error) => store.log(`shardgrad store: ${error.message}`));
    server.on('connection', (socket) => store.meet(socket));
    server.unref();
    return store;
  }

  /** Ends the store: every connection is closed, and clients get a DistributedError for what they wait for. */
  async close(): Promise<void> {
    for (const socket of this.sockets) socket.destroy();
    await new Promise<void>((resolve) => this.server.close(() => resolve()));
  }

  private drop(socket: Socket, reason: string): void {
    const peer = socket.remoteAddress ?? 'unknown address';
    socket.destroy();
    if (this.loggedPeers.has(peer) || this.loggedPeers.size > MAX_LOGGED_PEERS) return;
    this.loggedPeers.add(peer);
    const more = this.loggedPeers.size > MAX_LOGGED_PEERS ? '; further addresses are dropped silently' : '';
    this.log(`shardgrad store: dropped a connection from ${peer}: ${reason}${more}`);
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

    const handshake = new Handshake(this.token);
    const queue = new ByteQueue();
    let challenged = false;
    const step = (chunk: Buffer): string | null => {
      if (queue.size + chunk.length > HELLO_BYTES) return 'it sent something else than a handshake';
      // copied: a view of a few bytes would keep the whole chunk alive
      queue.push(Buffer.from(chunk));
      const message = queue.take(challenged ? RESPONSE_BYTES : HELLO_BYTES);
      if (!message) return null;
      if (challenged) return handshake.accepts('client', message) ? welcome() : 'its token differs';
      const challenge = handshake.challenge(message);
      if (!challenge) return 'it sent something else than a handshake';
      challenged = true;
      socket.write(challenge);
      return null;
    };
    const onData = (chunk: Buffer): void => {
      const fault = step(chunk);
      if (fault !== null) this.drop(socket, fault);
    };
    const welcome = (): string | null => {
      if (queue.size > 0) return 'it sent something else than a handshake';
      clearTimeout(late);
      this.strangers.delete(socket);
      socket.off('data', onData);
      socket.write(handshake.proof('server'));
      this.serve(socket, handshake);
      return null;
    };
    socket.on('data', onData);
  }

  private serve(socket: Socket, handshake: Handshake): void {
    const { clientToServer, serverToClient } = handshake.keys();
    const peer: Peer = {
      frames: new FrameWriter(serverToClient),
      waits: new Set(),
      wills: new Map(),
      send: (message) => {
        if (!socket.destroyed) socket.write(peer.frames.frame(encodeMessage(message)));
      },
    };
    const reader = new FrameReader(clientToServer);
    socket.on('data', (chunk: Buffer) => {
      try {
        for (const payload of reader.push(chunk)) {
          const request = decodeMessage(payload);
          if (request.keys.length === 0) throw new ProtocolFault('a request without a key');
          this.answer(peer, request);
        }
      } catch (error) {
        if (!(error instanceof ProtocolFault)) throw error;
        this.drop(socket, `it sent ${error.message}`);
      }
    });
    socket.once('close', () => {
      for (const cancel of peer.waits) cancel();
      for (const [key, value] of peer.wills) this.table.compareSet(key, null, value);
    });
  }

  private answer(peer: Peer, request: Message): void {
    const { id, code, number, keys } = request;
    const reply = (parts: Partial<Message>): void => peer.send({ id, code: Status.ok, number: 0, keys: [], values: [], ...parts });
    if (code !== Operation.get && code !== Operation.wait) {
      reply(this.execute(peer, request));
      return;
    }
    let cancel: (() => void) | null = null;
    cancel = this.table.wait(keys, number, (missing) => {
      if (cancel) peer.waits.delete(cancel);
      if (missing.length > 0) reply({ code: Status.timeout, keys: missing });
      else reply(code === Operation.get ? { values: [this.table.get(keys[0]!)] } : {});
    });
    if (cancel) peer.waits.add(cancel);
  }

  /** Does what is done at once, and gives what the reply says. */
  private execute({ wills }: Peer, { code, number, keys, values }: Message): Partial<Message> {
    const { table } = this;
    const key = keys[0]!;
    const [value = null, desired = null] = values;
    if (code === Operation.set && value !== null) {
      table.set(key, value);
      return {};
    }
    if (code === Operation.add) {
      const sum = table.add(key, number);
      return sum === null ? { code: Status.refused } : { number: sum };
    }
    if (code === Operation.compareSet && desired !== null) {
      return { number: Number(table.compareSet(key, value, desired)), values: [table.get(key)] };
    }
    if (code === Operation.delete) return { number: Number(table.delete(key)) };
    if (code === Operation.will) {
      if (value === null) wills.delete(key);
      else wills.set(key, value);
      return {};
    }
    throw new ProtocolFault(`an unknown request (${code})`);
  }
}

/** An authenticated connection. */
interface Peer {
  readonly frames: FrameWriter;
  /** Give up what it waits for. */
  readonly waits: Set<() => void>;
  /** What becomes of keys, if nobody set them, when the connection ends. */
  readonly wills: Map<string, StoreValue>;
  readonly send: (message: Message) => void;
}
