// States that follow: what one rank's object holds becomes that of the same object on all ranks. It travels as a checkpoint would
// store it, since another rank may not even have made the tensors yet: an optimizer makes its states with its first step.
import { fromTypedArray, zeros } from '../create.js';
import type { DType } from '../dtype.js';
import type { Stateful } from '../io/checkpoint.js';
import { decodeState, encodeState } from '../io/state_tree.js';
import { scope } from '../memory.js';
import type { Tensor } from '../tensor.js';
import type { ProcessGroup } from './process_group.js';

interface Envelope {
  readonly state: unknown;
  readonly tensors: readonly { readonly name: string; readonly dtype: DType; readonly shape: readonly number[] }[];
}

/** The object's state on rank `src` becomes that of all ranks; each calls this with its own. */
export async function broadcastState(group: ProcessGroup, object: Stateful, src: number): Promise<void> {
  if (group.size === 1) return;
  await scope(async () => {
    if (group.rank === src) await send(group, await object.stateDict());
    else await object.loadStateDict(await receive(group, src));
  });
}

async function send(group: ProcessGroup, state: unknown): Promise<void> {
  const { rank: src, device } = group;
  const tensors = new Map<string, Tensor>();
  const encoded = encodeState(state, tensors, 'state');
  const header: Envelope = { state: encoded, tensors: Array.from(tensors, ([name, { dtype, shape }]) => ({ name, dtype, shape })) };
  const bytes = new TextEncoder().encode(JSON.stringify(header));
  await group.broadcast(fromTypedArray(Float64Array.of(bytes.length), undefined, { device }), { src });
  await group.broadcast(fromTypedArray(bytes, undefined, { device }), { src });
  for (const t of tensors.values()) await group.broadcast(t.detach().to(device), { src });
}

async function receive(group: ProcessGroup, src: number): Promise<unknown> {
  const { device } = group;
  const made = async (shape: readonly number[], dtype: DType): Promise<Tensor> => group.broadcast(zeros(shape, { dtype, device }), { src });
  const bytes = (await made([await (await made([1], 'float64')).item()], 'uint8')).toTypedArray();
  const header = JSON.parse(new TextDecoder().decode((await bytes) as Uint8Array)) as Envelope;
  const tensors = new Map<string, Tensor>();
  for (const { name, dtype, shape } of header.tensors) tensors.set(name, await made(shape, dtype));
  return decodeState(header.state, async (names) => names.map((name) => tensors.get(name)!), `broadcastState: from rank ${src}`);
}
