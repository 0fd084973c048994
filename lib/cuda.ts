// GPUs: what there is, and what may be set. Asking costs nothing where there is none; using device cuda there throws.
import { DeviceError, describe, fromNative, ValueError } from './errors.js';
import { native } from './native.js';

/** Ranges and marks for the profilers of NVIDIA. */
export * as nvtx from './nvtx.js';

/** One GPU, as the driver describes it. */
export interface GpuProperties {
  /** As the driver names it: NVIDIA H100 80GB HBM3. */
  readonly name: string;
  /** Compute capability: 9.0. */
  readonly capability: string;
  /** How many streaming multiprocessors it has. */
  readonly multiprocessors: number;
  /** All of its memory. */
  readonly bytes: number;
  /** Where it sits on the PCI bus. */
  readonly busId: string;
}

/** A library that is looked for at run time. */
export interface FoundLibrary {
  /** `cuBLASLt` or `NCCL`. */
  readonly name: string;
  /** Empty: it was not found. */
  readonly path: string;
  /** What it says of itself; empty if it was not found. */
  readonly version: string;
  /** What was tried before, and why it would not do. */
  readonly tried: readonly string[];
}

/** What `report` finds. */
export interface CudaReport {
  /** Why there is no GPU; empty where there is one. */
  readonly problem: string;
  /** The newest CUDA that the driver knows; empty: not known. */
  readonly driver: string;
  /** The CUDA that this binary was built with; empty: without CUDA. */
  readonly runtime: string;
  /** The GPUs that can be used, in the order of their numbers. */
  readonly gpus: readonly GpuProperties[];
  /** Those that are looked for at run time, found or not. */
  readonly libraries: readonly FoundLibrary[];
}

/** Driver, GPUs and libraries, and the reason of every miss. `shardgrad doctor` prints it. */
export function report(): CudaReport {
  return native.cudaReport();
}
/** Whether device `cuda` can be used here. */
export function isAvailable(): boolean {
  return report().gpus.length > 0;
}
/** How many GPUs there are: cuda:0 to cuda:n − 1. */
export function deviceCount(): number {
  return report().gpus.length;
}
/** What GPU `index` is. */
export function deviceProperties(index = 0): GpuProperties {
  const { gpus, problem } = report();
  const found = gpus[index];
  if (found) return found;
  throw new DeviceError(`cuda.deviceProperties: there is no cuda:${describe(index)}: ${problem || `this machine has ${gpus.length} GPUs`}`);
}

/**
 * How precise float32 products are on GPUs: `highest` computes in float32 (the default, as in PyTorch), `high` lets the tensor cores
 * round the inputs to TF32, which has 10 bits of mantissa, for several times the speed. Holds for what is enqueued from now on.
 */
export function setFloat32MatmulPrecision(precision: 'highest' | 'high'): void {
  if (precision !== 'highest' && precision !== 'high') {
    throw new ValueError(`setFloat32MatmulPrecision: expected highest or high, got ${describe(precision)}`);
  }
  try {
    native.configure({ matmulTf32: precision === 'high' });
  } catch (error) {
    throw fromNative(error);
  }
}
