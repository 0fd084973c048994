// What devices can do at most, in floating-point operations a second: dense products on tensor cores, by NVIDIA's data sheets, at the boards'
// full power. For processors it is an estimate from cores, clock and the instruction set that kernels use.
import { readFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { type Device, getNumThreads } from '../device.js';
import { native } from '../native.js';

/** TeraFLOP/s; `float32` without TF32, which only `cuda.setFloat32MatmulPrecision('high')` allows. */
interface Peak {
  readonly name: RegExp;
  readonly half: number;
  readonly float32: number;
  readonly float64: number;
}

/** The first that fits counts. */
const GPUS: readonly Peak[] = [
  { name: /GB200|GB300/, half: 2500, float32: 80, float64: 40 },
  { name: /B300/, half: 2250, float32: 75, float64: 1.2 },
  { name: /B200/, half: 2250, float32: 75, float64: 37 },
  { name: /H100 PCIe/, half: 756, float32: 51, float64: 51 },
  { name: /H100 NVL/, half: 835, float32: 60, float64: 60 },
  { name: /H[12]00|GH200/, half: 989, float32: 67, float64: 67 },
  { name: /H800/, half: 989, float32: 67, float64: 1 },
  { name: /H20\b/, half: 148, float32: 44, float64: 1 },
  { name: /A[18]00/, half: 312, float32: 19.5, float64: 19.5 },
  { name: /L40S/, half: 362, float32: 91.6, float64: 1.4 },
  { name: /L40\b/, half: 181, float32: 90.5, float64: 1.4 },
  { name: /L4\b/, half: 121, float32: 30.3, float64: 0.5 },
  { name: /\bA40\b/, half: 149.7, float32: 37.4, float64: 0.6 },
  { name: /\bA30\b/, half: 165, float32: 10.3, float64: 10.3 },
  { name: /\bA10\b/, half: 125, float32: 31.2, float64: 0.5 },
  { name: /RTX 5090/, half: 209.5, float32: 104.8, float64: 1.6 },
  { name: /RTX 4090/, half: 165.2, float32: 82.6, float64: 1.3 },
  { name: /RTX 3090/, half: 71, float32: 35.6, float64: 0.6 },
];

/** float32 operations a core does in a cycle: two units of fused multiply-adds. */
const PER_CYCLE: Readonly<Record<string, number>> = { avx512: 64, avx2: 32, portable: 8 };

export interface DevicePeak {
  /** What the numbers are of: `NVIDIA H100 80GB HBM3`, `2 cores at 2.1 GHz, avx512 (estimated)`. */
  readonly name: string;
  /** FLOP/s for products of a dtype; null: not known. */
  flops(dtype: string): number | null;
}

/** GHz (0: not known), and the part of PER_CYCLE that this processor can do. */
function processor(): { readonly ghz: number; readonly part: number } {
  let info = '';
  try {
    // virtual machines have no scaling of frequencies that Node could ask
    info = readFileSync('/proc/cpuinfo', 'utf8');
  } catch {
    // no Linux
  }
  const ghz = (cpus()[0]?.speed || Number(/^cpu MHz\s*:\s*([\d.]+)/m.exec(info)?.[1] ?? 0)) / 1000;
  // Zen 4 does the 512 bits of AVX-512 in two halves
  const halves = native.isa === 'avx512' && /^vendor_id\s*:\s*AuthenticAMD$/m.test(info) && /^cpu family\s*:\s*25$/m.test(info);
  return { ghz, part: halves ? 0.5 : 1 };
}

const is16Bit = (dtype: string): boolean => dtype === 'float16' || dtype === 'bfloat16';

/** The peak of a device. Under emulation, and for GPUs that are not in the table, nothing is known. */
export function peakOf(device: Device): DevicePeak {
  if (device.type === 'cuda') {
    const name = native.cudaReport().gpus[device.index]?.name ?? '';
    const peak = GPUS.find((gpu) => gpu.name.test(name));
    return {
      name: name || String(device),
      flops: (dtype) => (peak ? 1e12 * (is16Bit(dtype) ? peak.half : dtype === 'float64' ? peak.float64 : peak.float32) : null),
    };
  }
  const cores = getNumThreads();
  const { ghz, part } = processor();
  // pairs of bfloat16 have an instruction there; other 16 bits are computed in float32
  const factor = (dtype: string): number => (dtype === 'float64' ? 0.5 : dtype === 'bfloat16' && native.isa === 'avx512' ? 2 : 1);
  const flops = (dtype: string): number | null => (ghz > 0 ? part * factor(dtype) * cores * ghz * 1e9 * (PER_CYCLE[native.isa] ?? 8) : null);
  return { name: `${cores} ${cores === 1 ? 'core' : 'cores'} at ${ghz.toFixed(1)} GHz, ${native.isa} (estimated)`, flops };
}
