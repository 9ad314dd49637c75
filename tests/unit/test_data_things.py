"The drawn Imagenette: the original's layout and names, and noise in the labels of the training set alone."
import csv
import hashlib
from collections import Counter

import pytest
from PIL import Image

from fastbook_impl.samples.core import find_sample
from fastbook_impl.samples.imagenette import THINGS, _draw_large, draw_thing, make_imagenette, make_imagenette_320


def digest(image): return hashlib.sha256(image.tobytes()).hexdigest()


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    dest = tmp_path_factory.mktemp('imagenette')
    make_imagenette(dest, (6, 2))
    return dest


def test_the_sample_is_registered():
    assert find_sample('IMAGENETTE_160').make is make_imagenette and find_sample('IMAGENETTE').make is make_imagenette_320


@pytest.mark.parametrize('name', THINGS)
def test_every_thing(name):
    image = draw_thing(name, 3)
    assert image.mode == 'RGB' and min(image.size) == 160 and digest(image) == digest(draw_thing(name, 3))
    assert draw_thing(name, 4, (64, 48)).size == (64, 48) and digest(draw_thing(name, 4, 64)) != digest(draw_thing(name, 5, 64))


def test_layout(small):
    files = list(small.rglob('*.JPEG'))
    assert Counter(f.parent.parent.name for f in files) == {'train': 60, 'val': 20}
    assert {f.parent.name for f in files} == {wnid for _, wnid, _ in THINGS.values()} and len({f.name for f in files}) == 80
    with Image.open(files[0]) as im: assert im.format == 'JPEG' and im.mode == 'RGB'


def test_the_large_ones_are_the_same_drawings(small, tmp_path):
    make_imagenette(tmp_path, (1, 0), _draw_large)
    for file in tmp_path.rglob('*.JPEG'):
        with Image.open(file) as large, Image.open(small/file.relative_to(tmp_path)) as im:
            assert min(large.size) == 320 and large.size[0]*im.size[1] == large.size[1]*im.size[0]


def test_wrong_labels_are_for_training_only(small):
    rows = list(csv.DictReader(open(small/'noisy_imagenette.csv')))
    assert len(rows) == 80 and all((small/r['path']).exists() for r in rows)
    wrong = lambda p, valid: sum(r[f'noisy_labels_{p}'] != r['path'].split('/')[1] for r in rows if r['is_valid'] == valid)
    assert all(wrong(p, 'True') == 0 for p in (0, 1, 5, 25, 50))
    assert wrong(0, 'False') == 0 < wrong(25, 'False') < wrong(50, 'False') < 45
