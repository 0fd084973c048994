// How the ranks of a job become one group: they tell each other on which host they are, and shared memory carries the group where that
// is the same for all, TCP otherwise. Hosts are what has one kernel and one /dev/shm: two containers are two hosts, whatever a
// launcher says. Ranks that share a host within a job of several hosts talk over TCP, too.
import { createHmac } from 'node:crypto';
import { DistributedError, describe } from '../errors.js';
import type { RankLaunch } from './environment.js';
import { hostIdentity } from './host_identity.js';
import { type Address, Mesh } from './mesh.js';
import { interfaceTo, isLoopback } from './own_address.js';
import type { ProcessGroup } from './process_group.js';
import { PLACES } from './rendezvous.js';
import { segmentName } from './segment_name.js';
import type { Store } from './store.js';
import { tcpWorld } from './tcp_transport.js';
import { sharedWorld, type WorldOptions } from './transport.js';

/** How ranks reach each other: memory shared on one host, or connections. */
export type TransportName = 'shm' | 'tcp';

/** What may be said of how ranks reach each other. */
export interface ReachOptions {
  /** `shm` or `tcp`, the same on every rank; found out unless given here or in SHARDGRAD_TRANSPORT. */
  transport?: TransportName;
  /** Address of the interface for connections between hosts; unless given here or in SHARDGRAD_LOCAL_ADDR, the one that leads to the store. */
  localAddr?: string;
}

export interface World {
  readonly group: ProcessGroup;
  /** After the group was closed: no further groups are made of its ranks. */
  close(): Promise<void>;
}

interface Place {
  readonly host: string;
  /** Of the interface that leads to the store. */
  readonly address: string;
  readonly transport: TransportName | null;
}

/**
 * Joins the group of all ranks.
 * @param token the job's token
 * @throws DistributedError when ranks ask for different transports, do not come in time, or cannot reach each other
 */
export async function joinWorld(launch: RankLaunch, store: Store, token: string, options: WorldOptions & ReachOptions): Promise<World> {
  const { rank, size, timeoutMs } = options;
  const asked = transportAsked(options.transport);
  const me: Place = { host: hostIdentity(), address: store.localAddress, transport: asked };
  const places = (await everybodys<Place | null>(store, PLACES, rank, size, me, timeoutMs)).map((place, r) => {
    if (place === null) throw new DistributedError(`dist.init: rank ${r} has ended and never joined the job`);
    return place;
  });
  const other = places.findIndex(({ transport }) => transport !== places[0]!.transport);
  if (other > 0) {
    throw new DistributedError(
      `dist.init: rank 0 asks for ${show(places[0]!.transport)}, rank ${other} for ${show(places[other]!.transport)}: all ranks must ask for the same`,
    );
  }
  const away = places.findIndex(({ host }) => host !== places[0]!.host);
  if (asked === 'shm' && away > 0) throw new DistributedError(`dist.init: transport shm is for ranks of one host, and ranks 0 and ${away} do not share memory`);
  if (asked !== 'tcp' && away < 0) return { group: await joinShared(store, options), close: async () => {} };

  const host = options.localAddr ?? (process.env['SHARDGRAD_LOCAL_ADDR'] || (await addressFor(me, places)));
  // those of an earlier start of the job, and of another job with the same token, prove something else
  const secret = createHmac('sha256', token).update(`shardgrad mesh ${launch.runId} ${launch.restartCount}`).digest('hex');
  const mesh = await Mesh.listen({ rank, token: secret, host });
  try {
    const addresses = await everybodys<Address>(store, 'world/address', rank, size, mesh.address, timeoutMs);
    const hidden = away > 0 ? addresses.findIndex((address) => isLoopback(address.host)) : -1;
    if (hidden >= 0) {
      throw new DistributedError(
        `dist.init: rank ${hidden} listens on ${addresses[hidden]!.host}, where ranks on other hosts cannot reach it: give it the address of an interface in SHARDGRAD_LOCAL_ADDR`,
      );
    }
    mesh.introduce(addresses);
    const group = await tcpWorld(mesh, options);
    await group.barrier({ label: 'of dist.init' });
    return { group, close: () => mesh.close() };
  } catch (error) {
    await mesh.close();
    throw error;
  }
}

/** The address at which this rank listens: where the store is on this host, that of the interface that leads to another one. */
async function addressFor(me: Place, places: readonly Place[]): Promise<string> {
  const other = places.find(({ host, address }) => host !== me.host && !isLoopback(address));
  return isLoopback(me.address) && other ? await interfaceTo(other.address) : me.address;
}

/**
 * Rank 0 makes the memory and tells its name; when all have it, the name goes. That they have it is found out over the memory itself:
 * the store may live in a rank that is stopped by then.
 */
async function joinShared(store: Store, options: WorldOptions): Promise<ProcessGroup> {
  const { rank, timeoutMs } = options;
  const segment = rank === 0 ? segmentName() : String(await store.get('world/segment', { timeoutMs }));
  const world = sharedWorld(segment, options);
  if (rank === 0) await store.set('world/segment', segment);
  try {
    await world.barrier({ label: 'of dist.init' });
  } finally {
    world.seal();
  }
  return world;
}

/** What each rank says, in rank order. Rank 0 collects it, so that a job of N ranks asks the store 3 N times and not N². */
async function everybodys<T>(store: Store, key: string, rank: number, size: number, mine: T, timeoutMs: number): Promise<T[]> {
  const keys = Array.from({ length: size }, (_, r) => `${key}/${r}`);
  const { swapped } = await store.compareSet(keys[rank]!, null, JSON.stringify(mine));
  if (!swapped) throw new DistributedError(`dist.init: rank ${rank} has joined this job before: it is called once, in one thread of one process a rank`);
  const late = (missing: readonly string[]): DistributedError => {
    const ranks = keys.flatMap((one, r) => (missing.includes(one) ? [r] : []));
    const who = ranks.length > 1 ? `ranks ${ranks.join(', ')}` : `rank ${ranks[0] ?? 0}`;
    return new DistributedError(`dist.init: ${who} of ${size} did not come within ${timeoutMs / 1000} s`);
  };
  const all = `${key}/all`;
  if (rank === 0) {
    const missing = await store.missing(keys, { timeoutMs });
    if (missing.length > 0) throw late(missing);
    await store.set(all, `[${(await Promise.all(keys.map((one) => store.get(one)))).join()}]`);
  } else if ((await store.missing([all], { timeoutMs })).length > 0) throw late(await store.missing(keys, { timeoutMs: 0 }));
  return JSON.parse(String(await store.get(all))) as T[];
}

function transportAsked(given: unknown): TransportName | null {
  const value = given ?? (process.env['SHARDGRAD_TRANSPORT'] || null);
  if (value === null || value === 'shm' || value === 'tcp') return value;
  throw new DistributedError(`dist.init: the transport must be shm or tcp, got ${describe(value)}`);
}

function show(transport: TransportName | null): string {
  return transport === null ? 'no transport' : `transport ${transport}`;
}
