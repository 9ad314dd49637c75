"""Who may use the application, and how much of the machine. Plain HTTP against the running server, which shows a notebook that is quick to start."""
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.ioloop import IOLoop
from tornado.websocket import websocket_connect

from app import OtherHosts
from browsing import TOOLS, AppServer, small_notebook

EVIL = 'evil.example.com'
HERE = {'Sec-Fetch-Site': 'none', 'Sec-Fetch-Mode': 'navigate', 'Sec-Fetch-Dest': 'document'} # the address bar of a browser
FOREIGN_IMAGE = {'Sec-Fetch-Site': 'cross-site', 'Sec-Fetch-Mode': 'no-cors', 'Sec-Fetch-Dest': 'image'}
FOREIGN_FRAME = {'Sec-Fetch-Site': 'cross-site', 'Sec-Fetch-Mode': 'navigate', 'Sec-Fetch-Dest': 'iframe'}
FOREIGN_LINK = {'Sec-Fetch-Site': 'cross-site', 'Sec-Fetch-Mode': 'navigate', 'Sec-Fetch-Dest': 'document', 'Sec-Fetch-User': '?1'}
OTHER_PORT = {'Sec-Fetch-Site': 'same-site', 'Sec-Fetch-Mode': 'cors', 'Sec-Fetch-Dest': 'empty'}


class Served(AppServer):
    "A server with a short notebook, and what its tests ask of it."
    def __init__(self, tmp, *args):
        small_notebook(tmp/'small.ipynb', one="print('forty' + '-two')")
        super().__init__(tmp/'small.ipynb', tmp, *args)

    def get(self, path='/', method='GET', body=None, **headers):
        "Return the status, the text and the headers of the answer."
        connection = HTTPConnection('127.0.0.1', self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors='replace'), answer.headers
        finally: connection.close()

    @property
    def token(self): return self.address().partition('token=')[2]

    def visit(self, **headers): return self.get(f'/?token={self.token}', **headers)

    def kernels(self):
        "The processes of the kernels."
        return [o for o in psutil.Process(self.proc.pid).children(recursive=True) if 'ipykernel_launcher' in ' '.join(cmdline(o))]

    def ids(self): return {connection_file(o).stem.removeprefix('kernel-') for o in self.kernels()}


def cmdline(process):
    try: return process.cmdline()
    except psutil.Error: return []


def connection_file(kernel):
    cmd = kernel.cmdline()
    return Path(cmd[cmd.index('-f') + 1])


def cookie_of(headers): return '; '.join(o.split(';')[0] for o in headers.get_all('Set-Cookie') or [])


def wait_until(true, seconds, what):
    end = time.time() + seconds
    while not true():
        assert time.time() < end, what
        time.sleep(0.1)


@pytest.fixture(scope='module')
def private(tmp_path_factory):
    "With a token, as `make app` starts it. Kernels without a page end after 3 seconds, idle ones with a page after 8."
    server = Served(tmp_path_factory.mktemp('private'), '--AppKernels.gone_timeout=3', '--AppKernels.cull_idle_timeout=8', '--AppKernels.cull_interval=1')
    server.address()
    yield server
    server.close()


@pytest.fixture(scope='module')
def public(tmp_path_factory):
    "Without a token. It listens on the loopback address, because this is only a test."
    server = Served(tmp_path_factory.mktemp('public'), '--public', '--Voila.ip=127.0.0.1', '--AppKernels.gone_timeout=3', '--AppKernels.cull_interval=1')
    server.address()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def nobody_there(request):
    "Each test begins without kernels."
    for name in {'private', 'public'} & set(request.fixturenames):
        server = request.getfixturevalue(name)
        wait_until(lambda: not server.kernels(), 20, 'kernels of an earlier test are still there')


# --- who may ask ---------------------------------------------------------------------------------------------------------

def test_the_address_with_its_token_is_printed_last(private):
    lines = private.log.read_text().splitlines()
    assert lines[-1] == private.address() and len(private.token) == 32 and len(lines[-1]) < 80
    assert not [o for o in lines if 'Warning' in o or 'Voila' in o]


def test_without_the_token_nothing_starts(private):
    for path in '/', '/?token=guessed', '/?token=':
        status, _, headers = private.get(path, **HERE)
        assert status == 302 and headers['Location'].startswith('/login')
    assert not private.kernels()


