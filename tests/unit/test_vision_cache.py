"The cache of pictures: never torn, never stale, never boundless, and never in the way."
import os
import signal
import subprocess
import sys
import time
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from fastbook_impl.vision.augment import Resize, RandomResizedCrop
from fastbook_impl.vision.cache import ImageCache, image_cache, parse_size, record_name
from fastbook_impl.vision.core import PILImage


def picture(path, seed=0, size=(120, 90), **kwargs):
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(path, **kwargs)
    return path

def pixels(path): return np.array(Image.open(path).convert('RGB'))

@pytest.fixture
def cache(tmp_path):
    c = ImageCache(tmp_path/'cache', max_bytes=10**8)
    c.settle = 0
    return c

def counted(fn):
    calls = []
    def make():
        calls.append(fn)
        return pixels(fn)
    return make, calls


def test_second_read_comes_from_disk(cache, tmp_path):
    fn = picture(tmp_path/'a.png')
    make, calls = counted(fn)
    first, second = cache.get(fn, 'all', make), cache.get(str(fn), 'all', make)
    assert len(calls) == 1 and np.array_equal(first, second)
    assert not second.flags.writeable                       # a map of the file: nobody can spoil it
    assert np.array_equal(ImageCache(cache.path, 10**8).get(fn, 'all', make), first) and len(calls) == 1   # another process, later
    cache.get(fn, 'other', make)
    assert len(calls) == 2

def test_grey_pictures_keep_their_shape(cache, tmp_path):
    fn = picture(tmp_path/'a.png')
    grey = np.arange(90*120, dtype=np.uint8).reshape(90, 120)
    assert cache.get(fn, 'grey', lambda: grey).shape == cache.get(fn, 'grey', lambda: 1/0).shape == (90, 120)

def test_changed_file_is_never_stale(cache, tmp_path):
    fn = picture(tmp_path/'a.bmp', seed=1)
    cache.get(fn, 'all', lambda: pixels(fn))
    st = os.stat(fn)
    time.sleep(0.02)                                        # a tick of the file system's clock
    picture(fn, seed=2)
    os.utime(fn, ns=(st.st_atime_ns, st.st_mtime_ns))       # same name, same size, same time of change
    assert os.stat(fn).st_size == st.st_size and os.stat(fn).st_mtime_ns == st.st_mtime_ns
    assert np.array_equal(cache.get(fn, 'all', lambda: pixels(fn)), pixels(fn))

def test_file_that_changes_while_it_is_read_is_not_kept(cache, tmp_path):
    fn = picture(tmp_path/'a.bmp', seed=1)
    def make():
        a = pixels(fn)
        picture(fn, seed=2, size=(60, 90))
        return a
    cache.get(fn, 'all', make)
    assert cache.records() == []

def test_file_that_vanishes_while_it_is_read_is_no_error(cache, tmp_path):
    fn = picture(tmp_path/'a.bmp')
    def make():
        a = pixels(fn)
        fn.unlink()
        return a
    assert cache.get(fn, 'all', make).shape == (90, 120, 3) and cache.records() == []

def test_brand_new_file_is_not_kept(tmp_path):
    cache = ImageCache(tmp_path/'cache', max_bytes=10**8)
    cache.settle = 3600
    fn = picture(tmp_path/'a.bmp')
    cache.get(fn, 'all', lambda: pixels(fn))
    assert cache.records() == []

@pytest.mark.parametrize('damage', ['cut', 'empty', 'flip', 'zeros', 'header'])
def test_damaged_record_is_made_anew(cache, tmp_path, damage):
    fn = picture(tmp_path/'a.png')
    want = cache.get(fn, 'all', lambda: pixels(fn))
    path = cache.records()[0][2]
    data = bytearray(open(path, 'rb').read())
    if damage == 'cut': data = data[:1000]
    if damage == 'empty': data = b''
    if damage == 'flip': data[5000] ^= 1
    if damage == 'zeros': data[4096:12288] = bytes(8192)    # a page that never reached the disk
    if damage == 'header': data[:64] = os.urandom(64)
    with open(path, 'wb') as f: f.write(data)
    later = ImageCache(cache.path, 10**8); later.settle = 0
    assert np.array_equal(later.get(fn, 'all', lambda: pixels(fn)), want)
    assert np.array_equal(ImageCache(cache.path, 10**8).get(fn, 'all', lambda: 1/0), want)   # and kept again

