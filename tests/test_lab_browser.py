"""A reader opens a chapter in JupyterLab and runs all of it: the real server, the real browser, no error on the page.

    FASTBOOK_SHOTS=shots pytest tests/test_lab_browser.py                              # keep the screenshots, to look at
    FASTBOOK_LAB_NOTEBOOKS='15_arch_details.ipynb' FASTBOOK_LAB_MINUTES=15 pytest tests/test_lab_browser.py    # another notebook, a long one
"""
import os
import re
import shutil
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import pytest

from browsing import MINUTES, Lab, Notebook, small_notebook, wait_until_idle

NOTEBOOKS = os.environ.get('FASTBOOK_LAB_NOTEBOOKS', '04_mnist_basics.ipynb').split()
PATIENCE = int(os.environ.get('FASTBOOK_LAB_MINUTES', 5))  # for a notebook as a whole


@pytest.fixture(scope='module')
def server(root, tmp_path_factory):
    tmp = tmp_path_factory.mktemp('lab')
    folder = tmp/'nbs'
    shutil.copytree(root/'nbs', folder, ignore=shutil.ignore_patterns('.ipynb_checkpoints', 'models'))
    server = Lab(folder, tmp)
    yield server
    server.close()


@pytest.fixture(scope='module')
def page(browser):
    page = browser.new_page(viewport=dict(width=1280, height=2400))  # (tall: paging through a notebook takes fewer pages)
    page.set_default_timeout(60_000)
    return page


def status_of(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as res: return res.status
    except urllib.error.HTTPError as e: return e.code


def test_the_server_is_for_this_machine_and_this_reader_only(server):
    url = urlsplit(server.address())
    api = f'http://127.0.0.1:{server.port}/api/contents'
    assert status_of(f'{api}?{url.query}') == 200
    assert status_of(api) == 403 and status_of(f'{api}?token=guessed') == 403
    with socket.socket() as s: assert s.connect_ex((elsewhere(), server.port)) != 0, 'the server can be reached from outside'


def elsewhere():
    "An address of this machine other than localhost, as the network sees it (no packet is sent); 127.0.0.2 where there is no network."
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try: s.connect(('192.0.2.1', 9))
        except OSError: return '127.0.0.2'
        return s.getsockname()[0]


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_a_chapter_runs_from_top_to_bottom(server, page, shots, name):
    server.open(page, name)
    run_all(page)
    wait_until_run(page, server.folder/name)
    errors = look_through(page, shots, Path(name).stem)
    assert not errors, f'on the page: {errors}'
    check_saved(server.folder/name)


def run_all(page):
    page.get_by_role('menuitem', name='Run', exact=True).click()
    page.locator('.lm-Menu-item[data-command="runmenu:run-all"]').click()


def wait_until_run(page, path, minutes=PATIENCE):
    "Wait until the kernel rests and the saved notebook shows a number, or an error, where each cell was run."
    end = time.time() + minutes*MINUTES
    while time.time() < end:
        wait_until_idle(page, minutes)
        page.keyboard.press('Control+s')
        page.wait_for_timeout(1000)
        cells = code_cells(path)
        if any(errors_of(c) for c in cells) or all(c.execution_count for c in cells): return
    pytest.fail(f'{path.name} was not through after {minutes} minutes')


def code_cells(path): return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == 'code' and c.source.strip()]
def errors_of(cell): return [f'{o.ename}: {o.evalue}' for o in cell.outputs if o.output_type == 'error']


def check_saved(path):
    "What JupyterLab wrote: every cell was run, none failed or complained, and there is something to look at."
    cells = code_cells(path)
    assert [e for c in cells for e in errors_of(c)] == []
    assert [c.source for c in cells if not c.execution_count] == []
    assert [o.text for c in cells for o in c.outputs if o.output_type == 'stream' and o.name == 'stderr'] == []
    assert sum(bool(c.outputs) for c in cells) >= 1


def look_through(page, shots, stem):
    "Page through the notebook from the top, with screenshots if they are asked for; returns the error outputs that were seen."
    view = page.locator('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-WindowedPanel-outer')
    view.evaluate('o => o.scrollTop = 0')
    errors = set()
    for number in range(1, 200):
        page.wait_for_timeout(400)
        if 'FASTBOOK_SHOTS' in os.environ: page.screenshot(path=shots/f'{stem}-{number:02}.png')
        errors |= set(page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"]').all_inner_texts())
        before, after = view.evaluate('o => { const t = o.scrollTop; o.scrollTop += o.clientHeight - 40; return [t, o.scrollTop] }')
        if after <= before: return errors
    return errors


# --- a photograph that is uploaded ------------------------------------------------------------------------------------------

UPLOAD = """
from fastbook_impl.vision.widgets import *
btn_upload, lbl_got = widgets.FileUpload(), widgets.Label('nothing yet')
def on_upload(change): lbl_got.value = f'{len(btn_upload.data[-1])} bytes'
btn_upload.observe(on_upload, 'value')
VBox([btn_upload, lbl_got])
"""


def test_a_large_photograph_is_uploaded(server, page, tmp_path):
    "A telephone's pictures have up to 15 MB or so; a server that is not told takes 10, and says nothing about more."
    small_notebook(server.folder/'upload.ipynb', upload=UPLOAD)
    with (tmp_path/'photograph.jpg').open('wb') as f: f.truncate(15_000_000)
    server.open(page, 'upload.ipynb')
    Notebook(page).run('upload')
    with page.expect_file_chooser() as chooser: page.locator('.widget-upload').click()
    chooser.value.set_files(str(tmp_path/'photograph.jpg'))
    page.get_by_text('15000000 bytes').wait_for()
