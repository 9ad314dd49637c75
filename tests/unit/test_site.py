"""The documentation site, without building it: which pages it has, where their links lead, and what the API reference says."""
import json
import re
from urllib.parse import unquote

import pytest

import site_api
import site_build
import site_pages
from course import chapters
from setup_env import read_settings


@pytest.fixture(scope='module')
def pages(root): return site_pages.collect(root)


@pytest.fixture(scope='module')
def links(root, pages): return site_pages.Links(root, pages)


@pytest.fixture(scope='module')
def api(root, links): return site_api.api_pages(root, links)


def page_of(pages, source): return next(o for o in pages if o.source == source)


def sources(nb): return [''.join(c['source']) for c in nb['cells']]


# --- which pages there are -------------------------------------------------------------------------------------------------

def test_every_chapter_and_its_exercises_have_a_page_and_are_listed(root, pages):
    listed = site_pages.section_pages(root, pages)
    cards = site_build.chapter_cards(root, pages)
    assert chapters(root)
    for path in chapters(root):
        assert f'](../{path.name})' in listed['chapters/index'] and f'\n/{path.stem}\n' in listed['chapters/index'] + '\n'
        assert f':link: {path.stem}\n' in cards
        if (root/'nbs'/'exercises'/path.name).exists(): assert f'\n/exercises/{path.stem}\n' in listed['exercises/index']


def test_every_notebook_of_the_library_is_listed(root, pages):
    listed = site_pages.section_pages(root, pages)['library/index']
    missing = [o.stem for o in (root/'nbs'/'library').rglob('*.ipynb') if '.ipynb_checkpoints' not in o.parts and f'/{o.parent.name}/{o.stem}\n' not in listed]
    assert missing == []


def test_solutions_have_no_page(pages):
    assert not [o for o in pages if 'checks' in o.source]


def test_every_guide_is_in_the_table_of_contents(root):
    index = (root/'docs'/'guides'/'index.md').read_text(encoding='utf-8')
    listed = re.search(r'```\{toctree\}\n:hidden:\n\n(.*?)```', index, re.S)[1].split()
    there = {o.stem for o in (root/'docs'/'guides').glob('*.md')} - {'index'} | {'application'}
    assert set(listed) == there and len(listed) == len(there)


def test_pages_do_not_overwrite_each_other(pages):
    targets = [o.target for o in pages]
    assert len(set(targets)) == len(targets)


# --- links -------------------------------------------------------------------------------------------------------------------

def test_the_links_of_guides_and_project_pages_lead_somewhere(root, pages):
    notes = []
    links = site_pages.Links(root, pages, notes)
    for o in [*pages, site_build.HOME_PAGE]:
        if o.source.endswith('.md'): links.turn(o, (root/o.source).read_text(encoding='utf-8'))
    assert notes == []


def test_links_between_notebooks_lead_between_pages(pages, links):
    page = page_of(pages, 'nbs/exercises/04_mnist_basics.ipynb')
    assert links.resolve(page, '../04_mnist_basics.ipynb') == '../04_mnist_basics.ipynb'
    assert links.resolve(page, '../library/1_core/04_losses.ipynb') == '../library/1_core/04_losses.ipynb'
    assert links.resolve(page, '../index.ipynb') == '../index.md'


def test_a_link_to_a_file_without_a_page_leads_to_the_repository(root, pages, links):
    url = read_settings(root)['git_url']
    page = page_of(pages, 'nbs/04_mnist_basics.ipynb')
    assert links.resolve(page, '../LICENSE') == f'{url}/blob/main/LICENSE'
    assert links.resolve(page, 'library') == f'{url}/tree/main/nbs/library'
    assert links.resolve(page, 'checks/00_engine.ipynb') == f'{url}/blob/main/nbs/checks/00_engine.ipynb'
    assert links.resolve(page, 'https://example.org/a.ipynb#b') == 'https://example.org/a.ipynb#b'


@pytest.fixture
def small(tmp_path):
    "A repository with two notebooks, one of which links to headings of the other."
    (tmp_path/'settings.ini').write_text('[DEFAULT]\nuser=u\nrepo=r\nbranch=main\nlib_name=r\ngit_url=https://example.org/u/r\n')
    (tmp_path/'nbs').mkdir()
    (tmp_path/'docs'/'guides').mkdir(parents=True)
    def notebook(name, *cells):
        nb = {'cells': [{'cell_type': kind, 'id': f'c{i}', 'metadata': {}, 'source': source, **({'outputs': [], 'execution_count': None} if kind == 'code' else {})}
                        for i, (kind, source) in enumerate(cells)], 'metadata': {}, 'nbformat': 4, 'nbformat_minor': 5}
        (tmp_path/'nbs'/name).write_text(json.dumps(nb))
    notebook('01_a.ipynb', ('markdown', '# A\n\nFirst. [there](02_b.ipynb#The-`fit`-method,-again!) [gone](02_b.ipynb#No-such-heading)'),
             ('code', '#| default_exp a'), ('code', '#| export\nimport os\nfrom math import *'), ('code', '#| hide\nx = 1'), ('code', '#| slow\nx = 2'))
    notebook('02_b.ipynb', ('markdown', '# B\n\nB.'), ('markdown', '## The `fit` method, again!'))
    return tmp_path


