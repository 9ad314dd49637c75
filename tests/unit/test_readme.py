"""README.md is the rendering of `nbs/index.ipynb`, and the map of chapters is what the chapters say of themselves."""
import re

import pytest
from execnb.nbio import read_nb

import readme

AGAIN = 'make readme brings them together'


@pytest.fixture(scope='module')
def index(root): return read_nb(root/'nbs'/'index.ipynb')


def test_the_map_names_every_chapter(root, index):
    cell = next(c for c in index.cells if c.source.startswith(readme.MAP))
    assert cell.source == readme.chapter_map(root), AGAIN


def test_the_readme_is_the_rendering_of_the_index(root, index):
    text, pictures = readme.render(index)
    assert (root/'README.md').read_text(encoding='utf-8') == text, AGAIN
    assert {f'{readme.PICTURES}/{o.name}': o.read_bytes() for o in (root/readme.PICTURES).iterdir()} == pictures, AGAIN


def test_every_link_of_the_readme_leads_somewhere(root):
    links = re.findall(r'\]\(([^)\s]+)\)', (root/'README.md').read_text(encoding='utf-8'))
    local = [o for o in links if not re.match(r'[a-z]+:|#', o)]
    assert local and [o for o in local if not (root/o).exists()] == []


def test_links_are_turned_to_the_folder_above():
    text = '[a](04_x.ipynb) [b](../CONTRIBUTING.md) [c](https://x.org/y) [d](#part) ![e](library/pic.png)'
    assert readme.turn_links(text) == '[a](nbs/04_x.ipynb) [b](CONTRIBUTING.md) [c](https://x.org/y) [d](#part) ![e](nbs/library/pic.png)'


def test_the_first_sentence_goes_into_the_map():
    assert readme.first_sentence('You will have\nbuilt it. Then more.') == 'You will have built it.'
