// What a user does first: install the package from one file, on a machine without a network, a compiler or CUDA, and run the README's
// example. On every Node and from every TypeScript that test/install has; with the checks of publint and attw, where they are there.
import { spawnSync } from 'node:child_process';
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { newFolder, nodes, type Packed, Project, pack, readmeExample, root, tool, typescripts } from './helpers/installed.js';

const MEGABYTE = 1e6;
const example = readmeExample();
const CURVE = /^100 0\.\d{5}\n200 0\.\d{5}\n300 0\.\d{5}\n$/;
const WORKER = "const { Worker } = require('node:worker_threads');\nnew Worker('./example.mjs').on('error', (error) => { throw error; });\n";

describe.skipIf(process.platform !== 'linux' || process.arch !== 'x64')('the package from its tarball', () => {
  let packed: Packed;
  let project: Project;
  let seconds: number;

  const prebuild = (...args: string[]) => spawnSync(join(root, 'scripts', 'prebuild'), args, { cwd: root, encoding: 'utf8' });

  beforeAll(() => {
    const made = prebuild('--as-built');
    if (made.status !== 0) throw new Error(made.stderr);
    packed = pack();
    project = new Project();
    project.write('example.mjs', example.text);
    project.write('example.cjs', example.required);
    project.write('worker.cjs', WORKER);
    const before = performance.now();
    const install = project.install(packed.tarball);
    if (install.status !== 0) throw new Error(install.stderr);
    const first = project.run(process.execPath, 'example.mjs');
    seconds = (performance.now() - before) / 1000;
    if (first.status !== 0) throw new Error(first.stderr);
  });
  afterAll(() => {
    rmSync(project.folder, { recursive: true, force: true });
    rmSync(join(packed.tarball, '..'), { recursive: true, force: true });
  });

  test('from an empty folder to a trained model in a minute', () => {
    expect(example.text.trim().split('\n').length).toBeLessThanOrEqual(20);
    expect(seconds).toBeLessThan(60);
  });

  test.each(nodes)('%s: ESM, CommonJS and a worker thread give one training curve', (_, node) => {
    const curves = ['example.mjs', 'example.cjs', 'worker.cjs'].map((file) => {
      const run = project.run(node, file);
      expect(run.stderr).toBe('');
      return run.stdout;
    });
    expect(curves[0]).toMatch(CURVE);
    expect(new Set(curves).size).toBe(1);
  });

  test.each(typescripts)('%s: strict types of modules and of CommonJS, without those of Node; what it emits runs', (name, tsc) => {
    const [module, script, wrong] = ['example', 'script', 'wrong'].map((file) => `${file}${name.replace(/\W/g, '')}`);
    project.write(`${module}.mts`, example.text);
    project.write(`${script}.cts`, example.inFunction);
    project.write(`${wrong}.mts`, "import { zeros } from 'shardgrad';\nimport { init } from 'shardgrad/distributed';\nzeros('two');\ninit(2);\n");
    const compile = (...args: string[]) => project.run(process.execPath, tsc, '--strict', '--module', 'nodenext', '--target', 'es2022', ...args);
    const good = compile(`${module}.mts`, `${script}.cts`);
    expect(good.stdout).toBe('');
    expect(good.status).toBe(0);
    const errors = compile('--noEmit', `${wrong}.mts`).stdout.match(/^wrong.*?error TS\d+/gm) ?? [];
    expect(errors.map((error) => error.match(/\((\d+)/)![1])).toEqual(['3', '4']);
    for (const file of [`${module}.mjs`, `${script}.cjs`]) expect(project.run(process.execPath, file).stdout).toMatch(CURVE);
  });

  test('the command', () => {
    const cli = join('node_modules', '.bin', 'shardgrad');
    const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string };
    expect(project.run(process.execPath, cli, '--version').stdout).toBe(`${version}\n`);
    const doctor = project.run(process.execPath, cli, 'doctor');
    expect(doctor.status).toBe(0);
    expect(doctor.stdout).toContain(`shardgrad   ${version}, Node`);
    // only when it is told to does anything compile, and it says what is missing
    const build = project.run(process.execPath, cli, 'build');
    expect(build.status).toBe(1);
    expect(build.stderr).toMatch(/^build-native: cmake was not found; install it/);
  });

  test('only what is meant to be there, below 20 MB', () => {
    const SHIPPED =
      /^(dist\/bundle\/[\w-]+\.js|dist\/lib\/.*\.d\.ts|prebuilds\/linux-x64\/shardgrad\.glibc\.node|csrc\/.*\.(h|cc|cu|cuh|map)|cmake\/\w+\.cmake|node_modules\/node-gyp-build\/[\w.-]+|scripts\/build-native|CMakeLists\.txt|binding\.gyp|package\.json|README\.md|CHANGELOG\.md|LICENSE)$/;
    const paths = packed.files.map(({ path }) => path);
    expect(paths.filter((path) => !SHIPPED.test(path) || /^(csrc|cmake).*(emulat|test)/.test(path))).toEqual([]);
    const NEEDED = ['prebuilds/linux-x64/shardgrad.glibc.node', 'dist/bundle/index.js', 'dist/bundle/worker.js', 'dist/lib/index.d.ts', 'csrc/core/stream.cc'];
    expect(NEEDED.filter((path) => !paths.includes(path))).toEqual([]);
    expect(packed.size).toBeLessThan(20 * MEGABYTE);
    const { scripts = {} } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { scripts?: Record<string, string> };
    expect(Object.keys(scripts).filter((name) => /^(pre|post)?install$|^prepare$|^prebuild$/.test(name))).toEqual([]);
  });

  test('the same bytes when it is made again', () => {
    expect(prebuild('--as-built').stdout).toBe(prebuild('--as-built').stdout);
    const [one, two] = [pack(), pack()].map(({ tarball }) => readFileSync(tarball));
    expect(one!.equals(two!)).toBe(true);
  });

  const publint = tool('publint/src/cli.js');
  test.skipIf(!publint)('publint', () => {
    const run = spawnSync(process.execPath, [publint!, '--strict', packed.tarball], { encoding: 'utf8' });
    expect(run.stdout).toContain('All good!');
  });

  const attw = tool('@arethetypeswrong/cli/dist/index.js');
  test.skipIf(!attw)('attw: require() of a module is what every supported Node can do, and the test above does', () => {
    const rules = ['--ignore-rules', 'cjs-resolves-to-esm', '--profile', 'node16'];
    const run = spawnSync(process.execPath, [attw!, ...rules, packed.tarball], { encoding: 'utf8', env: { ...process.env, TMPDIR: newFolder('attw') } });
    expect(run.stdout).toContain('node16 (from CJS)');
    expect(run.status).toBe(0);
  });
});
