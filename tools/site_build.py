"""Build the documentation site in `_docs/html` from the saved outputs of the notebooks: what `make docs` runs.

    python tools/site_build.py           # build; exit 1 if Sphinx warns or a link within the site leads nowhere
    python tools/site_build.py --serve   # show the site that was built, at an address of this machine

The steps: collect the pages (site_pages.py), write the API reference (site_api.py), run Sphinx, compress the figures, check the links.
"""
import argparse
import functools
import hashlib
import http.server
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote, urldefrag

from setup_env import ROOT, say
from site_api import api_pages
from site_pages import Links, Names, Page, chapter_number, collect, notebook_page, promise_of, section_pages, text_page, title_of

OUT = '_docs'
HOME_PAGE = Page('docs/index.md', 'index.md')


# --- the sources -----------------------------------------------------------------------------------------------------------

def write(path, text):
    "Write `text` unless the file holds it already, so that Sphinx builds only the pages that changed."
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.read_text(encoding='utf-8') == text: return
    path.write_text(text, encoding='utf-8')


def chapter_cards(root, pages):
    "The chapters as cards, for the landing page."
    cards = []
    for o in (p for p in pages if p.section == 'chapters'):
        cards += [f':::{{grid-item-card}} {chapter_number(o)} · {title_of(root, o)}', f':link: {o.doc}', ':link-type: doc', '', promise_of(root, o), ':::', '']
    return '\n'.join(['::::{grid} 1 1 2 2', ':gutter: 3', '', *cards, '::::'])


def write_sources(root, source):
    "Write every page for Sphinx to the folder `source`. Returns what a reader of the repository should know about its links."
    pages, notes = collect(root), []
    links = Links(root, pages, notes)
    api, entries = api_pages(root, links)
    names = Names(entries)
    texts = {f'{doc}.md': text for doc, text in section_pages(root, pages).items()}
    texts.update({f'{doc}.md': names.link(text, set()) for doc, text in api.items()})
    for page in pages:
        make = notebook_page if page.source.endswith('.ipynb') else text_page
        texts[page.target] = make(root, page, links, names)
    texts['index.md'] = text_page(root, HOME_PAGE, links, names).replace('<!-- chapters -->', chapter_cards(root, pages))
    for name, text in texts.items(): write(source/name, text)
    (source/'figures').mkdir(exist_ok=True)
    for o in (root/'README_files').glob('*.png'): shutil.copy(o, source/'figures')
    for o in source.rglob('*'):
        if o.suffix in ('.md', '.ipynb') and o.relative_to(source).as_posix() not in texts: o.unlink()
    return notes


# --- figures ---------------------------------------------------------------------------------------------------------------

def compressed(path, cache):
    "The figure at `path` as WebP. The cache keeps the result, because most figures stay the same between two builds."
    from PIL import Image
    data = path.read_bytes()
    kept = cache/f'{hashlib.sha256(data).hexdigest()[:32]}.webp'
    if not kept.exists():
        cache.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix('.part')
        with Image.open(path) as im: im.save(part, 'webp', quality=85, method=2)
        part.replace(kept)
    return kept


def compress_figures(html, cache):
    "Replace the pages' PNG and JPEG figures by WebP files where those are smaller, and load figures only when they are scrolled into view."
    smaller = {}
    for path in sorted((html/'_images').glob('*')):
        if path.suffix not in ('.png', '.jpg', '.jpeg'): continue
        webp = compressed(path, cache)
        if webp.stat().st_size >= path.stat().st_size: continue
        shutil.copy(webp, path.with_suffix('.webp'))
        smaller[path.name] = path.with_suffix('.webp').name
    def figure(m):
        tag = re.sub(r'_images/([^"]+)', lambda n: f'_images/{smaller.get(n[1], n[1])}', m[0])
        tag = re.sub(r'alt="[^"]*_images/[^"]*"', 'alt="Figure drawn by the code above"', tag)
        return tag.replace('<img ', '<img loading="lazy" ')
    for page in html.rglob('*.html'):
        text = page.read_text(encoding='utf-8')
        changed = re.sub(r'<img [^>]*_images/[^>]*>', figure, text)
        if changed != text: page.write_text(changed, encoding='utf-8')


# --- links -----------------------------------------------------------------------------------------------------------------

def page_links(text):
    "The addresses on a page, and the anchors that it has."
    text = re.sub(r'<script\b.*?</script>', '', text, flags=re.S)
    return set(re.findall(r'\s(?:href|src)="([^"]*)"', text)), set(re.findall(r'\s(?:id|name)="([^"]*)"', text))


def broken_links(html):
    "Links within the site that lead to no file or to no anchor, as sentences."
    from html import unescape
    found = {o: page_links(o.read_text(encoding='utf-8')) for o in html.rglob('*.html') if '_static' not in o.relative_to(html).parts}  # the theme's own templates
    broken = []
    for page, (addresses, _) in sorted(found.items()):
        for address in sorted(addresses):
            path, anchor = map(unquote, urldefrag(unescape(address)))
            path = path.partition('?')[0]
            if re.match(r'[a-z]+:|//', path): continue
            target = (page.parent/path).resolve() if path else page
            if target.is_dir(): target /= 'index.html'
            name = page.relative_to(html)
            if not target.exists(): broken.append(f'{name}: {address} leads to no file')
            elif anchor and target in found and anchor not in {unescape(o) for o in found[target][1]}:
                broken.append(f'{name}: {address} leads to no anchor')
    return broken


# --- the commands ------------------------------------------------------------------------------------------------------------

def sphinx(root, source, html):
    "Run Sphinx. A warning fails the build."
    cmd = [sys.executable, '-m', 'sphinx', '-b', 'html', '-q', '-W', '--keep-going', '-c', str(root/'docs'), '-d', str(html.parent/'doctrees'), str(source), str(html)]
    return subprocess.run(cmd, cwd=str(root)).returncode


def build(root=ROOT, out=None):
    "Build the site in `out`/html. Returns the exit code."
    start, out = time.time(), out or root/OUT
    source, html = out/'source', out/'html'
    for o in write_sources(root, source): say(f'note: {o}')
    if sphinx(root, source, html): return 1
    compress_figures(html, out/'figures')
    broken = broken_links(html)
    for o in broken: say(f'broken link: {o}')
    pages = list(html.rglob('*.html'))
    say(f'{len(pages)} pages in {time.time()-start:.0f} s, {len(broken)} broken links: {html/"index.html"}')
    return 1 if broken else 0


def serve(html, port):
    "Serve the folder `html` to this machine until Ctrl-C."
    if not (html/'index.html').exists():
        say('There is no site yet: run `make docs` first.', file=sys.stderr)
        return 2
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    with http.server.ThreadingHTTPServer(('127.0.0.1', port), functools.partial(Quiet, directory=str(html))) as server:
        say(f'The site is at http://127.0.0.1:{server.server_address[1]}/ (Ctrl-C stops it).')
        try: server.serve_forever()
        except KeyboardInterrupt: return 0


def main(args):
    p = argparse.ArgumentParser(description='Build the documentation site.')
    p.add_argument('--serve', action='store_true', help='show the site that was built')
    p.add_argument('--port', type=int, default=8000, help='the port for --serve (default: 8000)')
    p.add_argument('--out', type=Path, default=ROOT/OUT, help="the folder to build in (default: _docs)")
    given = p.parse_args(args)
    return serve(given.out/'html', given.port) if given.serve else build(out=given.out.resolve())


if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
