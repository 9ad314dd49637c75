"""A reader works on an exercise in JupyterLab: the real server, a real browser, and a checkout of the course that `make lab` opens.

    FASTBOOK_SHOTS=shots pytest tests/e2e/test_exercises_browser.py    # keep the screenshots, to look at
"""
import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest

from browsing import CheckoutLab, Notebook

pytestmark = pytest.mark.medium

IMPORT = 'from fastbook_impl.exercises.all import *\n\n'
WRONG = "import re\ndef breed_and_number(name):\n    found = re.fullmatch(r'(.+)_(\\d+)\\.jpg', name)\n    return (found[1], found[2]) if found else None\n\ncheck('5.2', breed_and_number)"
RIGHT = WRONG.replace('found[2])', 'int(found[2]))')
NAME, TASK, CELL = 'work/exercises/05_pet_breeds.ipynb', 'ex-05-02', 'ex-05-02-answer'
SOLVED = 'ex-05-03-answer'


@pytest.fixture(scope='module')
def repo(root, tmp_path_factory):
    "A checkout of the course as it is now, with everything committed."
    repo = tmp_path_factory.mktemp('course')/'repo'
    for name in git(root, 'ls-files', '-z', '--cached', '--others', '--exclude-standard').split('\0'):
        if not (root/name).is_file(): continue  # the last name is empty
        (repo/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root/name, repo/name)
    git(repo, 'init', '-q')
    commit(repo, 'The course')
    return repo


@pytest.fixture(scope='module')
def server(repo):
    server = CheckoutLab(repo, repo.parent)
    yield server
    server.close()


def git(repo, *args):
    cmd = ['git', '-c', 'user.name=Reader', '-c', 'user.email=reader@example.com', *args]
    return subprocess.run(cmd, cwd=repo, check=True, text=True, capture_output=True).stdout


def commit(repo, message):
    git(repo, 'add', '--force', '--', *(o.name for o in repo.iterdir() if o.name not in ('.git', 'work')))
    git(repo, 'commit', '-qm', message)


def status(repo): return git(repo, 'status', '--short')


def test_the_course_opens_on_a_copy_that_belongs_to_the_reader(server, repo, browser, shots):
    page = browser.new_page(viewport=dict(width=1280, height=1000))
    page.goto(server.address())
    page.wait_for_selector('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook .jp-Cell')
    assert page.evaluate('() => window.jupyterapp.shell.currentWidget.context.path') == 'work/index.ipynb'
    page.screenshot(path=shots/'lab-start.png')
    page.close()
    assert status(repo) == '' and sorted(o.name for o in (repo/'nbs').glob('*.ipynb')) == sorted(o.name for o in (repo/'work').glob('*.ipynb'))


def test_an_exercise_from_the_first_cell_to_an_update_of_the_course(server, repo, browser, shots):
    "Answered wrongly, a hint by button, answered rightly; a restart takes nothing away; a solution counts as seen; an update keeps the answers."
    page = browser.new_page(viewport=dict(width=1280, height=1600))
    page.set_default_timeout(60_000)
    server.open(page, NAME)
    reader = Notebook(page)

    reader.type(CELL, IMPORT + WRONG)  # the first cell that is run in this notebook
    reader.run(CELL)
    assert 'not yet, because the number is still text' in reader.said(CELL)
    reader.select(CELL)
    page.locator('.fastbook-hint:visible').click()
    page.get_by_text('(hint 1 of ').wait_for()
    look_at_both_themes(page, shots, 'exercise-hint')

    reader.type(CELL, IMPORT + RIGHT)
    reader.run(CELL)
    assert '5.2 right' in reader.said(CELL) and 'It took 2 tries.' in reader.said(CELL)
    look_at_both_themes(page, shots, 'exercise-right')

    reader.restart()
    reader.run('ex-05-progress')
    assert '1 of 23 right' in reader.said('ex-05-progress')

    reader.type(SOLVED, IMPORT + "x = 1\nsolution('5.3')\nprint('x is', x)")
    reader.run(SOLVED)
    assert 'Our solution of 5.3' in reader.said(SOLVED) and 'x is 1' in reader.said(SOLVED)
    reader.run('ex-05-progress')
    assert '1 of 23 right, 1 solution seen' in reader.said('ex-05-progress')
    look_at_both_themes(page, shots, 'exercise-progress')
    kept = json.loads((repo.parent/'home'/'progress.json').read_text())
    assert kept['5.2']['state'] == 'right' and kept['5.2']['hints'] == 1 and kept['5.3']['state'] == 'seen'

    page.locator('.jp-OutputArea-output a[title^="5.2 "]:visible').click()
    heading = page.locator('h2[data-jupyter-id^="5.2-"]')
    page.wait_for_timeout(1000)
    assert 0 <= heading.bounding_box()['y'] < 800, 'the link does not land on the exercise'

    page.keyboard.press('Control+s')
    wait_until_saved(repo/NAME, RIGHT)
    assert status(repo) == ''
    page.close()

    new_version(repo)
    said = subprocess.run([sys.executable, repo/'tools'/'work.py', 'update'], env=dict(os.environ, PYTHONPATH=str(repo), FASTBOOK_HOME=str(repo.parent/'home')),
                          capture_output=True, text=True, check=True).stdout
    assert '5.2 is answered and kept' in said
    page = browser.new_page(viewport=dict(width=1280, height=1600))
    server.open(page, NAME)
    reader = Notebook(page)
    assert 'In the new edition: ' in source(reader, TASK) and source(reader, CELL) == IMPORT + RIGHT
    reader.run(CELL)
    assert '5.2 right' in reader.said(CELL)
    page.close()
    assert status(repo) == ''


