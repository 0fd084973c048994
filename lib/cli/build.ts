// `shardgrad build`: compiles the addon of an installed package, for systems without a prebuilt binary or for GPUs of one's own choice.
// The only way in which anything is ever compiled there.
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { UsageError } from '../distributed/launcher/options.js';
import { packageRoot } from '../load_addon.js';

const HELP = `shardgrad build [--gpus LIST]

Compiles the native part of this package from its sources and puts it where it is preferred to the prebuilt binary. Needs CMake,
Ninja and g++ 12 or clang 15, or newer; with nvcc (CUDA 13) device cuda is built too, which takes some minutes.

  --gpus LIST   the GPUs to compile for: "release" for all, or CMake's notation, such as "86;120-real" (default: H100 and H200)
`;

/** Resolves to the exit code of the build. */
export async function build(args: readonly string[]): Promise<number> {
  let values: { gpus?: string | undefined; help?: boolean | undefined };
  try {
    ({ values } = parseArgs({ args: [...args], options: { gpus: { type: 'string' }, help: { type: 'boolean', short: 'h' } } }));
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
  if (values.help) {
    process.stdout.write(HELP);
    return 0;
  }
  const env = values.gpus === undefined ? process.env : { ...process.env, SHARDGRAD_CUDA_ARCHITECTURES: values.gpus };
  const child = spawn(process.execPath, [join(packageRoot(), 'scripts', 'build-native')], { stdio: 'inherit', env });
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (code) => resolve(code ?? 1));
  });
}
