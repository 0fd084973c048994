// Copies npm packages and all they need out of one node_modules into another, without types, source maps and manuals. Licences stay.
import { cpSync, existsSync, readFileSync } from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';

const LEFT_OUT = /\.(d\.[cm]?ts|map|md|markdown|flow)$|(^|\/)(\.github|docs|man|test|tests|example|examples)(\/|$)/;
// esbuild's program a second time, and what would fetch it
const OF_ESBUILD = /^(bin\/esbuild|install\.js)$/;
const LICENCE = /licen[cs]e|copying|notice/i;

/** The folder of `name` as seen from `from`, looking upwards as Node does; null: not installed, as optional packages may be. */
function find(name, from, root) {
  for (let folder = from; folder.startsWith(root); folder = dirname(folder)) {
    const path = join(folder, 'node_modules', name);
    if (existsSync(join(path, 'package.json'))) return path;
  }
  return null;
}

/** The folders of these packages and of what they depend on. */
function closure(root, names) {
  const found = new Set();
  const waiting = names.map((name) => ({ name, from: root, needed: true }));
  for (let next = waiting.pop(); next; next = waiting.pop()) {
    const path = find(next.name, next.from, root);
    if (path === null && next.needed) throw new Error(`the npm package ${next.name} is not installed; run "npm ci" first`);
    if (path === null || found.has(path)) continue;
    found.add(path);
    const { dependencies = {}, optionalDependencies = {}, peerDependencies = {}, peerDependenciesMeta = {} } = JSON.parse(readFileSync(join(path, 'package.json'), 'utf8'));
    for (const name of Object.keys(dependencies)) waiting.push({ name, from: path, needed: !(name in optionalDependencies) });
    for (const name of Object.keys(optionalDependencies)) waiting.push({ name, from: path, needed: false });
    // what a package merely can work with stays out
    for (const name of Object.keys(peerDependencies)) if (!peerDependenciesMeta[name]?.optional) waiting.push({ name, from: path, needed: false });
  }
  return [...found];
}

/** Copies `names` and their needs from the checkout `root` into the folder `target`. */
export function copyPackages(root, names, target) {
  for (const path of closure(root, names)) {
    const filter = (source) => {
      const inside = relative(path, source);
      if (basename(path) === 'esbuild' && OF_ESBUILD.test(inside)) return false;
      return !inside.startsWith('node_modules') && (!LEFT_OUT.test(inside) || LICENCE.test(inside));
    };
    cpSync(path, join(target, relative(root, path)), { recursive: true, filter, dereference: true });
  }
}
