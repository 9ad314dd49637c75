"""The built-in samples: their folders, their bytes, their look, and that no scan is in two parts."""
import csv
import hashlib

import numpy as np
import pytest
from PIL import Image

from fastbook_impl.samples import core as samples
from fastbook_impl.samples.core import enlarge_digit, find_sample, sample_maker


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "MNIST_SAMPLE and MNIST_TINY, made once."
    res = {}
    for name in ('MNIST_SAMPLE', 'MNIST_TINY'):
        res[name] = tmp_path_factory.mktemp(name)
        find_sample(name).make(res[name])
    return res


def counts(path): return {o.relative_to(path).as_posix(): len(list(o.iterdir())) for o in sorted(path.rglob('*')) if o.is_dir() and next(o.glob('*.png'), None)}
def digest(path): return hashlib.sha256(b''.join(o.relative_to(path).as_posix().encode()+o.read_bytes() for o in sorted(path.rglob('*')) if o.is_file())).hexdigest()
def scan_of(path): return int(path.stem)//100
def load(folder): return np.stack([np.array(Image.open(o)) for o in sorted(folder.glob('*.png'))])


def test_layout_of_mnist_sample(made):
    path = made['MNIST_SAMPLE']
    assert counts(path) == {'train/3': 1952, 'train/7': 1904, 'valid/3': 61, 'valid/7': 60}
    assert sorted(o.name for o in path.iterdir()) == ['labels.csv', 'train', 'valid']
    with open(path/'labels.csv', newline='') as f: rows = list(csv.DictReader(f))
    assert len(rows) == 3977 and list(rows[0]) == ['name', 'label']
    assert all((path/o['name']).exists() and o['name'].split('/')[1] == o['label'] for o in rows)


def test_layout_of_mnist_tiny(made):
    path = made['MNIST_TINY']
    assert counts(path) == {'train/3': 366, 'train/7': 357, 'valid/3': 51, 'valid/7': 50, 'test': 20}
    with open(path/'labels.csv', newline='') as f: rows = list(csv.DictReader(f))
    assert len(rows) == 824 and not any(o['name'].startswith('test') for o in rows)


def test_layout_of_mnist(monkeypatch, tmp_path):
    monkeypatch.setattr(samples, '_load_scans', lambda scans=samples._load_scans(): (scans[0][:200], scans[1][:200]))
    find_sample('MNIST').make(tmp_path)
    res = counts(tmp_path)
    assert list(res) == [f'{o}/{d}' for o in ('testing', 'training') for d in range(10)]
    assert sum(res.values()) == 66+4*134 or abs(sum(v for k, v in res.items() if 'testing' in k)-66) < 5


def test_no_scan_is_in_two_parts(made):
    for path in made.values():
        parts = {}
        for o in path.rglob('*.png'): parts.setdefault(o.relative_to(path).parts[0], set()).add(scan_of(o))
        sets = list(parts.values())
        assert sum(map(len, sets)) == len(set().union(*sets)) == 362


def test_held_out_pictures_are_the_scans_as_they_are(made):
    scans, _ = samples._load_scans()
    for o in list((made['MNIST_SAMPLE']/'valid'/'3').iterdir())[:20]:
        assert np.array_equal(np.array(Image.open(o)), enlarge_digit(scans[scan_of(o)]))


def test_every_run_writes_the_same_bytes(made, tmp_path):
    find_sample('MNIST_TINY').make(tmp_path)
    assert digest(tmp_path) == digest(made['MNIST_TINY'])


def test_pictures_look_like_mnist(made):
    for o in list(made['MNIST_TINY'].rglob('*.png'))[::50]:
        img = Image.open(o)
        assert (img.format, img.mode, img.size) == ('PNG', 'L', (28, 28))
    imgs = load(made['MNIST_SAMPLE']/'valid'/'3').astype(float)
    assert imgs.min() == 0 and imgs.max() == 255
    assert 25 < imgs.mean() < 45  # the brightness of MNIST is 33
    rows = (imgs > 40).any(2)
    assert abs((28-rows.argmax(1)-rows[:, ::-1].argmax(1)).mean()-20) < 1  # pixels high
    for axis in (1, 2):
        centre = imgs.sum(3-axis)@np.arange(28)/imgs.sum((1, 2))
        assert abs(centre.mean()-14) < .3 and centre.std() < .5
    assert (imgs[:, :2].max(), imgs[:, -2:].max(), imgs[:, :, :2].max(), imgs[:, :, -2:].max()) == (0, 0, 0, 0)


def test_real_mnist_has_the_same_measures(mirror, tmp_path, monkeypatch, home):
    "What `test_pictures_look_like_mnist` asks of ours, asked of the real ones."
    from fastbook_impl.data.external import untar_data
    monkeypatch.setenv('FASTBOOK_DATA', 'real')
    monkeypatch.setenv('FASTBOOK_MIRROR', str(mirror))
    imgs = load(untar_data('mnist_sample.tgz')/'valid'/'3').astype(float)
    rows = (imgs > 40).any(2)
    assert 25 < imgs.mean() < 45 and abs((28-rows.argmax(1)-rows[:, ::-1].argmax(1)).mean()-20) < 1
    for axis in (1, 2): assert abs((imgs.sum(3-axis)@np.arange(28)/imgs.sum((1, 2))).mean()-14) < .3


def test_comparing_with_the_mean_digits_reaches_its_floor(made):
    path = made['MNIST_SAMPLE']
    mean3, mean7 = (load(path/'train'/o).mean(0) for o in '37')
    def is_3(imgs): return abs(imgs-mean3).mean((1, 2)) < abs(imgs-mean7).mean((1, 2))
    acc = np.concatenate([is_3(load(path/'valid'/'3')), ~is_3(load(path/'valid'/'7'))]).mean()
    print(f'pixel similarity on the built-in digits: {acc:.4f}')
    assert acc >= .93


def test_what_readers_are_told_is_true(made):
    for name, path in made.items():
        about, n = find_sample(name).about, counts(path)
        for part in ('train', 'valid'):
            total = sum(v for k, v in n.items() if k.startswith(part))
            assert f'{total:,}' in about, (name, part, total)


def test_registry(monkeypatch):
    monkeypatch.setattr(samples, '_samples', {})
    @sample_maker('SOMETHING', about='a thing', version=7)
    def make_something(dest): pass
    s = find_sample('SOMETHING')
    assert (s.name, s.make, s.about, s.version) == ('SOMETHING', make_something, 'a thing', 7)
    assert find_sample('NOTHING') is None


def test_makers_in_other_modules_are_imported_when_asked_for(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path/'makes_a_sample.py').write_text("from fastbook_impl.samples.core import sample_maker\n@sample_maker('ELSEWHERE')\ndef f(dest): pass\n")
    (tmp_path/'broken_sample.py').write_text('import no_such_module_at_all\n')
    monkeypatch.setattr(samples, '_samples', {})
    monkeypatch.setattr(samples, '_modules', dict(ELSEWHERE='makes_a_sample', LATER='a_module_that_comes_later', BROKEN='broken_sample'))
    assert find_sample('ELSEWHERE').name == 'ELSEWHERE'
    assert find_sample('LATER') is None
    with pytest.raises(ModuleNotFoundError, match='no_such_module_at_all'): find_sample('BROKEN')
