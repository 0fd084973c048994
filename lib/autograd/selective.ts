// Selective checkpointing: of a segment that backward runs again, the results of some ops are kept, and the second run takes them in place of
// computing them (by op as in PyTorch's create_selective_checkpoint_contexts; attention alone as in Korthikanti et al., "Reducing Activation
// Recomputation in Large Transformer Models", 2022). The door asks here at every native call. A result that was changed in place since is
// computed again, with all that was done to it.
import { type AutocastOp, policy as autocastPolicy } from '../amp/policy.js';
import { context, withContext } from '../context.js';
import type { DType } from '../dtype.js';
import { AutogradError, describe, ValueError } from '../errors.js';
import { native } from '../native.js';
import { type Shape, sameShape, showShape } from '../shape.js';
import { Tensor } from '../tensor.js';
import type { NativeOpName } from './rules/types.js';

/** What a policy may name: kernels (`matmul`, `gelu`, `dropout`, `allReduce`), and functions, for all kernels they run (`linear`, `mlp`, `softmax`). */
export type CheckpointOp = NativeOpName | AutocastOp;

/** A kernel that is about to run. */
export interface OpCall {
  /** Its name: `matmul`, `gelu`, `dropout`. */
  readonly op: NativeOpName;
  /** The functions that it runs in, the innermost last: `scaledDotProductAttention`; and `gelu`, where that is fused into a product. */
  readonly within: readonly CheckpointOp[];
  /** The module that it runs in: `Linear "transformer.h.0.mlp.c_fc"`. */
  readonly module: string;
}

/** Sets that policies may name. */
export const checkpointOps = {
  /** Matrix products, convolutions, attention, and what is sent between ranks. */
  expensive: ['matmul', 'conv2d', 'attention', 'allReduce', 'reduceScatter', 'allGather', 'allToAll'],
  /** Attention, in one kernel or in several. */
  attention: ['attention', 'scaledDotProductAttention'],
} as const satisfies Record<string, readonly CheckpointOp[]>;

/** @inline */
type Ops = keyof typeof checkpointOps | readonly CheckpointOp[];

/** Which results a checkpoint keeps between the two runs; without an option, none. */
export interface CheckpointOptions {
  /** Ops whose results are kept; all others are recomputed. Nothing unless given. Of a function: whether to keep it, the same at both runs. */
  readonly keep?: Ops | ((call: OpCall) => boolean);
  /** The other way round: ops that are recomputed; all others' results are kept, or with `keep`, those of these. */
  readonly recompute?: Ops;
}

function namesOf(given: unknown, where: string, option: string): ReadonlySet<string> {
  if (typeof given === 'string' && Object.hasOwn(checkpointOps, given)) return new Set(checkpointOps[given as keyof typeof checkpointOps]);
  if (!Array.isArray(given))
    throw new ValueError(`${where}: ${option} must be a list of ops or one of ${Object.keys(checkpointOps).join(', ')}, got ${describe(given)}`);
  for (const name of given) {
    if (!native.ops.some((op) => op.name === name) && !Object.hasOwn(autocastPolicy, name as string))
      throw new ValueError(`${where}: ${option} names ${describe(name)}, which is no op`);
  }
  return new Set(given as string[]);
}

const naming =
  (names: ReadonlySet<string>) =>
  ({ op, within }: OpCall): boolean =>
    names.has(op) || within.some((name) => names.has(name));

/** Which results a checkpoint keeps. */
export class CheckpointPolicy {
  private constructor(
    readonly keeps: (call: OpCall) => boolean,
    /** Nothing is kept. */
    readonly full: boolean,
  ) {}

  static of(options: CheckpointOptions, where: string): CheckpointPolicy {
    if (typeof options !== 'object' || options === null) throw new ValueError(`${where}: expected options, got ${describe(options)}`);
    const { keep, recompute } = options;
    if (keep === undefined && recompute === undefined) return new CheckpointPolicy(() => false, true);
    const out = recompute === undefined ? (): boolean => false : naming(namesOf(recompute, where, 'recompute'));
    const within = keep === undefined ? (): boolean => true : typeof keep === 'function' ? keep : naming(namesOf(keep, where, 'keep'));
    return new CheckpointPolicy((call) => !out(call) && within(call), false);
  }
}

interface Like {
  readonly shape: Shape;
  readonly dtype: DType;
}

interface Result {
  readonly op: NativeOpName;
  readonly module: string;
  /** null once they were changed in place. */
  tensors: readonly { readonly tensor: Tensor; readonly version: number }[] | null;
}

