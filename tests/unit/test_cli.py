"""The command `fastbook`: plain lines in a pipe, exit codes that scripts can use."""
import json
import subprocess
import sys

import pytest

from fastbook_impl.cli import main
from fastbook_impl.exercises.engine import find


def notebook(path, *exercises):
    "A chapter's notebook in which a reader has filled in some stubs."
    cells = [dict(cell_type='markdown', source='## Questionnaire')]
    for number, source in exercises:
        cells += [dict(cell_type='markdown', source=f'### {number} A title\n\nA task.'), dict(cell_type='code', source=source.splitlines(True)),
                  dict(cell_type='code', source=f"check('{number}')"), dict(cell_type='code', source=find(number).solution)]
    path.write_text(json.dumps(dict(cells=cells)))
    return path


@pytest.fixture
def folder(tmp_path, home, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_answer_in_the_notebook_is_checked(folder, capsys):
    ex = find('4.4')
    for source, code, words in (ex.stub, 3, 'not answered yet'), (f'def {ex.names[0]}(*args): return 1', 1, 'not yet, because'), (ex.solution, 0, 'right'):
        notebook(folder/'04_mnist_basics.ipynb', ('4.4', source))
        assert main(['check', '4.4']) == code
        assert words in capsys.readouterr().out
    (folder/'04_mnist_basics.ipynb').unlink()
    assert main(['check', '4.4']) == 0  # the answer was kept


def test_a_whole_notebook(folder, capsys):
    a, b = find('4.4'), find('4.7')
    path = notebook(folder/'mine.ipynb', ('4.4', a.solution), ('4.7', b.stub))
    assert main(['check', str(path)]) == 3
    assert capsys.readouterr().out.splitlines()[-1] == '1 right, 0 not yet, 1 open'


def test_a_stub_that_does_not_even_run(folder, capsys):
    notebook(folder/'04_mnist_basics.ipynb', ('4.4', 'def broken(:'))
    assert main(['check', '4.4']) == 1
    assert 'because the cell raises SyntaxError' in (out := capsys.readouterr().out) and 'Traceback' not in out


def test_progress_hint_and_solution(folder, capsys):
    assert main(['progress']) == 0 and main(['progress', '04']) == 0 and main(['hint', '4.4']) == 0 and main(['solution', '4.4']) == 0
    out = capsys.readouterr().out
    assert 'chapter 04    0 of 37 right, 37 open' in out and '(hint 1 of' in out and f'def {find("4.4").names[0]}' in out and '\033' not in out


@pytest.mark.parametrize('args,sentence', [(['check', '4.99'], 'there is no exercise 4.99'), (['hint', '9.1'], 'there are no exercises for chapter 9'), (['check', 'no.ipynb'], 'there is no notebook no.ipynb'),
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


def test_it_is_installed_as_a_command(folder):
    command = sys.executable.rpartition('/')[0] + '/fastbook'
    done = subprocess.run([command, 'progress', '04'], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith('4.1 ')
    assert subprocess.run([command], capture_output=True, text=True).returncode == 2
