// The sidebars of the API reference, from the tree that typedoc writes: each namespace has one of its own, since one with all 800 names in
// it would be unreadable, and be part of 800 pages.
import { existsSync, readFileSync } from 'node:fs';
import type { DefaultTheme } from 'vitepress';

type Item = DefaultTheme.SidebarItem;

const isNamespace = (item: Item): boolean => item.link !== undefined && item.items !== undefined;

/** Namespaces wherever they are in the tree, those within others after them. */
function namespacesIn(items: readonly Item[]): Item[] {
  return items.flatMap((item) => [...(isNamespace(item) ? [item] : []), ...namespacesIn(item.items ?? [])]);
}

/** `nn.init` for /api/shardgrad/nn/init.md; the packages by their own names. */
const nameOf = ({ text, link }: Item): string => {
  const path = link!.replace(/^\/api\/shardgrad\/?|\.md$/g, '').split('/');
  return path.length > 1 && path[0] !== 'distributed' ? path.join('.') : text!;
};

const withoutNamespaces = (items: readonly Item[]): Item[] =>
  items.flatMap((item) => {
    if (isNamespace(item)) return [];
    if (item.items === undefined) return [item];
    const inside = withoutNamespaces(item.items);
    return inside.length > 0 ? [{ ...item, collapsed: true, items: inside }] : [];
  });

/** By the folder or page that a sidebar belongs to; empty where the reference was not made. */
export function referenceSidebars(file: string): DefaultTheme.SidebarMulti {
  if (!existsSync(file)) return {};
  const namespaces = namespacesIn(JSON.parse(readFileSync(file, 'utf8')) as Item[]);
  const all = { text: 'API reference', items: namespaces.map((n) => ({ text: nameOf(n), link: n.link })) };
  const sidebars: DefaultTheme.SidebarMulti = {};
  for (const namespace of namespaces) {
    const { link, items } = namespace;
    const own = [all, { text: nameOf(namespace), items: withoutNamespaces(items ?? []) }];
    sidebars[link!] = own;
    sidebars[link!.replace(/\.md$/, '/')] = own;
  }
  // of keys with equally many parts the first that fits counts
  return { ...sidebars, '/api/': [all] };
}