/** Another tensor over the same memory, without a history. */
const again = ({ storage, shape, strides, offset, dtype }: Tensor): Tensor => new Tensor(storage, shape, strides, offset, dtype);
const show = (tensors: readonly Like[]): string => tensors.map(({ shape, dtype }) => `${showShape(shape)} ${dtype}`).join(', ');

/** The results that one checkpoint keeps. */
export class KeptResults {
  private readonly results: Result[] = [];
  private readonly within: CheckpointOp[] = [];
  /** Position of the result that is taken next; null in the first run. */
  private next: number | null = null;
  /** In a call that is kept as a whole. */
  private inside = false;

  constructor(
    private readonly policy: CheckpointPolicy,
    private readonly where: string,
  ) {}

  /** Runs a function that policies may name; it does not wait for anything. */
  during<T>(name: CheckpointOp, fn: () => T): T {
    this.within.push(name);
    try {
      return fn();
    } finally {
      this.within.pop();
    }
  }

  /** Results of a call that writes to nothing else: of the first run where they were kept. `expected`: what they are, where that is known before. */
  of(op: NativeOpName, make: () => Tensor[], expected: readonly Like[] | null = null): Tensor[] {
    const { module } = context();
    if (this.inside || !this.policy.keeps({ op, within: this.within, module })) return make();
    if (this.next === null) {
      const made = this.alone(make);
      for (const t of made) t.storage.save();
      this.results.push({ op, module, tensors: made.map((t) => ({ tensor: again(t), version: t.storage.version })) });
      return made;
    }
    const found = this.results[this.next++];
    if (found?.op !== op || found.module !== module) {
      const first = found ? `${found.op} in ${found.module || 'no module'}` : 'nothing more';
      throw new AutogradError(
        `${this.where}: the recomputation ran ${op} in ${module || 'no module'} where the first run kept ${first}; it must be deterministic`,
      );
    }
    this.check(found);
    if (!found.tensors) return this.alone(make);
    const kept = found.tensors.map(({ tensor }) => tensor);
    if (expected && !(kept.length === expected.length && kept.every((t, i) => sameShape(t.shape, expected[i]!.shape) && t.dtype === expected[i]!.dtype)))
      throw new AutogradError(`${this.where}: ${op} in ${module || 'no module'} gave ${show(kept)} in the first run and gives ${show(expected)} now`);
    return kept.map(again);
  }

  /** The first run has ended. */
  seal(): void {
    for (const result of this.results) this.check(result);
  }
  /** The second run begins. */
  rewind(): this {
    this.next = 0;
    return this;
  }
  /** It has ended. */
  finish(): void {
    if (this.next !== this.results.length)
      throw new AutogradError(
        `${this.where}: the recomputation asked for ${this.next} of the ${this.results.length} results that the first run kept; it must be deterministic`,
      );
  }
  /** Lets go of everything. */
  release(): void {
    for (const result of this.results) this.drop(result);
  }

  private alone(make: () => Tensor[]): Tensor[] {
    this.inside = true;
    try {
      return make();
    } finally {
      this.inside = false;
    }
  }

  private check(result: Result): void {
    if (result.tensors?.some(({ tensor, version }) => tensor.storage.version !== version)) this.drop(result);
  }
  private drop(result: Result): void {
    for (const { tensor } of result.tensors ?? []) tensor.storage.unsave();
    result.tensors = null;
  }
}

/**
 * A product that GELU rides on, for policies that name either: its result, and if `product` makes it, what enters GELU. That is what
 * a checkpoint keeps of the two, and the other is made from it.
 */
export function withGelu(expected: Like | null, product: () => Tensor[], gelu: (x: Tensor) => Tensor): [Tensor, Tensor | undefined] {
  const { kept } = context();
  if (kept === null) return product() as [Tensor, Tensor];
  let made: Tensor | null = null;
  const [before] = kept.during('gelu', () =>
    kept.of(
      'matmul',
      () => {
        const [after, entered] = product() as [Tensor, Tensor];
        made = after;
        return [entered];
      },
      expected && [expected],
    ),
  ) as [Tensor];
  return [made ?? withContext({ kept: null }, () => gelu(before)), before];
}

/** What `make` gives, as one call of `op`, where it is more than one, or works in place on what it has made. */
export function keptAs(op: NativeOpName, make: () => Tensor[]): Tensor[] {
  const { kept } = context();
  return kept === null ? make() : kept.of(op, make);
}
