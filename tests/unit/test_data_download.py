"""Downloads against every kind of server that lets us down, and the archives that such servers leave behind.

Every server is on 127.0.0.1 and written as a script: a list of answers, one for each request."""
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import socket
import ssl
import subprocess
import tarfile
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fastbook_impl.data import download
from fastbook_impl.data import external as ext
from fastbook_impl.data.archive import unpack
from fastbook_impl.data.download import Limits, NotHere, downloaded, open_url, printable
from fastbook_impl.data.external import untar_data

DATA = random.Random(0).randbytes(50_000)
QUICK = Limits(silence=.5, patience=.3, slowest=50_000, total=2)


@pytest.fixture(autouse=True)
def clean(monkeypatch, home):
    "An empty cache, no proxies, nothing remembered of earlier tests."
    monkeypatch.setenv('FASTBOOK_DATA', 'real')
    monkeypatch.delenv('FASTBOOK_MIRROR', raising=False)
    for o in ('http_proxy', 'https_proxy', 'all_proxy'):
        monkeypatch.delenv(o, raising=False)
        monkeypatch.delenv(o.upper(), raising=False)
    monkeypatch.setattr(download, '_silent', {})


def answer(body=b'', status=200, cut=None, reason=None, length=True, every=None, **headers):
    """One answer: `headers` with dashes as underscores; `cut` bytes are sent and then nothing more; `length`: whether
    it is announced, or what is; `every`: seconds after each byte."""
    def reply(h):
        h.send_response(status, reason)
        if length is True: h.send_header('Content-Length', str(len(body)))
        elif length: h.send_header('Content-Length', str(length))
        for k, v in headers.items(): h.send_header(k.replace('_', '-'), v)
        h.end_headers()
        if every is None: h.wfile.write(body[:cut])
        for i in range(len(body) if every else 0):
            h.wfile.write(body[i:i+1])
            h.wfile.flush()
            if h.server.done.wait(every): break
        h.close_connection = True
    return reply


def ranged(body, cut=None, tag='"v1"', honest=True):
    "An answer that honors Range and If-Range, and hangs up after `cut` bytes; not `honest`: without looking at If-Range."
    def reply(h):
        asked, same = h.headers.get('Range'), h.headers.get('If-Range') == tag or not honest
        start = int(asked[6:-1]) if asked and same else 0
        if start >= len(body): return answer(status=416, Content_Range=f'bytes */{len(body)}')(h)
        more = dict(status=206, Content_Range=f'bytes {start}-{len(body)-1}/{len(body)}') if start else {}
        answer(body[start:], cut=cut, ETag=tag, **more)(h)
    return reply


class Script(ThreadingHTTPServer):
    "A server that gives one answer after another, the last one again and again; `asked` are the headers of the requests."
    daemon_threads = True
    def __init__(self, *answers):
        self.answers, self.asked, self.done = list(answers), [], threading.Event()
        super().__init__(('127.0.0.1', 0), Handler)
        threading.Thread(target=self.serve_forever, args=(.01,), daemon=True).start()
    def handle_error(self, *args): pass  # visitors hang up
    @property
    def url(self): return f'http://127.0.0.1:{self.server_port}/a.tgz'


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args): pass
    def do_GET(self):
        self.server.asked.append(dict(self.headers))
        n = min(len(self.server.asked), len(self.server.answers)) - 1
        self.server.answers[n](self)


@pytest.fixture
def server():
    made = []
    def make(*answers):
        made.append(Script(*answers))
        return made[-1]
    yield make
    for o in made:
        o.done.set()
        o.shutdown()
        o.server_close()


def get(address, folder, size=None, limits=QUICK):
    "The bytes that `downloaded` gives."
    with downloaded(address, Path(folder)/'a.tgz', size, limits) as file: return file.read_bytes()


def refused(kind, address, folder, match, **kwargs):
    with pytest.raises(kind, match=match) as e: get(address, folder, **kwargs)
    assert str(e.value).isprintable()
    return str(e.value)


def tar_of(files, mode='w:gz'):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


# --- what comes whole

@pytest.mark.parametrize('how', [dict(), dict(length=False), dict(length='abc'), dict(length='-5'), dict(length='')])
def test_a_file_with_or_without_a_length_that_makes_sense(server, tmp_path, how):
    assert get(server(answer(DATA, **how)).url, tmp_path) == DATA
    assert not list(tmp_path.iterdir())


