"The drawn pets: the original's layout, the same bytes every time, names and lists that agree."
import hashlib
import inspect
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fastbook_impl.samples import pets
from fastbook_impl.samples.pets import BREEDS, POSES, SCENES, draw_pet, lookalikes, make_pets
from fastbook_impl.samples.core import find_sample


def digest(image): return hashlib.sha256(image.tobytes()).hexdigest()


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    "The sample with two pictures of each breed."
    dest = tmp_path_factory.mktemp('pets')
    make_pets(dest, 2)
    return dest


def test_breeds_are_the_originals():
    cats = [o for o in BREEDS if o[0].isupper()]
    assert len(BREEDS) == 37 and len(cats) == 12
    assert all(BREEDS[o].species == ('cat' if o in cats else 'dog') for o in BREEDS)
    assert {o for pair in lookalikes for o in pair} <= set(BREEDS)


def test_the_sample_is_registered():
    assert find_sample('PETS').make is make_pets
    assert str(inspect.signature(make_pets).parameters['per_breed'].default) in find_sample('PETS').about


def test_same_arguments_same_bytes():
    for breed, seed in (('Bengal', 1), ('keeshond', 'x'), ('yorkshire_terrier', 7)):
        (a, t), (b, u) = draw_pet(breed, seed), draw_pet(breed, seed)
        assert digest(a) == digest(b) and digest(t) == digest(u)
        assert digest(a) != digest(draw_pet(breed, 'another')[0])


def test_seed_of_a_file_is_its_number_as_text_or_int():
    assert digest(draw_pet('pug', 3)[0]) == digest(draw_pet('pug', '3')[0])


def test_another_process_draws_the_same():
    code = "import hashlib; from fastbook_impl.samples.pets import draw_pet; print(hashlib.sha256(draw_pet('boxer', 5)[0].tobytes()).hexdigest())"
    env = {**os.environ, 'PYTHONHASHSEED': '123', 'PYTHONPATH': os.pathsep.join(p or os.getcwd() for p in sys.path)}
    out = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True, check=True).stdout
    assert out.strip() == digest(draw_pet('boxer', 5)[0])


@pytest.mark.parametrize('breed', BREEDS)
def test_every_breed_in_every_pose(breed):
    for pose, place in zip(POSES, list(SCENES)[len(breed) % 6:]):
        image, tri = draw_pet(breed, 1, (96, 72), pose, place)
        share = np.bincount(np.asarray(tri).ravel(), minlength=4)/tri.width/tri.height
        assert image.size == tri.size == (96, 72) and image.mode == 'RGB' and tri.mode == 'L'
        assert share[0] == 0 and .1 < share[1] < .98 and share[3] > .005


def test_sizes():
    assert max(draw_pet('pug', 0)[0].size) == 200 and max(draw_pet('pug', 0, 64)[0].size) == 64
    assert len({draw_pet('pug', s, 40)[0].size for s in range(12)}) > 3


def test_a_breed_of_ones_own():
    odd = replace(BREEDS['pug'], name='podenco', ears='tall', tail='feather')
    assert digest(draw_pet(odd, 0, (60, 60))[0]) != digest(draw_pet('pug', 0, (60, 60))[0])


def test_unknown_names_are_named():
    with pytest.raises(ValueError, match="There is no breed 'Pug'; did you mean pug"): draw_pet('Pug')
    with pytest.raises(ValueError, match="There is no pose 'upside down'; there are portrait, sitting, standing, lying"): draw_pet('pug', pose='upside down')
    with pytest.raises(ValueError, match="There is no place 'moon'; there are meadow"): draw_pet('pug', place='moon')


def test_layout(small):
    images = sorted(p.name for p in (small/'images').glob('*.jpg'))
    assert images == sorted(f'{b}_{n}.jpg' for b in BREEDS for n in (1, 2))
    assert sorted(p.name for p in (small/'images').glob('*.mat')) == [f'Abyssinian_{n}.mat' for n in (100, 101, 102)]
    assert {p.stem for p in (small/'annotations'/'trimaps').iterdir()} == {o[:-4] for o in images}
    for name in images[::9]:
        with Image.open(small/'images'/name) as im, Image.open(small/'annotations'/'trimaps'/f'{name[:-4]}.png') as tri:
            assert im.format == 'JPEG' and im.size == tri.size and set(np.unique(tri)) <= {1, 2, 3}


def test_lists(small):
    read = lambda f: [o.split() for o in (small/'annotations'/f).read_text().splitlines() if not o.startswith('#')]
    rows = read('list.txt')
    assert len(rows) == 74 and rows[0] == ['Abyssinian_1', '1', '1', '1'] and rows[2] == ['american_bulldog_1', '2', '2', '1']
    assert rows[-1] == ['yorkshire_terrier_2', '37', '2', '25']
    assert Counter(o[2] for o in rows) == {'1': 24, '2': 50}
    train, test = read('trainval.txt'), read('test.txt')
    assert sorted(train+test) == sorted(rows) and len(train) == len(test) == 37


def test_odd_files(tmp_path):
    for d in ('images', 'annotations/trimaps'): (tmp_path/d).mkdir(parents=True)
    pets._draw_files(tmp_path, list(pets._ODD)+['pug_1'])
    kinds = {}
    for p in (tmp_path/'images').iterdir():
        with Image.open(p) as im: kinds[p.stem] = im.format, im.mode
    assert kinds == {'Abyssinian_34': ('GIF', 'P'), 'Abyssinian_5': ('PNG', 'RGBA'), 'Egyptian_Mau_14': ('PNG', 'P'), 'pug_1': ('JPEG', 'RGB')}
    assert 'Abyssinian_34' not in [line.split()[0] for _, line in pets._rows(40)]


def test_two_runs_agree_byte_for_byte_with_and_without_helpers(small, tmp_path, monkeypatch):
    monkeypatch.setattr(pets, '_cores', lambda: 1)
    make_pets(tmp_path, 2)
    files = sorted(p.relative_to(small) for p in small.rglob('*') if p.is_file())
    assert files == sorted(p.relative_to(tmp_path) for p in tmp_path.rglob('*') if p.is_file())
    assert all((small/f).read_bytes() == (tmp_path/f).read_bytes() for f in files)


def test_a_helper_that_fails_is_replaced(small, tmp_path, monkeypatch):
    monkeypatch.setattr(pets, '_cores', lambda: 2)
    monkeypatch.setattr(sys, 'executable', 'false')
    make_pets(tmp_path, 2)
    files = [p.relative_to(small) for p in small.rglob('*') if p.is_file()]
    assert all((small/f).read_bytes() == (tmp_path/f).read_bytes() for f in files)


def test_helpers_stop_when_drawing_is_interrupted(tmp_path, monkeypatch):
    helper, kept = pets._helper, []

    def interrupted(dest, names): raise KeyboardInterrupt

    def spied(*args):
        kept.append(helper(pets._draw_files, *args[1:]))
        return kept[-1]

    monkeypatch.setattr(pets, '_cores', lambda: 2)
    monkeypatch.setattr(pets, '_helper', spied)
    for d in ('images', 'annotations/trimaps'): (tmp_path/d).mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt): pets.draw_shared(interrupted, tmp_path, [f'pug_{n}' for n in range(400)])
    assert len(kept) == 1 and kept[0].poll() is not None
    assert len(list(tmp_path.glob('images/*'))) < 200
