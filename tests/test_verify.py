"""`make test` itself: that each stage tells right from wrong, and that the last line is the plain count."""
import json
import multiprocessing
import os
import re
import subprocess
import sys
import time
from functools import partial

import nbformat
import pytest

import verify
from verify import Count

SETTINGS = '''[DEFAULT]
repo = tiny
lib_name = tiny
version = 0.0.1
min_python = 3.10
license = apache2
description = a project of one notebook
keywords = test
author = nobody
author_email = nobody@example.com
user = nobody
nbs_path = nbs
lib_path = fastbook_impl
recursive = True
update_pyproject = False
allowed_cell_metadata_keys = jupyter
'''


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    "A project of one notebook and one test, exported and clean."
    root = tmp_path_factory.mktemp('tiny')
    (root/'settings.ini').write_text(SETTINGS)
    write_notebook(root/'nbs'/'sub'/'00_core.ipynb', '#| default_exp core', '#| export\ndef one(): return 1', 'assert one() == 1')
    (root/'tests').mkdir()
    (root/'tests'/'test_core.py').write_text('import pytest\ndef test_one(): pass\ndef test_two(): pytest.skip("no reason")\n')
    for command in 'nbdev_export', 'nbdev_clean': assert verify.nbdev(command, root).returncode == 0
    return root


def write_notebook(path, *sources, **kw):
    cells = [nbformat.v4.new_code_cell(o, id=f'{i:08x}') for i, o in enumerate(sources)]
    meta = {'kernelspec': {'name': 'python3', 'display_name': 'python3', 'language': 'python'}}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=meta), path)


@pytest.fixture
def copy(tiny, tmp_path):
    verify.copy_notebooks(tiny, tmp_path)
    return tmp_path


@pytest.fixture
def changed(tiny):
    "Change a file of the tiny project; it is put back afterwards."
    before = {}
    def change(name, text):
        path = tiny/name
        before[path] = path.read_text() if path.exists() else None
        path.write_text(text)
    yield change
    for path, text in before.items(): path.unlink() if text is None else path.write_text(text)


def test_the_count_line():
    assert str(Count(12, 0)) == '12 passed, 0 failed'
    assert str(Count(1, 2) + Count(3, 0, 4)) == '4 passed, 2 failed, 4 skipped'


def test_an_export_in_step_passes(tiny, copy):
    assert verify.check_export(tiny, copy) == Count(passed=3)  # __init__, _modidx, core


def test_a_module_changed_by_hand_fails(tiny, copy, changed, capsys):
    changed('fastbook_impl/core.py', (tiny/'fastbook_impl'/'core.py').read_text() + '# a word more\n')
    changed('fastbook_impl/typed.py', 'x = 1\n')
    assert verify.check_export(tiny, copy) == Count(passed=2, failed=2)
    said = capsys.readouterr().out
    assert 'fastbook_impl/core.py is not what the notebooks say' in said and 'fastbook_impl/typed.py comes from no notebook' in said


def test_clean_notebooks_pass_and_others_are_named(tiny, copy, changed, capsys):
    assert verify.check_clean(tiny, copy) == Count(passed=1)
    nb = json.loads((tiny/'nbs/sub/00_core.ipynb').read_text())
    nb['cells'][0]['execution_count'] = 7
    changed('nbs/sub/00_core.ipynb', json.dumps(nb, indent=1) + '\n')
    assert verify.check_clean(tiny, copy) == Count(failed=1)
    assert 'nbs/sub/00_core.ipynb is not clean' in capsys.readouterr().out


def test_a_notebook_that_fails_is_counted(tiny, changed, capsys):
    assert verify.run_notebooks(tiny, os.environ) == Count(passed=1)
    bad = {'01_bad.ipynb': 'assert 1 == 2, "one is not two"', '02_dead.ipynb': 'import os; os._exit(7)'}
    for name, source in bad.items(): write_notebook(tiny/'nbs'/name, source)
    try: assert verify.run_notebooks(tiny, os.environ) == Count(passed=1, failed=2)
    finally:
        for name in bad: (tiny/'nbs'/name).unlink()
    said = capsys.readouterr().out
    assert 'one is not two' in said and 'nbs/02_dead.ipynb failed (exit code 7)' in said and re.search(r's  nbs/sub/00_core.ipynb', said)


def test_every_process_is_told_its_own_exit_code():
    "Two threads that each started and joined some were told 255 for one process in thirty."
    ctx, codes, most = multiprocessing.get_context('forkserver'), [i % 7 for i in range(200)], 0
    def started(code):
        nonlocal most
        proc = ctx.Process(target=os._exit, args=(code,))
        proc.start()
        most = max(most, len([o for o in multiprocessing.active_children() if o is not proc]) + 1)
        return proc
    assert sorted(o.exitcode for o in verify.run_side_by_side((partial(started, o) for o in codes), 4)) == sorted(codes)
    assert most <= 4


def test_what_runs_is_stopped_when_the_run_is():
    procs = [multiprocessing.get_context('forkserver').Process(target=time.sleep, args=(o,)) for o in (0, 600)]
    def start(proc): proc.start(); return proc
    assert next(running := verify.run_side_by_side((partial(start, o) for o in procs), 2)) is procs[0]
    running.close()
    procs[1].join(60)
    assert procs[1].exitcode == -15


def test_a_notebook_does_not_see_what_another_left_behind(tiny, capsys, monkeypatch):
    monkeypatch.setattr(verify, 'share_cores', lambda: (1, 1))
    names = '01_one.ipynb', '02_two.ipynb'
    for name in names: write_notebook(tiny/'nbs'/name, 'import math', 'assert not hasattr(math, "changed")', 'math.changed = True')
    try: assert verify.run_notebooks(tiny, os.environ) == Count(passed=3)
    finally:
        for name in names: (tiny/'nbs'/name).unlink()


def test_the_report_of_pytest_is_counted(tmp_path, capsys):
    report = tmp_path/'report.xml'
    report.write_text('<testsuites><testsuite tests="10" failures="2" errors="1" skipped="3"/></testsuites>')
    assert verify.read_junit(report) == Count(passed=4, failed=3, skipped=3)
    report.write_text('<testsuites><testsuite tests="0" failures="0" errors="0" skipped="0"/></testsuites>')
    assert verify.read_junit(report) == Count(failed=1)
    assert verify.read_junit(tmp_path/'missing.xml') == Count(failed=1)
    assert 'pytest found no test' in capsys.readouterr().out


def test_the_whole_ends_in_the_count_and_leaves_the_tree_alone(tiny):
    before = {o: o.read_bytes() for o in tiny.rglob('*') if o.is_file() and '.git' not in o.parts}
    code = f'import sys, pathlib; sys.path.insert(0, {os.path.dirname(verify.__file__)!r}); import verify; sys.exit(verify.main(pathlib.Path({str(tiny)!r})))'
    res = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=dict(os.environ, PYTEST_ADDOPTS='-p no:cacheprovider'))
    assert res.returncode == 0, res.stdout + res.stderr
    assert res.stdout.splitlines()[-1] == '6 passed, 0 failed, 1 skipped'
    after = {o for o in tiny.rglob('*') if o.is_file() and '__pycache__' not in o.parts}
    assert after == set(before) and all(o.read_bytes() == before[o] for o in before)
