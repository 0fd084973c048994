// Finds the addon by node-gyp-build's order, and says why there is none: each place that was looked at with what was there, and
// what most likely helps on this system. Nothing is compiled here; `shardgrad build` does that when it is told to.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ShardgradError } from './errors.js';

/** The folder that holds package.json, whether this file runs from lib/, dist/lib/ or dist/bundle/. */
export function packageRoot(): string {
  let dir = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(dir, 'package.json'))) {
    const up = dirname(dir);
    if (up === dir) throw new ShardgradError('the package folder of shardgrad was not found above its own files');
    dir = up;
  }
  return dir;
}

/** What decides whether a binary can be loaded. */
export interface System {
  readonly platform: string;
  readonly arch: string;
  readonly node: string;
  /** Version of glibc as `2.36`; empty where the C library is another one. */
  readonly glibc: string;
}

export function thisSystem(): System {
  const report = process.report as { excludeNetwork?: boolean } & NodeJS.ProcessReport;
  report.excludeNetwork = true; // or it looks up names of hosts, which may take long
  const { header } = report.getReport() as unknown as { header: { glibcVersionRuntime?: string } };
  return { platform: process.platform, arch: process.arch, node: process.versions.node, glibc: header.glibcVersionRuntime ?? '' };
}

/** Loads the addon at `override`, or the one that node-gyp-build finds for the package at `root`. */
export function loadAddon(root: string, override: string | undefined, system: () => System = thisSystem): unknown {
  const require = createRequire(import.meta.url);
  let found = override;
  try {
    found ??= (require('node-gyp-build') as { resolve(dir: string): string }).resolve(root);
    return require(found);
  } catch (cause) {
    const reason = (cause as Error).message.trim().split('\n')[0]!;
    const places = override ? [`${override} (SHARDGRAD_ADDON): ${reason}`] : tried(root, found, reason);
    throw new ShardgradError(explain(system(), places, reason, neededGlibc(root)), { cause });
  }
}

/** node-gyp-build's places, and what became of each. */
function tried(root: string, found: string | undefined, reason: string): string[] {
  const prebuilds = join('prebuilds', `${process.platform}-${process.arch}`);
  const folders = [join(root, 'build', 'Release'), join(root, 'build', 'Debug'), join(root, prebuilds), join(dirname(process.execPath), prebuilds)];
  const places: string[] = [];
  for (const folder of folders) {
    if (found !== undefined && dirname(found) === folder) return [...places, `${found}: ${reason}`];
    const files = existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith('.node')) : undefined;
    places.push(
      `${folder}: ${files === undefined ? 'no such folder' : files.length > 0 ? `only ${files.join(', ')}, not for this system` : 'no binary in it'}`,
    );
  }
  return found === undefined && !/^No native build was found/.test(reason) ? [...places, `node-gyp-build: ${reason}`] : places;
}

function neededGlibc(root: string): string {
  return (JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { binary: { glibc: string } }).binary.glibc;
}

/** The message: what failed for which system, the places, the remedies. */
export function explain(system: System, places: readonly string[], reason: string, glibc: string): string {
  const { platform, arch, node } = system;
  const libc = platform !== 'linux' ? '' : system.glibc ? ` with glibc ${system.glibc}` : ' with another C library than glibc (musl?)';
  return [
    `no native binary of shardgrad could be loaded on ${platform}-${arch}${libc}, Node ${node}; tried`,
    ...places.map((place) => `  ${place}`),
    ...remedies(system, reason, glibc).map((remedy) => `→ ${remedy}`),
  ].join('\n');
}

const BUILD = '"npx shardgrad build" in the project compiles one (CMake, Ninja, g++ 12 or clang 15 or newer)';

function remedies({ platform, arch, glibc }: System, reason: string, needed: string): string[] {
  if (platform === 'linux' && !glibc) {
    return [
      `musl, the C library of Alpine Linux, is not supported; use a system with glibc ${needed} or newer, such as the image node:22-slim in place of node:22-alpine`,
    ];
  }
  if (platform !== 'linux' || arch !== 'x64') return [`the package holds a binary for x64 Linux with glibc ${needed} or newer only; ${BUILD}`];
  if (/version `GLIBC_[\d.]+' not found/.test(reason)) {
    return [`the binary needs glibc ${needed} or newer; use a newer system, or build on this one: ${BUILD}`];
  }
  if (/cannot open shared object file|undefined symbol/.test(reason)) {
    return [`a binary in build/ that was compiled elsewhere or before an update is preferred to the package's own: remove it, or build again: ${BUILD}`];
  }
  if (/invalid ELF header|file too short|wrong ELF class|Permission denied|failed to map segment|Cannot find module/.test(reason)) {
    return ['the file is damaged, missing or may not be executed: reinstall the package, on a file system without noexec'];
  }
  return [
    'the installation left files out, or was made for another system: reinstall the package on this one',
    'a bundler left the binary behind: mark shardgrad as external and ship node_modules/shardgrad',
    `in a source checkout "npm run build" compiles one; in an installed package: ${BUILD}`,
  ];
}
