"""No exercise can be fooled: what is tested here is tested of every one of them."""
import importlib
import json
import math
import os
import re
import subprocess
import sys
import threading
import time
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from fastcore.foundation import L

from fastbook_impl.exercises import engine as core, limits, progress
from fastbook_impl.exercises.compare import Comparison, difference, is_rounded
from fastbook_impl.exercises.engine import ChoicePart, ValuePart, exercises, find, judge, proof, right_answers
from fastbook_impl.exercises.limits import NotYet
from fastbook_impl.exercises.answers import letters, words
from fastbook_impl.imports import LazyModule

BOOK = {'01': 33, '02': 27, '03': 18, '04': 37, '05': 23, '06': 17, '15': 18}
ALL = exercises()


@pytest.mark.parametrize('chapter,n', BOOK.items())
def test_every_question_of_the_book_is_an_exercise(chapter, n):
    assert [ex.number for ex in ALL if ex.chapter == chapter] == [f'{int(chapter)}.{i}' for i in range(1, n + 1)]


@pytest.mark.parametrize('ex', ALL, ids=lambda ex: ex.number)
def test_it_cannot_be_fooled(ex):
    "The solution passes on ten seeds; the stub is open; each wrong answer gets its own sentence; nothing passes with a broken reference, and no nonsense does."
    assert proof(ex) == []


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


def test_a_solution_is_noted_as_seen_and_never_as_right(home, capsys):
    progress.solution('0.7')
    said = capsys.readouterr().out
    assert 'return x/2' in said and 'Division by two.' in said
    kept = json.loads((home/'progress.json').read_text())['0.7']
    assert kept['state'] == 'seen' and kept['seen'] and 'answer' not in kept
    assert progress.check('0.7', lambda x: x/2) and progress.read_progress()['0.7']['seen']


def test_a_solution_takes_nothing_away_from_a_right_answer(home, capsys):
    progress.check('0.7', lambda x: x/2)
    progress.solution('0.7')
    assert progress.read_progress()['0.7']['state'] == 'right'


def test_a_solution_draws_its_figure_without_touching_the_readers_names(home, capsys):
    import matplotlib.pyplot as plt
    ex = next(ex for ex in ALL if ex.draw)
    before, names = len(plt.get_fignums()), set(globals())
    drawn = []
    ex.draw, draw = lambda *a: drawn.append(a), ex.draw
    try: progress.solution(ex.number)
    finally: ex.draw = draw
    assert drawn and set(globals()) == names and before == len(plt.get_fignums())


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


@pytest.mark.parametrize('text', ['', '{', '[]', '"text"', '\x00\x01', '['*100_000])
def test_a_broken_file_is_set_aside(home, capsys, text):
    home.mkdir()
    (home/'progress.json').write_text(text)
    assert progress.read_progress() == {}
    assert (said := capsys.readouterr().out).count('\n') == 1 and 'kept as progress.broken.json' in said
    assert (home/'progress.broken.json').read_text() == text


def test_a_second_corruption_does_not_overwrite_the_first_backup(home, capsys):
    home.mkdir()
    for text in '{first', '{second':
        (home/'progress.json').write_text(text)
        progress.read_progress()
    assert (home/'progress.broken.json').read_text() == '{first' and (home/'progress.broken-2.json').read_text() == '{second'


@pytest.mark.parametrize('odd', [5, [], 'right', {'state': 'perfect'}, {'state': 3}, {'hints': 'many'}, {'answer': 5}, {'tries': None}])
def test_an_odd_entry_is_set_aside_and_the_others_are_kept(home, capsys, odd):
    home.mkdir()
    (home/'progress.json').write_text(json.dumps({'4.4': odd, '4.7': {'state': 'right'}}))
    p = progress.Progress('04')
    assert p.counts('04')['right'] == 1 and repr(p) and p._repr_html_()
    assert 'the entry of 4.4 is damaged' in (said := capsys.readouterr().out) and said.count('\n') == 1
    assert json.loads((home/'progress.broken.json').read_text())['4.4'] == odd
    for f in progress.hint, progress.skip, progress.solution: f('4.4')
    assert progress.read_progress()['4.7'] == {'state': 'right'}


