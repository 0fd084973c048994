// What communication costs a training: the time in which the ops of a device stood still for collectives.
import { type DeviceLike, device } from '../device.js';
import { native } from '../native.js';
import { COMPUTE } from './work.js';

/**
 * Seconds, since this thread began, in which the device's ops have waited for collectives (`Work.wait()`, gradients of
 * DistributedDataParallel). This is communication that computation did not hide. Ranks that come late to a collective are part of it,
 * what a collective takes from the cores while computation goes on is not.
 */
export function waitedForCollectives(on: DeviceLike = 'cpu'): number {
  const d = device(on);
  return d.type === 'meta' ? 0 : native.waitedTime(d.slot, COMPUTE);
}