def test_bounded(tmp_path):
    cache = ImageCache(tmp_path/'cache', max_bytes=200_000)   # room for six records of 32,464 bytes
    cache.settle = 0
    fn = picture(tmp_path/'a.png')
    for i in range(20): cache.get(fn, f'{i}', lambda: pixels(fn))
    assert cache.size() <= 200_000 and len(cache.records()) == 6
    made = []
    for i in range(20): cache.get(fn, f'{i}', lambda: made.append(i) or pixels(fn))
    assert made == list(range(6, 20))                         # what was kept stays kept: no epoch pushes out what the next one needs

def test_least_recently_used_go_first(tmp_path):
    cache = ImageCache(tmp_path/'cache', max_bytes=200_000)
    cache.settle = 0
    fn = picture(tmp_path/'a.png')
    for i in range(6): cache.get(fn, f'{i}', lambda: pixels(fn))
    for i in range(6): os.utime(cache.path/record_name(fn, os.stat(fn), f'{i}'), (1000+i, 1000+i))
    cache.get(fn, '0', lambda: 1/0)                           # used again, so it is young
    cache.get(fn, 'new', lambda: pixels(fn))
    there = [what for what in '012345' if (cache.path/record_name(fn, os.stat(fn), what)).exists()]
    assert '0' in there and '1' not in there and '5' in there
    cache.get(fn, 'new', lambda: 1/0)

def test_off(tmp_path, monkeypatch, home):
    monkeypatch.setenv('FASTBOOK_IMAGE_CACHE', 'off')
    fn = picture(tmp_path/'a.png')
    settled(fn)
    Resize(64)(PILImage.create(fn)).pixels()
    assert not list(home.rglob('*'))
    assert repr(image_cache()) == 'ImageCache: off'

def test_off_by_argument(tmp_path, home):
    fn = settled(picture(tmp_path/'a.png'))
    Resize(64, keep=False)(PILImage.create(fn)).pixels()
    RandomResizedCrop(64, keep=False)(PILImage.create(fn)).pixels()
    assert image_cache().records() == []
    Resize(64)(PILImage.create(fn)).pixels()
    assert len(image_cache().records()) == 1

def settled(fn):
    time.sleep(0.03)
    return fn

@pytest.mark.parametrize('s, n', [('off', 0), ('0', 0), ('500MB', 500*2**20), ('20 GB', 20*2**30), ('1.5g', 3*2**29), ('1000', 1000)])
def test_sizes(s, n): assert parse_size(s) == n

def test_size_that_is_none():
    with pytest.raises(ValueError, match="FASTBOOK_IMAGE_CACHE='a lot': use off, or a size such as 500MB"): parse_size('a lot')

def test_with_and_without_cache_the_same_pixels(tmp_path, home, monkeypatch):
    fn = settled(picture(tmp_path/'a.jpg', size=(300, 200), quality=90))
    for tfm in (Resize(64), Resize(64, 'squish'), Resize((50, 70), 'pad'), Resize(400)):
        monkeypatch.setenv('FASTBOOK_IMAGE_CACHE', 'off')
        without = tfm(PILImage.create(fn), split_idx=1).pixels()
        monkeypatch.delenv('FASTBOOK_IMAGE_CACHE')
        for _ in range(2): assert np.array_equal(tfm(PILImage.create(fn), split_idx=1).pixels(), without)
        touched = PILImage.create(fn); touched.load()
        assert np.array_equal(tfm(touched, split_idx=1).pixels(), without)

def test_disk_full_is_said_once_and_not_in_the_way(cache, tmp_path, monkeypatch):
    fn = picture(tmp_path/'a.png')
    def full(*args): raise OSError(28, 'No space left on device')
    monkeypatch.setattr('fastbook_impl.vision.cache.os.replace', full)
    with pytest.warns(UserWarning, match='image cache is switched off, .*: No space left on device .*FASTBOOK_HOME'):
        a = cache.get(fn, 'all', lambda: pixels(fn))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert np.array_equal(cache.get(fn, 'all', lambda: pixels(fn)), a)
    assert not list(cache.path.rglob('*.tmp'))

_limited = """
import resource, sys, warnings
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))       # the system refuses to write more, as a full disk does
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from fastbook_impl.vision.cache import ImageCache
import numpy as np
c = ImageCache(sys.argv[1], 10**8); c.settle = 0
warnings.simplefilter('error')
a = np.ones((100, 100, 3), np.uint8)
try: c.get(sys.argv[2], 'x', lambda: a); print('no warning')
except UserWarning as e: print(e)
assert np.array_equal(c.get(sys.argv[2], 'x', lambda: a), a)
"""

