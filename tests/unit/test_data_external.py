"""The data layer against what can go wrong: no network, a mute one, a broken one; tampered, cut off and hostile archives; kills, races, full disks.

Every server here is on 127.0.0.1. Where a sentence is shown to the user, the test holds that sentence."""
import errno
import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fastbook_impl.data import archive, download
from fastbook_impl.data import external as ext
from fastbook_impl.samples import core as samples
from fastbook_impl.data.download import Limits, NotHere
from fastbook_impl.data.external import (
    FileGetter, ImageGetter, URLs, cached_data, fastbook_path, get_files, get_image_files, get_text_files, untar_data)

MiB = 2**20


# --- what the tests share

@pytest.fixture(autouse=True)
def clean(monkeypatch, home):
    "An empty cache, no mirror, nothing remembered of earlier tests; whoever asks the real network fails."
    monkeypatch.setenv('FASTBOOK_DATA', 'auto')
    monkeypatch.delenv('FASTBOOK_MIRROR', raising=False)
    for o in ('http_proxy', 'https_proxy', 'all_proxy', 'HTTP_PROXY', 'HTTPS_PROXY', 'ALL_PROXY'): monkeypatch.delenv(o, raising=False)
    monkeypatch.setattr(ext, '_told', set())
    monkeypatch.setattr(download, '_silent', {})
    real = socket.getaddrinfo
    def local_only(host, *args, **kwargs):
        if host in ('127.0.0.1', 'localhost'): return real(host, *args, **kwargs)
        raise socket.gaierror(-2, 'Name or service not known')
    monkeypatch.setattr(socket, 'getaddrinfo', local_only)


@pytest.fixture
def tiny_sample(monkeypatch):
    "MNIST_TINY's built-in sample, of one file and made at once; gives a function that sets its version."
    def make(dest): (Path(dest)/'labels.csv').write_text('name,label\n')
    def version(n): monkeypatch.setitem(samples._samples, 'MNIST_TINY', samples.Sample('MNIST_TINY', make, 'one table', n))
    version(1)
    return version


def tar_bytes(*members, mode='w:gz'):
    "A tar of (name, bytes), (name, dict of TarInfo attributes)."
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:
        for name, what in members:
            info = tarfile.TarInfo(name)
            data = what if isinstance(what, bytes) else b''
            info.size = len(data)
            for k, v in ({} if isinstance(what, bytes) else what).items(): setattr(info, k, v)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


GOOD = tar_bytes(('mnist_tiny/labels.csv', b'name,label\nvalid/3/1.png,3\n'), ('mnist_tiny/valid/3/1.png', b'not really'))


def make_mirror(path, **archives):
    "A mirror folder with the archives given as `name=bytes` (a dot written as two underscores) and a right list."
    path.mkdir(exist_ok=True)
    names = {k.replace('__', '.'): v for k, v in archives.items()}
    for k, v in names.items(): (path/k).write_bytes(v)
    (path/'SHA256SUMS').write_text(''.join(f'{hashlib.sha256(v).hexdigest()}  {k}\n' for k, v in names.items()))
    return path


@pytest.fixture
def a_mirror(tmp_path, monkeypatch):
    path = make_mirror(tmp_path/'mirror', mnist_tiny__tgz=GOOD)
    monkeypatch.setenv('FASTBOOK_MIRROR', str(path))
    return path


@contextmanager
def serve(files, head=True, stall=None, cut=None, wait=0, status=None):
    """A web server for `files` (path → bytes). `stall`: send so many bytes and then nothing; `cut`: send so many and hang up; `wait`: seconds before
    any answer; `status`: answer everything with it; `head`: whether HEAD is allowed. `serve.asked` lists the requests."""
    asked, done = [], threading.Event()
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args): pass
        def do_HEAD(self): self.reply(False)
        def do_GET(self): self.reply(True)
        def reply(self, body):
            asked.append((self.command, self.path))
            if wait: done.wait(wait)
            data = files.get(self.path.lstrip('/'))
            code = status or (200 if data is not None else 404)
            if not body and not head: code = 405
            self.send_response(code)
            if code != 200: self.send_header('Content-Length', '0')
            else: self.send_header('Content-Length', str(len(data)))
            self.end_headers()
            if code != 200 or not body: return
            self.wfile.write(data[:stall or cut or len(data)])
            self.wfile.flush()
            if stall: done.wait(30)
            self.close_connection = True
    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=.02), daemon=True).start()
    try: yield f'http://127.0.0.1:{server.server_port}', asked
    finally:
        done.set()
        server.shutdown()
        server.server_close()


def publish(monkeypatch, address, data=GOOD, name='MNIST_TINY'):
    "Let URLs.`name` be at `address`, and let `data` be what is published there."
    monkeypatch.setattr(URLs, name, f'{address}/mnist_tiny.tgz')
    monkeypatch.setitem(ext._published, name, (len(data), hashlib.md5(data[:MiB]).hexdigest(), MiB))
    monkeypatch.delitem(ext._sha256_of, name, raising=False)


def leftovers(folder): return [o for o in Path(folder).rglob('*') if '.part' in o.name]


def error(kind, f, *args, **kwargs):
    "The one-line message of the error that `f` must raise."
    with pytest.raises(kind) as e: f(*args, **kwargs)
    assert '\n' not in str(e.value)
    return str(e.value)


# --- names

