"The drawn PASCAL 2007: the original's layout and tables, several things in a picture, and a box around each."
import csv
import hashlib
import json
import random
from collections import Counter
from functools import partial

import pytest
from PIL import Image

from fastbook_impl.data.external import URLs, untar_data
from fastbook_impl.samples.pets import Pen
from fastbook_impl.samples.core import find_sample
from fastbook_impl.samples.pascal import COMPANY, KINDS, _cast, _cells, _deal, draw_scene, make_pascal

NAMES = '''aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep sofa train tvmonitor'''.split()


def rows(path): return list(csv.DictReader(open(path, newline='')))
def digest(path): return hashlib.sha256(b''.join(o.relative_to(path).as_posix().encode()+o.read_bytes() for o in sorted(path.rglob('*')) if o.is_file())).hexdigest()


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    dest = tmp_path_factory.mktemp('pascal')
    make_pascal(dest, (30, 10, 4))
    return dest


def test_the_sample_is_registered():
    sample = find_sample('PASCAL_2007')
    assert sample.make is make_pascal and make_pascal.__defaults__ == ((825, 275, 100),) and all(str(n) in sample.about for n in (825, 275, 100))


def test_untar_data_makes_it(home, monkeypatch):
    monkeypatch.setattr(find_sample('PASCAL_2007'), 'make', partial(make_pascal, counts=(3, 1, 1)))
    path = untar_data(URLs.PASCAL_2007)
    assert path.name == 'pascal_2007' and len(rows(path/'train.csv')) == 4 and len(list((path/'test').iterdir())) == 1


def test_layout(small):
    assert sorted(o.name for o in small.iterdir()) == ['test', 'test.csv', 'test.json', 'train', 'train.csv', 'train.json', 'valid.json']
    assert (small/'train.csv').read_text().split('\n')[0] == 'fname,labels,is_valid' and (small/'test.csv').read_text().split('\n')[0] == 'fname,labels'
    train, test = rows(small/'train.csv'), rows(small/'test.csv')
    assert Counter(r['is_valid'] for r in train) == {'False': 30, 'True': 10} and len(test) == 4
    for part, table in (('train', train), ('test', test)):
        assert [r['fname'] for r in table] == sorted(o.name for o in (small/part).iterdir())
        assert all(len(r['fname']) == 10 and set(r['labels'].split(' ')) <= set(NAMES) for r in table)
        assert all(len(o) == len(set(o)) for o in (r['labels'].split(' ') for r in table))
    with Image.open(next((small/'train').iterdir())) as im: assert im.format == 'JPEG' and im.mode == 'RGB' and min(im.size) == 160


def test_the_parts_are_mixed():
    parts = [part for _, part in _deal((825, 275, 100))]
    assert Counter(parts) == {0: 825, 1: 275, 2: 100}
    for k in range(0, 1200, 300): assert 45 < parts[k:k+300].count(1) < 95


def test_boxes_are_inside_and_agree_with_the_table(small):
    names, labels, seen = NAMES, {r['fname']: r for r in rows(small/'train.csv')+rows(small/'test.csv')}, []
    for part in ('train', 'valid', 'test'):
        coco = json.loads((small/f'{part}.json').read_text())
        assert [o['name'] for o in coco['categories']] == names and [o['id'] for o in coco['categories']] == list(range(1, 21))
        for im in coco['images']:
            seen.append(im['file_name'])
            with Image.open(small/('test' if part == 'test' else 'train')/im['file_name']) as image: assert image.size == (im['width'], im['height'])
            mine = [o for o in coco['annotations'] if o['image_id'] == im['id']]
            assert {names[o['category_id']-1] for o in mine} == set(labels[im['file_name']]['labels'].split(' '))
            assert part == 'test' or labels[im['file_name']]['is_valid'] == str(part == 'valid')
            for x, y, w, h in (o['bbox'] for o in mine): assert 0 <= x < x+w <= im['width'] and 0 <= y < y+h <= im['height'] and w*h > .02*im['width']*im['height']
    assert sorted(seen) == sorted(labels)


def test_every_run_writes_the_same_bytes(small, tmp_path):
    make_pascal(tmp_path, (30, 10, 4))
    assert digest(tmp_path) == digest(small)


def test_how_many_kinds_a_picture_has():
    parts, seen = _deal((825, 275, 100)), {0: Counter(), 1: Counter(), 2: Counter()}
    for name, part in parts: seen[part].update(_cast_of(name)[1])
    total = sum(seen.values(), Counter())
    assert 2.2 < sum(total.values())/1200 < 2.5
    assert set(seen[0]) == set(seen[1]) == set(seen[2]) == set(NAMES) and min(seen[1].values()) >= 20 and total.most_common(1)[0][0] == 'person'


def _cast_of(name):
    "What `draw_scene` begins with."
    return _cast(random.Random(f'scene/{name[:6]}'))


def test_the_cast_is_what_is_drawn():
    for n in range(12):
        name = f'{n:06d}'
        assert {kind for kind, _ in draw_scene(name, 48)[1]} == set(_cast_of(name)[1])


@pytest.mark.parametrize('name', NAMES)
def test_every_kind(name):
    def drawn(seed):
        image = Image.new('RGB', (240, 240), (1, 2, 3))
        KINDS[name](Pen(image).at(120, 120, 100), random.Random(seed))
        return image
    x0, y0, x1, y1 = Image.eval(drawn(0), lambda v: 255*(v > 3)).convert('L').getbbox()
    assert drawn(0).tobytes() == drawn(0).tobytes() and max(x1-x0, y1-y0) > 150 and 180 < y1 < 240  # stands on the lower edge, or flies a little above
    assert len({drawn(seed).tobytes() for seed in range(8)}) > 2


def test_a_scene():
    a, b = draw_scene(3), draw_scene(3)
    assert a[0].tobytes() == b[0].tobytes() and a[1] == b[1] and draw_scene(4)[0].tobytes() != a[0].tobytes()
    assert draw_scene(3, (64, 48))[0].size == (64, 48) and min(draw_scene(3, 100)[0].size) == 100
    assert sorted(KINDS) == NAMES and set(sum((near for _, near in COMPANY), [])) == set(NAMES)


@pytest.mark.parametrize('wide', (4/3, 3/4))
def test_cells_are_in_the_picture(wide):
    for n in (1, 2, 3, 4):
        for seed in range(5):
            cells = list(_cells(n, wide, random.Random(seed)))
            assert len(cells) == n and all(0 < x < wide and 0 < y < 1 and .15 < r < .66 for x, y, r in cells)
