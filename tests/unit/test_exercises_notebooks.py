"""The exercise notebooks: one cell for each exercise, no solutions, and a folder of the reader's in which no answer is ever lost."""
import html
import json
import os
import re
import subprocess
import sys

import pytest

from fastbook_impl.exercises import progress, work
from fastbook_impl.exercises.engine import CHAPTERS, exercises, find
from fastbook_impl.exercises.notebooks import answers, defined, marks, merged, notebook, python_only, source_of, text, without_calls

ALL = exercises()


def read(path): return json.loads(path.read_text(encoding='utf-8'))


def cell(nb, id): return next(c for c in nb['cells'] if c['id'] == id)


def code_cells(nb): return [c for c in nb['cells'] if c['cell_type'] == 'code']


def test_they_are_in_step_with_the_definitions(capsys):
    import exercises
    assert exercises.main(['--check']) == 0, capsys.readouterr().out


@pytest.mark.parametrize('chapter', CHAPTERS)
def test_each_exercise_is_a_task_and_a_cell_to_fill_in(root, chapter):
    nb = read(root/'nbs'/'exercises'/f'{CHAPTERS[chapter]}.ipynb')
    exs = exercises(chapter)
    assert [c['source'][0].strip() for c in nb['cells'] if c['cell_type'] == 'markdown'][1:-1] == [f'## {ex.number} {ex.title}' for ex in exs]
    for ex, c in zip(exs, code_cells(nb)):
        source = source_of(c)
        assert source.startswith('from fastbook_impl.') and source.splitlines()[-1].startswith(f"check('{ex.number}', ") and ex.stub in source
        assert c['outputs'] == [] and c['execution_count'] is None
    assert 'solution(' not in ''.join(map(source_of, code_cells(nb)))


def test_code_in_a_task_can_be_run(root):
    "At least, it is Python: an editor may have taken its indentation away."
    sources = [(path.name, code) for path in (root/'nbs'/'exercises').glob('*.ipynb') for c in read(path)['cells'] if c['cell_type'] == 'markdown'
               for code in re.findall(r'```python\n(.*?)```', source_of(c), re.S)]
    assert len(sources) >= 5
    for name, code in sources: compile(code, name, 'exec')


@pytest.mark.parametrize('ex', ALL[::25], ids=lambda ex: ex.number)
def test_each_cell_works_as_the_first_that_is_run(home, ex, capsys):
    c = next(c for c in notebook(ex.chapter)['cells'] if source_of(c).splitlines()[-1].startswith(f"check('{ex.number}'"))
    names = {}
    *lines, last = source_of(c).splitlines()
    exec('\n'.join(lines), names)
    assert eval(last, names).state == 'open'


@pytest.mark.parametrize('chapter', CHAPTERS)
def test_chapter_and_exercises_are_linked_both_ways(root, chapter):
    name = CHAPTERS[chapter]
    nb = read(root/'nbs'/f'{name}.ipynb')
    assert not [c['id'] for c in nb['cells'] if c['id'].startswith('q-')]
    assert f'(exercises/{name}.ipynb)' in source_of(nb['cells'][-1]) and source_of(nb['cells'][-1]).startswith('## Exercises')
    assert f'(../{name}.ipynb)' in source_of(read(root/'nbs'/'exercises'/f'{name}.ipynb')['cells'][0])


def test_cleaning_leaves_them_unchanged(root, tmp_path):
    from nbdev.clean import nbdev_clean
    for path in (root/'nbs'/'exercises').glob('*.ipynb'):
        copy = tmp_path/path.name
        copy.write_bytes(path.read_bytes())
        nbdev_clean(str(copy))
        assert copy.read_bytes() == path.read_bytes()


def test_the_table_of_all_questions_is_in_step(root):
    "The page that is saved in the documentation has a row for each."
    nb = read(root/'nbs'/'checks'/'90_table.ipynb')
    shown = ''.join(''.join(o.get('data', {}).get('text/html', '')) for c in nb['cells'] for o in c.get('outputs', []))
    rows = re.findall(r'<th>(\d+[a-z]?\.\d+)</th>\s*<td>([^<]*)</td>', shown)
    assert [(n, html.unescape(t)) for n, t in rows] == [(ex.number, ex.title) for ex in ALL]
    for column in 'kind', 'checks', 'right variants accepted', 'wrong answers refused', 'taught in section': assert f'<th>{column}</th>' in shown


# --- make exercises ---------------------------------------------------------------------------------------------------------

def test_make_exercises_never_erases_an_answer(tmp_path, capsys):
    import exercises as tool
    (tmp_path/'nbs').mkdir()
    path = tmp_path/'nbs'/'exercises'/'04_mnist_basics.ipynb'
    assert tool.main([], root=tmp_path) == 0
    nb = read(path)
    cell(nb, 'ex-04-04-answer')['source'] = ['odd_ones_doubled = my_answer']
    cell(nb, 'ex-04-05')['source'] = ['my notes']
    path.write_text(text(nb))
    assert tool.main(['--check'], root=tmp_path) == 1
    for _ in range(2): tool.main([], root=tmp_path)
    sources = [source_of(c) for c in read(path)['cells']]
    assert sources.count('odd_ones_doubled = my_answer') == sources.count('my notes') == 1