def test_addresses_are_those_of_fastai():
    assert URLs.PETS == 'https://s3.amazonaws.com/fast-ai-imageclas/oxford-iiit-pet.tgz'
    assert URLs.MNIST_SAMPLE == 'https://s3.amazonaws.com/fast-ai-sample/mnist_sample.tgz'
    names = set(dir(URLs))
    assert names == set(ext._published)
    assert names >= set('''MNIST_SAMPLE MNIST_TINY MNIST PETS PASCAL_2007 BIWI_HEAD_POSE CAMVID_TINY CAMVID IMDB_SAMPLE IMDB ADULT_SAMPLE ML_SAMPLE
        IMAGENETTE IMAGENETTE_160 HUMAN_NUMBERS'''.split())


def test_wrong_names_get_a_suggestion():
    assert error(ValueError, untar_data, 'mnist_smaple') == ("'mnist_smaple' is neither an address nor the name of an archive "
        "(.tgz .tar.gz .tar.bz2 .tar.xz .tar .zip); did you mean mnist_sample.tgz?")
    assert error(ValueError, untar_data, 'PET').endswith('did you mean PETS?')
    assert 'an example is URLs.PETS' in error(ValueError, untar_data, None)
    for bad in ('', '.', '..', '../x.tgz', '/etc/x.tgz', '.tgz', 'http://127.0.0.1/', 'http://127.0.0.1/..', 'a/b.tgz', 'a\\b.tgz', 'ftp://x/y.tgz', 'http://127.0.0.1/a%2Fb.tgz'):
        assert 'neither an address nor the name of an archive' in error(ValueError, untar_data, bad)


def test_misspelt_archive_says_what_was_meant():
    assert error(FileNotFoundError, untar_data, 'mnist_smaple.tgz') == ('mnist_smaple.tgz: no address of it is known; and there is no built-in sample of it (yet). '
        'To get it, let FASTBOOK_MIRROR name a folder or address that has mnist_smaple.tgz. Did you mean mnist_sample.tgz?')


def test_unknown_mode(monkeypatch):
    monkeypatch.setenv('FASTBOOK_DATA', 'reel')
    assert error(ValueError, untar_data, URLs.PETS) == "FASTBOOK_DATA is 'reel'; it can be auto (real, else a built-in sample), real or sample."


def test_unknown_part_of_the_cache():
    assert error(ValueError, untar_data, URLs.MNIST_TINY, c_key='photos') == "The cache has no part 'photos': it has 'data', 'archive' and 'model'."


# --- the sample

def test_no_network_falls_back_to_the_sample_and_says_so_once(home, tiny_sample, capsys):
    path = untar_data(URLs.MNIST_TINY)
    assert path == home/'data'/'sample'/'mnist_tiny' == untar_data('mnist_tiny.tgz')
    assert capsys.readouterr().out == ('MNIST_TINY: built-in sample, because s3.amazonaws.com cannot be found (no network, or a wrong name): one table. '
        'The real one comes from the internet, or from a mirror that FASTBOOK_MIRROR names (0.3 MB).\n')
    assert json.loads((home/'data'/'sample'/'mnist_tiny.json').read_text())['source'] == 'sample'


def test_sample_on_request(home, tiny_sample, a_mirror, monkeypatch, capsys):
    real = untar_data(URLs.MNIST_TINY)
    monkeypatch.setenv('FASTBOOK_DATA', 'sample')
    sample = untar_data(URLs.MNIST_TINY)
    assert sample != real and sample == home/'data'/'sample'/'mnist_tiny'
    assert capsys.readouterr().out == 'MNIST_TINY: built-in sample, as FASTBOOK_DATA=sample asks: one table. FASTBOOK_DATA=auto fetches the real one (0.3 MB).\n'
    monkeypatch.setenv('FASTBOOK_DATA', 'auto')
    assert untar_data(URLs.MNIST_TINY) == real


def test_a_new_version_of_a_sample_is_made_anew(tiny_sample, monkeypatch):
    monkeypatch.setenv('FASTBOOK_DATA', 'sample')
    path = untar_data(URLs.MNIST_TINY)
    (path/'mine.txt').write_text('kept while the version is the same')
    assert (untar_data(URLs.MNIST_TINY)/'mine.txt').exists()
    tiny_sample(2)
    assert not (untar_data(URLs.MNIST_TINY)/'mine.txt').exists()
    assert ext._read_note(path)['version'] == 2
    (path/'mine.txt').write_text('again')
    assert not (untar_data(URLs.MNIST_TINY, force_download=True)/'mine.txt').exists()
    assert not leftovers(path.parent)


def test_a_sample_that_does_not_exist_yet(monkeypatch):
    assert error(FileNotFoundError, untar_data, URLs.WT103_FWD) == ('WT103_FWD: s3.amazonaws.com cannot be found (no network, or a wrong name); and there is no built-in '
        'sample of it (yet). To get it, connect to the internet, let FASTBOOK_MIRROR name a folder or address that has wt103-fwd.tgz, or put that file into '
        f'{fastbook_path("archive")}.')
    monkeypatch.setenv('FASTBOOK_DATA', 'sample')
    assert error(FileNotFoundError, untar_data, URLs.WT103_FWD) == ('WT103_FWD: FASTBOOK_DATA=sample asks for the built-in sample, and there is no built-in '
        'sample of it (yet); unset it to get the real data set (105.1 MB).')


def test_real_forbids_the_sample(tiny_sample, monkeypatch):
    monkeypatch.setenv('FASTBOOK_DATA', 'real')
    assert error(FileNotFoundError, untar_data, URLs.MNIST_TINY) == ('MNIST_TINY: s3.amazonaws.com cannot be found (no network, or a wrong name); and FASTBOOK_DATA=real forbids the '
        'built-in sample. To get it, connect to the internet, let FASTBOOK_MIRROR name a folder or address that has mnist_tiny.tgz, or put that file into '
        f'{fastbook_path("archive")}.')


