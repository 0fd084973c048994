// What estimateMemory finds out: bytes of one rank, in numbers and as a table.
import type { Peak, Usage } from '../dry_run.js';
import type { DeviceMesh } from './device_mesh.js';

/** Bytes of one rank by what they are for. */
export interface MemoryParts {
  /** Parameters, or this rank's pieces of them. */
  readonly parameters: number;
  /** Whole parameters of fullyShard, while they are gathered. */
  readonly gathered: number;
  /** What autocast keeps of parameters in 16 bits. */
  readonly casts: number;
  /** Buffers of modules. */
  readonly buffers: number;
  /** Gradients of parameters; the buckets of data parallelism, which hold them. */
  readonly gradients: number;
  /** States, masters and step counts. */
  readonly optimizer: number;
  /** What graphs keep for backward. */
  readonly activations: number;
  /** All else: inputs, gradients of activations, what is being sent. */
  readonly temporaries: number;
}

export function partsOf(usage: Usage): MemoryParts {
  return {
    parameters: usage.parameter,
    gathered: usage['gathered parameter'],
    casts: usage.autocast,
    buffers: usage.buffer,
    gradients: usage.gradient,
    optimizer: usage['optimizer state'],
    activations: usage.activation,
    temporaries: usage.temporary,
  };
}

const mebibytes = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

/** Bytes that one rank's training takes; `memory()` of its device shows them. All but `peak` and `building` are those of a later step. */
export class MemoryEstimate implements MemoryParts {
  /** Parameters, or this rank's pieces of them. */
  readonly parameters: number;
  /** Buffers of modules. */
  readonly buffers: number;
  /** When backward has ended. */
  readonly gradients: number;
  /** When the optimizer has stepped. */
  readonly optimizer: number;
  /** What forward leaves until backward, the batch and the loss included; with several micro-batches in flight, of all of them. */
  readonly activations: number;
  /** Beside the activations: whole parameters that stay gathered from forward to backward. */
  readonly gathered: number;
  /** Beside the activations: casts of parameters that autocast keeps. */
  readonly casts: number;
  /** What else stays from step to step: the state of a communication hook. */
  readonly temporaries: number;
  /** Highest number of live bytes in training: `memory().peak`. */
  readonly peak: number;
  /** What is going on then: `forward`, `backward` or `optimizer`; in the first step gradients are not in their buckets yet, for example. */
  readonly peakDuring: string;
  /** What the peak is made up of. */
  readonly atPeak: MemoryParts;
  /** Highest number of live bytes before training: while the model is made and spread. */
  readonly building: number;

  /** @internal */
  constructor(
    /** Whose bytes these are. */
    readonly rank: number,
    private readonly mesh: DeviceMesh,
    parts: MemoryParts,
    peak: Peak,
    building: Peak,
    /** Highest numbers of live bytes in training on other devices, by name: of optimizer state on the host, for example. */
    readonly elsewhere: Readonly<Record<string, number>>,
    /**
     * Floating-point operations of a step on this rank, recomputation included: 2 for a multiplication with its addition in products, convolutions and
     * attention, 1 for each element of what else is computed.
     */
    readonly operations: number,
  ) {
    this.parameters = parts.parameters;
    this.buffers = parts.buffers;
    this.gradients = parts.gradients;
    this.optimizer = parts.optimizer;
    this.activations = parts.activations;
    this.gathered = parts.gathered;
    this.casts = parts.casts;
    this.temporaries = parts.temporaries;
    this.peak = peak.bytes;
    this.peakDuring = peak.phase;
    this.atPeak = partsOf(peak.usage);
    this.building = building.bytes;
  }

  /** A table: each part by itself, and at the peak. */
  toString(): string {
    const rows = (Object.entries(this.atPeak) as [keyof MemoryParts, number][]).map(([name, atPeak]) => [name, this[name], atPeak] as const);
    const lines = rows
      .filter(([, alone, atPeak]) => alone || atPeak)
      .map(([name, alone, atPeak]) => `  ${name.padEnd(12)}${mebibytes(alone).padStart(14)}${mebibytes(atPeak).padStart(14)}`);
    const sizes = this.mesh.axes.filter((axis) => this.mesh.size(axis) > 1).map((axis) => `${axis} ${this.mesh.size(axis)}`);
    const place = sizes.length > 0 ? `rank ${this.rank} of ${sizes.join(' × ')}` : 'one rank';
    const head = `memory of ${place} on ${this.mesh.device}`;
    const total = `  ${'peak'.padEnd(26)}${mebibytes(this.peak).padStart(14)}  in ${this.peakDuring}`;
    const others = Object.entries(this.elsewhere).flatMap(([device, bytes]) =>
      bytes < 1024 ? [] : [`  ${`peak on ${device}`.padEnd(26)}${mebibytes(bytes).padStart(14)}`],
    );
    return [
      head,
      `  ${''.padEnd(12)}${'alone'.padStart(14)}${'at the peak'.padStart(14)}`,
      ...lines,
      total,
      `  ${'while it is built'.padEnd(26)}${mebibytes(this.building).padStart(14)}`,
      ...others,
    ].join('\n');
  }
}
