// Addresses of this host. Debian and others give a host's own name the address 127.0.1.1, which only the host itself can reach, so a
// name that leads to loopback says nothing of where the others come in.
import { createSocket } from 'node:dgram';
import { lookup } from 'node:dns/promises';
import { isIP } from 'node:net';
import { networkInterfaces } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';

/** A name may be published some time after its host has started, and its absence be remembered meanwhile: Kubernetes does both. */
const NAME_TIMEOUT_MS = 60_000;
const RETRY_MS = 1000;

export function isLoopback(address: string): boolean {
  return address === '::1' || address.startsWith('127.');
}

/**
 * Where the first host of a job, which knows itself by this name or address, listens.
 * @param severalHosts others must reach it; where the name leads to loopback it listens on all interfaces
 * @param find looks a name up, by the system's resolver unless given
 * @returns the address, or null where none that the name stands for is of this host; and all that it stands for
 * @throws the resolver's error
 */
export async function ownAddress(
  name: string,
  severalHosts: boolean,
  find: (name: string) => Promise<readonly string[]> = resolve,
): Promise<{ own: string | null; found: readonly string[] }> {
  const found = await patiently(() => find(name), severalHosts ? NAME_TIMEOUT_MS : 0);
  const here = Object.values(networkInterfaces()).flatMap((addresses) => (addresses ?? []).map(({ address }) => address));
  // all of 127/8 is this host
  const own = found.find((address) => here.includes(address) && !isLoopback(address)) ?? found.find(isLoopback) ?? null;
  const isName = isIP(name) === 0 && name !== 'localhost';
  return { own: severalHosts && isName && own !== null && isLoopback(own) ? (own === '::1' ? '::' : '0.0.0.0') : own, found };
}

/** The address of the interface that leads to another host. Nothing is sent. */
export async function interfaceTo(address: string): Promise<string> {
  const socket = createSocket(isIP(address) === 6 ? 'udp6' : 'udp4');
  try {
    await new Promise<void>((done, fail) => {
      socket.once('error', fail);
      // the port does not matter
      socket.connect(9, address, done);
    });
    return socket.address().address;
  } finally {
    socket.close();
  }
}

async function resolve(name: string): Promise<string[]> {
  return (await lookup(name, { all: true })).map(({ address }) => address);
}

async function patiently<T>(attempt: () => Promise<T>, timeoutMs: number): Promise<T> {
  for (const end = Date.now() + timeoutMs; ; await sleep(RETRY_MS)) {
    try {
      return await attempt();
    } catch (error) {
      const unknown = ['ENOTFOUND', 'EAI_AGAIN'].includes((error as NodeJS.ErrnoException).code ?? '');
      if (!unknown || Date.now() + RETRY_MS > end) throw error;
    }
  }
}