def test_a_file_in_chunks(server, tmp_path):
    def chunked(cut=False):
        def reply(h):
            h.protocol_version = 'HTTP/1.1'
            h.send_response(200)
            h.send_header('Transfer-Encoding', 'chunked')
            h.end_headers()
            for i in range(0, 50_000, 10_000): h.wfile.write(b'2710\r\n' + DATA[i:i+10_000] + b'\r\n')
            if not cut: h.wfile.write(b'0\r\n\r\n')
            h.close_connection = True
        return reply
    assert get(server(chunked()).url, tmp_path) == DATA
    refused(NotHere, server(chunked(cut=True)).url, tmp_path, 'broke off after 0.1 MB of a.tgz')
    assert not list(tmp_path.iterdir())


# --- what breaks off

def test_a_download_that_breaks_off_leaves_nothing_if_it_cannot_be_resumed(server, tmp_path):
    host = server(answer(DATA, cut=1000))
    refused(NotHere, host.url, tmp_path, 'broke off after 0.0 MB of a.tgz')
    assert not list(tmp_path.iterdir()) and len(host.asked) == 1


def test_a_download_that_breaks_off_is_resumed_at_once(server, tmp_path):
    host = server(ranged(DATA, cut=20_000))
    assert get(host.url, tmp_path) == DATA
    assert [o.get('Range') for o in host.asked] == [None, 'bytes=20000-', 'bytes=40000-']
    assert [o.get('If-Range') for o in host.asked] == [None, '"v1"', '"v1"']
    assert not list(tmp_path.iterdir())


def test_the_next_run_resumes_what_was_given_up(server, tmp_path):
    host = server(ranged(DATA, cut=10_000))
    refused(NotHere, host.url, tmp_path, 'broke off after 0.0 MB of a.tgz')
    assert (tmp_path/'.a.tgz.part').read_bytes() == DATA[:30_000]
    host.answers = [ranged(DATA)]
    assert get(host.url, tmp_path) == DATA and host.asked[-1]['Range'] == 'bytes=30000-'
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('honest', [True, False])
def test_a_file_that_changed_in_between_is_fetched_anew(server, tmp_path, honest):
    "Also from a server that sends the rest of the new file, as if it were that of the old one."
    new = DATA[::-1]
    host = server(ranged(DATA, cut=20_000), ranged(new, tag='"v2"', honest=honest))
    assert get(host.url, tmp_path) == new


def test_last_modified_will_do_and_a_weak_tag_will_not(server, tmp_path):
    date = 'Mon, 01 Jan 2024 00:00:00 GMT'
    host = server(answer(DATA, cut=1000, Last_Modified=date), answer(DATA))
    assert get(host.url, tmp_path) == DATA and host.asked[1]['If-Range'] == date
    host = server(answer(DATA, cut=1000, ETag='W/"1"'), answer(DATA))
    refused(NotHere, host.url, tmp_path, 'broke off')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('rest', [
    ranged(DATA, tag='"v1"'), answer(status=416, Content_Range='bytes */10'), answer(status=416),
    answer(DATA[:10], status=206, Content_Range='bytes 0-9/50000', ETag='"v1"'), answer(DATA[10:], status=206, ETag='"v1"')])
def test_odd_answers_to_a_request_for_the_rest_begin_anew(server, tmp_path, rest):
    (tmp_path/'.a.tgz.part').write_bytes(DATA[:1234])
    host = server(rest, answer(DATA))
    (tmp_path/'.a.tgz.part.json').write_text(json.dumps(dict(address=host.url, version='"v1"')))
    assert get(host.url, tmp_path) == DATA


def test_what_was_whole_already_is_not_fetched_again(server, tmp_path):
    "A process that was killed between the last byte and the unpacking."
    host = server(ranged(DATA))
    (tmp_path/'.a.tgz.part').write_bytes(DATA)
    (tmp_path/'.a.tgz.part.json').write_text(json.dumps(dict(address=host.url, version='"v1"')))
    assert get(host.url, tmp_path) == DATA and len(host.asked) == 1


@pytest.mark.parametrize('note', ['', '{}', '[]', 'null', '{"address": "http://elsewhere/a.tgz", "version": "1"}'])
def test_leftovers_that_belong_to_nothing_are_removed(server, tmp_path, note):
    (tmp_path/'.a.tgz.part').write_bytes(b'rubbish')
    (tmp_path/'.a.tgz.part.json').write_text(note)
    host = server(answer(DATA))
    assert get(host.url, tmp_path) == DATA and 'Range' not in host.asked[0]
    assert not list(tmp_path.iterdir())


