"""What is saved in the notebooks: outputs that a reader may see, and nothing that only one machine knows."""
import re

import nbformat
import pytest

import verify

PLACES = re.compile(r'(?<![\w.~])/((home|root|Users|work|opt|var)/\w|tmp/(tmp|fb|ipykernel|pytest))|[A-Z]:\\Users')


def outputs(nb):
    "The number of each cell, counted from the top, with each of its outputs."
    return [(i, o) for i, c in enumerate(nb.cells, 1) for o in c.get('outputs', [])]


def text_of(out):
    return out.get('text') or '\n'.join(str(v) for k, v in out.get('data', {}).items() if not k.startswith('image/'))


@pytest.fixture(scope='module')
def saved(root):
    "Notebook, number of the cell, output: of every output saved in the course."
    return [(str(name), i, o) for name in verify.notebooks(root) for i, o in outputs(nbformat.read(root/name, as_version=4))]


def test_no_errors_and_no_warnings_are_saved(saved):
    bad = [(name, i, o.get('evalue') or o.text[:80]) for name, i, o in saved if o.output_type == 'error' or o.get('name') == 'stderr']
    assert bad == []


def test_no_widget_is_saved_whose_state_is_gone(saved):
    "Until its cell is run again, JupyterLab shows such a one as `Error displaying widget`."
    assert [(name, i) for name, i, o in saved if 'application/vnd.jupyter.widget-view+json' in o.get('data', {})] == []


def test_no_place_on_somebodys_machine_is_saved(saved):
    assert [(name, i, m[0]) for name, i, o in saved if (m := PLACES.search(text_of(o)))] == []


def test_every_notebook_says_what_it_is_about(root):
    "An H1, and below it a line on what the reader can do afterwards."
    bad = []
    for name in verify.notebooks(root):
        first = next((c.source for c in nbformat.read(root/name, as_version=4).cells if c.cell_type == 'markdown'), '')
        if not re.match(r'# \S.*\n+\S', first): bad.append(str(name))
    assert bad == []


def test_notebooks_are_stored_as_jupyterlab_stores_them(root):
    "Lines as lists, for instance. Otherwise the first save rewrites a notebook that nobody changed."
    def stored(text): return nbformat.writes(nbformat.reads(text, as_version=4), version=4).rstrip('\n')
    texts = {str(name): (root/name).read_text(encoding='utf-8') for name in verify.notebooks(root)}
    assert [name for name, text in texts.items() if stored(text) != text.rstrip('\n')] == []


def test_no_output_is_longer_than_a_page(saved):
    "Such as a list of all files, where the first few would do."
    assert [(name, i, len(text_of(o))) for name, i, o in saved if len(text_of(o)) > 6000 and 'text/html' not in o.get('data', {})] == []
