"""`make course`: what its table says of a good chapter and of a bad one."""
import os
import subprocess
import sys

import nbformat
import pytest

import course

pytestmark = pytest.mark.medium

REPORT = '''from IPython.display import display
display({'text/plain': 'a net: accuracy 0.99', 'application/vnd.fastbook.result+json': dict(trained='a net', result='accuracy 0.99', metrics={'net': .99})}, raw=True)'''


def chapter(path, *sources):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(o) for o in sources])
    nbformat.write(nb, path)
    return path


@pytest.fixture
def run_course(tmp_path):
    def run(*paths, **env):
        cmd = [sys.executable, course.__file__, '--keep', str(tmp_path/'kept'), *map(str, paths)]
        return subprocess.run(cmd, cwd=tmp_path, env=dict({k: v for k, v in os.environ.items() if k != 'MPLBACKEND'}, **env), capture_output=True, text=True)
    return run


def test_a_good_chapter_a_bad_one_and_one_that_dies(tmp_path, run_course):
    (tmp_path/'nbs').mkdir()
    good = chapter(tmp_path/'nbs'/'01_good.ipynb', 'import os\nprint(os.environ["FASTBOOK_MIRROR"], os.environ["GOMP_SPINCOUNT"])', 'open("left_behind.txt", "w").write("a file")', REPORT)
    bad = chapter(tmp_path/'nbs'/'02_bad.ipynb', 'a = 1', '# a word first\ndef f(): return a/0\nf()', 'print("never reached")')
    dead = chapter(tmp_path/'nbs'/'03_dead.ipynb', 'import os; os._exit(1)')
    before = good.read_bytes(), bad.read_bytes()
    res = run_course(good, bad, dead, FASTBOOK_MIRROR='a/mirror', FASTBOOK_DATA='sample')
    assert res.returncode == 1
    lines = res.stdout.splitlines()
    assert 'FASTBOOK_DATA=sample, FASTBOOK_MIRROR=a/mirror' in lines
    table = lines[lines.index('FASTBOOK_DATA=sample, FASTBOOK_MIRROR=a/mirror') + 2:]
    assert table[0].split() == ['chapter', 'what', 'was', 'trained', 'result', 'seconds']
    assert table[2].split()[:5] == ['01_good', 'a', 'net', 'accuracy', '0.99'] and float(table[2].split()[-1]) > 0
    assert '03_dead failed: its Python died; the usual cause is that memory ran out' in res.stderr
    assert '02_bad failed: cell 2: ZeroDivisionError: division by zero' in res.stderr and 'Traceback' not in res.stderr
    assert (good.read_bytes(), bad.read_bytes()) == before
    assert sorted(o.name for o in (tmp_path/'nbs').iterdir()) == ['01_good.ipynb', '02_bad.ipynb', '03_dead.ipynb']
    assert str(tmp_path/'a'/'mirror') in (tmp_path/'kept'/'01_good.ipynb').read_text()


def test_results_of_an_earlier_run_are_not_shown(tmp_path, run_course):
    path = chapter(tmp_path/'01_later.ipynb', 'import os; os._exit(1)', REPORT)
    nb = nbformat.read(path, as_version=4)
    nb.cells[1].outputs = [nbformat.v4.new_output('display_data', {course.RESULT_MIME: dict(trained='a net', result='accuracy 0.99', metrics={})})]
    nbformat.write(nb, path)
    res = run_course(path)
    assert 'its Python died' in res.stdout and 'accuracy 0.99' not in res.stdout


def test_a_wrong_name_is_told(tmp_path, capsys):
    with pytest.raises(SystemExit): course.main([str(tmp_path/'09_missing.ipynb')])
    assert 'no such notebook: ' in capsys.readouterr().err


def test_the_table_has_a_row_for_each_result_and_each_failure():
    runs = [course.Run('01_a', 1.26, [dict(trained='one', result='accuracy 0.5'), dict(trained='another', result='loss 2')]),
            course.Run('02_b', 2., []), course.Run('03_c', 3., [], error='cell 2: NameError: no x\n    x')]
    assert course.table(runs).splitlines()[2:] == [
        '01_a     one               accuracy 0.5                 1.3',
        '         another           loss 2',
        '02_b     nothing reported                               2.0',
        '03_c     failed            cell 2: NameError: no x      3.0']


def test_chapters_are_those_with_a_number(root):
    assert all(o.parent == root/'nbs' and o.name[:2].isdigit() for o in course.chapters())


def test_a_chapter_in_two_notebooks_is_found_whole(tmp_path):
    (tmp_path/'nbs').mkdir()
    for name in ('15b_more.ipynb', '15_heads.ipynb', 'index.ipynb', '04_net.ipynb'): chapter(tmp_path/'nbs'/name, '1')
    assert [o.name for o in course.chapters(tmp_path)] == ['04_net.ipynb', '15_heads.ipynb', '15b_more.ipynb']
