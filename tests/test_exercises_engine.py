"""No exercise can be fooled: what is tested here is tested of every one of them."""
import html
import importlib
import json
import os
import re
import subprocess
import sys
import threading
import time

import pytest
import torch

from fastbook_impl.questionnaire import core, progress
from fastbook_impl.questionnaire.core import FunctionPart, Verdict, exercises, find, judge, proof

BOOK = {'01': 33, '02': 27, '03': 18, '04': 37, '05': 23, '06': 17, '15': 18}
ALL = exercises()


@pytest.mark.parametrize('chapter,n', BOOK.items())
def test_every_question_of_the_book_is_an_exercise(chapter, n):
    assert [ex.number for ex in ALL if ex.chapter == chapter] == [f'{int(chapter)}.{i}' for i in range(1, n + 1)]


@pytest.mark.parametrize('ex', ALL, ids=lambda ex: ex.number)
def test_it_cannot_be_fooled(ex):
    "The solution passes on ten seeds; the stub is open; each wrong answer gets its own sentence; nothing passes with a broken reference, and no nonsense does."
    assert proof(ex) == []


@pytest.mark.parametrize('ex', [ex for ex in ALL if any(isinstance(p, FunctionPart) for p in ex.parts)], ids=lambda ex: ex.number)
def test_an_answer_that_hangs_or_floods_gets_a_sentence(ex, monkeypatch):
    monkeypatch.setattr(core, 'SECONDS', 0.05)
    for f, sentence in (hangs, 'still running after 0.05 seconds'), (floods, 'prints more than anybody wants to read'):
        v = judge(ex, f, *core._right(ex)[1:], seeds=[0])
        assert v.state == 'wrong' and sentence in v.message


def hangs(*args, **kwargs):
    while True: pass


def floods(*args, **kwargs):
    while True: print('x'*1000)


def test_names_and_titles_are_unique_and_can_be_linked():
    names = [n for ex in ALL for n in ex.names]
    assert len(names) == len(set(names))
    assert len({ex.title for ex in ALL}) == len(ALL)
    assert not [ex.title for ex in ALL if len(ex.title) > 60 or set(ex.title) & set('`#/"')]


def test_right_options_are_spread():
    "Who always says 'a' must not be right more often than by chance."
    letters = [p.reference for ex in ALL for p in ex.parts if isinstance(p, core.ChoicePart)]
    assert all(letters.count(o) < 0.45*len(letters) for o in set(letters))


# --- what is kept ----------------------------------------------------------------------------------------------------------

