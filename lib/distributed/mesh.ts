// Connections between all ranks of a group, two for each pair: one for data, one for heartbeats and last words. They are made and
// authenticated here, and then handed over to native code by their descriptors; JavaScript has read nothing of what belongs to it,
// because each side stops reading within the event that completes the handshake.
import { createHash, createHmac } from 'node:crypto';
import type { Socket } from 'node:net';
import { DistributedError } from '../errors.js';
import { greet } from './greeting.js';
import { checkToken, Handshake } from './handshake.js';
import { Reception } from './reception.js';

/** Where a rank listens. */
export interface Address {
  readonly host: string;
  readonly port: number;
}

export interface MeshOptions {
  /** This rank in the world. */
  readonly rank: number;
  /** The job's token, at least 16 characters. */
  readonly token: string;
  /** Address of the one interface for all connections. */
  readonly host: string;
  /** Takes a line about a dropped peer; standard error by default. */
  readonly log?: (line: string) => void;
}

/** A connection that nobody reads from any more. */
interface Held {
  readonly socket: Socket;
  readonly descriptor: number;
}

const KINDS = ['data', 'control'] as const;
type Kind = (typeof KINDS)[number];
const MAX_PAUSE_MS = 1000;

/** This rank's end of all connections of a job. It listens until it is closed, since groups are made at any time. */
export class Mesh {
  private addresses: readonly Address[] = [];
  /** Connections that came, and those that somebody waits for. */
  private readonly arrived = new Map<string, Held>();
  private readonly awaited = new Map<string, (held: Held) => void>();
  /** How often a group of this name and these members was made: the same on each of them. */
  private readonly made = new Map<string, number>();

  private constructor(
    private readonly options: MeshOptions,
    private readonly reception: Reception,
  ) {}

  /**
   * Listens.
   * @throws DistributedError when the token is too short or the address cannot be listened on
   */
  static async listen(options: MeshOptions): Promise<Mesh> {
    const { host, log } = options;
    const token = checkToken(options.token, 'mesh');
    const reception = await Reception.listen({ purpose: 'data', token, host, port: 0, log }, (socket, { context }) => mesh.arrive(socket, context));
    const mesh = new Mesh(options, reception);
    return mesh;
  }

  /** Where the others find this rank. */
  get address(): Address {
    return { host: this.reception.host, port: this.reception.port };
  }

  /** Tells where each rank of the world listens. */
  introduce(addresses: readonly Address[]): void {
    this.addresses = addresses;
  }

  /**
   * Makes the connections of a group; every member calls it. The higher rank of a pair connects to the lower one.
   * @param members world ranks, in the group's order, this one among them
   * @param use gets for each member the descriptors of its data and its control connection (-1 for this rank), and copies them; and a
   * name that only the ranks of this group have for it
   * @throws DistributedError that names the ranks that were not reached in time
   */
  async connect<T>(group: string, members: readonly number[], timeoutMs: number, use: (descriptors: Int32Array, key: string) => T): Promise<T> {
    const { rank } = this.options;
    const series = createHash('sha256')
      .update(JSON.stringify([group, members]))
      .digest('hex');
    const number = (this.made.get(series) ?? 0) + 1;
    this.made.set(series, number);
    const deadline = Date.now() + timeoutMs;
    const all = await Promise.allSettled(
      members.flatMap((peer, place) =>
        peer === rank
          ? []
          : KINDS.map(async (kind, i) => {
              // lower and higher by place in the group, as native code sees it
              const initiator = members.indexOf(rank) > place;
              const from = initiator ? rank : peer;
              const to = initiator ? peer : rank;
              const context = JSON.stringify([series, number, kind, from, to]);
              const held = initiator ? await this.reach(peer, context, deadline) : await this.expect(peer, context, deadline);
              return { held, at: 2 * place + i };
            }),
      ),
    );
    try {
      const descriptors = new Int32Array(2 * members.length).fill(-1);
      for (const one of all) {
        if (one.status === 'rejected') throw new DistributedError(`process group ${group}: rank ${rank} ${(one.reason as Error).message}`);
        descriptors[one.value.at] = one.value.held.descriptor;
      }
      return use(descriptors, createHmac('sha256', this.options.token).update(`${series} ${number}`).digest('hex'));
    } finally {
      for (const one of all) if (one.status === 'fulfilled') one.value.held.socket.destroy();
    }
  }

  /** Lets no further connection in. Those that were handed over go on. */
  async close(): Promise<void> {
    await this.reception.close();
  }

  /** Connects, trying again until the time is over: the other rank may be busy. */
  private async reach(peer: number, context: string, deadline: number): Promise<Held> {
    const { token } = this.options;
    const to = this.addresses[peer];
    if (!to) throw new Error(`does not know where rank ${peer} listens`);
    for (let pause = 20; ; pause = Math.min(2 * pause, MAX_PAUSE_MS)) {
      try {
        const held = await greet({ ...to, localAddress: this.address.host }, new Handshake(token, 'data', Buffer.from(context)), hold);
        await flushed(held.socket);
        return held;
      } catch (error) {
        if (Date.now() + pause > deadline) throw new Error(`cannot connect to rank ${peer} at ${to.host}:${to.port}: it ${(error as Error).message}`);
      }
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }

  /** Waits for the other rank to connect. */
  private async expect(peer: number, context: string, deadline: number): Promise<Held> {
    const held =
      this.arrived.get(context) ??
      (await new Promise<Held>((resolve, reject) => {
        const late = setTimeout(
          () => {
            this.awaited.delete(context);
            const { host, port } = this.address;
            reject(new Error(`waited in vain for rank ${peer} to connect to ${host}:${port}`));
          },
          Math.max(0, deadline - Date.now()),
        );
        this.awaited.set(context, (one) => {
          clearTimeout(late);
          resolve(one);
        });
      }));
    this.arrived.delete(context);
    this.awaited.delete(context);
    await flushed(held.socket);
    return held;
  }

  /** A connection whose other end knows the token and says this of itself. */
  private arrive(socket: Socket, said: Buffer): string | null {
    const context = said.toString();
    const wrong = checkContext(context, this.options.rank);
    if (wrong !== null) return wrong;
    const held = hold(socket);
    const waiting = this.awaited.get(context);
    if (waiting) {
      waiting(held);
      return null;
    }
    // a rank that gave an attempt up and tried again: the last one counts
    this.arrived.get(context)?.socket.destroy();
    this.arrived.set(context, held);
    return null;
  }
}

/** What is wrong with what a peer says of itself. */
function checkContext(context: string, rank: number): string | null {
  try {
    const [series, number, kind, from, to] = JSON.parse(context) as [string, number, Kind, number, number];
    const sound = typeof series === 'string' && KINDS.includes(kind) && [number, from, to].every(Number.isInteger);
    if (!sound || JSON.stringify([series, number, kind, from, to]) !== context) return 'it does not say who it is';
    return to === rank ? null : `it looks for rank ${to}, and this is rank ${rank}`;
  } catch {
    return 'it does not say who it is';
  }
}

/** Stops reading, for good: what comes now belongs to native code. Node has no public way to a socket's descriptor. */
function hold(socket: Socket): Held {
  const { _handle: handle } = socket as unknown as { _handle: { readStop(): void; readonly fd: number } };
  handle.readStop();
  socket.on('error', () => {});
  return { socket, descriptor: handle.fd };
}

/** Resolves when all that was written has gone to the system. */
function flushed(socket: Socket): Promise<void> {
  return new Promise((resolve) => (socket.writableLength === 0 ? resolve() : socket.write('', () => resolve())));
}
