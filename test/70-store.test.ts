// The job's key-value store: its operations, its timeouts, and that only holders of the token get in.
import { randomBytes } from 'node:crypto';
import { connect, createServer, type Socket } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { FrameReader, FrameWriter, MAX_FRAME_BYTES } from '../lib/distributed/frames.js';
import { Handshake } from '../lib/distributed/handshake.js';
import { Store } from '../lib/distributed/store.js';
import { StoreServer } from '../lib/distributed/store_server.js';
import { DistributedError, ValueError } from '../lib/errors.js';

const token = 'a token of this test';
const closing: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

async function serve(): Promise<{ server: StoreServer; log: string[]; client: (timeoutMs?: number) => Promise<Store> }> {
  const log: string[] = [];
  const server = await StoreServer.listen({ token, log: (line) => log.push(line) });
  closing.push(() => server.close());
  const client = async (timeoutMs = 5000): Promise<Store> => {
    const store = await Store.connect({ host: server.host, port: server.port, token, timeoutMs });
    closing.push(() => store.close());
    return store;
  };
  return { server, log, client };
}

function raw(server: StoreServer): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(server.port, server.host, () => resolve(socket));
    socket.on('error', reject);
    closing.push(() => socket.destroy());
  });
}

const closed = (socket: Socket): Promise<void> =>
  new Promise((resolve) => {
    socket.on('error', () => {});
    if (socket.destroyed) resolve();
    else socket.once('close', () => resolve());
  });
const next = (socket: Socket): Promise<Buffer> => new Promise((resolve) => socket.once('data', resolve));
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

test('set, get, add, wait, compareSet and delete', async () => {
  const { client } = await serve();
  const [a, b] = [await client(), await client()];
  await a.set('text', 'grüße');
  await a.set('bytes', Uint8Array.of(0, 1, 255));
  await a.set('empty', '');
  expect(await b.get('text')).toBe('grüße');
  expect(await b.get('bytes')).toEqual(Uint8Array.of(0, 1, 255));
  expect(await b.get('empty')).toBe('');

  expect(await a.add('count')).toBe(1);
  expect(await b.add('count', 41)).toBe(42);
  expect(await b.add('count', -50)).toBe(-8);
  expect(await a.get('count')).toBe('-8');
  await expect(a.add('text')).rejects.toThrow('store.add: "text" holds no whole number');
  const sums = await Promise.all(Array.from({ length: 100 }, (_, i) => (i % 2 ? a : b).add('shared')));
  expect(sums.sort((x, y) => x - y)).toEqual(Array.from({ length: 100 }, (_, i) => i + 1));

  expect(await a.compareSet('leader', null, 'a')).toEqual({ swapped: true, value: 'a' });
  expect(await b.compareSet('leader', null, 'b')).toEqual({ swapped: false, value: 'a' });
  expect(await b.compareSet('leader', 'a', 'b')).toEqual({ swapped: true, value: 'b' });
  expect(await b.compareSet('absent', 'x', 'y')).toEqual({ swapped: false, value: null });
  expect(await a.compareSet('bytes', Uint8Array.of(0, 1, 255), 'now text')).toEqual({ swapped: true, value: 'now text' });

  expect(await a.delete('leader')).toBe(true);
  expect(await a.delete('leader')).toBe(false);

  let done = false;
  const waiting = b.wait(['x', 'y', 'text']).then(() => {
    done = true;
  });
  const getting = b.get('y');
  await a.set('x', '1');
  await pause(20);
  expect(done).toBe(false);
  await a.set('y', '2');
  await waiting;
  expect(await getting).toBe('2');
  await b.wait([]);
});

test('prefixes nest and keep apart', async () => {
  const { client } = await serve();
  const store = await client();
  await store.prefix('group3').set('address', 'here');
  await store.prefix('group3').prefix('sub').set('address', 'there');
  expect(await store.get('group3/address')).toBe('here');
  expect(await store.get('group3/sub/address')).toBe('there');
  await expect(store.prefix('group4').get('address', { timeoutMs: 10 })).rejects.toThrow('"group4/address"');
});