def test_a_maker_that_fails_leaves_nothing(monkeypatch):
    def make(dest):
        (Path(dest)/'half').write_text('')
        raise RuntimeError('a bug in the maker')
    monkeypatch.setitem(samples._samples, 'MNIST_TINY', samples.Sample('MNIST_TINY', make, '', 1))
    with pytest.raises(RuntimeError): untar_data(URLs.MNIST_TINY)
    assert [o.name for o in (fastbook_path()/'sample').iterdir()] in ([], ['.mnist_tiny.lock'])


# --- the mirror

def test_folder_mirror(home, a_mirror, capsys):
    path = untar_data(URLs.MNIST_TINY)
    sha = hashlib.sha256(GOOD).hexdigest()
    assert path == home/'data'/'mirror'/sha[:12]/'mnist_tiny'
    assert (path/'valid'/'3'/'1.png').read_bytes() == b'not really'
    note = ext._read_note(path)
    assert (note['source'], note['sha256'], note['address'], note['bytes']) == ('mirror', sha, str(a_mirror/'mnist_tiny.tgz'), len(GOOD))
    assert capsys.readouterr().out == ''
    (a_mirror/'mnist_tiny.tgz').unlink()  # from now on the cache is enough
    assert untar_data(URLs.MNIST_TINY) == path
    assert [o['source'] for o in cached_data()] == ['mirror']


def test_a_mirrors_new_archive_replaces_the_cached_one(a_mirror):
    old = untar_data(URLs.MNIST_TINY)
    make_mirror(a_mirror, mnist_tiny__tgz=tar_bytes(('mnist_tiny/labels.csv', b'new')))
    new = untar_data(URLs.MNIST_TINY)
    assert new != old and (new/'labels.csv').read_bytes() == b'new'


def test_any_archive_of_the_mirror(a_mirror):
    make_mirror(a_mirror, shapes__tar__xz=tar_bytes(('shapes/a', b'1'), mode='w:xz'), more__zip=zip_bytes({'more/b': b'2'}))
    assert (untar_data('shapes.tar.xz')/'a').read_bytes() == b'1'
    assert (untar_data('more.zip')/'b').read_bytes() == b'2'


def test_web_mirror_is_asked_once(monkeypatch, home):
    files = {'data/mnist_tiny.tgz': GOOD, 'data/SHA256SUMS': f'{hashlib.sha256(GOOD).hexdigest()} *./mnist_tiny.tgz\r\n'.encode()}
    with serve(files) as (address, asked):
        monkeypatch.setenv('FASTBOOK_MIRROR', f'{address}/data/')
        path = untar_data(URLs.MNIST_TINY)
        assert (path/'labels.csv').exists() and path.parts[-3] == 'mirror'
        assert asked == [('GET', '/data/SHA256SUMS'), ('GET', '/data/mnist_tiny.tgz')]
    assert untar_data(URLs.MNIST_TINY) == path  # the server is gone
    assert not leftovers(home)


def test_mirror_without_the_file(a_mirror, tiny_sample, capsys):
    assert error(FileNotFoundError, untar_data, 'colours.tgz') == (f'colours.tgz: the mirror {a_mirror} does not have it (it has mnist_tiny.tgz); '
        'no address of it is known; and there is no built-in sample of it (yet). To get it, let FASTBOOK_MIRROR name a folder or address that has colours.tgz.')
    message = error(FileNotFoundError, untar_data, URLs.WT103_FWD)
    assert message.startswith(f'WT103_FWD: the mirror {a_mirror} does not have it (it has mnist_tiny.tgz); s3.amazonaws.com cannot be found')
    (a_mirror/'mnist_tiny.tgz').unlink()
    untar_data(URLs.MNIST_TINY)
    assert f'because the mirror {a_mirror} lists mnist_tiny.tgz and does not have it; s3.amazonaws.com cannot be found' in capsys.readouterr().out


def test_mirror_that_does_not_exist(tmp_path, monkeypatch):
    monkeypatch.setenv('FASTBOOK_MIRROR', str(tmp_path/'nowhere'))
    assert error(FileNotFoundError, untar_data, URLs.MNIST_TINY) == f'FASTBOOK_MIRROR names {tmp_path}/nowhere, and there is no such folder; correct it or unset it.'


def test_mirror_without_a_list(a_mirror, monkeypatch):
    (a_mirror/'SHA256SUMS').unlink()
    assert error(ValueError, untar_data, URLs.MNIST_TINY) == (f'The mirror {a_mirror} has no list SHA256SUMS, so nothing in it can be checked; '
        'make one there with: sha256sum *.tgz > SHA256SUMS')
    with serve({'mnist_tiny.tgz': GOOD}) as (address, _):
        monkeypatch.setenv('FASTBOOK_MIRROR', address)
        assert f'The mirror {address} has no list SHA256SUMS' in error(ValueError, untar_data, URLs.MNIST_TINY)
    (a_mirror/'SHA256SUMS').write_text('<html>log in first</html>')
    monkeypatch.setenv('FASTBOOK_MIRROR', str(a_mirror))
    assert error(ValueError, untar_data, URLs.MNIST_TINY) == (f'The mirror {a_mirror} has mnist_tiny.tgz, but no line for it in SHA256SUMS, so it cannot be checked; '
        'add one with: sha256sum mnist_tiny.tgz >> SHA256SUMS')