# --- a folder to work in ------------------------------------------------------------------------------------------------------

@pytest.fixture
def folder(home, tmp_path): return work.start(tmp_path/'work', say=lambda o: None)


def answer(folder, id, source):
    path = folder/'exercises'/'04_mnist_basics.ipynb'
    nb = read(path)
    cell(nb, id)['source'] = source.splitlines(True)
    path.write_text(text(nb))
    return path


def update(folder):
    said = []
    work.update(folder, say=said.append)
    return '\n'.join(said)


def test_a_new_folder_has_every_exercise_notebook_and_is_ignored_by_git(folder):
    assert sorted(o.name for o in (folder/'exercises').glob('*.ipynb')) == sorted(f'{o}.ipynb' for o in CHAPTERS.values())
    subprocess.run(['git', 'init', '-q', str(folder.parent)], check=True)
    assert subprocess.run(['git', 'status', '--short', '--', 'work'], cwd=folder.parent, capture_output=True, text=True).stdout == ''


def test_starting_again_changes_nothing(folder):
    path = answer(folder, 'ex-04-04-answer', 'mine')
    before = path.read_bytes()
    said = []
    work.start(folder, say=said.append)
    assert path.read_bytes() == before and 'nothing in it was changed' in said[0]


def test_starting_again_names_the_command_where_the_course_has_changed(folder, monkeypatch):
    path = answer(folder, 'ex-04-04-answer', 'mine')
    before = path.read_bytes()
    monkeypatch.setattr(find('4.4'), 'task', 'A better task.')
    said = []
    work.start(folder, say=said.append, command='make update')
    assert 'There are new versions of 1 notebook: `make update` brings them' in said[0] and path.read_bytes() == before


def test_an_update_keeps_answers_and_brings_new_tasks(folder, monkeypatch):
    path = answer(folder, 'ex-04-04-answer', 'mine')
    was = read(path)
    monkeypatch.setattr(find('4.4'), 'task', 'A better task.')
    monkeypatch.setattr(find('4.6'), 'task', 'Another better task.')
    said = update(folder)
    nb = read(path)
    assert source_of(cell(nb, 'ex-04-04-answer')) == 'mine' and 'A better task.' in source_of(cell(nb, 'ex-04-04'))
    assert 'Another better task.' in source_of(cell(nb, 'ex-04-06')) and '4.4 is answered and kept' in said
    assert [c['id'] for c in nb['cells']] == [c['id'] for c in was['cells']]
    before = path.read_bytes()
    update(folder)
    assert path.read_bytes() == before


def test_an_update_says_when_the_task_of_an_answer_has_changed(folder, monkeypatch):
    answer(folder, 'ex-04-04-answer', 'mine')
    monkeypatch.setattr(find('4.4').parts[0], 'stub', 'def odd_ones_doubled(all_numbers): ...')
    assert '4.4 is answered and kept, although its task has changed' in update(folder)
    assert source_of(cell(read(folder/'exercises'/'04_mnist_basics.ipynb'), 'ex-04-04-answer')) == 'mine'


def test_an_update_adds_exercises_and_keeps_cells_of_the_readers(folder):
    path = folder/'exercises'/'04_mnist_basics.ipynb'
    nb = read(path)
    nb['cells'] = [c for c in nb['cells'] if not c['id'].startswith('ex-04-07')]  # as if it had not been there
    nb['cells'].insert(3, {'cell_type': 'code', 'id': 'scratch', 'metadata': {}, 'outputs': [], 'execution_count': 1, 'source': ['1 + 1']})
    path.write_text(text(nb))
    kept = work.read_marks(folder)
    for id in 'ex-04-07', 'ex-04-07-answer': del kept['exercises/04_mnist_basics.ipynb'][id]
    work.write_marks(folder, kept)
    assert '4.7 is new' in update(folder)
    ids = [c['id'] for c in read(path)['cells']]
    assert ids.index('scratch') == 3 and ids.index('ex-04-07-answer') == ids.index('ex-04-08') - 1


def test_without_marks_everything_that_is_not_ours_is_kept(folder):
    path = answer(folder, 'ex-04-04-answer', 'mine')
    (folder/work.MARKS).write_text('{broken')
    update(folder)
    assert source_of(cell(read(path), 'ex-04-04-answer')) == 'mine'