def test_the_login_page_asks_for_the_token(private):
    _, text, headers = private.get('/login', **HERE)
    assert 'Token' in text and 'assword' not in text.replace('type="password" name="password" id="password_input"', '')
    cookie = cookie_of(headers)
    xsrf = quote(cookie.partition('_xsrf=')[2].split(';')[0])
    form = {'Cookie': cookie, 'Content-Type': 'application/x-www-form-urlencoded', **HERE}
    status, text, _ = private.get('/login', 'POST', f'password=guessed&_xsrf={xsrf}', **form)
    assert status == 401 and 'not the token' in text and not private.kernels()
    status, _, headers = private.get('/login', 'POST', f'password={private.token}&_xsrf={xsrf}', **form)
    assert status == 302 and headers['Location'] == '/'
    assert 'forty-two' in private.get('/', Cookie=cookie_of(headers), **HERE)[1]


def test_with_the_token_the_page_is_there(private):
    status, text, headers = private.visit(**HERE)
    assert status == 200 and 'forty-two' in text and len(private.kernels()) == 1
    cookie, = (o for o in headers.get_all('Set-Cookie') if o.startswith('username-'))
    assert 'SameSite=Strict' in cookie and 'HttpOnly' in cookie
    assert private.get('/', Cookie=cookie_of(headers), **HERE)[0] == 200


@pytest.mark.parametrize('path', ['/', '/login', '/voila/static/voila.js', '/api/kernels/00000000-0000-0000-0000-000000000000'])
def test_a_foreign_host_name_is_refused(private, path):
    "A page at evil.example.com whose name now points at 127.0.0.1 cannot read anything."
    for host in EVIL, f'{EVIL}:{private.port}', f'localhost.{EVIL}', '192.0.2.1':
        status, text, _ = private.get(f'{path}?token={private.token}', Host=host)
        assert status == 403 and 'does not go by that name' in text
    assert not private.kernels()


def test_this_machine_goes_by_several_names(private):
    for host in '127.0.0.1', 'localhost', '[::1]', f'LOCALHOST:{private.port}': assert private.get('/login', Host=host)[0] == 200


@pytest.mark.parametrize('host, known', [('192.168.1.5:8866', True), ('[fe80::1]', True), ('lab-7.local', True), (EVIL, False), ('192.168.1.5.example.com', False)])
def test_on_a_network_addresses_in_numbers_and_the_own_name_are_known(host, known):
    request = HTTPServerRequest(start_line=RequestStartLine('GET', '/', 'HTTP/1.1'), headers=HTTPHeaders(Host=host))
    assert (OtherHosts(['lab-7.local'], remote=True).match(request) is None) == known


@pytest.mark.parametrize('headers', [FOREIGN_IMAGE, FOREIGN_FRAME, OTHER_PORT, dict(Origin=f'http://{EVIL}'), {**FOREIGN_LINK, 'Origin': f'http://{EVIL}'}])
def test_requests_of_another_site_start_nothing_even_with_the_token(private, headers):
    status, text, _ = private.visit(**headers)
    assert status == 200 and 'Open the application' in text and 'forty-two' not in text
    assert not private.kernels()


def test_a_link_with_the_token_in_an_email_opens_the_page(private):
    assert 'forty-two' in private.visit(**FOREIGN_LINK)[1]


@pytest.mark.parametrize('headers', [FOREIGN_IMAGE, FOREIGN_FRAME, FOREIGN_LINK, OTHER_PORT, dict(Origin=f'http://{EVIL}'), {}])
def test_requests_of_another_site_start_nothing_in_public_either(public, headers):
    assert 'Open the application' in public.get(**headers)[1]
    assert not public.kernels()


def test_in_public_nobody_needs_a_token(public):
    assert 'forty-two' in public.get(**HERE)[1]
    assert 'without a token. Do not expose it to the internet.' in public.log.read_text()


def test_a_browser_that_does_not_say_where_it_comes_from_asks_once(public):
    "Over plain HTTP from another machine, browsers leave out the Sec-Fetch headers."
    first = public.get()
    assert 'Open the application' in first[1] and not public.kernels()
    assert 'forty-two' in public.get(Cookie=cookie_of(first[2]))[1]