@pytest.mark.parametrize('change', ['tampered', 'truncated'])
@pytest.mark.parametrize('web', [False, True])
def test_tampered_or_truncated_in_the_mirror(a_mirror, tiny_sample, monkeypatch, home, change, web):
    bad = GOOD[:-20] if change == 'truncated' else GOOD[:60]+bytes([GOOD[60] ^ 1])+GOOD[61:]
    (a_mirror/'mnist_tiny.tgz').write_bytes(bad)
    with serve({o.name: o.read_bytes() for o in a_mirror.iterdir()}) as (address, _):
        where = address if web else str(a_mirror)
        monkeypatch.setenv('FASTBOOK_MIRROR', where)
        assert error(ValueError, untar_data, URLs.MNIST_TINY) == (f'{where}/mnist_tiny.tgz is not the archive that its SHA256SUMS lists: '
            f'expected {hashlib.sha256(GOOD).hexdigest()}, found {hashlib.sha256(bad).hexdigest()}. It is cut off or was changed; copy it there again.')
    assert not cached_data() and not leftovers(home)


def test_mirror_and_original_are_not_confused(a_mirror, monkeypatch, capsys, home):
    full = tar_bytes(('mnist_tiny/labels.csv', b'all of it'))
    from_mirror = untar_data(URLs.MNIST_TINY)
    monkeypatch.delenv('FASTBOOK_MIRROR')
    with serve({'mnist_tiny.tgz': full}) as (address, _):
        publish(monkeypatch, address, full)
        assert untar_data(URLs.MNIST_TINY) == from_mirror  # in the cache, and real; but it says where it is from
        assert capsys.readouterr().out == (f'MNIST_TINY: from the cache, where the mirror {a_mirror} left it; '
            'untar_data(…, force_download=True) fetches the original (0.0 MB).\n')
        original = untar_data(URLs.MNIST_TINY, force_download=True)
        assert original == home/'data'/'mnist_tiny' and (original/'labels.csv').read_bytes() == b'all of it'
        assert untar_data(URLs.MNIST_TINY) == original
    monkeypatch.setenv('FASTBOOK_MIRROR', str(a_mirror))  # naming a mirror is a choice
    assert untar_data(URLs.MNIST_TINY) == from_mirror


@pytest.mark.parametrize('name,files', [('mnist_sample', 2038), ('camvid_multilabel', 468), ('oxford-iiit-pet', 1200), ('adult_sample', 0), ('rt_polarity', 0)])
def test_the_real_mirror(mirror, monkeypatch, name, files):
    monkeypatch.setenv('FASTBOOK_MIRROR', str(mirror))
    path = untar_data(f'{name}.tgz')
    assert path.name == name and len(get_image_files(path)) == files
    assert get_files(path/'images' if name == 'oxford-iiit-pet' else path)


# --- the original address

def test_download_from_the_original_address(monkeypatch, home, capsys):
    with serve({'mnist_tiny.tgz': GOOD}) as (address, asked):
        publish(monkeypatch, address)
        path = untar_data(URLs.MNIST_TINY)
        assert path == home/'data'/'mnist_tiny' and (path/'labels.csv').exists()
        assert asked == [('GET', '/mnist_tiny.tgz')]
    note = ext._read_note(path)
    assert (note['source'], note['address'], note['sha256']) == ('original', f'{address}/mnist_tiny.tgz', hashlib.sha256(GOOD).hexdigest())
    assert untar_data(URLs.MNIST_TINY) == path
    assert (home/'archive'/'mnist_tiny.tgz').read_bytes() == GOOD
    shutil.rmtree(path)  # the archive is still there, and the server is not needed
    assert untar_data(URLs.MNIST_TINY) == path
    assert capsys.readouterr().out == ''


def test_an_archive_put_there_by_hand_is_used_if_it_is_the_right_one(monkeypatch, home, tiny_sample):
    publish(monkeypatch, 'http://127.0.0.1:9')
    (home/'archive').mkdir(parents=True)
    (home/'archive'/'mnist_tiny.tgz').write_bytes(GOOD[:-1])
    assert untar_data(URLs.MNIST_TINY).parent.name == 'sample'
    (home/'archive'/'mnist_tiny.tgz').write_bytes(GOOD)
    assert untar_data(URLs.MNIST_TINY) == home/'data'/'mnist_tiny'


def test_a_server_that_does_not_know_head(monkeypatch):
    with serve({'mnist_tiny.tgz': GOOD}, head=False) as (address, _):
        publish(monkeypatch, address)
        assert (untar_data(URLs.MNIST_TINY)/'labels.csv').exists()


def test_an_address_of_ones_own(monkeypatch, home):
    with serve({'mnist_tiny.tgz': GOOD, 'x/mnist_tiny.tgz': tar_bytes(('other', b'1'), ('thing', b'2'))}) as (address, _):
        paths = [untar_data(f'{address}{o}/mnist_tiny.tgz') for o in ('', '/x', '')]
    assert len(set(paths)) == 2 and all(home/'data'/'address' in o.parents and o.name == 'mnist_tiny' for o in paths)
    assert sorted(o.name for o in paths[1].iterdir()) == ['other', 'thing']


def test_arguments_say_where_to(monkeypatch, tmp_path, a_mirror):
    assert untar_data(URLs.MNIST_TINY, base=tmp_path/'b').is_relative_to(tmp_path/'b'/'data')
    assert untar_data(URLs.MNIST_TINY, base=tmp_path/'b', c_key='model').is_relative_to(tmp_path/'b'/'model')
    assert untar_data(URLs.MNIST_TINY, data=tmp_path/'d').is_relative_to(tmp_path/'d')
    monkeypatch.delenv('FASTBOOK_MIRROR')
    with serve({'mnist_tiny.tgz': GOOD}) as (address, _):
        publish(monkeypatch, address)
        assert untar_data(URLs.MNIST_TINY, archive=tmp_path/'a', data=tmp_path/'e') == tmp_path/'e'/'mnist_tiny'
    assert (tmp_path/'a'/'mnist_tiny.tgz').exists()


