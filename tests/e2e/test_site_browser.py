"""The documentation site, built and read in a browser. Building it takes minutes on a busy machine, so these tests are marked `slow`."""
import functools
import http.server
import re
import subprocess
import threading

import pytest

import setup_env

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def site(root, tmp_path_factory):
    "The folder with the site, built as `make docs` does."
    assert setup_env.main(['--docs']) == 0
    out = tmp_path_factory.mktemp('site')
    res = subprocess.run([str(setup_env.venv_python(setup_env.DOCS)), str(root/'tools'/'site_build.py'), '--out', str(out)], capture_output=True, text=True)
    assert res.returncode == 0, res.stdout + res.stderr
    assert 'WARNING' not in res.stderr and re.search(r'\d+ pages in \d+ s, 0 broken links', res.stdout), res.stdout
    return out/'html'


@pytest.fixture(scope='module')
def address(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_address[1]}'
        server.shutdown()


@pytest.fixture
def page(browser):
    context = browser.new_context(viewport={'width': 1920, 'height': 1000})
    yield context.new_page()
    context.close()


def test_a_chapter_is_lighter_than_its_limit(site):
    "The page and its figures, without what all pages share."
    for path in site.glob('[0-9][0-9]*_*.html'):
        text = path.read_text(encoding='utf-8')
        figures = {site/o for o in re.findall(r'src="(_images/[^"]+)"', text)}
        assert len(text) + sum(o.stat().st_size for o in figures) < 1_500_000, path.name


def test_search_finds_the_entry_of_a_function(page, address):
    page.goto(f'{address}/search.html?q=fine_tune', wait_until='domcontentloaded')
    page.wait_for_selector('#search-results li a')
    found = [o.get_attribute('href') for o in page.query_selector_all('#search-results li a')]
    assert any('api/fastbook_impl.callback.schedule.html#fastbook_impl.learner.Learner.fine_tune' in o for o in found), found[:10]


@pytest.mark.parametrize('name', ['index', '04_mnist_basics', 'exercises/04_mnist_basics', 'guides/install', 'api/fastbook_impl.learner', 'library/4_learner/04_learner'])
def test_pages_fit_a_phone(name, page, address, shots):
    page.set_viewport_size({'width': 390, 'height': 844})
    page.goto(f'{address}/{name}.html', wait_until='domcontentloaded')
    page.screenshot(path=shots/f'site-{name.replace("/", "-")}-390.png')
    assert page.evaluate('document.documentElement.scrollWidth') <= 390


def test_lines_of_text_stay_readable_on_a_wide_screen(page, address):
    page.goto(f'{address}/04_mnist_basics.html', wait_until='domcontentloaded')
    widths = page.eval_on_selector_all('.bd-article p', 'all => all.map(o => o.getBoundingClientRect().width)')
    assert max(widths) < 850


def test_the_page_turns_dark(page, address):
    page.emulate_media(color_scheme='dark')
    page.goto(f'{address}/04_mnist_basics.html', wait_until='domcontentloaded')
    red, green, blue = map(int, re.findall(r'\d+', page.evaluate('getComputedStyle(document.body).backgroundColor'))[:3])
    assert max(red, green, blue) < 60


def test_a_chapter_leads_to_the_next_and_to_colab(page, address):
    page.goto(f'{address}/01_intro.html', wait_until='domcontentloaded')
    assert page.get_attribute('.prev-next-area a.right-next', 'href').startswith('02_')
    assert re.fullmatch(r'https://colab\.research\.google\.com/github/[\w-]+/[\w-]+/blob/main/nbs/01_intro\.ipynb', page.get_attribute('a.launch-button >> nth=0', 'href'))
