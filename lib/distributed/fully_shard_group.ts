// ShardGroup: the parameters of one sharded module, which are gathered by one collective and freed together. A whole parameter is a
// tensor over a storage that stays the same object: graphs save it, freeing drains it, and a later gather fills it again, so that
// backward finds what forward saved without knowing that it was gone.
import { afterBackward, gradTargets } from '../autograd/current.js';
import { record, recording } from '../autograd/node.js';
import { context, withContext } from '../context.js';
import { allocate, empty } from '../create.js';
import { type DType, dtypeSize } from '../dtype.js';
import { AutogradError, DeviceError } from '../errors.js';
import { type Module, Parameter } from '../nn/module.js';
import { copy_ } from '../ops/copy.js';
import { invoke } from '../ops/door.js';
import { narrow, reshape } from '../ops/view.js';
import { numel, type Shape } from '../shape.js';
import { DEAD, drain, refill, Scope, Storage } from '../storage.js';
import { type Tensor, wrap } from '../tensor.js';
import type { DeviceMesh, MeshAxis } from './device_mesh.js';
import type { ProcessGroup } from './process_group.js';
import type { Work } from './work.js';

/** A parameter that ranks have in pieces: its Parameter object holds this rank's. */
export interface ShardedParameter {
  readonly name: string;
  readonly parameter: Parameter;
  /** Whole, as far as data parallelism goes: what a rank of tensor parallelism has. */
  readonly shape: Shape;
  /** Elements of the first rank's piece; later ones may have fewer. */
  readonly chunk: number;
  /** Where modules have it. */
  readonly places: readonly { readonly module: Module; readonly name: string }[];
}

export interface GroupSettings {
  readonly mesh: DeviceMesh;
  readonly axis: MeshAxis;
  readonly replicateAxis: MeshAxis | null;
  /** Undefined: yes, but for the outermost module, whose backward begins as its forward ends. */
  readonly reshardAfterForward: boolean | undefined;
  /** Parameters are gathered in this dtype; null: in their own. */
  readonly paramDType: DType | null;
  /** Gradients are reduced in this dtype; null: the parameter's, at least float32. */
  readonly reduceDType: DType | null;
  readonly mean: boolean;
}

/** The storage of a whole parameter, and what it was filled from. */
interface StandIn {
  readonly storage: Storage;
  source: Storage;
  version: number;
}

/** Elements [0, total) of a tensor and the blocks of `chunk` in which ranks have them: whole blocks, then a shorter one. */
export function eachBlock(total: number, chunk: number, visit: (rank: number, ranks: number, length: number) => void): void {
  if (chunk === 0) return;
  const full = Math.floor(total / chunk);
  if (full > 0) visit(0, full, chunk);
  if (total > full * chunk) visit(full, 1, total - full * chunk);
}

/** What happens without graph and autocast, and is freed at once but for what is kept. */
export function temporarily<T>(fn: () => T): T {
  const scope = new Scope();
  const { scope: outer } = context();
  try {
    return withContext({ scope, gradEnabled: false, autocast: null, kept: null }, fn);
  } finally {
    scope.end(outer);
  }
}

/** What makes tensors that no scope around may free. */
export function lasting<T>(fn: () => T): T {
  return withContext({ scope: null, gradEnabled: false, autocast: null, kept: null }, fn);
}

export class ShardGroup {
  readonly group: ProcessGroup;
  /** The ranks with the same piece, in other copies of the model; null when there is one copy. */
  readonly copies: ProcessGroup | null;
  /** Its number among those of its model. Collectives are longer by it: where ranks are at different modules, they find different lengths. */
  index = 0;
  private readonly standIns = new Map<ShardedParameter, StandIn>();
  /** The parameters' state when they were gathered. */
  private filled: readonly unknown[] = [];
  private gathering: { readonly work: Work<Tensor>; readonly input: Tensor } | null = null;
  private whole = false;
  private pinned = false;
  /** Calls of the module that need its parameters now, and whoever has pinned it. */
  users = 0;
  /** Backward reduces gradients; otherwise they add up whole. */
  synchronizes = true;

  /** It stays whole from forward to backward. */
  kept = false;

  constructor(
    readonly module: Module,
    readonly parameters: readonly ShardedParameter[],
    readonly settings: GroupSettings,
  ) {
    const { mesh, axis, replicateAxis } = settings;
    this.group = mesh.group(axis);
    this.copies = replicateAxis !== null && mesh.size(replicateAxis) > 1 ? mesh.group(replicateAxis) : null;
  }

  /** `Block "h.3"`, once the model has run. */
  get label(): string {
    return this.module.label;
  }
  /** Elements of a rank's part of a gather. */
  private get length(): number {
    return this.parameters.reduce((n, p) => n + p.chunk, 0) + this.index;
  }

  private dtypeOf({ parameter }: ShardedParameter): DType {
    return this.settings.paramDType ?? parameter.dtype;
  }

  private get state(): unknown[] {
    return this.parameters.flatMap(({ parameter: { storage } }) => [storage, storage.version]);
  }

