// Delays at random in every action, of the streams or of the thread that fills them, change no bit of what a pipeline makes: nothing depends on
// which rank is first, on shared memory and over TCP. SHARDGRAD_FAULTS=40, as `npm run soak` has it, is ten times as many delays.
import { describe, expect, test } from 'vitest';
import type { DeviceMesh, MeshSizes } from '../lib/distributed/device_mesh.js';
import type { ScheduleName } from '../lib/distributed/pipeline/make_schedule.js';
import { COMMUNICATION, COMPUTE } from '../lib/distributed/work.js';
import { Pauses } from './helpers/pauses.js';
import { onMesh, type Run, train } from './helpers/pipelines.js';
import { stream } from './helpers/random.js';

const MILLISECONDS = 3;
const TIMES = Number(process.env['SHARDGRAD_FAULTS'] ?? 10) > 10 ? 10 : 1;
type Delay = 'none' | 'streams' | 'host';

const settings: [ScheduleName, number, MeshSizes][] = [
  ['1f1b', 1, { pp: 4 }],
  ['gpipe', 1, { pp: 2, dpReplicate: 2 }],
  ['interleaved', 2, { pp: 2, dpReplicate: 2 }],
  ['zb-h1', 1, { pp: 3 }],
  ['zbv', 2, { pp: 2 }],
];

/** A pipeline on which delays come before messages, in forwards and in backwards. */
async function run(delay: Delay, seed: number, [schedule, stagesPerRank, sizes]: (typeof settings)[number], transport: 'shm' | 'tcp'): Promise<Run[]> {
  return onMesh(
    sizes,
    async (mesh: DeviceMesh, device) => {
      const next = stream(seed * 64 + mesh.world.rank);
      const pauses = new Pauses(mesh.device, mesh.world.rank);
      const here = (): void => {
        if (delay === 'none' || next() < 0.75) return;
        const milliseconds = MILLISECONDS * next();
        if (delay === 'streams') pauses.pause(milliseconds, next() < 0.5 ? COMPUTE : COMMUNICATION);
        else Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds / 4);
      };
      for (const group of new Set([mesh.group('pp'), mesh.group('dpReplicate'), mesh.group('pp', 'dpReplicate')])) {
        for (const name of ['send', 'recv', 'allReduce', 'broadcast'] as const) {
          const call = group[name].bind(group) as (...args: unknown[]) => never;
          Object.assign(group, {
            [name]: (...args: unknown[]) => {
              here();
              return call(...args);
            },
          });
        }
      }
      const setting = { layers: 2 * (sizes.pp ?? 1), rows: 13, steps: 2, options: { schedule, stagesPerRank, microBatches: 4 } };
      const found = await train(device, mesh, setting, (pipeline) => {
        for (const m of pipeline.children()) m.registerForwardPreHook(() => void (m.training && here()));
        for (const p of pipeline.parameters()) p.registerHook(() => void here());
      });
      await pauses.close();
      return found;
    },
    { transport },
  );
}

describe.each(['shm', 'tcp'] as const)('over %s', (transport) => {
  test.each(settings.filter((_, i) => transport === 'shm' || TIMES > 1 || i % 2 === 0))(
    '%s, %i stages a rank, %o',
    { timeout: 60_000 * TIMES },
    async (...setting) => {
      const expected = await run('none', 0, setting, transport);
      for (let i = 0; i < TIMES; i++) for (const delay of ['streams', 'host'] as const) expect(await run(delay, i, setting, transport)).toEqual(expected);
    },
  );
});