def test_ctrl_c_keeps_what_can_be_resumed_and_nothing_else(server, tmp_path):
    for host, kept in ((server(ranged(DATA)), 2), (server(answer(DATA)), 0)):
        with pytest.raises(KeyboardInterrupt):
            with downloaded(host.url, tmp_path/'a.tgz', limits=QUICK): raise KeyboardInterrupt
        assert len(list(tmp_path.iterdir())) == kept
        for o in tmp_path.iterdir(): o.unlink()


# --- what never ends

def test_more_bytes_than_announced_or_expected(server, tmp_path):
    refused(ValueError, server(answer(DATA)).url, tmp_path, 'has 50,000 bytes for a.tgz instead of 49,999', size=49_999)
    refused(ValueError, server(answer(DATA, length=False)).url, tmp_path, 'sends more than the 49,999 bytes', size=49_999)
    refused(NotHere, server(answer(DATA, length=False)).url, tmp_path, 'broke off', size=50_001)
    assert not list(tmp_path.iterdir())


def test_an_endless_body_ends_at_a_fraction_of_the_free_disk(server, tmp_path, monkeypatch):
    def endless(h):
        answer(length=False)(h)
        while True: h.wfile.write(bytes(50_000))
    usage = download.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, 'disk_usage', lambda path: usage._replace(free=4_000_000))
    refused(ValueError, server(endless).url, tmp_path, 'sends more than the 2,000,000 bytes expected', limits=Limits())
    assert not list(tmp_path.iterdir())


