// The site. Its pages are those of docs/, as they stand in the repository; the API reference is made before (`npm run docs:api`). It asks
// nothing of other hosts: fonts are the reader's own, the search index is a file. SHARDGRAD_DOCS_BASE=/shardgrad/ is for a site that is
// not at the root of its host.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { slug } from 'github-slugger';
import { type DefaultTheme, defineConfig } from 'vitepress';
import { referenceSidebars } from './reference_sidebar.js';
import { RepositoryFiles } from './repository_files.js';

const docs = fileURLToPath(new URL('..', import.meta.url));
const base = process.env['SHARDGRAD_DOCS_BASE'] ?? '/';
const files = new RepositoryFiles(docs, base);

/** The order of the guides; every page of the folder has a place here. */
const GUIDES = {
  'One process': ['first-model', 'data', 'mixed-precision', 'memory', 'checkpoints', 'profiling'],
  'Several processes': ['distributed', 'sharding', 'pipeline', 'clusters', 'air-gapped-gpus', 'troubleshooting'],
  Reference: ['from-pytorch', 'supported-versions'],
};
const INTERNALS = ['architecture', 'gpu', 'emulation'];

/** A page by its first heading. */
function item(page: string): DefaultTheme.SidebarItem {
  const text = readFileSync(join(docs, `${page}.md`), 'utf8').match(/^# (.+)$/m)?.[1];
  if (text === undefined) throw new Error(`docs/${page}.md has no heading`);
  return { text: text.replaceAll('`', ''), link: `/${page}` };
}

const written = readdirSync(join(docs, 'guide')).map((name) => name.replace(/\.md$/, ''));
const lost = written.filter((name) => !Object.values(GUIDES).flat().includes(name));
if (lost.length > 0) throw new Error(`docs/guide has pages without a place in the sidebar: ${lost.join(', ')}`);
const guides = Object.entries(GUIDES).map(([text, pages]) => ({ text, items: pages.map((page) => item(`guide/${page}`)) }));

export default defineConfig({
  title: 'shardgrad',
  description: 'Tensors, autograd and distributed training for TypeScript.',
  base,
  cleanUrls: false,
  lastUpdated: false,
  head: [['link', { rel: 'icon', href: `${base}icon.svg`, type: 'image/svg+xml' }]],
  markdown: {
    // as GitHub makes them, so that links to headings work there too
    anchor: { slugify: slug },
    config: (md) => files.use(md),
  },
  buildEnd: ({ outDir }) => files.copy(outDir),
  themeConfig: {
    search: { provider: 'local' },
    outline: [2, 3],
    nav: [
      { text: 'Guide', link: '/guide/first-model', activeMatch: '^/guide/(?!from-pytorch)' },
      { text: 'From PyTorch', link: '/guide/from-pytorch' },
      { text: 'API', link: '/api/', activeMatch: '^/api/' },
      { text: 'Benchmarks', link: '/benchmarks' },
      { text: 'Internals', link: '/architecture', activeMatch: '^/(architecture|gpu|emulation)' },
    ],
    sidebar: {
      '/guide/': guides,
      ...referenceSidebars(join(docs, 'api', 'typedoc-sidebar.json')),
      '/': [{ text: 'Internals', items: INTERNALS.map(item) }, { items: [item('benchmarks')] }],
    },
  },
});
