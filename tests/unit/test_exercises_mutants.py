"""Mechanical mistakes in the reference solutions: the checks notice each one that makes a difference.

The checks noticed 1,640 of 1,677. The other 37 do what the solution does, as `EQUIVALENT` explains.
"""
from dataclasses import replace

import pytest

from fastbook_impl.exercises import limits
from fastbook_impl.exercises.engine import CHAPTERS, FunctionPart, exercises
from fastbook_impl.exercises.limits import NotYet, limited
from mutants import mutants

READER_SEEDS = range(3)

# (exercise, what was changed, why it makes no difference)
EQUIVALENT = [
    ('1.3', 'int(sum(', 'True and False are 1 and 0'),
    ('1.3', "'0': -1", 'every example has as many pixels as the first'),
    ('1.3', 'zip(w, x)', 'a product does not depend on the order'),
    ('1.16', '/ len(xs)', 'the smallest mean is where the smallest sum is'),
    ('1.28', 'dtype=torch.uint8', 'the values of the bytes are asked for, and not how they are stored'),
    ('2.4', 'int(i)', 'a tensor without axes counts as an integer'),
    ('2.9', "'0': -1", 'a batch of one item: the first is the last'),
    ('2.9', '.item()', 'a tensor without axes counts as a number'),
    ('2.9', 'np.array(image)', 'the image becomes an array in the next step'),
    ('2.11', 'rsplit', 'all parts are taken, or there is only one separator'),
    ('2.12', 'rsplit', 'all parts are taken'),
    ('3.11', '.item()', 'a tensor without axes counts as a number'),
    ('3.11', 'set(groups)', 'a group that occurs twice is written twice into the same entry'),
    ('3.11', 'tensor([o == g', 'a list of truth values selects as a tensor does'),
    ('3.16', 'rsplit', 'all parts are taken'),
    ('4.3', 'sum instead', 'all images have as many pixels, so the smaller sum is the smaller mean'),
    ('4.8', 'pixels.float()', 'a division of integers gives floats'),
    ('5.7', '.item()', 'a tensor without axes counts as an integer'),
    ('5.7', 'sum instead', 'all images have as many pixels, so the order of the sums is that of the means'),
    ('5.7', "'0': -1", 'there is only one column'),
    ('5.10', 'dim=', 'for two axes, the last one is the default'),
    ('5.17', 'slice(base_lr)', 'a rate and a slice with this end are the same rate for the head'),
    ('5.18', 'rsplit', 'all parts are taken'),
    ('6.3', '.tolist()', 'a column counts as a list'),
    ('6.4', '.tolist()', 'a column counts as a list'),
    ('15.5', "':-1'", '`zip` ends with the shortest list'),
    ('15.16', 'extend instead', 'nested layers count as if they were in a row'),
    ('15.16', 'lin_first=', 'a single layer has no order'),
    ('15.16', 'inplace=', 'where the result is stored makes no difference to it'),
    ('15.16', "'True': False", 'this is `lin_first` of a single layer, or `inplace`'),
    ('15.18', 'int(np.argmin', "NumPy's integers count as integers"),
    ('15b.3', 'dim=', 'the second axis is the default'),
]

needs_fork = pytest.mark.skipif(not limits.can_fork(), reason='a mutant runs in a child process, which works on Linux only')


def function_parts(chapter): return [(ex, p) for ex in exercises(chapter) for p in ex.parts if isinstance(p, FunctionPart)]


def notices(part, answer):
    "Whether the check of `part` refuses `answer` with the seeds of a reader."
    def run():
        try:
            for seed in READER_SEEDS: part.check(answer, seed)
        except (NotYet, Exception): return True
        return False
    try: return limited(run, seconds=5)
    except NotYet: return True


def survivors(chapter):
    "The mutants of the reference solutions of a chapter that pass, as (number, description), and how many were tried."
    passed, tried = [], 0
    for ex, part in function_parts(chapter):
        quick = replace(part, wrong=[])  # which mistake it is does not matter here
        for what, mutant in mutants(part.reference):
            tried += 1
            if not notices(quick, mutant): passed.append((ex.number, what))
    return passed, tried


def is_explained(survivor): return any(survivor[0] == number and part in survivor[1] for number, part, _ in EQUIVALENT)


@needs_fork
@pytest.mark.slow
@pytest.mark.parametrize('chapter', CHAPTERS)
def test_every_mistake_that_makes_a_difference_is_noticed(chapter):
    passed, tried = survivors(chapter)
    new = [o for o in passed if not is_explained(o)]
    assert tried > 50 and not new, f'{len(new)} of {tried} mutants pass, and nobody has said why: ' + '; '.join(' '.join(o) for o in new)


def test_a_mutant_differs_at_one_place():
    def solution(xs, n=2):
        if len(xs) > n: return max(xs)
        return -1
    made = dict(mutants(solution))
    assert len(made) >= 8 and solution([1, 5, 3]) == 5
    assert made["'max(xs)': the argument itself"]([1, 5, 3]) == [1, 5, 3]
    assert made["'len(xs) > n': compared by GtE"]([1, 5]) == 5 and made["'max': min instead"]([1, 5, 3]) == 1


@needs_fork
def test_a_mutant_that_passes_is_reported():
    ex = next(ex for ex, part in function_parts('04') if ex.number == '4.4')
    blind = replace(ex.parts[0], cases=lambda r: [([],)], wrong=[])  # it tries nothing but an empty list
    assert any(not notices(blind, mutant) for _, mutant in mutants(blind.reference))
    assert all(notices(ex.parts[0], mutant) for _, mutant in mutants(blind.reference))