@pytest.mark.parametrize('damage', ['', '{', '[]', '{"cells": 5}'])
def test_a_notebook_that_cannot_be_read_is_left_alone(folder, damage):
    path = folder/'exercises'/'04_mnist_basics.ipynb'
    path.write_text(damage)
    assert '04_mnist_basics.ipynb: it cannot be read, and is left alone' in update(folder)
    assert path.read_text() == damage


def test_chapters_are_copied_and_updated_beside_those_that_were_changed(home, tmp_path, monkeypatch):
    course = tmp_path/'course'
    course.mkdir()
    for name in 'index.ipynb', '01_intro.ipynb', '02_production.ipynb': (course/name).write_text(text(notebook('04')))
    monkeypatch.setattr(work, 'course_folder', lambda: course)  # (it has nothing to link to)
    folder = work.start(tmp_path/'work', chapters=True, say=lambda o: None)
    mine = read(folder/'01_intro.ipynb')
    mine['cells'][0]['source'] = ['mine']
    (folder/'01_intro.ipynb').write_text(text(mine))
    for name in '01_intro.ipynb', '02_production.ipynb': (course/name).write_text(text(notebook('05')))
    said = update(folder)
    assert read(folder/'01_intro.ipynb')['cells'][0]['source'] == ['mine'] and marks(read(folder/'01_intro.new.ipynb')) == marks(notebook('05'))
    assert marks(read(folder/'02_production.ipynb')) == marks(notebook('05')) and 'you changed it' in said


def test_links_lead_to_the_course_where_something_was_not_copied(home, root, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    links = lambda nb: {m for c in nb['cells'] if c['cell_type'] == 'markdown' for m in re.findall(r'\]\((?![a-z]+:|[#/])([^)#\s]+)', source_of(c))}
    for chapters in False, True:
        folder = work.start(tmp_path/f'work-{chapters}', chapters=chapters, say=lambda o: None)
        for path in folder.rglob('*.ipynb'): assert [o for o in links(read(path)) if not (path.parent/o).exists()] == []
    assert '../04_mnist_basics.ipynb' in links(read(folder/'exercises'/'04_mnist_basics.ipynb'))


def test_it_works_without_a_checkout(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(work.fastbook_impl, '__file__', str(tmp_path/'site-packages'/'fastbook_impl'/'__init__.py'))
    assert (work.start('mine', say=lambda o: None)/'exercises'/'01_intro.ipynb').exists()
    with pytest.raises(ValueError, match='checkout'): work.start('other', chapters=True, say=lambda o: None)


def test_the_options_in_a_readers_folder_have_an_order_of_their_own(folder):
    seed = progress.reader_seed()
    ours = lambda nb: [source_of(c).partition('Taught in ')[0] for c in nb['cells'][1:-2]]  # (whose link leads to where the chapters are)
    assert ours(read(folder/'exercises'/'02_production.ipynb')) == ours(notebook('02', seed))
    assert notebook('02', seed) != notebook('02') and 'order=' in text(notebook('02', seed))


# --- answers in a notebook ------------------------------------------------------------------------------------------------------

RIGHT = 'def odd_ones_doubled(numbers): return [2*o for o in numbers if o % 2]'


def with_cells(*sources):
    nb = notebook('04')
    return {**nb, 'cells': [*nb['cells'], *({'cell_type': 'code', 'id': f'mine-{i}', 'metadata': {}, 'outputs': [], 'source': [s]} for i, s in enumerate(sources))]}


@pytest.mark.parametrize('source', [RIGHT, f'%%time\n{RIGHT}', f'!ls\n{RIGHT}', f'{RIGHT}\nodd_ones_doubled?', f'%matplotlib inline\n{RIGHT}', f'files = !ls\n{RIGHT}',
                                    'odd_ones_doubled = lambda numbers: [2*o for o in numbers if o % 2]', f"{RIGHT}\ncheck('4.4', odd_ones_doubled)", f'import math\n%time x = 1\n{RIGHT}'])
def test_an_answer_is_found_by_its_name_wherever_it_stands(home, source):
    got, _ = answers(with_cells('1 + 1', source, '2 + 2'), [find('4.4')])['4.4']
    assert 'check(' not in got and progress.check_source(find('4.4'), got)


def test_the_order_of_the_options_is_read_from_the_cell(home):
    nb = notebook('04', seed=3)
    ex = find('4.2')
    assert answers(nb, [ex])['4.2'][1] == re.search(r"order='(\w+)'", source_of(cell(nb, 'ex-04-02-answer')))[1]


def test_small_things():
    assert defined('a, (b, c) = 1, (2, 3)\nclass D: e = 1') == {'a', 'b', 'c', 'D'}
    assert without_calls("x = 1\nhint('4.4')\ncheck(\n  '4.4',\n  x)\nprint(x)") == 'x = 1\n\n\n\n\nprint(x)'
    assert python_only('def f():\n    !ls\n    return 1') == 'def f():\n    pass\n    return 1'
    assert merged(notebook('04'), notebook('04'), marks(notebook('04')))[1] == []
