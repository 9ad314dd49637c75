"""Turn the notebooks and the texts of the repository into pages for the documentation site.

`collect(root)` lists the pages. `notebook_page` and `text_page` write one of them for Sphinx: with links that lead to the same place on the site,
without nbdev's directives, with imports folded, and on chapters and exercises with buttons that open the notebook elsewhere.
Nothing is executed: the pages show the outputs that the notebooks were saved with. The text of a notebook may change at any time,
so nothing here depends on a heading or on the id of a cell.
"""
import ast
import html
import json
import os
import posixpath
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from setup_env import read_settings

HIDDEN = 'nbs/checks/', 'nbs/app/'  # the exercises' solutions, and the application, which only lives in a server
TEXTS = {'docs/application.md': 'guides/application.md', 'CHANGELOG.md': 'project/changelog.md', 'CONTRIBUTING.md': 'project/contributing.md',
         'SECURITY.md': 'project/security.md', 'CODE_OF_CONDUCT.md': 'project/conduct.md', 'benchmarks/README.md': 'project/benchmarks.md'}
HOME = 'nbs/index.ipynb', 'README.md'  # the site has a landing page of its own
LIBRARY = {'1_core': 'Core', '2_data': 'Data', '3_parts': 'Metrics, layers, optimizers', '4_learner': 'Learner and callbacks', '5_vision': 'Vision',
           '6_text': 'Text', '7_tabular': 'Tables and recommenders', '8_inference': 'Exported models', '9_course': 'The course'}


@dataclass(frozen=True)
class Page:
    "A page of the site: where it comes from in the repository, and the document it becomes."
    source: str  # path in the repository, such as nbs/01_intro.ipynb
    target: str  # path below the site's sources, such as 01_intro.ipynb

    @property
    def doc(self): return self.target.rpartition('.')[0]

    @property
    def section(self):
        "Which part of the site the page belongs to: chapters, exercises, library, samples, guides or project."
        folder, _, rest = self.target.partition('/')
        return folder if rest else 'chapters'


def collect(root):
    "Every page that is made from a file of the repository, in reading order."
    notebooks = [o.relative_to(root).as_posix() for o in sorted((root/'nbs').rglob('*.ipynb')) if '.ipynb_checkpoints' not in o.parts]
    pages = [Page(o, o[len('nbs/'):]) for o in notebooks if not o.startswith(HIDDEN) and o not in HOME]
    pages += [Page(f'docs/guides/{o.name}', f'guides/{o.name}') for o in sorted((root/'docs'/'guides').glob('*.md'))]
    return pages + [Page(source, target) for source, target in TEXTS.items() if (root/source).exists()]


# --- links ---------------------------------------------------------------------------------------------------------------

LINK = re.compile(r'(\]\()([^)\s]+)((?:\s+"[^"]*")?\))')
FENCE = re.compile(r'^ {0,3}(`{3,}|~{3,}|:{3,})')


def slug(title):
    "The anchor of a heading on the site: that of JupyterLab, with a hyphen for everything that is not a letter, a digit or an underscore."
    return re.sub(r'\W+', '-', re.sub(r'[`*]', '', title), flags=re.ASCII).strip('-')


def headings(root, source):
    "The anchors of the headings of a notebook or a Markdown file."
    text = (root/source).read_text(encoding='utf-8')
    if source.endswith('.ipynb'):
        text = '\n'.join(''.join(c['source']) for c in json.loads(text)['cells'] if c['cell_type'] == 'markdown')
    return {slug(m) for m in re.findall(r'^#{1,6} +(.+)$', text, re.M)}


def outside_code(text, change):
    "Apply `change` to the lines of a Markdown text that are not inside a fenced code block."
    out, fence = [], None
    for line in text.split('\n'):
        m = FENCE.match(line)
        if fence is None and m and m[1][0] != ':': fence = m[1]
        elif fence is not None:
            if m and m[1].startswith(fence) and not line.strip().strip(fence[0]): fence = None
        else: line = change(line)
        out.append(line)
    return '\n'.join(out)