@pytest.mark.parametrize('status', [403, 404, 503])
def test_a_server_that_answers_no(monkeypatch, tiny_sample, capsys, status):
    with serve({}, status=status) as (address, _):
        publish(monkeypatch, address)
        assert untar_data(URLs.MNIST_TINY).parent.name == 'sample'
    host = address.split('/')[-1]
    assert f'because {host} answers {status} ' in capsys.readouterr().out


def test_something_else_at_the_address(monkeypatch, tiny_sample, home):
    "The log-in page of a hotel's network, say. It is an error, not a reason to fall back."
    with serve({'mnist_tiny.tgz': b'<html>Welcome to the hotel</html>'}) as (address, _):
        publish(monkeypatch, address)
        monkeypatch.setitem(ext._published, 'MNIST_TINY', (33, '0'*32, MiB))
        assert error(ValueError, untar_data, URLs.MNIST_TINY) == (f'What came from {address}/mnist_tiny.tgz is not the archive that is expected: its MD5 is '
            f'{hashlib.md5(b"<html>Welcome to the hotel</html>").hexdigest()} instead of {"0"*32}. Try again later, or from another network; '
            'FASTBOOK_DATA=sample does without. If there is a new one, give its hash as known_hash.')
    assert not (home/'archive'/'mnist_tiny.tgz').exists() and not leftovers(home)


def test_more_bytes_than_published(monkeypatch, tiny_sample, home):
    with serve({'mnist_tiny.tgz': GOOD+bytes(MiB)}) as (address, _):
        publish(monkeypatch, address)
        assert error(ValueError, untar_data, URLs.MNIST_TINY) == (f'{address[7:]} has {len(GOOD)+MiB:,} bytes for mnist_tiny.tgz '
            f'instead of {len(GOOD):,}: it is not the file that is wanted.')
    assert not leftovers(home) and not cached_data()


def test_a_tampered_original(monkeypatch, tiny_sample):
    with serve({'mnist_tiny.tgz': GOOD[:-1]+b'\1'}) as (address, _):
        publish(monkeypatch, address)
        assert 'is not the archive that is expected: its MD5 is' in error(ValueError, untar_data, URLs.MNIST_TINY)


def test_a_download_that_breaks_off(monkeypatch, tiny_sample, capsys, home):
    with serve({'mnist_tiny.tgz': GOOD}, cut=100) as (address, _):
        publish(monkeypatch, address)
        assert untar_data(URLs.MNIST_TINY).parent.name == 'sample'
    assert f'because {address.split("/")[-1]} broke off after 0.0 MB of mnist_tiny.tgz' in capsys.readouterr().out
    assert not leftovers(home) and not (home/'archive'/'mnist_tiny.tgz').exists()


def test_a_download_that_stalls(monkeypatch, tiny_sample, capsys):
    monkeypatch.setattr(ext, '_limits', Limits(silence=.3))
    assert Limits().silence == 20
    with serve({'mnist_tiny.tgz': GOOD}, stall=100) as (address, _):
        publish(monkeypatch, address)
        assert untar_data(URLs.MNIST_TINY).parent.name == 'sample'
    assert 'stopped sending after 0.0 MB' in capsys.readouterr().out


# --- a network that keeps one waiting: noticed in 3 s

def full_backlog():
    "A port whose queue of callers is full: whoever calls now hears nothing, as behind a firewall that drops packets."
    server = socket.socket()
    server.bind(('127.0.0.1', 0))
    server.listen(0)
    callers = []
    for _ in range(8):
        callers.append(socket.socket())
        callers[-1].setblocking(False)
        callers[-1].connect_ex(server.getsockname())
    return server, callers


@pytest.mark.parametrize('how', ['mute', 'dropped', 'name server', 'slow name server and a mirror'])
def test_an_unreachable_network_is_noticed_in_three_seconds(monkeypatch, tiny_sample, capsys, how):
    import requests  # its import is not what is timed
    server, callers = (socket.create_server(('127.0.0.1', 0)), []) if how != 'dropped' else full_backlog()
    address = f'http://127.0.0.1:{server.getsockname()[1]}'
    if 'name server' not in how: publish(monkeypatch, address)
    else: monkeypatch.setattr(socket, 'getaddrinfo', lambda host, *args, _old=socket.getaddrinfo, **kw: _old(host, *args, **kw) if host == '127.0.0.1' else time.sleep(20))
    if 'mirror' in how: monkeypatch.setenv('FASTBOOK_MIRROR', address)
    start = time.monotonic()
    assert untar_data(URLs.MNIST_TINY).parent.name == 'sample'
    assert time.monotonic()-start < (3 if 'mirror' not in how else 5.2)  # one host, or two, one after the other
    assert 'does not answer' in capsys.readouterr().out
    start = time.monotonic()  # and is not asked again at once
    assert untar_data(URLs.MNIST_TINY).parent.name == 'sample'
    assert time.monotonic()-start < .3
    for o in (server, *callers): o.close()


def test_a_slow_mirror_is_still_the_mirror(monkeypatch):
    with serve({'mnist_tiny.tgz': GOOD, 'SHA256SUMS': f'{hashlib.sha256(GOOD).hexdigest()}  mnist_tiny.tgz\n'.encode()}, wait=.8) as (address, _):
        monkeypatch.setenv('FASTBOOK_MIRROR', address)
        assert untar_data(URLs.MNIST_TINY).parts[-3] == 'mirror'


def test_a_mirror_that_is_down_and_an_original_that_is_up(monkeypatch):
    with serve({'mnist_tiny.tgz': GOOD}) as (address, asked):
        publish(monkeypatch, address)
        monkeypatch.setenv('FASTBOOK_MIRROR', 'http://127.0.0.1:9')
        assert untar_data(URLs.MNIST_TINY) == fastbook_path()/'mnist_tiny'


