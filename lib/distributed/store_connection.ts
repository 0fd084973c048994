// A client's connection to the store: finding it, requests that wait for their replies, and the end. It is made once: when the
// server is lost, every pending and later request fails with the same reason. It keeps the process alive only while a request is
// pending.
import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { DistributedError } from '../errors.js';
import { decodeMessage, encodeMessage, FrameReader, FrameWriter } from './frames.js';
import { greet, Refusal } from './greeting.js';
import { Handshake } from './handshake.js';
import type { Message } from './store_message.js';
import { startTimer } from './store_table.js';

/** How much longer than a request's own timeout to wait for a server that should have answered it. */
const GRACE_MS = 2000;
/** On several ports, a server that refuses our token may be a stranger's, with ours still to come: tried for so long. */
const REFUSED_FOR_MS = 10_000;
/** On one port, so many refusals are enough; one may be a server that was flooded with connections and dropped ours. */
const MAX_REFUSALS = 3;

interface Pending {
  readonly resolve: (reply: Message) => void;
  readonly reject: (error: DistributedError) => void;
  readonly what: string;
  readonly timer: NodeJS.Timeout | null;
}

export class StoreConnection {
  private readonly pending = new Map<number, Pending>();
  private lastId = 0;
  private lost: string | null = null;

  private constructor(
    private readonly socket: Socket,
    private readonly frames: FrameWriter,
    reader: FrameReader,
    /** `host:port`, for error texts. */
    readonly address: string,
  ) {
    socket.setKeepAlive(true, 5000);
    socket.unref();
    socket.on('data', (chunk: Buffer) => {
      try {
        for (const payload of reader.push(chunk)) this.settle(decodeMessage(payload));
      } catch (error) {
        this.end(`broke the protocol: ${(error as Error).message}`);
      }
    });
    socket.on('error', (error) => this.end(`was lost: ${error.message}`));
    socket.on('close', () => this.end('was lost: it closed the connection'));
  }

  /**
   * Connects to the first of `ports` where a server knows the token, trying again until the time is over, for it may start later.
   * @throws DistributedError saying what was found at each port
   */
  static async open(host: string, ports: readonly number[], token: string, timeoutMs: number, abort?: AbortSignal): Promise<StoreConnection> {
    const end = Date.now() + timeoutMs;
    const found = new Map<number, string>();
    let refusedSince = Infinity;
    let refusals = 0;
    for (let pause = 50; ; pause = Math.min(pause * 1.5, 1000)) {
      for (const port of ports) {
        try {
          const handshake = new Handshake(token);
          return await greet({ host, port }, handshake, (socket) => StoreConnection.over(socket, handshake, `${host}:${port}`));
        } catch (error) {
          found.set(port, (error as Error).message);
          if (!(error instanceof Refusal)) continue;
          refusals++;
          refusedSince = Math.min(refusedSince, Date.now());
        }
      }
      const refused = ports.length > 1 ? Date.now() >= refusedSince + REFUSED_FOR_MS : refusals >= MAX_REFUSALS;
      if (refused || abort?.aborted || Date.now() + pause > end) {
        const places = [...found].map(([port, why]) => `${host}:${port} ${why}`).join('; ');
        throw new DistributedError(`store: no connection${refused || abort?.aborted ? '' : ` within ${timeoutMs / 1000} s`}: ${places}`);
      }
      await sleep(pause, null, { signal: abort }).catch(() => {});
    }
  }

  /** Address of the interface that leads to the server. */
  get localAddress(): string {
    return this.socket.localAddress ?? '127.0.0.1';
  }

  /** Makes a connection whose handshake is done. */
  private static over(socket: Socket, handshake: Handshake, address: string): StoreConnection {
    const { clientToServer, serverToClient } = handshake.keys();
    return new StoreConnection(socket, new FrameWriter(clientToServer), new FrameReader(serverToClient), address);
  }

  /**
   * Sends a request and gives its reply.
   * @param what names the call and its key in errors
   */
  request(message: Omit<Message, 'id'>, what: string, timeoutMs: number): Promise<Message> {
    if (this.lost !== null) return Promise.reject(this.lostError(what));
    const id = this.lastId++ % 2 ** 32;
    return new Promise((resolve, reject) => {
      const silent = (): void => {
        this.pending.delete(id);
        if (this.pending.size === 0) this.socket.unref();
        reject(new DistributedError(`${what}: the store at ${this.address} did not answer within ${timeoutMs / 1000} s`));
      };
      this.pending.set(id, { resolve, reject, what, timer: startTimer(timeoutMs + GRACE_MS, silent) });
      this.socket.ref();
      this.socket.write(this.frames.frame(encodeMessage({ id, ...message })));
    });
  }

  /** Ends the connection after what was sent; pending and later requests fail. */
  close(): void {
    this.lost ??= 'was left by close()';
    this.socket.end();
    this.end(this.lost);
  }

  private settle(reply: Message): void {
    const call = this.pending.get(reply.id);
    // none: it was given up
    if (!call) return;
    this.pending.delete(reply.id);
    if (call.timer) clearTimeout(call.timer);
    if (this.pending.size === 0) this.socket.unref();
    call.resolve(reply);
  }

  private lostError(what: string): DistributedError {
    return new DistributedError(`${what}: the store at ${this.address} ${this.lost}`);
  }

  private end(reason: string): void {
    if (this.lost === null) this.socket.destroy();
    this.lost ??= reason;
    for (const { reject, what, timer } of this.pending.values()) {
      if (timer) clearTimeout(timer);
      reject(this.lostError(what));
    }
    this.pending.clear();
    this.socket.unref();
  }
}