@pytest.mark.skipif(sys.platform == 'win32', reason='limits are a matter of Unix')
def test_write_that_the_system_refuses(tmp_path):
    fn = picture(tmp_path/'a.png')
    r = run(_limited, tmp_path/'cache', fn)
    assert r.stdout.startswith('the image cache is switched off'), r.stderr
    assert not [p for p in (tmp_path/'cache').rglob('*') if p.is_file()]

def run(code, *args, **kwargs): return subprocess.run([sys.executable, '-c', code, *map(str, args)], capture_output=True, text=True, timeout=600, **kwargs)

_writer = """
import sys, numpy as np
from fastbook_impl.vision.cache import ImageCache
c = ImageCache(sys.argv[1], 10**9); c.settle = 0
print('ready', flush=True)
for n in range(int(sys.argv[3])):
    i = n % 20
    a = c.get(sys.argv[2], f'{i}', lambda: np.full((300, 400, 3), i, np.uint8))
    assert (a == i).all(), i
    if n % 7 == 0: c.clear()
print('done')
"""

def test_processes_that_race(tmp_path):
    fn = picture(tmp_path/'a.png')
    ps = [subprocess.Popen([sys.executable, '-c', _writer, str(tmp_path/'cache'), str(fn), '120'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for p in ps:
        out, err = p.communicate(timeout=600)
        assert p.returncode == 0 and out.endswith('done\n') and 'Warning' not in err, err
    assert not list((tmp_path/'cache').rglob('*.tmp'))

@pytest.mark.skipif(sys.platform == 'win32', reason='there is no SIGKILL')
def test_killed_while_writing(tmp_path):
    fn = picture(tmp_path/'a.png')
    for wait in (0.0, 0.01, 0.03, 0.05):
        p = subprocess.Popen([sys.executable, '-c', _writer, str(tmp_path/'cache'), str(fn), '100000'], stdout=subprocess.PIPE, text=True)
        assert p.stdout.readline() == 'ready\n'
        time.sleep(wait)
        p.send_signal(signal.SIGKILL); p.wait(); p.stdout.close()
        cache = ImageCache(tmp_path/'cache', 10**9); cache.settle = 0
        for i in range(20): assert (cache.get(fn, f'{i}', lambda: np.full((300, 400, 3), i, np.uint8)) == i).all()

def test_leftovers_of_a_killed_process_go_away(cache, tmp_path):
    fn = picture(tmp_path/'a.png')
    left = cache.path/'ab'/'cdef.123.456.tmp'
    left.parent.mkdir(parents=True); left.write_bytes(bytes(1000)); os.utime(left, (0, 0))
    cache.get(fn, 'all', lambda: pixels(fn))
    assert not left.exists() and len(cache.records()) == 1

def test_names_depend_on_all_that_matters(tmp_path):
    fn = picture(tmp_path/'a.png')
    st = os.stat(fn)
    assert record_name(fn, st, 'x') == record_name(str(fn), st, 'x')
    assert len({record_name(fn, st, 'x'), record_name(fn, st, 'y'), record_name(tmp_path/'b.png', st, 'x')}) == 3

def test_a_record_that_another_process_replaced_is_verified_again(cache, tmp_path):
    fn = picture(tmp_path/'a.png')
    want = cache.get(fn, 'all', lambda: pixels(fn))
    path = cache.records()[0][2]
    data = bytearray(open(path, 'rb').read())
    data[5000] ^= 1
    (tmp_path/'new').write_bytes(data)
    os.replace(tmp_path/'new', path)
    assert np.array_equal(cache.get(fn, 'all', lambda: pixels(fn)), want)

def test_a_record_that_was_verified_is_not_verified_again(cache, tmp_path, monkeypatch):
    fn = picture(tmp_path/'a.png')
    cache.get(fn, 'all', lambda: pixels(fn))
    later, sums, real = ImageCache(cache.path, 10**8), [], zlib.crc32
    later.settle = 0
    monkeypatch.setattr('fastbook_impl.vision.cache.zlib.crc32', lambda a: sums.append(1) or real(a))
    for _ in range(3): later.get(fn, 'all', lambda: 1/0)
    assert len(sums) == 1
