// The job's key-value store as ranks and launchers see it: where they leave addresses, count each other and agree. Not a path for
// data: a value and its key must fit in one frame of 16 MiB.
import { DistributedError, describe, ValueError } from '../errors.js';
import { checkInteger, checkNumber } from '../numbers.js';
import { MAX_FRAME_BYTES, Operation, type OperationName, Status } from './frames.js';
import { checkToken } from './handshake.js';
import { StoreConnection } from './store_connection.js';
import type { Message, StoreValue } from './store_message.js';

export type { StoreValue } from './store_message.js';

const DEFAULT_TIMEOUT_MS = 300_000;
const MAX_KEY_BYTES = 1024;
/** More than the head of a message and the lengths in it. */
const MESSAGE_MARGIN = 256;

/** Where a store is. */
export interface StoreOptions {
  /** Where the server listens. */
  readonly host: string;
  /** One port, or several of which the job's server has one. */
  readonly port: number | readonly number[];
  /** The job's token. */
  readonly token: string;
  /** How long to wait for the server to come up, and the default of every call; 5 minutes unless given. */
  readonly timeoutMs?: number;
  /** Ends the waiting for the server. */
  readonly abort?: AbortSignal;
}

/** What `compareSet` did. */
export interface Swap {
  /** Whether the value was written. */
  readonly swapped: boolean;
  /** What the key holds now; null: nothing. */
  readonly value: StoreValue | null;
}

/** Options of one call. */
export interface StoreCallOptions {
  /** After this time the call ends with a DistributedError; Infinity: never. */
  readonly timeoutMs?: number;
}

/**
 * A client of the job's key-value store, or a part of it under a prefix.
 *
 * All calls throw a DistributedError that names the key when their time is over, and when the server is lost: there is no second
 * connection, since a store that was lost has lost its values.
 */
export class Store {
  private constructor(
    private readonly connection: StoreConnection,
    private readonly path: string,
    /** Default of every call, in milliseconds. */
    readonly timeoutMs: number,
  ) {}

  /**
   * Connects to a store and proves to it, and it to us, that both know the token.
   * @throws DistributedError when no such store answers in time
   */
  static async connect(options: StoreOptions): Promise<Store> {
    const { host, port, timeoutMs = DEFAULT_TIMEOUT_MS } = options;
    const ports = typeof port === 'number' ? [port] : port;
    for (const one of ports) checkInteger(one, 'port', 'Store.connect', 1, 65535);
    checkNumber(timeoutMs, 'timeoutMs', 'Store.connect', 0);
    const connection = await StoreConnection.open(host, ports, checkToken(options.token, 'Store.connect'), timeoutMs, options.abort);
    return new Store(connection, '', timeoutMs);
  }

  /** The part of the store whose keys start with `<name>/`. It shares the connection. */
  prefix(name: string): Store {
    checkKey(name, 'store.prefix');
    return new Store(this.connection, `${this.path}${name}/`, this.timeoutMs);
  }

  /** Address of this host's interface that leads to the server. */
  get localAddress(): string {
    return this.connection.localAddress;
  }

  /** `host:port` of the server. */
  get address(): string {
    return this.connection.address;
  }

  /** Writes a value. */
  async set(key: string, value: StoreValue, options: StoreCallOptions = {}): Promise<void> {
    await this.call('set', [key], { values: [checkValue(value, 'store.set')] }, options);
  }

  /** Reads a value, waiting until the key is set. */
  async get(key: string, options: StoreCallOptions = {}): Promise<StoreValue> {
    return (await this.call('get', [key], {}, options)).values[0]!;
  }

  /** Adds a whole number to a counter, which starts at 0, and returns the sum. `get` reads it as a decimal string. */
  async add(key: string, amount = 1, options: StoreCallOptions = {}): Promise<number> {
    checkInteger(amount, 'amount', 'store.add');
    return (await this.call('add', [key], { number: amount }, options)).number;
  }

  /** Waits until all the keys are set. */
  async wait(keys: string | readonly string[], options: StoreCallOptions = {}): Promise<void> {
    const all = checkKeys(keys);
    if (all.length > 0) await this.call('wait', all, {}, options);
  }

  /** Waits as `wait` does, but returns those of the keys that are still not set when the time is over. */
  async missing(keys: readonly string[], options: StoreCallOptions = {}): Promise<string[]> {
    const all = checkKeys(keys);
    if (all.length === 0) return [];
    const reply = await this.request('wait', all, {}, options);
    return reply.keys.map((key) => key.slice(this.path.length));
  }

