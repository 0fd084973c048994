// Pauses of a stream without a kernel that takes time: the stream waits for a message between two devices that nobody else uses, and JavaScript
// sends it so many milliseconds after the stream has come to that place. A pause takes no processor, so on a small machine too many
// ranks pause at a time.
import { setTimeout as sleep } from 'node:timers/promises';
import { type Device, device, synchronize } from '../../lib/device.js';
import type { ProcessGroup } from '../../lib/distributed/process_group.js';
import { segmentName } from '../../lib/distributed/segment_name.js';
import { sharedWorld } from '../../lib/distributed/transport.js';
import { COMMUNICATION, COMPUTE } from '../../lib/distributed/work.js';
import * as sg from '../../lib/index.js';
import { native } from '../../lib/native.js';

/** Of a rank's devices no other test uses. */
const FIRST = 32;

export class Pauses {
  private readonly gates: ProcessGroup[][];
  private readonly boxes: sg.Tensor[][];
  private readonly open: Promise<void>[] = [];

  constructor(
    private readonly on: Device,
    rank: number,
  ) {
    // a gate for each stream: messages open one gate in the order of its pauses
    this.gates = [COMPUTE, COMMUNICATION].map((stream) => {
      const segment = segmentName();
      const ends = [0, 1].map((end) => device(`cpu:${FIRST + 4 * rank + 2 * stream + end}`));
      const worlds = ends.map((d, r) => sharedWorld(segment, { rank: r, size: 2, device: d, backend: 'cpu', timeoutMs: 60_000 }));
      worlds[0]!.seal();
      return worlds;
    });
    this.boxes = this.gates.map((gate) => gate.map(({ device: d }) => sg.zeros([1], { device: d }).keep()));
  }

  /** The stream stands still for so long when it comes here. */
  pause(milliseconds: number, stream: typeof COMPUTE | typeof COMMUNICATION = COMPUTE): void {
    const [inside, outside] = this.gates[stream]!;
    const [to, from] = this.boxes[stream]!;
    const arrived = native.streamDone(this.on.slot, stream);
    inside!.recv(to!, 1);
    native.waitEvent(this.on.slot, stream, inside!.device.slot, COMMUNICATION, native.recordEvent(inside!.device.slot, COMMUNICATION));
    this.open.push(arrived.then(() => sleep(milliseconds)).then(() => void outside!.send(from!, 0)));
  }

  /** When all are over. */
  async close(): Promise<void> {
    await Promise.all(this.open);
    for (const gate of this.gates) await Promise.all(gate.map((g) => g.close()));
    for (const gate of this.gates) for (const { device: d } of gate) await synchronize(d);
    for (const t of this.boxes.flat()) t.dispose();
  }
}