def test_a_byte_order_mark_does_no_harm(home, capsys):
    home.mkdir()
    (home/'progress.json').write_bytes(b'\xef\xbb\xbf' + b'{"4.7": {"state": "right"}}')
    assert progress.read_progress() == {'4.7': {'state': 'right'}} and capsys.readouterr().out == ''


def test_a_progress_file_of_30_megabytes_is_set_aside(home, capsys):
    home.mkdir()
    (home/'progress.json').write_text(json.dumps({'4.4': {'answer': 'x'*30_000_000}}))
    assert progress.read_progress() == {} and 'it has 30 MB' in capsys.readouterr().out
    assert (home/'progress.broken.json').stat().st_size > 30_000_000


def test_a_file_that_cannot_be_read_is_not_overwritten(home, capsys):
    (home/'progress.json').mkdir(parents=True)  # (a folder in its place: it cannot be read by anybody)
    for f in progress.progress, lambda: progress.hint('0.7'), lambda: progress.reset('0.7'), lambda: progress.check('0.7', lambda x: x): f()
    assert (home/'progress.json').is_dir() and 'could not be' in capsys.readouterr().out


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


# --- what is said -----------------------------------------------------------------------------------------------------------

def test_a_verdict_is_words_and_color():
    v = core.Verdict('4.8', 'wrong', 'use `mean` & <b>')
    assert repr(v) == '✗ 4.8 not yet, because use `mean` & <b>'
    assert '<code>mean</code> &amp; &lt;b&gt;' in v._repr_html_() and 'color:' in v._repr_html_()


def luminance(color):
    "Of a color such as #1a7f37, as WCAG 2 defines it."
    parts = [int(color[i:i + 2], 16)/255 for i in (1, 3, 5)]
    r, g, b = (o/12.92 if o <= 0.03928 else ((o + 0.055)/1.055)**2.4 for o in parts)
    return 0.2126*r + 0.7152*g + 0.0722*b


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05)/(low + 0.05)


def test_the_name_of_a_chapter():
    assert [core.padded(o) for o in (4, '4', '04', ' 15b', '15')] == ['04', '04', '04', '15b', '15']
    ex = core.replace(find('4.4'), number='15b.3')
    assert ex.chapter == '15b' and ex.place == (15, 'b', 3)


def test_colors_have_enough_contrast_on_light_and_dark_pages():
    assert contrast('#000000', '#ffffff') == pytest.approx(21)
    for state, (light, dark) in core.COLORS.items(): assert contrast(light, '#ffffff') >= 4.5 and contrast(dark, '#1e1e1e') >= 4.5, state
    for state, (back, front) in progress.BOXES.items(): assert contrast(back, front) >= 4.5, state


def test_what_an_answer_prints_is_shown_up_to_a_limit(home, capsys):
    def half_of_it(x): print('seen', x); return x/2
    assert progress.check('0.7', half_of_it)
    assert capsys.readouterr().out.count('seen') == 3  # for the inputs of one seed
    def half_of_it(x): print('y'*5000); return x/2
    assert progress.check('0.7', half_of_it)
    assert len(capsys.readouterr().out) < 2100


def test_a_flood_of_words_gets_a_sentence():
    v = judge(half_of_it, floods)
    assert v.state == 'wrong' and 'prints more than 20,000 characters' in v.message


def test_the_first_prediction_stands_beside_the_result(home):
    ex = find('4.1')
    assert not progress.check('4.1', ((5, 4), (5, 4, 3), 255, [255, 0, 0]))
    assert not progress.check('4.1', ((4, 5), (4, 5), 255, [255, 0, 0]))
    v = progress.check('4.1', *right_answers(ex))
    assert v and 'It took 3 tries.' in repr(v) and 'Your first prediction was ((5, 4), (5, 4, 3), 255, [255, 0, 0])' in repr(v)
    assert '((4, 5), (4, 5, 3), 255, [255, 0, 0])' in v.prediction
    assert progress.read_progress()['4.1']['tries'] == 3


