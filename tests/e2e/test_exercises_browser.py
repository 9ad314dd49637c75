"""A reader works on an exercise in JupyterLab: the real server, the real browser, a folder that `fastbook start` created.

    FASTBOOK_SHOTS=shots pytest tests/test_exercises_browser.py    # keep the screenshots, to look at
"""
import json
import os
import subprocess
import sys
import time

import pytest

from browsing import Lab, Notebook

pytestmark = pytest.mark.medium

IMPORT = 'from fastbook_impl.exercises.all import *\n\n'
WRONG = "import re\ndef breed_and_number(name):\n    found = re.fullmatch(r'(.+)_(\\d+)\\.jpg', name)\n    return (found[1], found[2]) if found else None\n\ncheck('5.2', breed_and_number)"
RIGHT = WRONG.replace('found[2])', 'int(found[2]))')
NAME, CELL = 'exercises/05_pet_breeds.ipynb', 'ex-05-02-answer'


@pytest.fixture(scope='module')
def course(tmp_path_factory):
    "A repository, with a reader's folder in it, and the environment that the reader has."
    tmp = tmp_path_factory.mktemp('course')
    subprocess.run(['git', 'init', '-q', str(tmp/'repo')], check=True)
    env = dict(os.environ, FASTBOOK_HOME=str(tmp/'home'), FASTBOOK_DATA='sample')
    fastbook(tmp/'repo', env, 'start')
    return tmp, env


@pytest.fixture(scope='module')
def server(course):
    tmp, _ = course
    server = Lab(tmp/'repo'/'work', tmp)
    yield server
    server.close()


def fastbook(cwd, env, *args):
    "Run a command, as a reader does in a terminal."
    code = 'import sys; from fastbook_impl.cli import main; sys.exit(main())'
    return subprocess.run([sys.executable, '-c', code, *args], cwd=cwd, env=env, capture_output=True, text=True).stdout


def status(repo): return subprocess.run(['git', 'status', '--short'], cwd=repo, capture_output=True, text=True).stdout


def test_an_exercise_from_the_first_cell_to_the_solution(server, course, browser, shots):
    "Answered wrongly, a hint by button, answered rightly; the restart takes nothing away; a solution counts as seen; an update keeps the answers."
    tmp, env = course
    repo = tmp/'repo'
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
    page.screenshot(path=shots/'exercise-hint.png')

    reader.type(CELL, IMPORT + RIGHT)
    reader.run(CELL)
    assert '5.2 right' in reader.said(CELL) and 'It took 2 tries.' in reader.said(CELL)

    reader.restart()
    reader.run('ex-05-progress')
    assert '1 of 23 right' in reader.said('ex-05-progress')

    reader.type('ex-05-03-answer', IMPORT + "x = 1\nsolution('5.3')\nprint('x is', x)")
    reader.run('ex-05-03-answer')
    assert 'Our solution of 5.3' in reader.said('ex-05-03-answer') and 'x is 1' in reader.said('ex-05-03-answer')
    reader.run('ex-05-progress')
    assert '1 of 23 right, 1 solution seen' in reader.said('ex-05-progress')
    kept = json.loads((tmp/'home'/'progress.json').read_text())
    assert kept['5.2']['state'] == 'right' and kept['5.2']['hints'] == 1 and kept['5.3']['state'] == 'seen'

    box = page.locator('.jp-OutputArea-output a[title^="5.2 "]:visible')
    box.click()
    heading = page.locator('h2[data-jupyter-id^="5.2-"]')
    page.wait_for_timeout(1000)
    assert 0 <= heading.bounding_box()['y'] < 800, 'the link does not land on the exercise'
    page.screenshot(path=shots/'exercise-link.png')

    color = lambda theme: page.evaluate("""theme => { document.body.dataset.jpThemeLight = theme; return getComputedStyle(document.querySelector('.fastbook-right')).color }""", theme)
    assert {color('true'), color('false')} == {'rgb(26, 127, 55)', 'rgb(86, 194, 113)'}

    page.keyboard.press('Control+s')
    wait_until_saved(repo/'work'/NAME, RIGHT)
    page.close()
    assert '5.2 is answered and kept' in fastbook(repo, env, 'update')
    assert RIGHT in sources(repo/'work'/NAME)
    assert status(repo) == ''


def sources(path): return '\n'.join(''.join(c['source']) for c in json.loads(path.read_text(encoding='utf-8'))['cells'])


def wait_until_saved(path, text, seconds=30):
    end = time.monotonic() + seconds
    while text not in sources(path):
        assert time.monotonic() < end, 'the notebook was not saved'
        time.sleep(0.2)
