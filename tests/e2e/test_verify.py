"""`make test` itself: that each stage tells right from wrong, and that the last line is the plain count."""
import json
import os
import re
import subprocess
import sys

import nbformat
import pytest

import verify
from verify import Count

pytestmark = pytest.mark.medium

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
tst_flags = slow
allowed_cell_metadata_keys = jupyter
'''


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    "A project of one notebook and one test, exported and clean."
    root = tmp_path_factory.mktemp('tiny')
    (root/'settings.ini').write_text(SETTINGS)
    write_notebook(root/'nbs'/'sub'/'00_core.ipynb', '#| default_exp core', '#| export\ndef one(): return 1', 'assert one() == 1')
    (root/'ruff.toml').write_text('[lint]\nselect = ["E9"]\n')
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


@pytest.fixture
def notebooks(tiny):
    "Add notebooks to the tiny project, `name=source`; they are gone afterwards."
    added = []
    def add(**sources):
        for name, source in sources.items():
            added.append(tiny/'nbs'/f'{name}.ipynb')
            write_notebook(added[-1], source)
    yield add
    for o in added: o.unlink()


def test_a_notebook_that_fails_is_counted(tiny, notebooks, capsys):
    notebooks(n01_bad='assert 1 == 2, "one is not two"')
    assert verify.run_notebooks(tiny, os.environ) == Count(passed=1, failed=1)
    said = capsys.readouterr().out
    assert 'one is not two' in said and '\tn01_bad.ipynb' in said and re.search(r's  nbs/sub/00_core.ipynb', said)


def test_a_process_that_dies_does_not_count_as_passed(tiny, notebooks, capsys):
    notebooks(n02_dead='import os; os._exit(7)')
    count = verify.run_notebooks(tiny, os.environ)
    assert count.failed >= 1 and count.passed + count.failed == 2
    assert 'nbs/n02_dead.ipynb was not finished' in capsys.readouterr().out


def test_slow_cells_run_only_when_they_are_asked_for(tiny, notebooks):
    notebooks(n03_slow='#| slow\nassert False')
    assert verify.run_notebooks(tiny, os.environ) == Count(passed=2)
    assert verify.run_notebooks(tiny, os.environ, flags='slow') == Count(passed=1, failed=1)


def test_the_slowest_come_first():
    assert verify.slowest('tests', [('a', 1.), ('b', 30.25), ('c', 2.)], 2).splitlines() == ['  slowest tests:', '     30.2 s  b', '      2.0 s  c']


def test_a_finding_of_ruff_fails_the_stage(tiny, changed, capsys):
    assert verify.check_lint(tiny) == Count(passed=1)
    changed('tests/test_core.py', 'def f(: pass\n')
    assert verify.check_lint(tiny) == Count(failed=1)
    assert 'test_core.py:1:7' in capsys.readouterr().out


@pytest.mark.parametrize('mode, counted', [('quick', (1, 0)), ('usual', (2, 0)), ('long', (2, 1))])
def test_each_command_runs_its_tests(mode, counted, tiny, changed, tmp_path):
    changed('pytest.ini', '[pytest]\nmarkers =\n  slow\n  medium\n')
    changed('tests/test_core.py', 'import pytest\ndef test_a(): pass\n@pytest.mark.medium\ndef test_b(): pass\n@pytest.mark.slow\ndef test_c(): assert False\n')
    found = verify.run_pytest(tiny, dict(os.environ, PYTEST_ADDOPTS='-p no:cacheprovider'), tmp_path/'report.xml', mode)
    assert (found.passed, found.failed) == counted


def test_make_check_leaves_out_the_notebooks(tmp_path):
    names = {mode: list(verify.stages(mode, tmp_path, tmp_path, tmp_path, {})) for mode in ('quick', 'usual', 'long')}
    assert names['quick'] == ['export', 'clean', 'lint', 'types', 'pytest'] and names['usual'] == names['long'] == ['export', 'clean', 'lint', 'types', 'notebooks', 'pytest']


def test_the_words_of_the_command_line():
    assert [verify.arguments(o) for o in ([], ['--quick'], ['--long'])] == ['usual', 'quick', 'long']


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
    code = f'import sys, pathlib; sys.path.insert(0, {os.path.dirname(verify.__file__)!r}); import verify; sys.exit(verify.main(root=pathlib.Path({str(tiny)!r})))'
    res = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=dict(os.environ, PYTEST_ADDOPTS='-p no:cacheprovider'))
    assert res.returncode == 0, res.stdout + res.stderr
    assert res.stdout.splitlines()[-1] == '8 passed, 0 failed, 1 skipped'
    after = {o for o in tiny.rglob('*') if o.is_file() and '__pycache__' not in o.parts}
    assert after == set(before) and all(o.read_bytes() == before[o] for o in before)
