// What is said when there is no binary to load: where it was looked for, what was there, and what helps on that system.
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';
import { explain, loadAddon, type System, thisSystem } from '../lib/load_addon.js';

const here: System = { platform: 'linux', arch: 'x64', node: '22.1.0', glibc: '2.36' };
const prebuilds = join('prebuilds', `${process.platform}-${process.arch}`);

function packageWith(files: Readonly<Record<string, string>>): string {
  const root = mkdtempSync(join(tmpdir(), 'loader-'));
  for (const [path, text] of Object.entries({ 'package.json': '{ "name": "shardgrad", "binary": { "glibc": "2.28" } }', ...files })) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  return root;
}

function messageOf(root: string, override?: string): string {
  try {
    loadAddon(root, override, () => here);
  } catch (error) {
    expect((error as { code: string }).code).toBe('ShardgradError');
    expect((error as Error).cause).toBeInstanceOf(Error);
    return (error as Error).message;
  }
  throw new Error('it loaded');
}

test('an installation without binaries: every place, then what may have happened', () => {
  const root = packageWith({});
  const lines = messageOf(root).split('\n');
  expect(lines[0]).toBe('no native binary of shardgrad could be loaded on linux-x64 with glibc 2.36, Node 22.1.0; tried');
  expect(lines.slice(1, 5)).toEqual([
    `  ${join(root, 'build', 'Release')}: no such folder`,
    `  ${join(root, 'build', 'Debug')}: no such folder`,
    `  ${join(root, prebuilds)}: no such folder`,
    `  ${join(dirname(process.execPath), prebuilds)}: no such folder`,
  ]);
  expect(lines.slice(5).join('\n')).toMatch(/^→ .*reinstall.*\n→ .*bundler.*external.*\n→ .*"npm run build".*"npx shardgrad build"/);
});

test('a damaged binary is named with the reason', () => {
  const root = packageWith({
    [join(prebuilds, 'shardgrad.glibc.node')]: 'not a library, but long enough for a header of one'.repeat(9),
    'build/Release/readme': '',
  });
  const lines = messageOf(root).split('\n');
  expect(lines[1]).toBe(`  ${join(root, 'build', 'Release')}: no binary in it`);
  expect(lines[3]).toMatch(new RegExp(`^  ${join(root, prebuilds, 'shardgrad.glibc.node')}: .*(invalid ELF header|slice is not valid|not a mach-o)`));
  expect(lines.at(-1)).toMatch(/→ the file is damaged.*reinstall/);
});

test.runIf(process.platform === 'linux')('a binary for another C library only, and one that the environment names', () => {
  const root = packageWith({ [join(prebuilds, 'shardgrad.musl.node')]: '' });
  expect(messageOf(root)).toContain(`${join(root, prebuilds)}: only shardgrad.musl.node, not for this system`);
  expect(messageOf(root, '/nowhere/x.node').split('\n')[1]).toMatch(/^ {2}\/nowhere\/x\.node \(SHARDGRAD_ADDON\): Cannot find module/);
});

test('what helps, system by system', () => {
  const remedy = (system: Partial<System>, reason = 'No native build was found'): string => explain({ ...here, ...system }, [], reason, '2.28').split('\n')[1]!;
  expect(remedy({ glibc: '' })).toMatch(/^→ musl, the C library of Alpine Linux, is not supported; use .*glibc 2\.28.*node:22-slim/);
  expect(remedy({ platform: 'darwin', arch: 'arm64', glibc: '' })).toMatch(/x64 Linux with glibc 2\.28 or newer only; "npx shardgrad build"/);
  expect(remedy({ arch: 'arm64' })).toContain('"npx shardgrad build"');
  expect(remedy({ glibc: '2.17' }, "/lib/libc.so.6: version `GLIBC_2.27' not found (required by shardgrad.glibc.node)")).toContain('needs glibc 2.28 or newer');
  expect(remedy({}, 'libcudart.so.12: cannot open shared object file')).toContain('build again');
  expect(explain({ ...here, platform: 'darwin', glibc: '' }, [], '', '2.28')).toContain('on darwin-x64, Node');
});

test('this system is known', () => {
  const system = thisSystem();
  expect(system.node).toBe(process.versions.node);
  if (process.platform === 'linux') expect(system.glibc).toMatch(/^(2\.\d+|)$/);
});
