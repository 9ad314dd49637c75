"Pictures from addresses: what hosts do to us, and what we do to hosts. All of it on this machine."
import http.server
import io
import threading
import time

import pytest
from fastcore.foundation import L
from fastcore.xtras import Path
from PIL import Image

import fastbook_impl.vision.utils as utils
from fastbook_impl.vision.utils import download_images, download_url, resize_image, resize_images, resize_to


def picture(kind='JPEG', size=(30, 20), colour='red', mode='RGB'):
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, kind)
    return out.getvalue()


class Web(http.server.ThreadingHTTPServer):
    "A host: `pages[path]` is bytes, or a function of the handler. It remembers what was asked, and how many asked at once."
    daemon_threads = True

    def __init__(self, pages):
        super().__init__(('127.0.0.1', 0), Handler)
        self.pages, self.asked, self.agents, self.now, self.most, self.lock = pages, [], set(), 0, 0, threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, *args): pass  # visitors hang up
    def url(self, path): return f'http://127.0.0.1:{self.server_port}/{path}'


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args): pass

    def do_GET(self):
        web, path = self.server, self.path[1:]
        with web.lock:
            web.asked.append(path)
            web.agents.add(self.headers['User-Agent'])
            web.now += 1
            web.most = max(web.most, web.now)
        try:
            page = web.pages.get(path)
            if page is None: self.answer(404)
            elif callable(page): page(self)
            else: self.answer(200, page)
        finally:
            with web.lock: web.now -= 1

    def answer(self, status, body=b'', length=None, **headers):
        self.send_response(status)
        for k,v in headers.items(): self.send_header(k.replace('_', '-'), v)
        self.send_header('Content-Length', str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def web():
    made = []
    def make(**pages):
        made.append(Web({k.replace('__', '.'): v for k,v in pages.items()}))
        return made[-1]
    yield make
    for o in made: o.shutdown(); o.server_close()


# --- one file

def test_one_file_is_fetched_to_a_folder_a_name_or_here(web, tmp_path, monkeypatch):
    body = picture()
    host = web(**{'a%20cat.jpg': body})
    assert download_url(host.url('a%20cat.jpg'), tmp_path) == tmp_path/'a cat.jpg'
    assert download_url(host.url('a%20cat.jpg'), tmp_path/'new'/'b.jpg', show_progress=False).read_bytes() == body
    monkeypatch.chdir(tmp_path/'new')
    assert download_url(host.url('a%20cat.jpg')).exists() and host.agents and 'fastbook' in host.agents.pop()


@pytest.mark.parametrize('path,said', [('gone.jpg', 'the host answered 404'), ('silent.jpg', 'no answer in time'), ('large.jpg', 'larger than 0.1 MB'), ('short.jpg', 'connection broke off')])
def test_what_is_said_about_one_file(web, tmp_path, path, said):
    host = web(large__jpg=bytes(200_000), short__jpg=lambda h: h.answer(200, b'abc', length=1000),
               silent__jpg=lambda h: time.sleep(0.8))
    with pytest.raises(OSError) as e: download_url(host.url(path), tmp_path/'x.jpg', max_mb=0.1, timeout=0.3)
    assert str(e.value) == f'{host.url(path)} could not be fetched: {said}'
    assert tmp_path.ls() == []


def test_only_the_web_is_asked(tmp_path):
    (tmp_path/'secret').write_text('x')
    with pytest.raises(OSError, match='not an address of the web'): download_url((tmp_path/'secret').as_uri(), tmp_path/'copy')
    with pytest.raises(OSError, match='connection refused'): download_url('http://127.0.0.1:9/a.jpg', tmp_path/'copy')


def test_a_stream_without_an_announced_length_ends_at_the_limit(web, tmp_path):
    def endless(h):
        h.send_response(200); h.end_headers()
        while True: h.wfile.write(bytes(50_000))
    with pytest.raises(OSError, match='larger than 1 MB'): download_url(web(a=endless).url('a'), tmp_path/'a', max_mb=1)


def test_a_host_that_drips_is_left(web, tmp_path):
    "Each byte comes in time, so that no pause is too long; the whole is."
    def drip(h):
        h.send_response(200); h.end_headers()
        for _ in range(500): h.wfile.write(b'x'); h.wfile.flush(); time.sleep(0.02)
    start = time.monotonic()
    with pytest.raises(OSError, match='too slow'): download_url(web(a=drip).url('a'), tmp_path/'a', timeout=0.1)
    assert time.monotonic() - start < 5


# --- many

def test_what_is_no_picture_is_counted_by_its_reason(web, tmp_path, capsys):
    host = web(a=picture(), b=picture('PNG'), login__jpg=b'<html>', large=bytes(300_000), slow=lambda h: time.sleep(1.5))
    urls = [host.url(o) for o in ('a', 'b', 'gone', 'gone2', 'login.jpg', 'large', 'slow')] + ['ftp://x/y.jpg', 'nonsense', 'http://[', '', None]
    res = download_images(tmp_path/'pics', urls=urls, max_mb=0.2, timeout=0.5)
    assert isinstance(res, L) and [o.suffix for o in res] == ['.jpg', '.png'] and res == [res[0], res[1]]
    out = capsys.readouterr().out
    assert out.startswith('2 pictures fetched to pics; 8 addresses gave none: ') and len(out.splitlines()) == 1
    for why in ('not an address of the web (http or https) (3)', 'answer 404 (2)', 'not a picture (1)', 'larger than 0.2 MB (1)', 'no answer in time (1)'): assert why in out
    assert len((tmp_path/'pics').ls()) == 2


def test_the_second_call_fetches_only_what_is_missing(web, tmp_path, capsys):
    host = web(**{f'{i}': picture(colour=(i, 0, 0)) for i in range(6)})
    urls = [host.url(str(i)) for i in range(6)]
    first = download_images(tmp_path, urls=urls[:4])
    first[1].unlink()
    (tmp_path/f'.{first[2].name}.part').write_bytes(b'half')   # left over by one that was killed
    host.asked.clear()
    again = download_images(tmp_path, urls=urls[::-1] + urls)
    assert sorted(host.asked) == ['1', '4', '5'] and again[::-1][:4] == first and len(again) == 6
    assert '3 pictures fetched' in capsys.readouterr().out.splitlines()[1]
    assert [o.stem for o in again] == [utils._key(u) for u in urls[::-1]]


def test_no_host_gets_more_than_two_requests_at_a_time(web, tmp_path):
    def page(h): time.sleep(0.03); h.answer(200, picture())
    hosts = [web(**{f'{i}': page for i in range(12)}) for _ in range(2)]
    res = download_images(tmp_path, urls=[o.url(str(i)) for i in range(12) for o in hosts], n_workers=8)
    assert len(res) == 24 and [o.most for o in hosts] == [2, 2]


def test_a_host_that_asks_for_a_pause_gets_it(web, tmp_path, capsys, monkeypatch):
    "A short one is waited for; after a long one, or none that is said, nothing more is asked; the other host goes on."
    waits = []
    monkeypatch.setattr(utils.time, 'sleep', lambda s: waits.append(s))
    def once_busy(h): h.answer(200, picture()) if h.server.asked.count(h.path[1:]) > 1 else h.answer(429, Retry_After='2')
    short, long, other = web(a=once_busy), web(**{f'{i}': lambda h: h.answer(503, Retry_After='3600') for i in range(30)}), web(**{f'{i}': picture() for i in range(3)})
    urls = [short.url('a')] + [long.url(str(i)) for i in range(30)] + [other.url(str(i)) for i in range(3)]
    assert len(download_images(tmp_path, urls=urls)) == 4
    assert waits == [2] and short.asked == ['a', 'a'] and len(long.asked) <= 2 and len(other.asked) == 3
    assert 'the host asked for a pause; call again later (30)' in capsys.readouterr().out


def test_a_file_of_addresses_and_a_limit(web, tmp_path):
    host = web(**{f'{i}.gif': picture('GIF', mode='P', colour=i) for i in range(5)})
    (tmp_path/'urls.txt').write_text('\n'.join(f' {host.url(f"{i}.gif")} ' for i in (0, 0, 1, 2, 3)) + '\n\n')
    res = download_images(tmp_path/'a'/'b', tmp_path/'urls.txt', max_pics=3)
    assert len(res) == 3 and {o.suffix for o in res} == {'.gif'}
    with pytest.raises(ValueError, match='either urls or a url_file'): download_images(tmp_path)
    assert len(download_images(tmp_path/'one', urls=host.url('4.gif'))) == 1   # a single address, not its letters


def test_names_from_addresses_cannot_leave_the_folder(web, tmp_path):
    name = '..%2F..%2Fetc%2Fpass wd.jpg'.replace(' ', '%20')
    host = web(**{name: picture(), f'{name}?size=2': picture()})
    res = download_images(tmp_path/'pics', urls=[host.url(name), host.url(f'{name}?size=2')], preserve_filename=True)
    assert [o.parent for o in res] == [tmp_path/'pics']*2 and len(set(res)) == 2 and all(o.name.startswith('etc_pass_wd-') for o in res)
    host.asked.clear()
    assert download_images(tmp_path/'pics', urls=[host.url(name)]) == res[:1] and host.asked == []


# --- smaller pictures

def test_sizes():
    assert resize_to(Image.new('L', (400, 300)), 100) == (100, 75) and resize_to(Image.new('L', (1000, 1)), 10) == (10, 1)


def test_a_picture_is_made_smaller_and_upright(tmp_path):
    im = Image.new('RGB', (60, 40), 'white')
    exif = im.getexif(); exif[0x0112] = 6
    (tmp_path/'in').mkdir()
    im.save(tmp_path/'in'/'a.jpg', exif=exif)
    to = resize_image('a.jpg', tmp_path/'out', tmp_path/'in', max_size=30)
    assert to == tmp_path/'out'/'a.jpg' and Image.open(to).size == (20, 30) and Image.open(to).getexif().get(0x0112, 1) == 1
    grey = resize_image('a.jpg', tmp_path/'out', tmp_path/'in', n_channels=1, ext='.png')
    assert (grey.name, Image.open(grey).mode, Image.open(grey).size, Image.open(grey).format) == ('a.png', 'L', (40, 60), 'PNG')
    with pytest.raises(ValueError, match='max_size.* at least 1, got 0'): resize_image('a.jpg', tmp_path, tmp_path/'in', max_size=0)
    with pytest.raises(ValueError, match='1, 3 or 4, got 2'): resize_image('a.jpg', tmp_path, tmp_path/'in', n_channels=2)


def test_a_folder_in_place_and_beside(tmp_path, capsys):
    src = tmp_path/'src'; (src/'sub').mkdir(parents=True)
    (src/'small.jpg').write_bytes(picture(size=(10, 10)))
    (src/'sub'/'big.png').write_bytes(picture('PNG', (100, 50), mode='RGBA'))
    (src/'bad.jpg').write_bytes(b'no picture')
    before = (src/'small.jpg').read_bytes()
    res = resize_images(src, max_size=20, recurse=True, dest=tmp_path/'out')
    assert {o.relative_to(tmp_path/'out').as_posix(): Image.open(o).size for o in res} == {'small.jpg': (10, 10), 'sub/big.png': (20, 10)}
    assert Image.open(tmp_path/'out'/'sub'/'big.png').mode == 'RGB' and (tmp_path/'out'/'small.jpg').read_bytes() == before
    assert '1 of 3 images were skipped' in (said := capsys.readouterr().out) and 'bad.jpg is not an image' in said
    stamp = (tmp_path/'out'/'sub'/'big.png').stat().st_mtime_ns
    assert len(resize_images(src, max_size=5, recurse=True, dest=tmp_path/'out', resume=True)) == 2 and (tmp_path/'out'/'sub'/'big.png').stat().st_mtime_ns == stamp
    resize_images(src, max_size=20, recurse=True, dest=src)
    assert Image.open(src/'sub'/'big.png').size == (20, 10) and (src/'small.jpg').read_bytes() == before
    assert [o for o in src.rglob('*') if o.name.endswith('.part')] == []


def test_the_books_line(tmp_path):
    "`failed.map(Path.unlink)` deletes what cannot be read."
    (tmp_path/'a.jpg').write_bytes(picture()); (tmp_path/'b.jpg').write_bytes(b'x')
    failed = utils.verify_images(utils.get_image_files(tmp_path))
    failed.map(Path.unlink)
    assert [o.name for o in tmp_path.ls()] == ['a.jpg']


# --- too many pixels, and hosts that lead astray

def claim(w, h):
    "A PNG of a few bytes that says it is `w` by `h` pixels."
    import struct, zlib
    def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, 8, 2, 0, 0, 0)) + chunk(b'IDAT', b'') + chunk(b'IEND', b'')


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
@pytest.mark.parametrize('size', [(13_300, 13_300), (50_000, 50_000)])
def test_too_many_pixels_are_not_decoded(tmp_path, monkeypatch, size):
    from fastbook_impl.vision.core import PILImage, load_image
    (tmp_path/'a.png').write_bytes(claim(*size))
    monkeypatch.setattr(Image.Image, 'load', lambda self: pytest.fail('decoded'))
    for open_it in (load_image, lambda fn: PILImage.create(fn).pixels(), lambda fn: PILImage.create(fn.read_bytes())):
        with pytest.raises(OSError, match=r'is too large to be decoded safely .*PIL.Image.MAX_IMAGE_PIXELS, which is 89,478,485'): open_it(tmp_path/'a.png')
    assert utils.verify_images([tmp_path/'a.png']) == [tmp_path/'a.png']


