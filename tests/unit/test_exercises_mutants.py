"""Mechanical mistakes in the right answers to every exercise: at least 99 of 100 are noticed, and each of the others is explained."""
import os
from dataclasses import replace

import pytest

from fastbook_impl.exercises import limits
from fastbook_impl.exercises.engine import CHAPTERS, FunctionPart, exercises
from fastbook_impl.exercises.limits import NotYet, limited
from mutants import has_source, mutants

READER_SEEDS = range(3)

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
