"""A reader uses the course in JupyterLab: the real server and a real browser.

`make test` runs the home page from top to bottom and opens notebooks; a whole chapter, kernels that end and uploads are for `make test-long`.

    FASTBOOK_SHOTS=shots pytest tests/e2e/test_lab_browser.py        # keep the screenshots
    FASTBOOK_LAB_NOTEBOOKS='15_arch_details.ipynb' FASTBOOK_LAB_MINUTES=15 pytest tests/e2e/test_lab_browser.py    # run another notebook as well, with more time
"""
import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest

from browsing import MINUTES, PATIENCE, Lab, Notebook, small_notebook, wait_until_idle

NOTEBOOKS = os.environ.get('FASTBOOK_LAB_NOTEBOOKS', '').split()
LAB_MINUTES = int(os.environ.get('FASTBOOK_LAB_MINUTES', 5))  # for a notebook as a whole


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
    page.set_default_timeout(PATIENCE)
    return page


def status_of(url, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as res: return res.status
    except urllib.error.HTTPError as e: return e.code


def test_the_address_is_printed_last_on_a_line_of_its_own_without_warnings(server):
    server.address()
    lines = server.log.read_text().splitlines()
    assert re.fullmatch(r'http://127\.0\.0\.1:\d+/\?token=\w+', lines[-1]) and len(lines[-1]) < 80
    assert not [o for o in lines if 'Warning' in o or 'ServerApp' in o]


def test_only_this_machine_and_the_holder_of_the_token_get_in(server):
    api = server.at('api/contents')
    assert status_of(api) == 200
    bare = api.split('?')[0]
    assert status_of(bare) == 403 and status_of(f'{bare}?token=guessed') == 403
    assert status_of(api, Host='evil.example.com') == 403
    with socket.socket() as s: assert s.connect_ex((elsewhere(), server.port)) != 0, 'the server can be reached from outside'


def elsewhere():
    "Return an address of this machine other than localhost, or 127.0.0.2 without a network. No packet is sent."
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try: s.connect(('192.0.2.1', 9))
        except OSError: return '127.0.0.2'
        return s.getsockname()[0]


# --- what a reader finds ------------------------------------------------------------------------------------------------------

def test_the_table_of_contents_is_open(server, page, shots):
    page.goto(server.at('lab/tree/01_intro.ipynb'))
    page.locator('.jp-TableOfContents').get_by_text('A head start').wait_for()
    page.screenshot(path=shots/'lab-contents.png')


IN_VIEW = """text => { const found = [...document.querySelectorAll('.jp-NotebookPanel:not(.lm-mod-hidden) h2')].find(o => o.innerText.includes(text))
    if (!found) return false
    const top = found.getBoundingClientRect().top
    return top >= 0 && top < innerHeight/2 }"""


def test_a_link_into_an_open_chapter_arrives_at_its_section(server, page, shots):
    cell = nbformat.v4.new_markdown_cell('[a head start](01_intro.ipynb#A-head-start)', id='link')
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), server.folder/'links.ipynb')
    server.open(page, '01_intro.ipynb')
    assert not page.evaluate(IN_VIEW, 'A head start')
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:open', {path: 'links.ipynb', kernelPreference: {shouldStart: false, canStart: false}}).then(() => null)")
    page.get_by_role('link', name='a head start').click()
    page.wait_for_function(IN_VIEW, arg='A head start')
    page.screenshot(path=shots/'lab-link.png')


# --- a tour ends with few kernels and unchanged files -------------------------------------------------------------------------

AUTOSAVE, UNUSED = 2, 20  # seconds


@pytest.fixture(scope='module')
def visited(root, tmp_path_factory):
    "A server that saves often and soon ends unused kernels, on notebooks in a git repository."
    tmp = tmp_path_factory.mktemp('visited')
    folder = tmp/'nbs'
    folder.mkdir()
    for name in 'index', '01_intro', '05_pet_breeds': shutil.copy(root/'nbs'/f'{name}.ipynb', folder)
    git(folder, 'init', '-q'); git(folder, 'add', '.'); git(folder, 'commit', '-qm', 'Notebooks')
    saving = tmp/'jupyterlab_settings_dir'/'@jupyterlab'/'docmanager-extension'
    saving.mkdir(parents=True)
    (saving/'plugin.jupyterlab-settings').write_text(json.dumps(dict(autosaveInterval=AUTOSAVE)))
    server = Lab(folder, tmp, f'--CourseKernels.unused_timeout={UNUSED}', '--MappingKernelManager.cull_interval=2')
    yield server
    server.close()