def test_what_to_do_next(home):
    assert progress.Progress().next().number == '1.1'
    progress.record('4.4', state='wrong')
    assert progress.Progress().next().number == '4.4' and 'Next: 4.4' in repr(progress.Progress()) and 'Next: <a href' in progress.Progress()._repr_html_()
    progress.record('4.4', state='right')
    assert progress.Progress().next().number == '4.5'


def test_links_lead_to_the_exercise_from_wherever_a_notebook_runs(tmp_path, monkeypatch):
    (tmp_path/'exercises').mkdir()
    for folder, expected in (tmp_path, 'exercises/04'), (tmp_path/'exercises', '04'), (tmp_path.parent, '../exercises/04'):
        monkeypatch.chdir(folder)
        assert progress.link(find('4.4')) == f'{expected}_mnist_basics.ipynb#4.4-The-odd-numbers,-doubled'


def test_a_notebook_shows_a_button_whose_click_is_a_hint(home, monkeypatch):
    import IPython.display
    shown = []
    monkeypatch.setattr(progress, 'in_notebook', lambda: True)
    monkeypatch.setattr(IPython.display, 'display', lambda o, **kw: shown.append(o))
    progress.check('0.7', lambda x: x)._ipython_display_()
    verdict, box = shown
    assert 'not yet' in verdict['text/plain']
    button, said = box.children
    button.click(); button.click()
    assert said.value.index('Divide.') < said.value.index('By two.')
    shown.clear()
    progress.check('0.7', lambda x: x/2)._ipython_display_()
    assert len(shown) == 1  # nothing to hint at


# --- options in an order of the reader's own -----------------------------------------------------------------------------------

CHOICES = [ex for ex in ALL if ex.choice]


def test_the_order_of_the_options_depends_on_the_reader():
    orders = {seed: [core.shuffled(ex.choice, seed) for ex in CHOICES] for seed in range(3)}
    assert orders[0] == [core.shuffled(ex.choice, 0) for ex in CHOICES]
    assert len({tuple(o) for o in orders.values()}) == 3
    first = [core.shuffled(ex.choice, s)[0] == ex.choice.reference for ex in CHOICES for s in range(20)]
    assert 0.15 < sum(first)/len(first) < 0.4


@pytest.mark.parametrize('ex', CHOICES, ids=lambda ex: ex.number)
def test_a_letter_means_what_the_reader_saw(ex):
    order = core.shuffled(ex.choice, 5)
    right = next(k for k, o in zip(ex.choice.options, order) if o == ex.choice.reference)
    assert ex.choice.shown(order)[right] == ex.choice.options[ex.choice.reference]
    others = right_answers(ex)[:-1]
    assert judge(ex, *others, right, order=order, guard=False) and judge(ex, *others, f' {right.upper()}) ', order=order, guard=False)
    for letter in set(ex.choice.options) - {right}: assert not judge(ex, *others, letter, order=order, guard=False)


def test_the_seed_of_a_reader_is_kept(home):
    seed = progress.reader_seed()
    assert progress.reader_seed() == seed
    progress.reset()
    assert progress.reader_seed() == seed


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


def test_the_time_limit_is_for_the_whole_check(monkeypatch):
    monkeypatch.setattr(limits, 'SECONDS', 0.5)
    start = time.monotonic()
    assert 'still running after 0.5 seconds' in judge(half_of_it, lambda x: time.sleep(0.2) or x/2).message  # 3 inputs, 3 seeds
    assert time.monotonic() - start < 5


@pytest.mark.parametrize('number,sentence', [(4.1, 'in quotes'), (4.10, 'in quotes'), ('q', 'no exercises for chapter q'), (' 4.99 ', 'there is no exercise 4.99')])
def test_odd_numbers_of_exercises(number, sentence):
    with pytest.raises(core.NoSuchExercise, match=sentence) as e: progress.check(number, 1)
    assert e.value._render_traceback_() == [str(e.value)]


