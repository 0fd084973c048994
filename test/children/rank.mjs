// A rank for the launcher's tests. The first argument says what becomes of rank 1, or of all.
import { spawn } from 'node:child_process';

const [what] = process.argv.slice(2);
const { RANK, SHARDGRAD_RESTART_COUNT: restarts } = process.env;
const wait = () => setInterval(() => {}, 1000);
const names = ['RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE', 'GROUP_RANK', 'GROUP_WORLD_SIZE', 'MASTER_ADDR'];

async function join() {
  const { detectLaunch, meet } = await import(process.env.TEST_LIB);
  const launch = detectLaunch(process.env);
  return { launch, ...(await meet(launch, process.env)) };
}

const all = {
  print: () => console.log(JSON.stringify({ ...Object.fromEntries(names.map((name) => [name, process.env[name]])), threads: process.env.SHARDGRAD_NUM_THREADS })),
  args: () => console.log(JSON.stringify(process.argv.slice(2))),
  streams: () => {
    process.stdout.write('one\ntwo\nwithout an end');
    process.stderr.write('a warning\n');
  },
  flood: () => {
    for (let i = 0; i < 20_000; i++) console.log(`line ${i} of a rank that writes a lot, more than a pipe holds`);
  },
  graceful: () => {
    for (const signal of ['SIGINT', 'SIGTERM']) {
      process.on(signal, () => {
        console.log(`saved at ${signal}`);
        process.exit(0);
      });
    }
    console.log('waiting');
    wait();
  },
  deaf: () => {
    process.on('SIGTERM', () => {});
    console.log('waiting');
    wait();
  },
  thorough: () => {
    process.on('SIGTERM', () => setTimeout(() => process.exit(console.log('saved')), 2500));
    console.log('waiting');
    wait();
  },
  wait: () => {
    // a process of its own, which must not outlive the rank
    spawn('sleep', ['1000']);
    console.log('waiting');
    wait();
  },
  restarts: async () => {
    console.log(`start ${restarts} of rank ${RANK}`);
    // so that all have said it before the first fails
    const { store } = await join();
    await store.set(`started ${RANK}`, '');
    await store.wait(['started 0', 'started 1']);
    if (restarts === '2') process.exit(0);
    if (RANK === '1') process.exit(5);
    wait();
  },
  meet: async () => {
    const { launch, store, server } = await join();
    await store.set(`rank ${launch.rank}`, `from ${launch.rank}`);
    const texts = await Promise.all(Array.from({ length: launch.worldSize }, (_, rank) => store.get(`rank ${rank}`)));
    console.log(texts.join(', '));
    await store.add('left');
    if (server) while ((await store.get('left')) !== String(launch.worldSize)) await new Promise((resolve) => setTimeout(resolve, 10));
    await server?.close();
  },
};

const first = {
  throw: () => {
    throw new Error('the model of rank 1 is bad');
  },
  exit3: () => process.exit(3),
  kill: () => process.kill(process.pid, 'SIGKILL'),
};

if (all[what]) await all[what]();
else if (process.argv[3] === 'stubborn') {
  const { store } = await join();
  if (RANK === '1') {
    await store.wait('deaf');
    first[what]();
  }
  process.on('SIGTERM', () => {});
  await store.set('deaf', '');
  wait();
} else if (RANK === '1') first[what]();
else wait();