  /**
   * Writes `desired` if the key holds `expected`, in one step; null: if the key does not exist.
   * @returns whether it was written, and what the key holds now (null: nothing)
   */
  async compareSet(key: string, expected: StoreValue | null, desired: StoreValue, options: StoreCallOptions = {}): Promise<Swap> {
    const values = [expected === null ? null : checkValue(expected, 'store.compareSet'), checkValue(desired, 'store.compareSet')];
    const reply = await this.call('compareSet', [key], { values }, options);
    return { swapped: reply.number === 1, value: reply.values[0] ?? null };
  }

  /** Removes a key; returns whether it was there. */
  async delete(key: string, options: StoreCallOptions = {}): Promise<boolean> {
    return (await this.call('delete', [key], {}, options)).number === 1;
  }

  /**
   * Leaves a last will: when this connection ends, the server sets the key to the value, unless it is set by then. null withdraws it.
   * This is how the others learn that a process is gone.
   */
  async will(key: string, value: StoreValue | null, options: StoreCallOptions = {}): Promise<void> {
    await this.call('will', [key], { values: [value === null ? null : checkValue(value, 'store.will')] }, options);
  }

  /** Ends the connection, also of all prefixes. What was sent arrives; pending calls fail. */
  close(): void {
    this.connection.close();
  }

  private async call(name: OperationName, keys: readonly string[], parts: Partial<Message>, options: StoreCallOptions): Promise<Message> {
    const reply = await this.request(name, keys, parts, options);
    const where = `store.${name}`;
    if (reply.code === Status.timeout) {
      const some = keys.length > 1 ? ` (${reply.keys.length} of ${keys.length} keys missing)` : '';
      throw new DistributedError(
        `${where}: timed out after ${(options.timeoutMs ?? this.timeoutMs) / 1000} s waiting for ${quote(reply.keys)} to be set${some}, store ${this.address}`,
      );
    }
    if (reply.code === Status.refused) {
      throw new DistributedError(`${where}: ${quote(keys.map((key) => this.path + key))} holds no whole number, or the sum is beyond 2^53`);
    }
    return reply;
  }

  /** Sends a request; a reply that says that the time is over, or no, is a reply. */
  private async request(name: OperationName, keys: readonly string[], parts: Partial<Message>, options: StoreCallOptions): Promise<Message> {
    const where = `store.${name}`;
    const timeoutMs = checkNumber(options.timeoutMs ?? this.timeoutMs, 'timeoutMs', where, 0);
    const full = keys.map((key) => this.path + checkKey(key, where));
    const bytes = (parts.values ?? []).reduce((sum, value) => sum + (value === null ? 0 : Buffer.byteLength(value)), full.length * (MAX_KEY_BYTES + 4));
    if (bytes + MESSAGE_MARGIN > MAX_FRAME_BYTES) {
      throw new ValueError(`${where}: the value of ${quote(full)} is too large: ${bytes} bytes with its key, and a frame has ${MAX_FRAME_BYTES}`);
    }
    const waits = name === 'get' || name === 'wait';
    const message = { code: Operation[name], number: waits ? timeoutMs : 0, keys: full, values: [], ...parts };
    return this.connection.request(message, `${where}(${quote(full)})`, timeoutMs);
  }
}

function checkKey(key: unknown, where: string): string {
  if (typeof key === 'string' && key !== '' && Buffer.byteLength(key) <= MAX_KEY_BYTES) return key;
  throw new ValueError(`${where}: a key is a string of 1 to ${MAX_KEY_BYTES} bytes, got ${describe(key)}`);
}

function checkKeys(keys: string | readonly string[]): readonly string[] {
  const all = typeof keys === 'string' ? [keys] : keys;
  if (Array.isArray(all) && all.length <= 65535) return all;
  throw new ValueError(`store.wait: expected up to 65535 keys, got ${describe(keys)}`);
}

function checkValue(value: unknown, where: string): StoreValue {
  if (typeof value === 'string' || value instanceof Uint8Array) return value;
  throw new ValueError(`${where}: a value is a string or a Uint8Array, got ${describe(value)}`);
}

function quote(keys: readonly string[]): string {
  const shown = keys.slice(0, 8).map((key) => JSON.stringify(key));
  return keys.length > 8 ? `${shown.join(', ')} and ${keys.length - 8} more` : shown.join(', ');
}