def test_the_limit_of_pixels_can_be_moved(tmp_path, monkeypatch):
    from fastbook_impl.vision.core import load_image
    Image.new('L', (40, 30)).save(tmp_path/'a.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1200)
    assert load_image(tmp_path/'a.png').size == (40, 30)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1199)
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(OSError, match='40 × 30 pixels'): load_image(tmp_path/'a.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', None)
    assert load_image(tmp_path/'a.png').size == (40, 30)


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
def test_images_that_are_too_large_or_lead_astray_are_not_kept(web, tmp_path, capsys):
    import gzip
    other = web(**{'fine.jpg': picture()})
    host = web(big=claim(13_300, 13_300), bigger=claim(50_000, 50_000), packed=lambda h: h.answer(200, gzip.compress(bytes(10**6)), Content_Encoding='gzip'),
               moved=lambda h: h.answer(302, Location=other.url('fine.jpg')), astray=lambda h: h.answer(302, Location='file:///etc/passwd'))
    res = download_images(tmp_path, urls=[host.url(o) for o in ('big', 'bigger', 'packed', 'moved', 'astray')])
    out = capsys.readouterr().out
    assert len(res) == len(tmp_path.ls()) == 1 and 'too many pixels (2)' in out
    assert 'which was not asked for' in out and 'which is not http or https' in out