class Links:
    "Turn links between files of the repository into links between pages. What has no page leads to the repository on GitHub."
    def __init__(self, root, pages, notes=None):
        self.root, self.notes = root, [] if notes is None else notes
        self.cfg = read_settings(root)
        self.targets = {**{o: 'index.md' for o in HOME}, **{o.source: o.target for o in pages}}
        self._headings = {}

    def on_github(self, path):
        kind = 'tree' if (self.root/path).is_dir() else 'blob'
        return f'{self.cfg["git_url"]}/{kind}/{self.cfg["branch"]}/{quote(path)}'

    def has_heading(self, source, anchor):
        if source not in self._headings: self._headings[source] = headings(self.root, source)
        return anchor in self._headings[source]

    def resolve(self, page, address):
        "The address for `page` that leads where `address`, relative to its source, leads in the repository."
        path, _, fragment = address.partition('#')
        if re.match(r'[a-z]+:', address) or not path: return address
        anchor = unquote(fragment)
        source = posixpath.normpath(posixpath.join(posixpath.dirname(page.source), unquote(path)))
        if source not in self.targets:
            if (self.root/source).exists(): return self.on_github(source)
            self.notes.append(f'{page.source}: there is no {source}')
            return self.on_github('')
        found = posixpath.relpath(self.targets[source], posixpath.dirname(page.target) or '.')
        if not anchor: return found
        if source not in HOME and self.has_heading(source, slug(anchor)): return f'{found}#{slug(anchor)}'
        self.notes.append(f'{page.source}: {source} has no heading #{anchor}; the link leads to the top of the page')
        return found

    def turn(self, page, text):
        def turned(line): return LINK.sub(lambda m: m[1] + self.resolve(page, m[2]) + m[3], line)
        return outside_code(text, turned)


# --- names that the API reference explains ---------------------------------------------------------------------------------

class Names:
    "Link the first mention of each public name on a page to its entry in the API reference."
    def __init__(self, entries):
        "`entries` are full names. A short name is linked if only one of them ends in it."
        self.full = {}
        for entry in entries: self.full.setdefault(entry.rpartition('.')[2], set()).add(entry)

    def link(self, text, seen):
        def role(m):
            name = m[1]
            full = self.full.get(name, ())
            if len(full) != 1 or name in seen or len(name) < 4: return m[0]
            seen.add(name)
            return f'{{py:obj}}`{name} <{min(full)}>`'
        def line_of(line):
            if re.match(r'#|\||<|    ', line): return line
            parts = re.split(r'(\[[^\]]*\]\([^)]*\))', line)  # a link is left alone
            return ''.join(o if i % 2 else re.sub(r'(?<![`}\w])`([A-Za-z_]\w*)`(?!`)', role, o) for i, o in enumerate(parts))
        return outside_code(text, line_of)


# --- notebooks -------------------------------------------------------------------------------------------------------------

DIRECTIVE = re.compile(r'^#\|.*(?:\n|$)', re.M)


def is_plumbing(source):
    "Whether the code only imports, or calls `setup_book`."
    try: body = ast.parse(source).body
    except SyntaxError: return False
    def plumbing(o): return isinstance(o, (ast.Import, ast.ImportFrom)) or (isinstance(o, ast.Expr) and ast.unparse(o) == 'setup_book()')
    return bool(body) and all(map(plumbing, body))


def launch_addresses(cfg, source):
    "Where the notebook `source` can be opened and run, by the name of the service."
    repo, path = f'{cfg["user"]}/{cfg["repo"]}', quote(source)
    return {'Colab': f'https://colab.research.google.com/github/{repo}/blob/{cfg["branch"]}/{path}',
            'Binder': f'https://mybinder.org/v2/gh/{repo}/{cfg["branch"]}?labpath={quote(source, safe="")}',
            'Codespaces': f'https://codespaces.new/{repo}?quickstart=1',
            'GitHub': f'{cfg["git_url"]}/blob/{cfg["branch"]}/{path}'}


def launch_buttons(cfg, source):
    "The row of buttons below the title of a chapter, and the line that installs the package in Colab."
    install = f"%pip install -q '{cfg['lib_name']}[all] @ git+{cfg['git_url']}'"
    links = ''.join(f'<a class="launch-button" href="{html.escape(o)}" rel="noopener">{"View on" if name == "GitHub" else "Open in"} {name}</a>'
                    for name, o in launch_addresses(cfg, source).items())
    return (f'```{{raw}} html\n<div class="launch">{links}</div>\n<details class="launch-note"><summary>Running in Colab?</summary>'
            f'<p>Add a cell at the top with this line and run it first:</p><pre>{html.escape(install)}</pre></details>\n```')


def output(out):
    "An output as the page shows it, or None for one that is only for programs."
    if 'data' not in out: return out
    data = {k: v for k, v in out['data'].items() if not k.startswith('application/vnd.')}
    if set(data) <= {'text/plain'} and len(data) < len(out['data']): return None
    return {**out, 'data': data}


def code_cell(cell):
    "A code cell without directives, its imports folded; None if nothing is left of it."
    source = ''.join(cell['source'])
    outputs = [o for o in map(output, cell.get('outputs', [])) if o]
    hidden = bool(re.search(r'^#\| *hide\b', source, re.M))
    source = DIRECTIVE.sub('', source).strip()
    if hidden or not (source or outputs): return None
    folded = is_plumbing(source) or cell.get('metadata', {}).get('jupyter', {}).get('source_hidden')
    return {**cell, 'source': source, 'outputs': outputs, 'metadata': {'tags': ['hide-input']} if folded else {}}