def rendered(root, source='nbs/01_a.ipynb', entries=()):
    pages, notes = site_pages.collect(root), []
    links = site_pages.Links(root, pages, notes)
    return json.loads(site_pages.notebook_page(root, page_of(pages, source), links, site_pages.Names(entries))), notes


def test_a_link_to_a_heading_keeps_it_and_one_to_a_missing_heading_leads_to_the_page(small):
    nb, notes = rendered(small)
    assert '](02_b.ipynb#The-fit-method-again)' in sources(nb)[0] and '[gone](02_b.ipynb)' in sources(nb)[0]
    assert len(notes) == 1 and 'No-such-heading' in notes[0]


def test_code_in_fences_is_not_taken_for_a_link(pages, links):
    text = 'a\n```\n[x](nowhere.ipynb)\n```\n'
    assert links.turn(page_of(pages, 'nbs/04_mnist_basics.ipynb'), text) == text


def test_broken_links_are_found(tmp_path):
    (tmp_path/'a.html').write_text('<a href="b.html#here">x</a><a href="b.html#gone">x</a><a href="c.html">x</a><a href="https://example.org">x</a><img src="d.png">')
    (tmp_path/'b.html').write_text('<h1 id="here">B</h1>')
    assert site_build.broken_links(tmp_path) == ['a.html: b.html#gone leads to no anchor', 'a.html: c.html leads to no file', 'a.html: d.png leads to no file']


# --- notebooks ---------------------------------------------------------------------------------------------------------------

def test_plumbing_is_folded_or_gone(small):
    nb, _ = rendered(small)
    code = [c for c in nb['cells'] if c['cell_type'] == 'code']
    assert [c['source'] for c in code] == ['import os\nfrom math import *', 'x = 2']
    assert [c['metadata'] for c in code] == [{'tags': ['hide-input']}, {}]


def test_chapters_have_buttons_with_well_formed_addresses(root, small):
    cfg = read_settings(root)
    for path in chapters(root):
        found = site_pages.launch_addresses(cfg, f'nbs/{path.name}')
        for address in found.values(): assert re.fullmatch(r'https://[\w.]+/[\w./?=%&-]+', address) and f'{cfg["user"]}/{cfg["repo"]}' in address
        for name in 'Colab', 'GitHub': assert (root/unquote(found[name].partition('/blob/main/')[2])).exists()
        assert (root/unquote(found['Binder'].partition('labpath=')[2])).exists()
    title, *rest = sources(rendered(small)[0])[0].split('\n')
    assert title == '# A' and 'colab.research.google.com/github/u/r/blob/main/nbs/01_a.ipynb' in '\n'.join(rest)


def test_outputs_for_programs_are_left_out():
    assert site_pages.output({'output_type': 'display_data', 'data': {'application/vnd.x+json': {}, 'text/plain': 'x'}}) is None
    kept = site_pages.output({'output_type': 'display_data', 'data': {'application/vnd.x+json': {}, 'text/html': '<b>x</b>'}})
    assert kept['data'] == {'text/html': '<b>x</b>'}


def test_the_first_mention_of_a_public_name_is_linked():
    names = site_pages.Names(['p.a.train_it', 'p.a.twice', 'p.b.twice'])
    text = '# `train_it`\n`train_it` and `train_it`, `twice`, [`train_it`](x.md)\n```\n`train_it`\n```'
    assert names.link(text, set()) == text.replace('\n`train_it` and', '\n{py:obj}`train_it <p.a.train_it>` and')


# --- the API reference ---------------------------------------------------------------------------------------------------------

MODULE = '''# AUTOGENERATED! DO NOT EDIT! File to edit: ../nbs/01_a.ipynb.
__all__ = ['Thing', 'make']

# %% ../nbs/01_a.ipynb #c2
class Thing(Base):
    "A thing."
    def __init__(self, size:int, # in pixels
        color='red', **kwargs    # name, or a *hex* number
    ): ...
    def draw(self, *, to=None): "Draw it."
    @property
    def area(self): "Its area."
    def _private(self): "Not for users."

@patch
def erase(self:Thing,
    slowly:bool=False # take a second
) -> bool: "Erase it."

def make(n, # how many
    ) -> list: "Make `n` things."
def helper(): "Not in __all__."
'''