# --- unpacking

def zip_bytes(files, **attrs):
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as z:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            for k, v in attrs.items(): setattr(info, k, v)
            z.writestr(info, data)
    return out.getvalue()


def header(name, size):
    "A tar header that claims `size` bytes."
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf()


def understate(data, size):
    "A zip archive whose directory says that its first file has `size` bytes."
    at = data.index(b'PK\1\2')+24
    return data[:at]+size.to_bytes(4, 'little')+data[at+4:]


OUTSIDE = 'would be written outside its folder'
ONLY = 'and only files and folders are unpacked'
HOSTILE = {
    'up':        (tar_bytes(('x/../../evil', b'1')), f"is refused: 'x/../../evil' in it {OUTSIDE}."),
    'absolute':  (tar_bytes(('/tmp/evil', b'1')), f"is refused: '/tmp/evil' in it {OUTSIDE}."),
    'drive':     (tar_bytes(('C:evil', b'1')), f"is refused: 'C:evil' in it {OUTSIDE}."),
    'backslash': (tar_bytes(('x\\..\\..\\evil', b'1')), OUTSIDE),
    'folder up': (tar_bytes(('../evil', dict(type=tarfile.DIRTYPE))), f"is refused: '../evil' in it {OUTSIDE}."),
    'symlink':   (tar_bytes(('x', dict(type=tarfile.SYMTYPE, linkname='/tmp')), ('x/evil', b'1')), f"is refused: 'x' in it is a link, {ONLY}."),
    'hard link': (tar_bytes(('x', dict(type=tarfile.LNKTYPE, linkname='/etc/passwd'))), f"is refused: 'x' in it is a link, {ONLY}."),
    'device':    (tar_bytes(('x', dict(type=tarfile.CHRTYPE, devmajor=1, devminor=5))), f"is refused: 'x' in it is a device or a pipe, {ONLY}."),
    'pipe':      (tar_bytes(('x', dict(type=tarfile.FIFOTYPE))), f"is refused: 'x' in it is a device or a pipe, {ONLY}."),
    'sparse':    (tar_bytes(('x', dict(type=tarfile.GNUTYPE_SPARSE))), 'is refused'),
    'twice':     (tar_bytes(('x', b'1'), ('x/y', b'2')), 'both as a file and as a folder.'),
    'empty':     (tar_bytes(), 'is refused: there is nothing in it.'),
    'bomb':      (tar_bytes(('x', bytes(100*MiB))), 'is refused: it unpacks to more than 69 MB, far more than an archive of its size should.'),
    'two-fold':  (gzip.compress(gzip.compress(bytes(100*MiB))), 'is damaged or cut off'),
    'pax bomb':  (tar_bytes(('x', dict(pax_headers={'comment': '0'*(100*MiB)}))), 'is refused: it unpacks to more than'),
    'big claim': (gzip.compress(header('x', 2**33)), 'is damaged or cut off'),
    'long name': (tar_bytes(('x'*300, b'1')), 'is refused: it holds a name that is too long for this computer.'),
    'cut off':   (tar_bytes(('x', os.urandom(5000)))[:-3000], 'is damaged or cut off'),
    'checksum':  (GOOD[:-8]+b'\0\0\0\0'+GOOD[-4:], 'is damaged or cut off'),
    'no tar':    (b'<html>Not found</html>'*99, 'is damaged or cut off'),
    'zip up':    (zip_bytes({'../evil': b'1'}), f"is refused: '../evil' in it {OUTSIDE}."),
    'zip link':  (zip_bytes({'x': b'/etc'}, external_attr=0o120777 << 16), f"is refused: 'x' in it is a link or a device, {ONLY}."),
    'zip bomb':  (zip_bytes({'x': bytes(100*MiB)}), 'is refused: it unpacks to 105 MB, far more than an archive of its size should.'),
    'zip lies':  (understate(zip_bytes({'x': bytes(100*MiB)}), 100), 'is damaged or cut off'),
    'zip cut':   (zip_bytes({'x': os.urandom(5000)})[:-100], 'is damaged or cut off'),
}


@pytest.mark.parametrize('how', HOSTILE)
def test_hostile_archives(a_mirror, tiny_sample, home, how):
    data, sentence = HOSTILE[how]
    make_mirror(a_mirror, mnist_tiny__tgz=data)
    before = {o for o in a_mirror.parent.rglob('*') if home not in o.parents}
    message = error(ValueError, untar_data, URLs.MNIST_TINY)
    assert message.startswith(f'{a_mirror/"mnist_tiny.tgz"} is ') and sentence in message, message
    assert {o for o in a_mirror.parent.rglob('*') if home not in o.parents} - {home} == before - {home}
    assert not Path('/tmp/evil').exists() and not leftovers(home) and not cached_data()


def test_only_names_and_bytes_are_taken_over(a_mirror):
    make_mirror(a_mirror, mnist_tiny__tgz=tar_bytes(('./mnist_tiny', dict(type=tarfile.DIRTYPE, mode=0o000)), ('./mnist_tiny/a', dict(mode=0o6777)), ('._mnist_tiny', b'')))
    path = untar_data(URLs.MNIST_TINY)
    assert [o.name for o in path.iterdir()] == ['a']
    assert (path/'a').stat().st_mode & 0o7111 == 0


def test_a_folder_of_another_name_is_renamed(a_mirror):
    make_mirror(a_mirror, mnist_tiny__tgz=tar_bytes(('something/a', b'1')))
    path = untar_data(URLs.MNIST_TINY)
    assert path.name == 'mnist_tiny' and (path/'a').exists()


