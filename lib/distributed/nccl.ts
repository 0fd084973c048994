// NCCL on top of groups of the CPU. Such a group is staged at first, and what the ranks must know of each other before they
// may start NCCL goes through it: who has which version, on which GPU. Everything NCCL does after that runs on the communication
// stream, and each of its collectives is agreed on through the group below first (csrc/cuda/nccl_group.h).
import type { Device, DeviceType } from '../device.js';
import { dtypeCode } from '../dtype.js';
import { DistributedError, describe, fromNative } from '../errors.js';
import { native } from '../native.js';
import { codeOf } from './call.js';
import { hostIdentity } from './host_identity.js';
import { labelled } from './place.js';
import type { ProcessGroup } from './process_group.js';
import { exchangeText } from './split.js';
import type { Backend, Transport } from './transport.js';
import { Work } from './work.js';

const ID_BYTES = 128;
/** From here on several ranks may use one GPU, if the environment says so. */
const SHARES_GPUS = 23_003;

/**
 * What moves the tensors of a device: what was asked for, or else the CPU for its own and NCCL for those of GPUs.
 * @throws DistributedError when NCCL is needed and cannot be used, with what was tried
 */
export function chooseBackend(op: string, type: DeviceType, asked: unknown, worldSize: number): Backend {
  if (asked !== undefined && asked !== 'cpu' && asked !== 'staged' && asked !== 'nccl') {
    throw new DistributedError(`${op}: the backend must be nccl, staged or cpu, got ${describe(asked)}`);
  }
  if (asked !== undefined && (asked === 'cpu') !== (type === 'cpu')) {
    throw new DistributedError(`${op}: backend ${asked} is for ${asked === 'cpu' ? 'the CPU' : 'GPUs'}, and the device is ${type}`);
  }
  if (type === 'cpu') return 'cpu';
  if (asked === 'staged') return asked;
  const { problem } = native.findNccl();
  if (problem === '') return 'nccl';
  // alone there is nobody to talk to
  if (asked === undefined && worldSize === 1) return 'staged';
  throw new DistributedError(`${op}: ${problem}; backend: 'staged' does without, by way of the host's memory`);
}

interface Place {
  readonly host: string;
  readonly gpu: string;
  readonly version: number;
  readonly problem: string;
  readonly shares: boolean;
  /** Rank 0's. */
  readonly id: string;
}

/**
 * Lets NCCL carry a group that is staged so far. Every rank calls it; resolves when all are connected.
 * @throws DistributedError on every rank, when one has no NCCL or another version, or ranks share a GPU where that is not possible
 */
export async function startNccl(group: ProcessGroup): Promise<void> {
  const places = (await exchangeText(group, JSON.stringify(placeOf(group)), 'of the start of NCCL')).map((text) => JSON.parse(text) as Place);
  const trouble = refusal(places);
  if (trouble) throw new DistributedError(`process group ${group.name}: ${trouble}`);
  const id = new Uint8Array(Buffer.from(places[0]!.id, 'hex'));
  await command(group, 'startNccl', 'of the start of NCCL', (entry) => native.startNccl(group.id, group.device.slot, entry, id));
}

/** Parts of a group that NCCL carries: made as the transport below makes them, then cut from the group's communicator. */
export function overNccl(inner: Transport): Transport {
  return {
    async join(parent, part) {
      const id = await inner.join(parent, part);
      // the parts have no rank in common
      const [color, key] = part ? [part.worldRanks[0]!, part.rank] : [-1, 0];
      await command(parent, 'splitNccl', 'of split', (entry) => native.splitNccl(parent.id, parent.device.slot, entry, id, color, key));
      return id;
    },
  };
}

/** A call of the group, with its entry in the flight recorder. */
function command(group: ProcessGroup, name: 'startNccl' | 'splitNccl', label: string, run: (entry: number) => void): Work<void> {
  try {
    run(native.enqueueCollective(group.id, group.device.slot, codeOf(name), dtypeCode.uint8, 0, -1, labelled(label)));
  } catch (error) {
    throw fromNative(error);
  }
  return new Work<void>(group.device).launched(undefined);
}

function placeOf({ rank, device }: ProcessGroup): Place {
  const { version, problem } = native.findNccl();
  const shares = process.env['NCCL_MULTI_RANK_GPU_ENABLE'] === '1';
  const place = { host: hostIdentity(), gpu: gpuOf(device), version, problem, shares, id: '' };
  if (rank > 0 || problem !== '') return place;
  const id = new Uint8Array(ID_BYTES);
  try {
    native.ncclId(id);
  } catch (error) {
    // for all ranks to hear
    return { ...place, problem: (error as Error).message };
  }
  return { ...place, id: Buffer.from(id).toString('hex') };
}

/** Where the GPU sits: several devices may stand for one (SHARDGRAD_SHARE_GPUS). */
function gpuOf(device: Device): string {
  const { gpus } = native.cudaReport();
  return gpus[device.index % gpus.length]!.busId;
}

/** Why NCCL would fail or hang with these ranks; empty: it should not. */
function refusal(places: readonly Place[]): string {
  const lacking = places.findIndex(({ problem }) => problem !== '');
  if (lacking >= 0) return `rank ${lacking} cannot use NCCL: ${places[lacking]!.problem}`;
  const { version } = places[0]!;
  const other = places.findIndex((p) => p.version !== version);
  if (other >= 0) return `rank 0 has NCCL ${show(version)} and rank ${other} has ${show(places[other]!.version)}: all ranks need the same`;
  const where = places.map(({ host, gpu }) => `${host} ${gpu}`);
  const second = where.findIndex((place, r) => where.indexOf(place) < r);
  if (second < 0 || (version >= SHARES_GPUS && places.every(({ shares }) => shares))) return '';
  const ranks = `ranks ${where.indexOf(where[second]!)} and ${second} use the same GPU (${places[second]!.gpu})`;
  return `${ranks}, which NCCL ${show(version)} refuses: it takes NCCL 2.30 and NCCL_MULTI_RANK_GPU_ENABLE=1, or backend: 'staged'`;
}

function show(version: number): string {
  return `${Math.floor(version / 10_000)}.${Math.floor(version / 100) % 100}.${version % 100}`;
}