def below_title(text, added):
    "`text` with `added` after its first line, which is the title."
    title, _, rest = text.partition('\n')
    return f'{title}\n\n{added}\n{rest}'


def notebook_page(root, page, links, names):
    "The notebook of `page`, ready for Sphinx, as text."
    nb = json.loads((root/page.source).read_text(encoding='utf-8'))
    cells, seen = [], set()
    for cell in nb['cells']:
        if cell['cell_type'] == 'code': cell = code_cell(cell)
        elif cell['cell_type'] == 'markdown':
            text = names.link(links.turn(page, ''.join(cell['source'])), seen)
            if not cells and page.section in ('chapters', 'exercises'): text = below_title(text, launch_buttons(links.cfg, page.source))
            cell = {**cell, 'source': text, 'metadata': {}}
        if cell: cells.append(cell)
    meta = {'kernelspec': nb['metadata'].get('kernelspec', {'name': 'python3', 'display_name': 'Python 3', 'language': 'python'}),
            'language_info': {'name': 'python', 'pygments_lexer': 'ipython3'}, 'mystnb': {'execution_mode': 'off'}}
    return json.dumps({**nb, 'cells': cells, 'metadata': meta}, ensure_ascii=False)


def text_page(root, page, links, names):
    "A Markdown file of the repository, ready for Sphinx."
    return names.link(links.turn(page, (root/page.source).read_text(encoding='utf-8')), set())


def title_of(root, page):
    "The first heading of a page."
    text = (root/page.source).read_text(encoding='utf-8')
    if page.source.endswith('.ipynb'):
        text = next((''.join(c['source']) for c in json.loads(text)['cells'] if c['cell_type'] == 'markdown'), '')
    return next((o[2:].strip() for o in text.splitlines() if o.startswith('# ')), Path(page.source).stem)


def promise_of(root, page):
    "The first sentence below the title of a notebook."
    cells = json.loads((root/page.source).read_text(encoding='utf-8'))['cells']
    text = next((''.join(c['source']) for c in cells if c['cell_type'] == 'markdown'), '')
    paragraph = next((o for o in text.partition('\n')[2].split('\n\n') if o.strip()), '')
    sentence = re.split(r'(?<=[.!?]) ', ' '.join(paragraph.split()).lstrip('> '))[0]
    return LINK.sub('', sentence).replace('[', '')


def toctree(docs, caption='', depth=1, hidden=True):
    options = [f':caption: {caption}'] * bool(caption) + [f':maxdepth: {depth}'] + [':hidden:'] * hidden
    return '\n'.join(['```{toctree}', *options, '', *docs, '```'])


def chapter_number(page):
    "The number of a chapter as a reader says it: 1, 15b."
    return os.path.basename(page.source).partition('_')[0].lstrip('0')


def section_pages(root, pages):
    "The pages that only list others, by document: one for each section of the site."
    def of(section): return [o for o in pages if o.section == section]
    def listing(title, intro, rows, docs): return f'# {title}\n\n{intro}\n\n' + '\n'.join(rows) + '\n\n' + toctree(docs)
    chapters = of('chapters')
    rows = [f'| {chapter_number(o)} | [{title_of(root, o)}](../{o.target}) | {promise_of(root, o)} |' for o in chapters]
    found = {'chapters/index': listing('Chapters', 'The chapters are numbered as in the book. Read each from top to bottom.',
                                       ['| | chapter | outcome |', '| --- | --- | --- |', *rows], [f'/{o.doc}' for o in chapters])}
    rows = [f'- [{title_of(root, o)}](../{o.target})' for o in of('exercises')]
    intro = ('Each exercise is a stub that you fill in. A check tells you whether your answer is right, and hints help you if it is not. '
             'The checks need the package: open a notebook with `make lab`, or with one of the buttons on its page.')
    found['exercises/index'] = listing('Exercises', intro, rows, [f'/{o.doc}' for o in of('exercises')])
    body, docs = [], []
    for folder, title in LIBRARY.items():
        here = [o for o in of('library') if o.source.split('/')[2] == folder]
        if not here: continue
        body += [f'## {title}', '', *(f'- [{title_of(root, o)}](../{o.target})' for o in here), '', toctree([f'/{o.doc}' for o in here], title), '']
    body += ['## Built-in data sets', '', *(f'- [{title_of(root, o)}](../{o.target})' for o in of('samples')), '', toctree([f'/{o.doc}' for o in of('samples')], 'Built-in data sets')]
    intro = 'The package is generated from these notebooks. Each one builds and explains a module, in reading order. The [API reference](../api/index.md) lists what they export.'
    found['library/index'] = f'# Library\n\n{intro}\n\n' + '\n'.join(body)
    rows = [f'- [{title_of(root, o)}](../{o.target})' for o in of('project')]
    found['project/index'] = listing('Project', 'How the project is run, and how to take part.', rows, [f'/{o.doc}' for o in of('project')])
    return found
