// Memory for the copies of an asynchronous save, found before it is needed. The machine gives a process zeroed memory at its first touch, which
// takes as long as the copy itself, and 20 times as long in a virtual machine whose host has to find it, too. Here it is touched in the background.
import { noGrad } from '../../autograd/modes.js';
import { empty } from '../../create.js';
import { dtypeSize } from '../../dtype.js';
import { describe, fromNative, ValueError } from '../../errors.js';
import { scope } from '../../memory.js';
import { native } from '../../native.js';
import { invoke } from '../../ops/door.js';
import { narrow, reshape } from '../../ops/view.js';
import type { Tensor } from '../../tensor.js';
import { ProcessGroup } from '../process_group.js';
import { COMMUNICATION, COMPUTE } from '../work.js';
import { partsOf } from './shards.js';
import { encodeEntry, parameterNames } from './states.js';

/** Collectives of training get their turn after so much. */
const PIECE_BYTES = 4 << 20;

/**
 * Makes the memory that saveCheckpointAsync copies this state into, so that the first saves hold up training as little as later ones. It stays
 * with the device's allocator, where training uses it too. Optional; call it after the first step, when the optimizer has its state:
 *
 * ```ts
 * if (step === 1) void dist.warmUpSave({ model, optimizer }, { group });
 * ```
 *
 * Training goes on meanwhile: pages are touched on the communication stream, a few MiB at a time. No rank waits for another one.
 * @param state what will be saved, by name
 */
export async function warmUpSave(state: Readonly<Record<string, unknown>>, options: { readonly group: ProcessGroup }): Promise<void> {
  const where = 'warmUpSave';
  const { group } = options ?? {};
  if (typeof state !== 'object' || state === null) throw new ValueError(`${where}: expected what will be saved, by name, got ${describe(state)}`);
  if (!(group instanceof ProcessGroup)) throw new ValueError(`${where}: expected { group }, the ranks that save, got ${describe(group)}`);
  await scope(async () => {
    const tensors = new Map<string, Tensor>();
    const names = parameterNames(state);
    for (const [name, value] of Object.entries(state)) await encodeEntry(name, value, names, tensors);
    const parts = [...partsOf(tensors, group).values()].flatMap((own) => Array.from(own.values(), ({ part }) => part));
    // all at once, as a save has them
    const copies = parts.map(({ shape, dtype, device }) => empty(shape, { dtype, device }));
    for (const copy of copies) if (copy.device.type === 'cpu') await touch(copy);
  });
}

async function touch(t: Tensor): Promise<void> {
  const { slot } = t.device;
  const step = PIECE_BYTES / dtypeSize[t.dtype];
  try {
    // kernels that are still queued may use what this memory was before
    native.waitEvent(slot, COMMUNICATION, slot, COMPUTE, native.recordEvent(slot, COMPUTE));
    for (let at = 0; at < t.numel; at += step) {
      noGrad(() => invoke('fill', t.device, [narrow(reshape(t, [t.numel]), 0, at, Math.min(step, t.numel - at))], [0], COMMUNICATION));
      await native.streamDone(slot, COMMUNICATION);
    }
  } catch (error) {
    throw fromNative(error);
  }
}
