// Links out of docs/, to sources, examples and raw results: they work in the repository as they are written. The site gets a copy of what
// they name under /files/, as text (a server would take .ts for a film), a folder with a list of what is in it. README.md is its home page.
import { cpSync, existsSync, mkdirSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import type { MarkdownRenderer } from 'vitepress';

export class RepositoryFiles {
  private readonly root: string;
  private readonly linked = new Set<string>();

  constructor(
    private readonly docs: string,
    private readonly base: string,
  ) {
    this.root = resolve(docs, '..');
  }

  /** Turns links out of docs/ to the copies; one to what does not exist is an error. */
  use(md: MarkdownRenderer): void {
    md.core.ruler.push('repository_files', ({ tokens, env }) => {
      for (const token of tokens.flatMap(({ children }) => children ?? [])) {
        const href = token.type === 'link_open' ? (token.attrGet('href') ?? '') : '';
        if (!/^\.\.?\//.test(href)) continue;
        const page = join(this.docs, env.relativePath as string);
        const target = resolve(dirname(page), href.replace(/#.*$/, ''));
        const path = relative(this.root, target);
        if (path === 'docs' || path.startsWith('docs/')) continue;
        if (!existsSync(target) || path.startsWith('..')) throw new Error(`docs/${env.relativePath}: dead link ${href}`);
        const home = path === 'README.md';
        if (!home) this.linked.add(path);
        token.attrSet('href', home ? this.base : `${this.base}files/${path}${statSync(target).isDirectory() ? '/index.html' : '.txt'}`);
        token.attrSet('target', '_self'); // not a page: the site's router leaves it to the browser
      }
    });
  }

  copy(site: string): void {
    for (const path of this.linked) this.copyOne(path, join(site, 'files'));
  }
  private copyOne(path: string, into: string): void {
    const from = join(this.root, path);
    if (!statSync(from).isDirectory()) {
      mkdirSync(dirname(join(into, path)), { recursive: true });
      cpSync(from, join(into, `${path}.txt`));
      return;
    }
    mkdirSync(join(into, path), { recursive: true });
    const inside = readdirSync(from, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1));
    for (const { name } of inside) this.copyOne(join(path, name), into);
    const rows = inside.map((entry) => `<li><a href="${entry.name}${entry.isDirectory() ? '/index.html' : '.txt'}">${entry.name}</a></li>`);
    const style = 'body{font:16px/1.6 system-ui,sans-serif;margin:2rem;color-scheme:light dark}';
    const page = `<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>${path}</title><style>${style}</style>`;
    writeFileSync(join(into, path, 'index.html'), `${page}<h1>${path}</h1><ul>${rows.join('')}</ul>\n`);
  }
}