# --- kills, races, disks

def script(code, **env):
    "Run `code` in a Python of its own, without a network: `socket.getaddrinfo` knows this computer only."
    code = "import os, sys, time, socket\nfrom pathlib import Path\nfrom fastbook_impl.data import archive, external as ext\nfrom fastbook_impl.data.external import *\n" + textwrap.dedent(code)
    return subprocess.Popen([sys.executable, '-c', code], env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent.parent)


def wait_for(condition, seconds=60):
    end = time.monotonic()+seconds
    while not condition():
        assert time.monotonic() < end, 'waited too long'
        time.sleep(.02)


def test_killed_in_mid_extraction(a_mirror, home):
    many = tar_bytes(*((f'mnist_tiny/{i}.txt', b'%d' % i) for i in range(20)))
    make_mirror(a_mirror, mnist_tiny__tgz=many)
    process = script("""
        real = archive.shutil.copyfileobj
        def slow(src, dst, *args):
            real(src, dst, *args)
            if dst.name.endswith('/10.txt'): dst.flush(); time.sleep(60)
        archive.shutil.copyfileobj = slow
        untar_data(URLs.MNIST_TINY)""")
    wait_for(lambda: list(home.rglob('10.txt')))
    assert leftovers(home)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not cached_data()
    path = untar_data(URLs.MNIST_TINY)
    assert len(get_files(path)) == 20 and not leftovers(home)


def test_killed_in_mid_download(monkeypatch, home):
    with serve({'mnist_tiny.tgz': GOOD}, stall=100) as (address, _):
        process = script(f"""
            URLs.MNIST_TINY = '{address}/mnist_tiny.tgz'
            ext._published['MNIST_TINY'] = ({len(GOOD)}, '{hashlib.md5(GOOD).hexdigest()}', 2**20)
            del ext._sha256_of['MNIST_TINY']
            untar_data(URLs.MNIST_TINY)""")
        wait_for(lambda: [o for o in home.rglob('*.tgz.part')])
        time.sleep(.2)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert leftovers(home) and not (home/'archive'/'mnist_tiny.tgz').exists() and not cached_data()
    with serve({'mnist_tiny.tgz': GOOD}) as (address, _):
        publish(monkeypatch, address)
        assert (untar_data(URLs.MNIST_TINY)/'labels.csv').exists()
    assert not leftovers(home)


def test_two_processes_at_once(a_mirror, home, tmp_path):
    make_mirror(a_mirror, mnist_tiny__tgz=tar_bytes(*((f'mnist_tiny/{i}.txt', b'%d' % i) for i in range(500))))
    code = f"""
        real = ext.unpack
        def counted(archive, *args):
            with open({str(tmp_path/'count')!r}, 'a') as f: f.write('unpacked\\n')
            time.sleep(.5)
            real(archive, *args)
        ext.unpack = counted
        Path({str(tmp_path)!r}, f'ready-{{os.getpid()}}').touch()
        while not Path({str(tmp_path/'go')!r}).exists(): time.sleep(.005)
        path = untar_data(URLs.MNIST_TINY)
        print(path, len(get_files(path)))"""
    processes = [script(code) for _ in range(2)]
    wait_for(lambda: len(list(tmp_path.glob('ready-*'))) == 2)
    (tmp_path/'go').touch()
    outs = [o.communicate(timeout=600) for o in processes]
    assert [o.returncode for o in processes] == [0, 0], outs
    ends = {o[0].splitlines()[-1] for o in outs}  # before it, the one that waits may say so
    assert len(ends) == 1 and ends.pop().endswith('mnist_tiny 500')
    assert (tmp_path/'count').read_text() == 'unpacked\n'


def test_waiting_for_another_process_says_so(a_mirror, home, capsys):
    dest = home/'data'/'mirror'/hashlib.sha256(GOOD).hexdigest()[:12]/'mnist_tiny'
    entered, leave = threading.Event(), threading.Event()
    def holder():
        with ext._lock(dest):
            entered.set()
            leave.wait(30)
    thread = threading.Thread(target=holder)
    thread.start()
    entered.wait(10)
    threading.Timer(2.3, leave.set).start()
    assert untar_data(URLs.MNIST_TINY) == dest
    thread.join()
    assert capsys.readouterr().out == 'mnist_tiny: another process is fetching it; waiting for it to finish.\n'


def test_a_full_disk(a_mirror, home, monkeypatch):
    def full(src, dst, *args): dst.write(b'half'); raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(archive.shutil, 'copyfileobj', full)
    assert error(OSError, untar_data, URLs.MNIST_TINY) == (f'There is no room for MNIST_TINY (0.3 MB) in {home}/data: '
        'free some, or let FASTBOOK_HOME name a folder on a larger disk.')
    assert not leftovers(home) and not cached_data()


def test_too_little_room_is_noticed_before_the_download(monkeypatch, home):
    with serve({'mnist_tiny.tgz': GOOD}) as (address, asked):
        publish(monkeypatch, address)
        monkeypatch.setattr(download.shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(100, 99, 1))
        assert error(OSError, untar_data, URLs.MNIST_TINY).startswith('There is no room for MNIST_TINY')
        assert not leftovers(home) and len(asked) == 1


def test_a_cache_that_may_not_be_written_to(a_mirror, home, monkeypatch):
    def no(*args, **kwargs): raise PermissionError(errno.EACCES, 'Permission denied', '/read/only')
    monkeypatch.setattr(ext.tempfile, 'mkdtemp', no)
    assert error(PermissionError, untar_data, URLs.MNIST_TINY) == ('MNIST_TINY: /read/only may not be read or written; '
        'let FASTBOOK_HOME name a folder where you may, or have the permissions changed.')