def test_entries_have_signatures_docstrings_and_comments():
    found = {o.name: o for o in site_api.module_entries(MODULE, 'p.a', {'Thing': 'p.a.Thing'}.get)}
    assert set(found) == {'p.a.Thing', 'p.a.Thing.erase', 'p.a.make'}
    thing, erase, make = found['p.a.Thing'], found['p.a.Thing.erase'], found['p.a.make']
    assert thing.signature == "(size: int, color='red', **kwargs)" and thing.doc == 'A thing.' and thing.note == 'Bases: `Base`.'
    assert thing.params == {'size': 'in pixels', 'color, kwargs': 'name, or a *hex* number'}
    assert [(o.kind, o.name, o.signature) for o in thing.members] == [('method', 'p.a.Thing.draw', '(*, to=None)'), ('property', 'p.a.Thing.area', '')]
    assert erase.kind == 'method' and erase.signature == '(slowly: bool=False) -> bool' and erase.params == {'slowly': 'take a second'}
    assert make.signature == '(n) -> list' and make.params == {'n': 'how many'}


def test_defaults_stay_with_their_parameters_when_self_is_left_out():
    import ast
    f = ast.parse('def f(self=None, a=1, *b, c=2): pass').body[0]
    assert site_api.signature(f, True) == '(a=1, *b, c=2)'


def test_fine_tune_has_an_entry_that_links_to_its_source_and_its_notebook(root, api):
    pages, names = api
    assert 'fastbook_impl.learner.Learner.fine_tune' in names and len(set(names)) == len(names)
    text = pages['api/fastbook_impl.callback.schedule']
    entry = text[text.index('{py:method} Learner.fine_tune('):]
    assert entry.split('\n')[1] == ':module: fastbook_impl.learner'
    source, first, last = re.search(r'\[source\]\(\S+/blob/main/(\S+)#L(\d+)-L(\d+)\)', entry).groups()
    lines = (root/source).read_text(encoding='utf-8').splitlines()[int(first)-1:int(last)]
    assert lines[0] == '@patch' and lines[1].startswith('def fine_tune')
    notebook = re.search(r'explained in \[[^]]+\]\(\.\./(\S+\.ipynb)', entry)[1]
    assert (root/'nbs'/notebook).exists() and 'freeze_epochs' in entry


def test_every_module_with_entries_is_listed(api):
    pages, _ = api
    assert len(pages) > 40
    for doc in pages: assert doc == 'api/index' or f'\n{doc[len("api/"):]}\n' in pages['api/index']


# --- the repository's other pages ------------------------------------------------------------------------------------------------

def test_what_is_said_about_the_project_agrees_with_the_settings(root):
    cfg = read_settings(root)
    citation = (root/'CITATION.cff').read_text(encoding='utf-8')
    assert f'version: {cfg["version"]}\n' in citation and f'repository-code: {cfg["git_url"]}\n' in citation
    assert f'url: {cfg["doc_host"]}{cfg["doc_baseurl"]}/\n' in citation
    assert cfg['author_email'] in (root/'CODE_OF_CONDUCT.md').read_text(encoding='utf-8')


def test_the_containers_use_commands_and_files_that_exist(root):
    import tasks
    dev = json.loads((root/'.devcontainer'/'devcontainer.json').read_text())
    docker = (root/'docker'/'Dockerfile').read_text()
    assert (root/'.devcontainer'/dev['build']['dockerfile']).resolve() == root/'docker'/'Dockerfile'
    assert f'AS {dev["build"]["target"]}\n' in docker and dev['postCreateCommand'].split()[1] in tasks.TASKS
    assert '"make", "lab"' in docker and 'tools/setup_env.py --tests' in docker


def test_the_site_needs_what_is_locked_for_it(root):
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
    from setup_env import extras, lock_file, read_locked
    locked = {canonicalize_name(k): [re.match(r'[\w.-]+==([^\s;\\]+)', o)[1] for o in v] for k, v in read_locked(lock_file('docs', root)).items()}
    wanted = [Requirement(o) for o in extras(read_settings(root), 'docs')]
    assert [str(o) for o in wanted if not all(o.specifier.contains(v) for v in locked.get(canonicalize_name(o.name), ['0']))] == []
    assert 'torch' not in locked
