"""What every test shares: data that is made, not fetched; a cache of its own; and the mirror of real archives, where there is one."""
import json
import os
import random
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Set before any module of the package is imported: no test reads, or writes to, the cache of the person who runs it.
os.environ.setdefault('FASTBOOK_DATA', 'sample')
os.environ.setdefault('MPLBACKEND', 'agg')
if 'FASTBOOK_TEST_HOME' in os.environ: os.environ['FASTBOOK_HOME'] = os.environ['FASTBOOK_TEST_HOME']
else:
    _home = tempfile.TemporaryDirectory(prefix='fastbook-tests-')  # lives as long as the session
    os.environ['FASTBOOK_HOME'] = _home.name

_claims = tempfile.NamedTemporaryFile(prefix='fastbook-claims-', suffix='.jsonl')  # every test process writes to it what `claim` was told
os.environ.setdefault('FASTBOOK_CLAIMS', _claims.name)


def pytest_terminal_summary(terminalreporter):
    "List what the tests claimed with `claim`, with values and bounds."
    from course import claim_text
    if terminalreporter.config.getoption('numprocesses', None) is None or not hasattr(terminalreporter.config, 'workerinput'):
        rows = [json.loads(line) for line in Path(os.environ['FASTBOOK_CLAIMS']).read_text(encoding='utf-8').splitlines()]
        if rows: terminalreporter.write_sep('-', 'claims')
        for row in rows: terminalreporter.write_line(claim_text(row))


def pytest_collection_modifyitems(items):
    "A test that drives a browser or reads the real archives takes seconds: it carries the marker `medium`."
    for item in items:
        if {'browser', 'mirror'} & set(item.fixturenames): item.add_marker('medium')


@pytest.fixture(autouse=True)
def seeded():
    "The same random numbers for every test, whichever ran before it."
    random.seed(0)
    if 'torch' in sys.modules:
        from fastbook_impl.torch_core import set_seed
        set_seed(0)


@pytest.fixture(scope='session')
def root() -> Path:
    "The repository."
    return ROOT


@pytest.fixture(scope='session')
def saved_figures(root):
    "`saved_figures(name)`: every figure that the chapter's notebook reported with `chapter_result` when it was last run and saved."
    import nbformat
    from course import results
    def read(name):
        return {k: v for r in results(nbformat.read(root/'nbs'/f'{name}.ipynb', as_version=4)) for k,v in r['metrics'].items()}
    return read


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    "An empty cache for this test alone."
    path = tmp_path/'home'
    monkeypatch.setenv('FASTBOOK_HOME', str(path))
    return path


@pytest.fixture(scope='session')
def mirror() -> Path:
    "The folder of real archives: the one `FASTBOOK_MIRROR` names, or `../shared/data` beside the repository."
    named = os.environ.get('FASTBOOK_MIRROR')
    path = Path(named).absolute() if named else ROOT.parent/'shared'/'data'
    if not (path/'SHA256SUMS').exists():
        pytest.skip(f'no real data: {path} holds no archives (FASTBOOK_MIRROR names a folder that does)')
    return path


@pytest.fixture(scope='module')
def real_pets(mirror, tmp_path_factory):
    "The folder of the mirror's photographs of pets, with an empty cache around it."
    from fastbook_impl.data.external import URLs, untar_data
    with pytest.MonkeyPatch.context() as m:
        m.setenv('FASTBOOK_MIRROR', str(mirror)); m.setenv('FASTBOOK_DATA', 'auto'); m.setenv('FASTBOOK_HOME', str(tmp_path_factory.mktemp('home')))
        yield untar_data(URLs.PETS)


@pytest.fixture(scope='module')
def browser():
    "A real browser, without a window."
    from browsing import BROWSER_ARGS
    from setup_env import find_browser
    found = find_browser()
    if not found: pytest.skip('no Chromium or Chrome on this machine: install one, or name it in FASTBOOK_BROWSER')
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=found, args=BROWSER_ARGS)
        yield chromium
        chromium.close()


@pytest.fixture
def shots(tmp_path):
    "Where screenshots go: the folder that `FASTBOOK_SHOTS` names, if they are to be looked at."
    folder = Path(os.environ.get('FASTBOOK_SHOTS') or tmp_path/'shots')
    folder.mkdir(parents=True, exist_ok=True)
    return folder
