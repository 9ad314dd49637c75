"""The command `fastbook`: plain lines in a pipe, exit codes that scripts can use."""
import json
import os
import re
import subprocess
import sys

import pytest

from fastbook_impl.cli import main
from fastbook_impl.exercises.engine import find
from fastbook_impl.exercises.progress import read_progress


def notebook(path, *sources):
    "An exercise notebook in which a reader has filled in some cells."
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(cells=[dict(cell_type='code', source=o.splitlines(True)) for o in sources])))
    return path


@pytest.fixture
def folder(tmp_path, home, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize('place', ['.', 'exercises', 'work/exercises', 'nbs/exercises'])
def test_the_answer_in_the_notebook_is_checked(folder, capsys, place):
    ex, path = find('4.4'), folder/place/'04_mnist_basics.ipynb'
    for source, code, words in (ex.stub, 3, 'not answered yet'), (f'def {ex.names[0]}(*args): return 1', 1, 'not yet, because'), (ex.solution, 0, 'right'):
        notebook(path, 'scratch = 1', f"%%time\n{source}\ncheck('4.4', {ex.names[0]})", '!ls')
        assert main(['check', '4.4']) == code
        assert words in (out := capsys.readouterr().out) and ('fastbook hint 4.4' in out) == (code == 3)
    path.unlink()
    assert main(['check', '4.4']) == 0  # the answer was kept


def test_a_whole_notebook_and_a_whole_chapter(folder, capsys):
    a, b = find('4.4'), find('4.7')
    path = notebook(folder/'mine.ipynb', a.solution, b.stub)
    assert main(['check', str(path)]) == 3
    assert capsys.readouterr().out.splitlines()[-1] == '1 right, 0 not yet, 1 open'
    assert main(['check', '4']) == main(['check', '04']) == 3
    assert capsys.readouterr().out.splitlines()[-1] == '1 right, 0 not yet, 36 open'


@pytest.mark.parametrize('source,sentence', [('def broken(:\nodd_ones_doubled = 1', 'the cell raises SyntaxError'), ('odd_ones_doubled = 1/0', 'the cell raises ZeroDivisionError'),
                                             ('odd_ones_doubled = 1\nexit()', 'the cell raises SystemExit'), ('def odd_ones_doubled(x): exit()', 'SystemExit'),
                                             ('import os\nodd_ones_doubled = 1\nos._exit(0)', 'it ended the program')])
def test_an_answer_that_does_not_run_or_ends_the_program_gets_a_sentence(folder, capsys, source, sentence):
    notebook(folder/'04_mnist_basics.ipynb', source)
    assert main(['check', '4.4']) == 1
    assert sentence in (out := capsys.readouterr().out) and 'Traceback' not in out


@pytest.mark.parametrize('damage', ['', '[]', '{"cells'])
def test_a_damaged_notebook_gets_a_sentence(folder, capsys, damage):
    (folder/'04_mnist_basics.ipynb').write_text(damage)
    assert main(['check', '4.4']) == 2 and 'is not a notebook' in capsys.readouterr().err


def test_progress_show_hint_solution_skip_and_reset(folder, capsys):
    for args in ['progress'], ['progress', '04'], ['show', '4.4'], ['hint', '4.4'], ['solution', '4.4'], ['skip', '4.7']: assert main(args) == 0
    out = capsys.readouterr().out
    assert 'chapter 04    0 of 37 right, 37 open' in out and '(fastbook show 1.1)' in out and '(hint 1 of' in out and f'def {find("4.4").names[0]}' in out and '\033' not in out
    assert read_progress()['4.4']['state'] == 'seen' and read_progress()['4.7']['state'] == 'skipped'
    assert main(['reset', '4.4']) == 0 and set(read_progress()) == {'4.7'}
    assert main(['reset', 'all']) == 0 and read_progress() == {}


@pytest.mark.medium
def test_a_folder_to_work_in(folder, capsys):
    assert main(['start']) == main(['update']) == main(['start', 'mine']) == 0
    assert (folder/'work'/'exercises'/'04_mnist_basics.ipynb').exists() and (folder/'mine'/'exercises').exists()
    assert main(['check', '4']) == 3 and '37 open' in capsys.readouterr().out


@pytest.mark.parametrize('args,sentence', [(['check', '4.99'], 'there is no exercise 4.99'), (['hint', '9.1'], 'there are no exercises for chapter 9'), (['check', 'no.ipynb'], 'there is no notebook no.ipynb'),
                                           (['check', '9'], 'there are no exercises for chapter 9'), (['reset', '4.99'], 'there is no exercise 4.99'), (['update', 'nowhere'], 'fastbook start nowhere'),
                                           (['run', '99'], 'there is no chapter 99'), (['data', '--clean', 'nothing'], 'there is no data set nothing')])
def test_what_cannot_be_done_is_told(folder, capsys, args, sentence):
    assert main(args) == 2
    err = capsys.readouterr().err
    assert sentence in err and err.count('\n') == 1


def test_data_on_the_disk(folder, capsys):
    from fastbook_impl.data.external import URLs, untar_data
    path = untar_data(URLs.MNIST_TINY)
    capsys.readouterr()
    assert main(['data']) == 0
    assert 'mnist_tiny' in (out := capsys.readouterr().out) and 'sample' in out
    assert main(['data', '--clean', 'mnist_tiny']) == 0 and not path.exists()
    assert main(['data']) == 0 and 'no data sets' in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.medium
def test_it_is_installed_as_a_command(folder):
    command = sys.executable.rpartition('/')[0] + '/fastbook'
    done = subprocess.run([command, 'progress', '04'], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith('4.1 ')


def test_without_a_command_it_prints_its_help(capsys):
    assert main([]) == 0
    assert 'start' in (out := capsys.readouterr().out) and 'check an exercise' in out


def test_it_knows_its_version(capsys):
    from fastbook_impl import __version__
    with pytest.raises(SystemExit) as e: main(['--version'])
    assert e.value.code == 0 and capsys.readouterr().out == f'fastbook {__version__}\n'


def test_help_does_not_import_what_takes_long(root):
    code = "import sys; from fastbook_impl.cli import main; main([]); print([o for o in ('torch', 'numpy', 'pandas', 'matplotlib') if o in sys.modules])"
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': str(root)}).stdout
    assert out.splitlines()[-1] == '[]'


def test_the_doctor_reports_what_is_installed(folder, capsys):
    assert main(['doctor']) == 0
    said = capsys.readouterr().out
    assert all(re.search(rf'^ok +{o} ', said, re.M) for o in ('Python', 'PyTorch', 'data folder')) and 'All is well' in said


def test_the_doctor_names_a_setting_that_is_wrong_with_the_way_out(folder, capsys, monkeypatch):
    monkeypatch.setenv('FASTBOOK_DATA', 'reel')
    assert main(['doctor']) == 1
    said = capsys.readouterr().out
    assert re.search(r'^BAD +settings .*FASTBOOK_DATA=reel', said, re.M) and 'auto, real or sample' in said and '1 of 8 need attention' in said