test('a call that is not answered in time names its keys', async () => {
  const { client, server } = await serve();
  const store = await client(60);
  await store.set('rank/0', 'x');
  await expect(store.get('rank/1')).rejects.toThrow(`store.get: timed out after 0.06 s waiting for "rank/1" to be set, store 127.0.0.1:${server.port}`);
  await expect(store.wait(['rank/0', 'rank/1', 'rank/2'])).rejects.toThrow('"rank/1", "rank/2" to be set (2 of 3 keys missing)');
  await expect(store.get('now', { timeoutMs: 0 })).rejects.toThrow(DistributedError);
  expect(await store.prefix('rank').missing(['0', '1', '2'])).toEqual(['1', '2']);
  expect(await store.missing(['rank/0'], { timeoutMs: 0 })).toEqual([]);
  // a wait that was given up is forgotten: nothing is left to hold or to wake
  await store.set('rank/1', 'late');
  expect(await store.get('rank/1')).toBe('late');
});

test('a server that stops answering is a timeout on the client', async () => {
  const server = createServer((socket) => {
    const handshake = new Handshake(token);
    socket.on('error', () => {});
    socket.once('data', (hello) => {
      socket.write(handshake.challenge(hello as Buffer)!);
      socket.once('data', () => socket.write(handshake.proof('server')));
    });
    closing.push(() => socket.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  closing.push(() => server.close());
  const { port } = server.address() as { port: number };
  const store = await Store.connect({ host: '127.0.0.1', port, token });
  await expect(store.set('k', 'v', { timeoutMs: 50 })).rejects.toThrow(`store.set("k"): the store at 127.0.0.1:${port} did not answer within 0.05 s`);
});

test('a lost server fails pending and later calls', async () => {
  const { client, server } = await serve();
  const store = await client();
  const pending = expect(store.get('never')).rejects.toThrow(`store.get("never"): the store at 127.0.0.1:${server.port} was lost`);
  await pause(20);
  await server.close();
  await pending;
  await expect(store.set('a', 'b')).rejects.toThrow(DistributedError);
  await expect(Store.connect({ host: '127.0.0.1', port: server.port, token, timeoutMs: 100 })).rejects.toThrow('refuses connections');
});

test('close() fails pending calls and withdraws nothing that was sent', async () => {
  const { client } = await serve();
  const [a, b] = [await client(), await client()];
  const sent = a.set('last', 'words').catch((error: Error) => error);
  a.close();
  expect(await sent).toBeInstanceOf(DistributedError);
  expect(await b.get('last')).toBe('words');
  await expect(a.get('last')).rejects.toThrow('was left by close()');
});

test('a will is carried out when its connection ends, unless the key is set or the will withdrawn', async () => {
  const { client } = await serve();
  const [a, b] = [await client(), await client()];
  await a.will('gone/a', 'a died');
  await a.will('kept', 'x');
  await a.will('withdrawn', 'x');
  await a.will('withdrawn', null);
  await b.set('kept', 'by b');
  expect((await b.compareSet('gone/a', 'none', 'x')).value).toBe(null);
  a.close();
  expect(await b.get('gone/a')).toBe('a died');
  expect(await b.get('kept')).toBe('by b');
  await expect(b.get('withdrawn', { timeoutMs: 30 })).rejects.toThrow('"withdrawn"');
});

test('values up to the frame pass, larger ones are refused before they are sent', async () => {
  const { client } = await serve();
  const store = await client();
  const large = new Uint8Array(MAX_FRAME_BYTES - 2048).fill(7);
  await store.set('large', large);
  expect(Buffer.compare((await store.get('large')) as Uint8Array, large)).toBe(0);
  await expect(store.set('larger', new Uint8Array(MAX_FRAME_BYTES))).rejects.toThrow(ValueError);
  await expect(store.set('larger', new Uint8Array(MAX_FRAME_BYTES))).rejects.toThrow('the value of "larger" is too large');
  expect(await store.add('still here')).toBe(1);
});

test('wrong arguments are ValueErrors', async () => {
  const { client } = await serve();
  const store = await client();
  for (const call of [
    () => store.set('', 'x'),
    () => store.set('k', 3 as never),
    () => store.get('k'.repeat(2000)),
    () => store.add('k', 0.5),
    () => store.get('k', { timeoutMs: Number.NaN }),
    () => store.wait(null as never),
    async () => store.prefix(''),
    () => Store.connect({ host: 'localhost', port: 0, token }),
  ]) {
    await expect(call()).rejects.toThrow(ValueError);
  }
  await expect(Store.connect({ host: 'localhost', port: 1, token: 'short' })).rejects.toThrow('has 5 characters, at least 16 are needed');
  await expect(StoreServer.listen({ token: '' })).rejects.toThrow('token is missing');
  const taken = (await serve()).server.port;
  await expect(StoreServer.listen({ token, port: taken })).rejects.toThrow(`cannot listen on 127.0.0.1:${taken}: another program uses the port`);
});

test('a wrong token is found at once; of several ports the one that knows ours is taken', async () => {
  const { server, client } = await serve();
  const began = Date.now();
  await expect(Store.connect({ host: '127.0.0.1', port: server.port, token: 'another token of 26 letters' })).rejects.toThrow('knows another token');
  expect(Date.now() - began).toBeLessThan(2000);
  const stranger = await StoreServer.listen({ token: 'the token of another job', log: () => {} });
  closing.push(() => stranger.close());
  const store = await Store.connect({ host: '127.0.0.1', port: [stranger.port, server.port], token });
  closing.push(() => store.close());
  expect(store.address).toBe(`127.0.0.1:${server.port}`);
  await (await client()).set('which', 'ours');
  expect(await store.get('which')).toBe('ours');
});

test('a client waits for a server that starts later', async () => {
  const { server } = await serve();
  const { port } = server;
  await server.close();
  const early = Store.connect({ host: '127.0.0.1', port, token });
  await pause(100);
  const later = await StoreServer.listen({ token, port });
  closing.push(() => later.close());
  const store = await early;
  closing.push(() => store.close());
  expect(await store.add('n')).toBe(1);
});

test('1,000 random frames and 100 wrong tokens: none gets in, memory stays flat', async () => {
  const { server, log, client } = await serve();
  const store = await client(60_000);
  await store.set('secret', 'value');
  const stranger = async (i: number): Promise<void> => {
    const socket = await raw(server);
    const end = closed(socket);
    const got: Buffer[] = [];
    socket.on('data', (chunk) => got.push(chunk));
    if (i % 10 < 3) {
      // a right hello, then noise in place of the proof
      socket.write(new Handshake(token).hello());
      await next(socket);
    }
    socket.write(randomBytes(64 + ((i * 7919) % 4096)));
    await end;
    // a stranger sees one challenge at most
    expect(Buffer.concat(got).length).toBeLessThanOrEqual(32);
  };
  const wave = async (from: number, to: number): Promise<void> => {
    await Promise.all(Array.from({ length: to - from }, (_, i) => stranger(from + i)));
  };
  const wrong = (i: number): Promise<unknown> =>
    expect(Store.connect({ host: '127.0.0.1', port: server.port, token: `wrong token number ${i}` })).rejects.toThrow('knows another token');
  await wave(0, 50);
  await wrong(0);
  const before = process.memoryUsage();
  for (let at = 0; at < 1000; at += 50) await wave(at, at + 50);
  for (let at = 0; at < 100; at += 20) await Promise.all(Array.from({ length: 20 }, (_, i) => wrong(at + i)));
  const after = process.memoryUsage();
  expect(after.rss - before.rss).toBeLessThan(48 * 2 ** 20);
  expect(after.external - before.external).toBeLessThan(8 * 2 ** 20);
  expect(await store.get('secret')).toBe('value');
  expect(log).toEqual(['shardgrad store: dropped a connection from 127.0.0.1: it sent something else than a handshake']);
});

/** A connection whose handshake is done by hand. */
async function authenticated(server: StoreServer): Promise<{ socket: Socket; writer: FrameWriter; reader: FrameReader }> {
  const socket = await raw(server);
  const handshake = new Handshake(token);
  socket.write(handshake.hello());
  socket.write(handshake.respond(await next(socket)));
  const proof = await next(socket);
  expect(handshake.accepts('server', proof)).toBe(true);
  const { clientToServer, serverToClient } = handshake.keys();
  return { socket, writer: new FrameWriter(clientToServer), reader: new FrameReader(serverToClient) };
}

const addRequest = (): Buffer =>
  Buffer.concat([Buffer.from([1, 0, 0, 0, 3]), Buffer.from(new Float64Array([1]).buffer), Buffer.from([1, 0, 0, 0, 1, 0, 0, 0]), Buffer.from('n')]);

test('a crowd of ranks that come at once all get in, though only so many strangers are kept', async () => {
  const { client } = await serve();
  const crowd = await Promise.all(Array.from({ length: 600 }, () => client(20_000)));
  expect((await Promise.all(crowd.map((store) => store.add('present')))).length).toBe(600);
  expect(await crowd[0]!.get('present')).toBe('600');
});

test('replayed, altered, oversized and malformed frames end the connection', async () => {
  const { server, client, log } = await serve();
  const store = await client();
  const good = await authenticated(server);
  const frame = good.writer.frame(addRequest());
  good.socket.write(frame);
  expect([...good.reader.push(await next(good.socket))].length).toBe(1);
  expect(await store.get('n')).toBe('1');
  good.socket.write(frame);
  await closed(good.socket);

  const altered = await authenticated(server);
  const changed = altered.writer.frame(addRequest());
  changed[changed.length - 17]! ^= 1;
  altered.socket.write(changed);
  await closed(altered.socket);

  const replayedElsewhere = await authenticated(server);
  replayedElsewhere.socket.write(frame);
  await closed(replayedElsewhere.socket);

  const oversized = await authenticated(server);
  oversized.socket.write(Buffer.from([1, 0, 0, 1]));
  await closed(oversized.socket);

  for (const payload of [
    Buffer.alloc(0),
    Buffer.alloc(17),
    Buffer.concat([addRequest(), Buffer.of(0)]),
    addRequest().subarray(0, 20),
    Buffer.of(...addRequest().fill(99, 4, 5)),
  ]) {
    const malformed = await authenticated(server);
    malformed.socket.write(malformed.writer.frame(payload));
    await closed(malformed.socket);
  }
  expect(await store.get('n')).toBe('1');
  expect(log).toEqual(['shardgrad store: dropped a connection from 127.0.0.1: it sent a frame with a wrong signature']);
});

test('strangers that say nothing are dropped after 5 s, and at once when there are too many', async () => {
  const { server, client } = await serve();
  const began = Date.now();
  const silent = await raw(server);
  const first = closed(silent).then(() => Date.now() - began);
  const many = await Promise.all(Array.from({ length: 300 }, () => raw(server)));
  let open = 300;
  const ends = many.map((socket) => closed(socket).then(() => open--));
  // a holder of the token still gets in
  expect(await (await client()).add('n')).toBe(1);
  await pause(50);
  expect(open).toBeLessThanOrEqual(256);
  expect(await first).toBeLessThan(4000);
  await Promise.all(ends);
  expect(Date.now() - began).toBeGreaterThan(4500);
  expect(Date.now() - began).toBeLessThan(9000);
});