def test_an_answer_that_ends_the_program_does_not(): assert 'SystemExit' in judge(half_of_it, lambda x: sys.exit()).message


@pytest.mark.medium
def test_a_loop_without_an_end_is_stopped_where_interrupts_are_ignored():
    "As in what a script starts in the background."
    code = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
from fastbook_impl.exercises.limits import NotYet, time_limit
try:
    with time_limit(.1):
        while True: pass
except NotYet as e: print(e)
print(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)"""
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=600).stdout.splitlines()
    assert out == ['it was still running after 0.1 seconds: is there a loop that does not end?', 'True']


# --- limits that hold ----------------------------------------------------------------------------------------------------------

def stubborn(x):
    while True:
        try: time.sleep(0.01)
        except BaseException: pass


needs_fork = pytest.mark.skipif(not limits.can_fork(), reason='a reader\'s function runs in a child process on Linux only')
BLOCKED = {'sleep': lambda x: time.sleep(100), 'event': lambda x: threading.Event().wait(), 'one long call': lambda x: sum(range(10**11)), 'a loop': hangs,
           'a loop that catches everything': stubborn, 'another process': lambda x: subprocess.run(['sleep', '100'])}


@needs_fork
@pytest.mark.parametrize('name', BLOCKED)
def test_whatever_does_not_end_is_stopped(monkeypatch, name):
    monkeypatch.setattr(limits, 'SECONDS', 0.3)
    start = time.monotonic()
    assert 'still running after 0.3 seconds' in judge(half_of_it, BLOCKED[name]).message
    assert time.monotonic() - start < 60  # each would take 100 seconds or more


@needs_fork
def test_a_process_that_an_answer_started_is_ended_with_it(monkeypatch, tmp_path):
    monkeypatch.setattr(limits, 'SECONDS', 0.5)
    mark = tmp_path/'mark'
    judge(half_of_it, lambda x: subprocess.run(['sh', '-c', f'sleep 1; touch {mark}']))
    time.sleep(1.5)
    assert not mark.exists()


@needs_fork
@pytest.mark.parametrize('f,sentence', [(lambda x: os._exit(0), 'it ended the program'), (lambda x: os.kill(os.getpid(), 15), 'SIGTERM'), (lambda x: bytearray(2*limits.MEMORY) and x/2, 'MemoryError')])
def test_an_answer_that_ends_its_process_gets_a_sentence(f, sentence):
    v = judge(half_of_it, f)
    assert v.state == 'wrong' and sentence in v.message


@pytest.mark.parametrize('end', [exit, sys.exit, lambda: sys.exit(3)])
def test_an_answer_that_exits_gets_a_sentence(end):
    for guard in True, False: assert re.match('for the input .* it raises SystemExit', judge(half_of_it, lambda x: end(), guard=guard).message)


@needs_fork
def test_torch_works_in_the_child_after_it_used_its_threads_here():
    def trained(x):
        w = torch.randn(200, 200, requires_grad=True)
        (w @ torch.randn(200, 200)).pow(2).mean().backward()
        return x/2 + 0*float(w.grad.sum())
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        trained(1.)
        assert judge(half_of_it, trained)
    finally: torch.set_num_threads(threads)


def test_without_fork_the_timer_stops_a_loop(monkeypatch):
    monkeypatch.setattr(limits, 'can_fork', lambda: False)
    monkeypatch.setattr(limits, 'SECONDS', 0.2)
    assert 'still running' in judge(half_of_it, hangs).message and judge(half_of_it, lambda x: x/2)


def test_a_cell_that_exits_or_loops_is_stopped_too(home, monkeypatch):
    assert 'SystemExit' in progress.check_source(find('0.7'), 'exit()').message
    if not limits.can_fork(): return
    monkeypatch.setattr(limits, 'SECONDS', 0.5)
    assert 'still running' in progress.check_source(find('0.7'), 'import time\nwhile True:\n    try: time.sleep(1)\n    except BaseException: pass').message


# --- odd objects ---------------------------------------------------------------------------------------------------------------

class Evil:
    "Everything that is done with it raises."
    def _raise(self, *args): raise RuntimeError('evil')
    __eq__ = __repr__ = __str__ = __len__ = __iter__ = __bool__ = __float__ = __getitem__ = __lt__ = _raise
    __hash__ = object.__hash__


class EvilList(list):
    __iter__ = __eq__ = __getitem__ = Evil._raise


class EvilNumber(float):
    __eq__ = __repr__ = __sub__ = __rsub__ = __ne__ = __abs__ = Evil._raise
    __hash__ = float.__hash__


class EvilText(str):
    __eq__ = lower = strip = casefold = __repr__ = Evil._raise
    __hash__ = str.__hash__


def knot():
    x = []
    x.append(x)
    return x


ODD = {'fraction': Fraction(1, 3), 'decimal': Decimal('0.1'), 'decimal nan': Decimal('sNaN'), 'numpy text': np.str_('a'), 'huge': 10**400, 'huge fraction': Fraction(10**400, 3),
       'evil': Evil(), 'evil list': EvilList([1, 2]), 'evil number': EvilNumber(1.), 'evil text': EvilText('a'), 'knot': knot(), 'generator': (o for o in 'ab'), 'type': int,
       'inf': math.inf, 'complex': 1j, 'bytes': b'abc', 'series': pd.Series([1, 2]), 'table': pd.DataFrame({'a': [1]}), 'time': np.datetime64('2020-01-01'), 'module': math,
       'deep': eval('['*50 + ']'*50), 'set': {1, 'a'}, 'frozen': frozenset([1]), 'dict': {1: 2}, 'dict of odd': {Evil(): 1}, 'L': L(1, 2), 'empty tensor': torch.tensor([]),
       'sparse': torch.eye(2).to_sparse(), 'half': torch.ones(2, dtype=torch.bfloat16), 'meta': torch.empty(2, device='meta'), 'objects': np.array([None, 'a'], dtype=object),
       'structured': np.zeros(2, dtype=[('a', int)]), 'surrogate': '\ud800', 'range': range(10**12), 'endless range': range(10**30), 'NotImplemented': NotImplemented, 'error': ValueError('x')}
SAMPLE = ALL[::6]


@pytest.mark.parametrize('name', ODD)
def test_no_odd_object_makes_a_check_raise(name):
    for ex in SAMPLE:
        for i in range(len(ex.parts)):
            for odd in (ODD[name], [ODD[name]]*3, lambda *a: ODD[name]):
                v = judge(ex, *core._with(ex, i, odd), seeds=[0], guard=False)
                assert repr(v) and v._repr_html_()


def test_an_odd_answer_is_recorded(home):
    for odd in ODD.values(): assert not progress.check('0.7', odd)


# --- what counts as the same ---------------------------------------------------------------------------------------------------

VALUES = [(ex, i, p) for ex in ALL for i, p in enumerate(ex.parts) if isinstance(p, ValuePart)]


def test_near_misses_and_rewritings_of_every_value_are_generated():
    "(That they are refused and accepted is part of the proof of each exercise.)"
    for ex, i, part in VALUES: assert len(core.all_refused(part)) + len(part.wrong) >= 3 and len(core.all_accepted(part)) >= 3, ex.number
    assert list(core.near_misses((255, [True]))) == [(254, [True]), (256, [True]), (255, [False]), (255,)]


def test_a_gullible_comparison_is_noticed(monkeypatch):
    ex = find('4.1')
    monkeypatch.setattr(core, 'Comparison', lambda *args, **kwargs: Near())
    assert any('near miss' in o for o in proof(ex))


class Near:
    "A comparison that takes integers with a tolerance of one percent."
    def find(self, got, want): return Comparison(1e-2, relaxed=True).find(as_floats(got), as_floats(want))


def as_floats(x): return core._each(lambda o: float(o) if type(o) is int else o, x)


def test_a_column_of_a_table_is_a_list(): assert not Comparison(relaxed=True).find(pd.Series([1, 2.5, 3]), [1, 2.5, 3])


@pytest.mark.parametrize('got,want,right', [(0.33, 1/3, True), (0.3333333, 1/3, True), (0.34, 1/3, False), (0.3, 1/3, False), (200, 199.9, True), (0.02, 0.0199, True), (0.1, 0.125, False),
                                            (0.13, 0.125, True), (-0.33, 1/3, False), (1e-3, 0.0010004, True), (123456, 123456.4, True), (123400, 123456.4, False)])
def test_a_float_is_right_if_it_is_rounded(got, want, right): assert is_rounded(got, want) == right


def test_a_rounded_number_that_is_a_known_mistake_is_refused():
    ex = core.exercise('0.9', 'Means', 'predict')(type('means', (), dict(
        __doc__='Predict.', hints=['a', 'b'], why='w', explanation='e', form='two', experiment=_two, wrong=[((1, 10), 'too small'), ((1, 20), 'b'), ((2, 1), 'c')])))
    assert judge(ex, (1, 10.5)) and 'too small' in judge(ex, (1, 10)).message


def _two(): return 1, 10.5


@pytest.mark.parametrize('answer, sentence', [([.3, 0, 'A', 0, -.015], 'in part 1: round less: 2 significant digits'), ([.33, 0, 'A', 0, -.02], 'in part 5: round less'),
                                              ([.33, 0, 'A', 0, -.017], 'in part 5: the number is not -0.017')])
def test_a_number_with_too_few_digits_is_not_called_wrong(answer, sentence):
    v = judge(find('1.24'), answer, *right_answers(find('1.24'))[1:])
    assert v.state == 'wrong' and sentence in v.message


@pytest.mark.parametrize('place,words', [((1,), 'in part 2: '), ((0, 2), 'in part 1, item 3: '), (('a', 0), "in `'a'`, item 1: "), ((), '')])
def test_parts_are_numbered_from_one(place, words): assert core.in_part(place) == words


def test_results_of_functions_are_strict_about_words():
    assert difference('A', 'a') and not any(Comparison(relaxed=True).find(o, 'a b') for o in ('A b', ' a  B.', 'a b. '))
    assert difference([1, 2], np.array([1, 2])) and not difference(np.array([1, 2]), [1, 2])
    assert difference(torch.tensor([10001]), torch.tensor([10000]))


@pytest.mark.parametrize('got, sentence', [({'a': 1}, "the key 'b' is missing"), ({'a': 1, 'c': 2}, "the key 'b' is missing, and 'c' is not asked for"),
                                           ({'A ': 1, 'B': 3}, 'the number is not 3'), ({}, "the keys 'a', 'b' are missing"), ({'a': 1, 'b': 2, 3: 4}, '3 is not asked for')])
def test_what_is_wrong_with_the_keys_of_a_dictionary(got, sentence):
    _, said = Comparison(relaxed=True).find(got, {'a': 1, 'b': 2})
    assert said == sentence


def test_keys_are_read_as_other_words_are():
    assert not Comparison(relaxed=True).find({'A ': 1, 'b': 2}, {'a': 1, 'b': 2}) and difference({'A': 1}, {'a': 1})


def test_a_table_of_as_many_values_has_the_wrong_shape():
    _, said = Comparison(relaxed=True).find(torch.ones(1, 6, 1, 1), [1.]*6)
    assert 'the shape (1, 6, 1, 1)' in said and '`flatten`' in said


def test_words_with_simple_endings():
    read = words('raises', 'same', 'other')
    assert read(('Raise', 'raised.', ' SAME', 'others')) == ['raises', 'raises', 'same', 'other']
    with pytest.raises(NotYet): read(['different'])


def test_letters_may_be_written_as_what_they_stand_for():
    read = letters(m='manager', d='designer', A='plan A')
    assert read(('M', '(d)', 'Designer', 'plan a', 'A.')) == ['m', 'd', 'd', 'A', 'A'] and read(5) == 5
    with pytest.raises(NotYet, match="write 'm', 'd', 'A', and not 'x'"): read('x')


# --- what an exercise may ask of an answer ----------------------------------------------------------------------------------------

def _sum_spec(**more):
    return core.exercise('0.5', 'Sum of products', 'write it')(type('sum_of_products', (), dict(
        __doc__='Multiply and add.', hints=['a', 'b'], why='w', explanation='e', solution=_dot, cases=lambda r: [(torch.ones(2), torch.ones(2)), (torch.randn(3), torch.randn(3))],
        wrong=[(lambda a, b: a.sum(), 'a'), (lambda a, b: b.sum(), 'b'), (lambda a, b: (a + b).sum(), 'c')], **more)))


def _dot(a, b):
    "The sum of the products."
    return (a*b).sum()


def helper(a, b): return torch.dot(a, b)


@pytest.mark.parametrize('f', [torch.dot, lambda a, b: a @ b, lambda a, b: a.dot(b), lambda a, b: helper(a, b), lambda a, b: getattr(torch, 'do' + 't')(a, b), lambda a, b: torch.einsum('i,i', a, b)])
def test_forbidden_names_are_refused_with_what_to_use_instead(f):
    ex = _sum_spec(forbidden=('dot', 'matmul', 'einsum'), instead='use `*` and `sum`')
    assert judge(ex, lambda a, b: (a*b).sum())
    v = judge(ex, f)
    assert v.state == 'wrong' and 'is not allowed here' in v.message and 'use `*` and `sum`' in v.message


def matmul(a, b): return (a*b).sum()


def test_a_readers_own_function_may_have_a_forbidden_name():
    ex = _sum_spec(forbidden=('dot', 'matmul', 'einsum'))
    assert judge(ex, lambda a, b: matmul(a, b))
    einsum = helper
    assert 'is not allowed' in judge(ex, lambda a, b: einsum(a, b)).message


class SGD:
    "A reader's own class with the name of a forbidden one."
    def __call__(self, a, b): return (a*b).sum()

class Mine(torch.optim.SGD): pass

class Hidden:
    "A reader's own class that calls what is forbidden."
    def __call__(self, a, b): return torch.dot(a, b)

other_name, product, power = torch.optim.SGD, torch.dot, math.exp


def test_a_class_counts_by_what_it_is_made_from_and_not_by_its_own_name():
    ex = _sum_spec(forbidden=('dot', 'SGD'))
    assert judge(ex, lambda a, b: SGD()(a, b))
    for f in (lambda a, b: Mine and (a*b).sum(), lambda a, b: Hidden()(a, b), lambda a, b: other_name and (a*b).sum(), lambda a, b: product(a, b)):
        assert 'is not allowed' in judge(ex, f).message
    assert 'is not allowed' in judge(_sum_spec(forbidden=('exp',)), lambda a, b: (a*b).sum()*power(0)).message


lazy = LazyModule('colorsys')


def test_what_is_imported_at_first_use_is_imported_once():
    "In a child process, each check would import it anew, in the time of the reader."
    judge(find('0.7'), lambda x: lazy.hls_to_rgb(0, x/2, 0)[0])
    assert lazy._loaded


def test_the_proof_looks_at_accepted_and_refused_answers():
    assert not [o for o in proof(_sum_spec(accepts=[torch.dot], refuses=[lambda a, b: (a - b).sum()]))]
    assert 'right answer 0 of `sum_of_products` is refused' in proof(_sum_spec(accepts=[lambda a, b: a.sum() + 1]))[0]
    assert 'near miss 0 of `sum_of_products`' in proof(_sum_spec(refuses=[torch.dot]))[0]