  /** Throws where the parameters are not there to be gathered. */
  check(): void {
    const { device } = this.settings.mesh;
    for (const { name, parameter } of this.parameters) {
      if (parameter.isMeta) throw new DeviceError(`${this.label}: parameter ${name} is on device meta; materialize(model) gives it values`);
      if (parameter.device !== device) throw new DeviceError(`${this.label}: parameter ${name} is on ${parameter.device}, the mesh on ${device}`);
    }
  }

  /** Starts the gather of the current values, unless they are here or on the way. Nothing waits. */
  gather(): void {
    if (this.parameters.length === 0) return;
    if (this.whole || this.gathering) {
      const now = this.state;
      if (now.every((x, i) => x === this.filled[i])) return;
      this.reshard();
    }
    this.filled = this.state;
    const { device } = this.settings.mesh;
    lasting(() => {
      const input = empty([this.length], { dtype: this.dtypeOf(this.parameters[0]!), device });
      let at = 0;
      for (const { parameter, chunk } of this.parameters) {
        if (parameter.numel > 0) copy_(narrow(input, 0, at, parameter.numel), reshape(parameter.detach(), [parameter.numel]));
        at += chunk;
      }
      this.gathering = { work: this.group.allGather(input, { label: `of the parameters of ${this.label}` }), input };
    });
  }

  /** The whole parameters are here, in stream order. */
  unshard(): void {
    this.gather();
    if (this.gathering === null) return;
    const { work, input } = this.gathering;
    const all = work.wait();
    this.gathering = null;
    input.dispose();
    temporarily(() => {
      const { device } = this.settings.mesh;
      const rows = reshape(all, [this.group.size, this.length]);
      let at = 0;
      for (const p of this.parameters) {
        const total = numel(p.shape);
        const dtype = this.dtypeOf(p);
        const made = allocate([total], dtype, device, 'fullyShard');
        eachBlock(total, p.chunk, (rank, ranks, length) => {
          const from = narrow(narrow(rows, 0, rank, ranks), 1, at, length);
          invoke('copy', device, [from, reshape(narrow(made, 0, rank * p.chunk, ranks * length), [ranks, length])]);
        });
        refill(this.storageOf(p, total * dtypeSize[dtype]), made.storage);
        at += p.chunk;
      }
    });
    all.dispose();
    this.whole = true;
  }

  /** Frees the whole parameters; graphs that saved them find them after the next unshard. */
  reshard(): void {
    if (this.gathering) {
      const { work, input } = this.gathering;
      work.wait().dispose();
      input.dispose();
      this.gathering = null;
    }
    for (const { storage } of this.standIns.values()) drain(storage);
    this.whole = false;
    this.kept = false;
  }

  /** Starts the gather of what stays whole until `unpin`, whatever calls come and go. */
  pin(): void {
    if (this.pinned) return;
    this.pinned = true;
    this.users++;
    this.gather();
  }
  unpin(): void {
    if (!this.pinned) return;
    this.pinned = false;
    if (--this.users === 0) this.reshard();
  }

  /** Backward came into a call by another way than its results, as when they lie in an object that nothing looks into. */
  private restore(): void {
    this.unshard();
    afterBackward(() => {
      if (this.users === 0) this.reshard();
    });
  }

  /** The storage of a whole parameter. When the values are others than last time, graphs that saved it find it changed. */
  private storageOf(p: ShardedParameter, bytes: number): Storage {
    const { storage: source } = p.parameter;
    let found = this.standIns.get(p);
    if (found?.storage.bytes !== bytes) {
      found = { storage: new Storage(DEAD, this.settings.mesh.device, bytes, null), source, version: source.version };
      found.storage.restore = () => this.restore();
      this.standIns.set(p, found);
    }
    if (found.source !== source || found.version !== source.version) found.storage.wrote(source.writer);
    Object.assign(found, { source, version: source.version });
    return found.storage;
  }

  /**
   * The whole parameters for one call. Gradients of those that require one come to `backward` when all of the call's are known; null for one
   * that got none.
   */
  wholes(backward: (gradients: readonly (Tensor | null)[]) => void): Parameter[] {
    const made = this.parameters.map((p) => {
      const whole = new Parameter(wrap(this.standIns.get(p)!.storage, p.shape, this.dtypeOf(p)), false);
      whole.storage.kind = 'gathered parameter'; // autocast keeps its casts of parameters for long
      return whole;
    });
    const trained = this.parameters.flatMap((p, i) => (p.parameter.requiresGrad ? [i] : []));
    const shards = trained.map((i) => this.parameters[i]!.parameter);
    if (recording(shards)) {
      const outputs = trained.map((i) => made[i]!);
      record('custom', shards, outputs, {
        name: `fullyShard of ${this.label}`,
        backward: (node, grads) => {
          node.refuseDouble();
          if (shards.some((p) => gradTargets()?.has(p)))
            throw new AutogradError(`grad: the pieces of a ${this.label} get their gradients when backward has ended, in .grad: call backward()`);
          const all: (Tensor | null)[] = this.parameters.map(() => null);
          trained.forEach((i, k) => {
            all[i] = grads[k] ?? null;
          });
          backward(all);
          return shards.map(() => null);
        },
      });
    }
    return made;
  }
}