def new_version(repo):
    "What a `git pull` brings: another wording of the task of 5.2."
    path = repo/'fastbook_impl'/'exercises'/'ch05.py'
    text, n = re.subn(r"(@exercise\('5\.2'[^\n]*\nclass \w+:\n +\"+)", r'\1In the new edition: ', path.read_text(encoding='utf-8'))
    assert n == 1
    path.write_text(text, encoding='utf-8')
    commit(repo, 'A new edition')


def source(notebook, id):
    "The source of a cell as the page has it."
    return notebook.page.evaluate("id => window.jupyterapp.shell.currentWidget.content.widgets.find(o => o.model.id === id).model.sharedModel.getSource()", id)


def sources(path): return '\n'.join(''.join(c['source']) for c in json.loads(path.read_text(encoding='utf-8'))['cells'])


def wait_until_saved(path, text, seconds=30):
    end = time.monotonic() + seconds
    while text not in sources(path):
        assert time.monotonic() < end, 'the notebook was not saved'
        time.sleep(0.2)


# --- colors --------------------------------------------------------------------------------------------------------------------

CONTRASTS = """() => {
    const rgba = s => { const [r, g, b, a = 1] = s.match(/[\\d.]+/g).map(Number); return [r, g, b, a] }
    const channel = c => (c /= 255) <= 0.03928 ? c/12.92 : ((c + 0.055)/1.055)**2.4
    const luminance = ([r, g, b]) => 0.2126*channel(r) + 0.7152*channel(g) + 0.0722*channel(b)
    const behind = o => { for (; o; o = o.parentElement) { const c = rgba(getComputedStyle(o).backgroundColor); if (c[3] === 1) return c } return [255, 255, 255, 1] }
    const seen = []
    for (const o of document.querySelectorAll('.jp-OutputArea-output *')) {
        const text = [...o.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()).join('')
        if (!text || !o.checkVisibility() || o.tagName === 'STYLE') continue
        const [low, high] = [luminance(rgba(getComputedStyle(o).color)), luminance(behind(o))].sort((a, b) => a - b)
        seen.push([text.slice(0, 40), (high + 0.05)/(low + 0.05)])
    }
    return seen }"""


def look_at_both_themes(page, shots, name):
    "All text of ours on the page has a contrast of at least 4.5 in both themes."
    for theme in 'Light', 'Dark':
        page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme: `JupyterLab ${theme}`})", theme)
        page.wait_for_selector(f'body[data-jp-theme-light="{"true" if theme == "Light" else "false"}"]', state='attached')
        page.wait_for_timeout(1000)  # the style sheet of the theme is loaded after its name is set
        page.screenshot(path=shots/f'{name}-{theme.lower()}.png')
        seen = page.evaluate(CONTRASTS)
        assert seen and [(text, round(ratio, 2)) for text, ratio in seen if ratio < 4.5] == [], theme
    page.evaluate("() => window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Light'})")