@core.exercise('0.7', 'Half of it', 'write it')
class half_of_it:
    "Write a function that halves a number."
    def solution(x):
        "Half of the number `x`."
        return x/2
    def cases(r):
        for _ in range(3): yield r.uniform(-9, 9)
    wrong = [(lambda x: x, 'this is all of it'), (lambda x: 2*x, 'this is twice as much'), (lambda x: x//2, 'this is rounded down')]
    hints = ['Divide.', 'By two.']
    why = 'Halves add up.'
    explanation = 'Division by two.'


def test_an_answer_outlives_the_kernel(home):
    assert progress.check('0.7', lambda x: x).state == 'wrong'
    def half_of_it(x): return 0.5*x
    assert progress.check('0.7', half_of_it)
    kept = json.loads((home/'progress.json').read_text())['0.7']
    assert kept['state'] == 'right' and kept['answer'].startswith('def half_of_it')
    assert progress.check('0.7')
    progress.reset('0.7')
    assert progress.check('0.7').state == 'open'


def test_our_solution_is_not_counted_as_yours(home):
    assert progress.check_solution('0.7', half_of_it.parts[0].reference)
    assert not (home/'progress.json').exists()


def test_two_notebooks_at_once_lose_nothing(home):
    threads = [threading.Thread(target=progress.record, args=(f'0.{i}',), kwargs=dict(state='right')) for i in range(20)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert len(progress.read_progress()) == 20


def test_a_disk_that_is_full_is_told(home, monkeypatch, capsys):
    def full(*args): raise OSError(28, 'No space left on device')
    progress.record('0.7', state='wrong')
    with monkeypatch.context() as m:
        m.setattr(os, 'replace', full)
        progress.record('0.7', state='right')
    assert 'could not be kept: No space left on device' in capsys.readouterr().out
    assert progress.read_progress()['0.7']['state'] == 'wrong'


@pytest.mark.parametrize('text', ['', '{', '[]', '"text"', '\x00\x01'])
def test_a_broken_file_is_set_aside(home, capsys, text):
    home.mkdir()
    (home/'progress.json').write_text(text)
    assert progress.read_progress() == {}
    assert 'kept as progress.broken.json' in capsys.readouterr().out and (home/'progress.broken.json').read_text() == text


def test_hints_go_from_first_to_last_and_begin_again(home):
    assert [str(progress.hint('0.7')) for _ in range(3)] == ['Divide.  (hint 1 of 2)', 'By two.  (hint 2 of 2)', 'Divide.  (hint 1 of 2)']


# --- what the machinery refuses ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('number,sentence', [('4.99', r'there is no exercise 4.99; those of chapter 4 go from 4.1 to 4.37'), ('7.1', r'there are no exercises for chapter 7'), ('x', 'there are no exercises')])
def test_an_exercise_that_is_not_there(number, sentence):
    with pytest.raises(ValueError, match=sentence): find(number)


def test_numbers_are_found_however_they_are_written():
    assert find('04.08') is find('4.8')


@pytest.mark.parametrize('missing', ['hints', 'why', 'explanation', 'wrong', 'cases'])
def test_an_exercise_that_lacks_something_is_refused(missing):
    spec = dict(__doc__='Halve it.', hints=['a', 'b'], why='w', explanation='e', solution=lambda x: x/2, cases=lambda r: [(1,)],
                wrong=[(1, 'a'), (2, 'b'), (3, 'c')])
    del spec[missing]
    with pytest.raises(ValueError, match=r'^exercise 0\.8 lacks '): core.exercise('0.8', 'Half', 'write it')(type('half', (), spec))


def test_too_few_and_too_many_answers():
    assert 'is asked for, and 0 answers came' in judge(half_of_it).message and '2 answers came' in judge(half_of_it, 1, 2).message


def test_an_answer_may_not_change_the_input_of_the_reference():
    def greedy(x): return x.div_(2)
    ex = core.exercise('0.9', 'Half of each', 'write it')(type('half_of_each', (), dict(
        __doc__='Halve them.', hints=['a', 'b'], why='w', explanation='e', solution=_half, cases=lambda r: [(torch.ones(3),)],
        wrong=[(lambda x: x, 'a'), (lambda x: x*2, 'b'), (lambda x: x - 2, 'c')])))
    assert judge(ex, greedy) and judge(ex, lambda x: x/2)


def _half(x):
    "Half."
    return x/2


def test_a_verdict_is_words_and_colour():
    v = Verdict('4.8', 'wrong', 'use `mean` & <b>')
    assert repr(v) == '✗ 4.8 not yet, because use `mean` & <b>'
    assert '<code>mean</code> &amp; &lt;b&gt;' in v._repr_html_() and 'color:' in v._repr_html_()


# --- the chapters --------------------------------------------------------------------------------------------------------------

def test_the_chapters_have_their_exercises(capsys):
    import questionnaire
    assert questionnaire.main(['--check']) == 0, capsys.readouterr().out


@pytest.mark.parametrize('chapter', BOOK)
def test_run_all_shows_stubs_as_open_and_solutions_as_right(root, chapter):
    "As saved by the last run of the section: nothing raised, every check open, every solution right."
    nb = json.loads((root/'nbs'/f'{core.CHAPTERS[chapter]}.ipynb').read_text())
    said = {c['id']: ''.join(''.join(o.get('data', {}).get('text/plain', '')) for o in c['outputs']) for c in nb['cells'] if c['cell_type'] == 'code' and c['id'].startswith('q-')}
    assert not [o for c in nb['cells'] if c['id'].startswith('q-') for o in c.get('outputs', []) if o['output_type'] == 'error']
    for i in range(1, BOOK[chapter] + 1):
        id = f'q-{chapter}-{i:02}'
        assert 'not answered yet' in said[f'{id}-check'] and re.match(r'✓ \d+\.\d+ right', said[f'{id}-solution'])
    hidden = [c for c in nb['cells'] if c['id'].startswith('q-') and c['id'].endswith('-solution')]
    assert all(c['metadata'].get('jupyter', {}).get('source_hidden') for c in hidden)


def test_the_table_of_all_questions_is_in_step(root):
    "The page that is saved in the documentation has a row for each."
    nb = json.loads((root/'nbs'/'questionnaire'/'90_table.ipynb').read_text())
    shown = ''.join(''.join(o.get('data', {}).get('text/html', '')) for c in nb['cells'] for o in c.get('outputs', []))
    rows = re.findall(r'<th>(\d+\.\d+)</th>\s*<td>([^<]*)</td>', shown)
    assert [(n, html.unescape(t)) for n, t in rows] == [(ex.number, ex.title) for ex in ALL]


# --- what a reader who tried them cold stumbled over ---------------------------------------------------------------------------

def kept_again(number): return repr(progress.check(number))

@pytest.mark.parametrize('source', ['def half_of_it(x):\n    "Half."\n    y = x\n    return y/2', 'half_of_it = lambda x: x/2', 'def mine(x):\n    return x/2\nhalf_of_it = mine'])
def test_an_answer_of_several_lines_is_kept_whole(home, tmp_path, monkeypatch, source):
    (tmp_path/'answer_module.py').write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'answer_module', raising=False)
    answer = importlib.import_module('answer_module').half_of_it
    assert progress.check('0.7', answer) and 'right' in kept_again('0.7') and 'not kept' not in kept_again('0.7')


def test_a_lambda_is_cut_out_of_its_line(home):
    assert bool(progress.check('0.7', lambda x: x/2)) and 'not kept' not in kept_again('0.7')


def test_what_cannot_be_run_again_was_right_all_the_same(home):
    two = 2
    def half_of_it(x): return x/two
    assert progress.check('0.7', half_of_it)
    assert 'It was right on' in kept_again('0.7') and progress.check('0.7')


def test_one_input_that_does_not_end_is_enough(monkeypatch):
    monkeypatch.setattr(core, 'SECONDS', 0.2)
    start = time.process_time()
    assert 'still running' in judge(half_of_it, hangs).message
    assert time.process_time() - start < 3*0.2 + 1


@pytest.mark.parametrize('number,sentence', [(4.1, 'in quotes'), ('q', 'no exercises for chapter q'), (' 4.99 ', 'there is no exercise 4.99')])
def test_odd_numbers_of_exercises(number, sentence):
    with pytest.raises(core.NoSuchExercise, match=sentence) as e: progress.check(number, 1)
    assert e.value._render_traceback_() == [str(e.value)]


def test_an_answer_that_ends_the_program_does_not(): assert 'SystemExit' in judge(half_of_it, lambda x: sys.exit()).message


def test_a_loop_without_an_end_is_stopped_where_interrupts_are_ignored():
    "As in what a script starts in the background."
    code = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
from fastbook_impl.questionnaire.core import NotYet, time_limit
try:
    with time_limit(.1):
        while True: pass
except NotYet as e: print(e)
print(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)"""
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60).stdout.splitlines()
    assert out == ['it was still running after 0.1 seconds: is there a loop that does not end?', 'True']