def git(folder, *args):
    cmd = ['git', '-c', 'user.name=Reader', '-c', 'user.email=reader@example.com', *args]
    return subprocess.run(cmd, cwd=folder, check=True, text=True, capture_output=True).stdout


def kernels(server):
    with urllib.request.urlopen(server.at('api/kernels'), timeout=10) as res: return len(json.load(res))


def wait_until(true, seconds, what):
    end = time.time() + seconds
    while not true():
        assert time.time() < end, what
        time.sleep(0.2)


def test_notebooks_that_were_only_opened_are_unchanged(visited, page):
    for file in sorted(visited.folder.glob('*.ipynb')):
        before = file.stat().st_mtime_ns
        visited.open(page, file.name)
        wait_until(lambda: file.stat().st_mtime_ns > before, 60, f'{file.name} was not saved')
    assert git(visited.folder, 'status', '--porcelain', '--untracked-files=no') == ''


def test_what_a_reader_changed_is_saved_and_nothing_else(visited):
    "JupyterLab's changes are undone cell by cell. JavaScript has written 0.0 and 1e-07 in its own way."
    file = visited.folder/'index.ipynb'
    result = nbformat.v4.new_output('display_data', {'application/json': {'zero': 0.0, 'small': 1e-07}})
    cells = [nbformat.v4.new_code_cell('print(0.0)', id='kept', outputs=[result]), nbformat.v4.new_code_cell('1+1', id='changed')]
    nb = nbformat.v4.new_notebook(cells=cells, metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python')))
    nbformat.write(nb, file)
    before = file.read_text()
    sent = json.loads(json.dumps(nb).replace('0.0}', '0}').replace('"zero": 0.0', '"zero": 0'))
    sent['metadata']['language_info'] = dict(name='python', version='3.13.1')
    sent['metadata']['kernelspec']['display_name'] = 'Python 3 (ipykernel)'
    for cell in sent['cells']: cell['metadata']['trusted'] = True
    put(visited, 'index.ipynb', sent)
    assert file.read_text() == before
    sent['cells'][1]['source'] = '1+2'
    put(visited, 'index.ipynb', sent)
    assert file.read_text() == before.replace('1+1', '1+2')


def put(server, name, notebook):
    body = json.dumps(dict(type='notebook', format='json', content=notebook)).encode()
    urllib.request.urlopen(urllib.request.Request(server.at(f'api/contents/{name}'), body, method='PUT'), timeout=10).close()


@pytest.mark.slow
def test_a_kernel_that_ended_comes_back_when_a_cell_is_run_and_stays(visited, page):
    small_notebook(visited.folder/'small.ipynb', one='print(6*7)')
    visited.open(page, 'small.ipynb')
    page.get_by_text('No Kernel', exact=True).wait_for(timeout=(UNUSED + 60)*1000)
    wait_until(lambda: kernels(visited) == 0, UNUSED + 30, 'unused kernels of other notebooks are still there')
    notebook = Notebook(page)
    notebook.run('one')
    assert '42' in notebook.said('one')
    time.sleep(UNUSED + 5)
    assert kernels(visited) == 1


# --- a chapter is run ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', ['index.ipynb', *NOTEBOOKS, pytest.param('04_mnist_basics.ipynb', marks=pytest.mark.slow)])
def test_a_notebook_runs_from_top_to_bottom(server, page, shots, name):
    server.open(page, name)
    run_all(page)
    wait_until_run(page, server.folder/name)
    errors = look_through(page, shots, Path(name).stem)
    assert not errors, f'on the page: {errors}'
    check_saved(server.folder/name)


def run_all(page):
    page.get_by_role('menuitem', name='Run', exact=True).click()
    page.locator('.lm-Menu-item[data-command="runmenu:run-all"]').click()


def wait_until_run(page, path, minutes=LAB_MINUTES):
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


@pytest.mark.slow
def test_a_large_photograph_is_uploaded(server, page, tmp_path):
    "A telephone's pictures have up to 15 MB or so; a server that is not told takes 10, and says nothing about more."
    small_notebook(server.folder/'upload.ipynb', upload=UPLOAD)
    with (tmp_path/'photograph.jpg').open('wb') as f: f.truncate(15_000_000)
    server.open(page, 'upload.ipynb')
    Notebook(page).run('upload')
    with page.expect_file_chooser() as chooser: page.locator('.widget-upload').click()
    chooser.value.set_files(str(tmp_path/'photograph.jpg'))
    page.get_by_text('15000000 bytes').wait_for()
