// The server of a job's key-value store: rendezvous of ranks and agreement of launchers, not a path for data.
import type { Socket } from 'node:net';
import { decodeMessage, encodeMessage, FrameReader, FrameWriter, Operation, ProtocolFault, Status } from './frames.js';
import { checkToken, type Handshake } from './handshake.js';
import { Reception } from './reception.js';
import type { Message, StoreValue } from './store_message.js';
import { StoreTable } from './store_table.js';

/** Where a store listens, and who may connect. */
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
  private constructor(private readonly reception: Reception) {}

  /** Where it listens. */
  get host(): string {
    return this.reception.host;
  }

  /** The port it listens on. */
  get port(): number {
    return this.reception.port;
  }

  /**
   * Starts a store.
   * @throws DistributedError when the token is too short or the address cannot be listened on (its cause has the system's `code`)
   */
  static async listen(options: StoreServerOptions): Promise<StoreServer> {
    const { host = '127.0.0.1', port = 0, log } = options;
    const token = checkToken(options.token, 'store');
    const reception = await Reception.listen({ purpose: 'store', token, host, port, log }, (socket, handshake) => store.serve(socket, handshake));
    const store = new StoreServer(reception);
    return store;
  }

  /** Ends the store: every connection is closed, and clients get a DistributedError for what they wait for. */
  close(): Promise<void> {
    return this.reception.close();
  }

  private serve(socket: Socket, handshake: Handshake): null {
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
        this.reception.drop(socket, `it sent ${error.message}`);
      }
    });
    socket.once('close', () => {
      for (const cancel of peer.waits) cancel();
      for (const [key, value] of peer.wills) this.table.compareSet(key, null, value);
    });
    return null;
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