def test_ctrl_c_leaves_nothing(a_mirror, home, monkeypatch):
    def stop(*args): raise KeyboardInterrupt
    monkeypatch.setattr(archive.shutil, 'copyfileobj', stop)
    with pytest.raises(KeyboardInterrupt): untar_data(URLs.MNIST_TINY)
    assert not leftovers(home) and not cached_data()


def test_what_is_in_the_cache_needs_neither_lock_nor_network(a_mirror, monkeypatch):
    path = untar_data(URLs.MNIST_TINY)
    def no(*args, **kwargs): raise AssertionError('not needed')
    for o in ('_lock', 'first_answer', 'unpack'): monkeypatch.setattr(ext, o, no)
    assert untar_data(URLs.MNIST_TINY) == path


def test_the_cache_is_a_folder_of_the_user(monkeypatch, tmp_path):
    assert fastbook_path() == tmp_path/'home'/'data'
    monkeypatch.delenv('FASTBOOK_HOME')
    import platformdirs
    assert fastbook_path('archive') == platformdirs.user_cache_path('fastbook_impl')/'archive'
    monkeypatch.setenv('FASTBOOK_HOME', '~/somewhere')
    assert fastbook_path() == Path.home()/'somewhere'/'data'


# --- listing files

def test_get_image_files_of_a_missing_folder(tmp_path):
    (tmp_path/'train').mkdir()
    (tmp_path/'a.txt').touch()
    assert error(FileNotFoundError, get_image_files, tmp_path/'trian') == f'There is no folder {tmp_path}/trian; did you mean {tmp_path}/train?'
    assert error(FileNotFoundError, get_image_files, tmp_path/'x'/'y') == f'There is no folder {tmp_path}/x/y; {tmp_path} is there.'
    assert error(FileNotFoundError, get_image_files, tmp_path/'a.txt') == f'{tmp_path}/a.txt is a file, and a folder is needed.'


def test_get_image_files_of_an_empty_folder(tmp_path):
    from fastcore.foundation import L
    res = get_image_files(tmp_path)
    assert isinstance(res, L) and len(res) == 0


def test_get_files(tmp_path):
    for o in ('b.JPG', 'a.png', 'c.txt', '.d.png', 'noext', 'train/x.png', 'train/.y.png', 'train/deep/z.jpeg', 'valid/q.png', '.git/h.png'):
        (tmp_path/o).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/o).touch()
    def names(files): return [o.relative_to(tmp_path).as_posix() for o in files]
    assert names(get_image_files(tmp_path)) == ['a.png', 'b.JPG', 'train/x.png', 'train/deep/z.jpeg', 'valid/q.png']
    assert names(get_image_files(tmp_path, recurse=False)) == ['a.png', 'b.JPG']
    assert names(get_image_files(tmp_path, folders=['train'])) == ['train/x.png', 'train/deep/z.jpeg']
    assert names(get_image_files(tmp_path, folders=['.', 'valid'])) == ['a.png', 'b.JPG', 'valid/q.png']
    assert names(get_files(tmp_path, recurse=False)) == ['a.png', 'b.JPG', 'c.txt', 'noext']
    assert names(get_files(tmp_path, ['.TXT'])) == names(get_text_files(str(tmp_path))) == ['c.txt']
    assert names(FileGetter('train')(tmp_path)) == ['train/x.png', 'train/deep/z.jpeg']
    assert names(ImageGetter('train', recurse=False)(tmp_path)) == ['train/x.png']


def test_links_among_folders(tmp_path):
    (tmp_path/'real').mkdir()
    (tmp_path/'real'/'a.png').touch()
    (tmp_path/'data').mkdir()
    (tmp_path/'data'/'link').symlink_to(tmp_path/'real')
    assert [o.name for o in get_image_files(tmp_path/'data')] == ['a.png']
    assert not get_files(tmp_path/'data', followlinks=False)
    (tmp_path/'real'/'circle').symlink_to(tmp_path/'data')
    assert len(get_image_files(tmp_path/'data')) == 1


def test_folders_that_cannot_be_read_are_reported(tmp_path, monkeypatch):
    "Also where the tests run as root, who may read everything."
    for o in ('good/a.png', 'locked/b.png', 'good/deep/c.png'):
        (tmp_path/o).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/o).touch()
    real = os.scandir
    def scandir(path):
        if str(path).endswith(('locked', 'deep')): raise PermissionError(errno.EACCES, 'Permission denied', str(path))
        return real(path)
    monkeypatch.setattr(os, 'scandir', scandir)
    with pytest.warns(UserWarning, match=f'2 folders in {tmp_path} cannot be read, and their files are left out: {tmp_path}/.* .Permission denied.') as seen:
        assert [o.name for o in get_image_files(tmp_path)] == ['a.png']
    assert len(seen) == 1
    with pytest.raises(PermissionError, match=f'The folder {tmp_path}/locked cannot be read: Permission denied'): get_files(tmp_path/'locked')


@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() == 0, reason='root may read everything')
def test_a_folder_without_permission(tmp_path):
    (tmp_path/'locked').mkdir(mode=0)
    with pytest.warns(UserWarning, match='A folder in .* cannot be read'): get_files(tmp_path)


def test_a_misspelled_name_in_urls_gets_a_suggestion():
    for bad, good in dict(PET='PETS', pets='PETS', MNIST_SMAPLE='MNIST_SAMPLE', ML100K='ML_100k').items():
        with pytest.raises(AttributeError, match=f'URLs has no data set {bad!r}: did you mean URLs.{good}?'): getattr(URLs, bad)
    assert not hasattr(URLs, 'XYZXYZ') and URLs.PETS and 'PETS' in dir(URLs)