def test_a_file_larger_than_the_disk_is_not_begun(server, tmp_path):
    with pytest.raises(OSError, match='MB are free'): get(server(answer(b'x', length=10**17)).url, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('limits', [Limits(patience=.2), Limits(total=.3)])
def test_a_byte_now_and_then_is_given_up(server, tmp_path, limits):
    "No pause is too long; the whole is."
    host = server(answer(DATA, every=.02))
    start = time.monotonic()
    refused(NotHere, host.url, tmp_path, 'is too slow after 0.0 MB of a.tgz', limits=limits)
    assert time.monotonic()-start < 2 and len(host.asked) == 1 and not list(tmp_path.iterdir())


def test_silence_is_given_up(server, tmp_path):
    def silent(h):
        answer(DATA, cut=100)(h)
        h.server.done.wait(20)
    refused(NotHere, server(silent).url, tmp_path, 'stopped sending after 0.0 MB of a.tgz')


# --- what was not asked for

@pytest.mark.parametrize('packed', ['gzip', 'br', 'GZIP', 'gzip, identity', '\x1b[31mred'])
def test_compressed_answers_are_refused(server, tmp_path, packed):
    bomb = gzip.compress(bytes(10_000_000))
    refused(NotHere, server(answer(bomb, Content_Encoding=packed)).url, tmp_path, 'data, which was not asked for')
    assert get(server(answer(DATA, Content_Encoding='identity')).url, tmp_path) == DATA


def test_redirects_are_followed_but_not_forever(server, tmp_path):
    end = server(answer(DATA))
    assert get(server(answer(status=302, Location=end.url)).url, tmp_path) == DATA
    circle = server(lambda h: answer(status=301, Location='/again')(h))
    refused(NotHere, circle.url, tmp_path, 'sends us on and on')
    assert len(circle.asked) == 6


@pytest.mark.parametrize('target', ['http://elsewhere/a.tgz', 'HTTP://elsewhere/a.tgz', 'ftp://x/y', 'file:///etc/passwd'])
def test_no_redirect_leaves_https(monkeypatch, target):
    import requests
    def fake(address, **kwargs):
        r = requests.Response()
        r.status_code, r.url, r.headers['location'], r.raw = 302, address, target, io.BytesIO()
        return r
    monkeypatch.setattr(requests, 'get', fake)
    with pytest.raises(NotHere, match='safe.example sends us on to .*, which is not https'): open_url('https://safe.example/a.tgz', 1)


@pytest.mark.skipif(not shutil.which('openssl'), reason='openssl makes the certificate')
def test_a_real_https_server_cannot_lead_to_http(server, tmp_path, monkeypatch):
    key, cert = tmp_path/'key.pem', tmp_path/'cert.pem'
    subprocess.run(['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', key, '-out', cert, '-days', '2',
                    '-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1'], check=True, capture_output=True)
    monkeypatch.setenv('REQUESTS_CA_BUNDLE', str(cert))
    plain = server(answer(DATA))
    safe = server(answer(DATA), answer(status=307, Location=plain.url))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    safe.socket = context.wrap_socket(safe.socket, server_side=True)
    address = safe.url.replace('http:', 'https:')
    assert get(address, tmp_path) == DATA
    refused(NotHere, address, tmp_path, 'sends us on to http://127.0.0.1.*, which is not https')
    assert plain.asked == []


@pytest.mark.parametrize('target', ['ftp://x/y', 'file:///etc/passwd', 'data:,x', 'ftp://x/\x1b[2J'])
def test_redirects_lead_to_the_web_only(server, tmp_path, target):
    refused(NotHere, server(answer(status=302, Location=target)).url, tmp_path, 'which is not http or https')


def test_what_the_server_says_cannot_control_the_terminal(server, tmp_path):
    host = server(answer(status=404, reason='\x1b[2J\x1b]0;owned\x07 gone\r\t' + 'x'*500))
    message = refused(NotHere, host.url, tmp_path, 'answers 404 ')
    assert len(message) < 200 and 'gone' in message
    assert printable('a\x1b[31m\u202eb\n') == 'a?[31m?b?'


def test_a_host_that_is_silent_is_not_asked_twice(monkeypatch, tmp_path):
    with socket.create_server(('127.0.0.1', 0)) as mute:
        address = f'http://127.0.0.1:{mute.getsockname()[1]}/a.tgz'
        for _ in range(2):
            start = time.monotonic()
            refused(NotHere, address, tmp_path, 'does not answer', limits=Limits(answer=.3))
        assert time.monotonic()-start < .2


# --- the archives

GOOD = tar_of({'a/one.txt': b'1', 'a/two.txt': b'2'*3000, 'a/three.txt': random.Random(1).randbytes(20_000)})


@pytest.mark.parametrize('mode', ['w:gz', 'w:bz2', 'w:xz', 'w'])
def test_a_stump_never_becomes_an_archive(server, home, mode):
    "The server drops at half and has not said how long the file is: nothing stays in the cache, and the next run gets it."
    whole = tar_of({'a/one.txt': b'1', 'a/two.txt': b'2'*3000, 'a/three.txt': random.Random(1).randbytes(20_000)}, mode)
    host = server(answer(whole, length=False, cut=len(whole)//2), answer(whole, length=False))
    with pytest.raises(ValueError, match=f'{host.url} is damaged or cut off'): untar_data(host.url)
    assert not [o for o in home.rglob('*') if o.is_file() and o.suffix != '.lock']
    assert (untar_data(host.url)/'two.txt').read_bytes() == b'2'*3000


@pytest.mark.parametrize('pieces', [1, 2])
@pytest.mark.parametrize('end', [0, 512, 100])
def test_a_tar_that_is_cut_between_two_files(tmp_path, pieces, end):
    "Also if the last file ends in zeros, which are not the end of the archive."
    whole = tar_of({'one': bytes(1024), 'two': b'2'*1024, 'three': b'3'}, 'w')
    (tmp_path/'a.tar').write_bytes(whole[:pieces*1536 + (end if pieces == 1 else 0)])
    with pytest.raises(ValueError, match=f'{tmp_path}/a.tar is damaged or cut off'): unpack(tmp_path/'a.tar', tmp_path/'out', str(tmp_path/'a.tar'))


def test_a_tar_needs_its_end_and_nothing_after_it(tmp_path):
    whole = tar_of({'one': b'1'}, 'w')
    for data in (whole, whole[:1024+1024], whole + b'garbage'):
        (tmp_path/'a.tar').write_bytes(data)
        unpack(tmp_path/'a.tar', tmp_path/'out', 'a.tar')
    for data in (whole[:1024+1023], whole[:1024+512], whole[:1024], whole[:1024+512] + b'garbage'*100):
        (tmp_path/'a.tar').write_bytes(data)
        with pytest.raises(ValueError, match='a.tar is damaged or cut off'): unpack(tmp_path/'a.tar', tmp_path/'out', 'a.tar')


def test_an_archive_in_the_cache_that_is_damaged_is_fetched_again(server, home, capsys):
    host = server(answer(GOOD))
    path = untar_data(host.url)
    kept = next((home/'archive').rglob('a.tgz'))
    kept.write_bytes(GOOD[:1000])
    for o in path.iterdir(): o.unlink()
    path.rmdir()
    assert untar_data(host.url) == path and kept.read_bytes() == GOOD
    assert f'{kept} is damaged or cut off' in capsys.readouterr().out


def test_known_hash(server, home):
    good, other = (hashlib.sha256(o).hexdigest() for o in (GOOD, b'other'))
    host = server(answer(GOOD))
    with pytest.raises(ValueError, match=f'its SHA256 is {good} instead of {other}'): untar_data(host.url, known_hash=other)
    assert not [o for o in home.rglob('*') if o.is_file() and o.suffix != '.lock']
    path = untar_data(host.url, known_hash=f'SHA256:{good.upper()}')
    assert (path/'one.txt').exists() and untar_data(host.url, known_hash=good) == untar_data(host.url) == path
    n = len(host.asked)
    assert untar_data(host.url, known_hash='md5:'+hashlib.md5(GOOD).hexdigest()) == path  # the archive is there, and has it
    assert len(host.asked) == n
    with pytest.raises(ValueError, match='instead of'): untar_data(host.url, known_hash=other)  # what is in the cache is another
    for bad in ('abc', 'sha256:abc', 'crc:'+'0'*8, 'sha256:'+'g'*64, ''):
        with pytest.raises(ValueError, match='known_hash is'): untar_data(host.url, known_hash=bad)


def test_known_hash_holds_for_a_mirror_and_forbids_the_sample(tmp_path, monkeypatch):
    monkeypatch.setenv('FASTBOOK_DATA', 'auto')
    def unknown(*args, **kwargs): raise socket.gaierror(-2, 'Name or service not known')
    monkeypatch.setattr(socket, 'getaddrinfo', unknown)
    with pytest.raises(FileNotFoundError, match='known_hash forbids the built-in sample'): untar_data(ext.URLs.MNIST_TINY, known_hash='0'*64)
    (tmp_path/'m').mkdir()
    (tmp_path/'m'/'b.tgz').write_bytes(GOOD)
    (tmp_path/'m'/'SHA256SUMS').write_text(f'{hashlib.sha256(GOOD).hexdigest()}  b.tgz\n')
    monkeypatch.setenv('FASTBOOK_MIRROR', str(tmp_path/'m'))
    with pytest.raises(ValueError, match='b.tgz is not the archive with the known_hash'): untar_data('b.tgz', known_hash='0'*64)
    assert (untar_data('b.tgz', known_hash=hashlib.sha256(GOOD).hexdigest())/'one.txt').exists()


def test_whole_file_hashes_of_originals_are_checked(server, monkeypatch):
    "Size and first mebibyte are right, and a byte after that is not."
    data = tar_of({'mnist_tiny/a': random.Random(2).randbytes(2**20 + 2**18)}, 'w')
    host = server(answer(data[:-6000] + b'!' + data[-5999:]))
    monkeypatch.setattr(ext.URLs, 'MNIST_TINY', host.url.replace('a.tgz', 'mnist_tiny.tgz'))
    monkeypatch.setitem(ext._published, 'MNIST_TINY', (len(data), hashlib.md5(data[:2**20]).hexdigest(), 2**20))
    monkeypatch.setitem(ext._sha256_of, 'MNIST_TINY', hashlib.sha256(data).hexdigest())
    with pytest.raises(ValueError, match='its SHA256 is'): untar_data(ext.URLs.MNIST_TINY)
    monkeypatch.delitem(ext._sha256_of, 'MNIST_TINY')
    assert untar_data(ext.URLs.MNIST_TINY).exists()  # it is only the hash that tells


def test_old_leftovers_of_other_data_sets_are_removed(server, home):
    for o in ('data/.x.part-abc/all/file', 'data/address/012345678901/.y.part-1/file', 'archive/.z.tgz.part', 'archive/.z.tgz.part.json',
              'data/.young.part-1/file'):
        (home/o).parent.mkdir(parents=True, exist_ok=True)
        (home/o).touch()
    for o in ('data/.x.part-abc', 'data/address/012345678901/.y.part-1', 'archive/.z.tgz.part', 'archive/.z.tgz.part.json'):
        os.utime(home/o, (0, 0))
    untar_data(server(answer(GOOD)).url)
    assert [o.name for o in home.rglob('*.part*')] == ['.young.part-1']