class Socket:
    "The websocket between a page and its kernel."
    def __init__(self, server, cookie, kernel_id, token='', **headers):
        url = f'ws://127.0.0.1:{server.port}/api/kernels/{kernel_id}/channels?session_id=test&token={token}'
        self.loop = IOLoop(make_current=False)
        self.connection = self.loop.run_sync(lambda: websocket_connect(HTTPRequest(url, headers={'Cookie': cookie, **headers}, connect_timeout=10)))

    def close(self): self.loop.run_sync(self._close)
    async def _close(self): self.connection.close()


def test_websockets_check_host_origin_and_cookie(private):
    cookie = cookie_of(private.visit(**HERE)[2])
    kernel, = private.ids()
    for wrong in dict(Host=EVIL, token=private.token), dict(Origin=f'http://{EVIL}'), dict(Cookie=''):
        with pytest.raises(HTTPClientError, match='403'): Socket(private, cookie, kernel, **wrong)
    Socket(private, cookie, kernel).close()


# --- how much they get ---------------------------------------------------------------------------------------------------

@pytest.mark.slow
def test_beyond_the_number_of_places_a_page_says_so(tmp_path, request):
    "Six people come at once, and two of them get in."
    public = Served(tmp_path, '--public', '--Voila.ip=127.0.0.1', '--AppKernels.max_kernels=2', '--AppKernels.gone_timeout=3', '--AppKernels.cull_interval=1')
    request.addfinalizer(public.close)
    public.address()
    with ThreadPoolExecutor(6) as pool: answers = list(pool.map(lambda _: public.get(**HERE), range(6)))
    assert sorted(status for status,*_ in answers) == [200, 200, 503, 503, 503, 503]
    full = next(o for o in answers if o[0] == 503)
    assert 'The application is busy' in full[1] and 'Try again' in full[1] and int(full[2]['Retry-After']) > 0
    assert len(public.kernels()) == 2
    wait_until(lambda: public.get(**HERE)[0] == 200, 20, 'the places do not become free')


def test_a_page_that_is_closed_ends_its_kernel(private):
    "What Voilà's page sends when it is closed or reloaded."
    cookie = cookie_of(private.visit(**HERE)[2])
    kernel, = private.ids()
    token = cookie.partition('_xsrf=')[2].split(';')[0]
    form = {'Cookie': cookie, 'Content-Type': 'application/x-www-form-urlencoded'}
    assert private.get(f'/voila/api/shutdown/{kernel}', 'POST', '', **form)[0] == 403
    assert private.get(f'/voila/api/shutdown/{kernel}', 'POST', f'_xsrf={quote(token)}', **form)[0] == 204
    assert not private.kernels()


@pytest.mark.slow
def test_a_kernel_ends_soon_without_a_page_and_later_with_an_idle_one(private):
    cookie = cookie_of(private.visit(**HERE)[2])
    visited = time.time()
    private.visit(**HERE)
    assert len(private.kernels()) == 2
    kept = sorted(private.ids())[0]
    socket = Socket(private, cookie, kept)
    wait_until(lambda: private.ids() == {kept}, 8, 'the kernel without a page is still there')
    assert time.time() - visited > 2.5
    wait_until(lambda: not private.kernels(), 20, 'the idle kernel with a page is still there')
    assert time.time() - visited > 7
    socket.close()


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux limits the memory of a process')
def test_a_kernel_has_limited_memory(private):
    private.visit(**HERE)
    kernel, = private.kernels()
    assert kernel.rlimit(psutil.RLIMIT_DATA) == (3_000_000_000, 3_000_000_000)


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux limits the memory of a process')
def test_the_limit_is_one():
    def run(code): return subprocess.run([sys.executable, TOOLS/'limit_memory.py', '500', sys.executable, '-c', code], text=True, capture_output=True)
    assert 'MemoryError' in run('bytearray(600_000_000)').stderr
    assert run('bytearray(300_000_000)').returncode == 0


def test_the_messages_between_server_and_kernel_are_encrypted(private):
    private.visit(**HERE)
    kernel, = private.kernels()
    assert any('curve' in o for o in json.loads(connection_file(kernel).read_text()))
