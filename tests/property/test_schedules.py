"""Schedules begin and end where they are told to, stay in between, and follow one another."""
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fastbook_impl.callback.schedule import SchedCos, SchedExp, SchedLin, SchedNo, SchedPoly, combine_scheds, combined_cos

rates = st.floats(1e-7, 10)
places = st.floats(0, 1)
kinds = pytest.mark.parametrize('kind', [SchedLin, SchedCos, SchedExp, lambda a, b: SchedPoly(a, b, 2.)], ids='linear cosine exponential polynomial'.split())


@kinds
@given(start=rates, end=rates)
def test_a_schedule_begins_at_its_start_and_ends_at_its_end(kind, start, end):
    f = kind(start, end)
    assert f(0.) == pytest.approx(start) and f(1.) == pytest.approx(end)


@kinds
@given(start=rates, end=rates, at=places)
def test_a_schedule_stays_between_start_and_end(kind, start, end, at):
    low, high = sorted((start, end))
    assert low*(1 - 1e-6) <= kind(start, end)(at) <= high*(1 + 1e-6)


@kinds
@given(start=rates, end=rates, at=places, later=places)
def test_a_schedule_never_turns_back(kind, start, end, at, later):
    at, later = sorted((at, later))
    f = kind(start, end)
    assert (f(later) - f(at))*(end - start) >= -1e-9*max(start, end)**2


@given(rates, rates, places)
def test_no_schedule_stays_at_its_start(start, end, at): assert SchedNo(start, end)(at) == start


@given(st.lists(st.tuples(st.floats(.05, 1), rates, rates), min_size=1, max_size=5), places)
def test_combined_schedules_run_one_after_the_other(parts, at):
    whole = sum(p for p, _, _ in parts)
    pcts = [p/whole for p, _, _ in parts]
    scheds = [SchedLin(a, b) for _, a, b in parts]
    begin, place = 0., 0
    while place < len(pcts) - 1 and at >= begin + pcts[place]: begin, place = begin + pcts[place], place + 1
    assume(all(abs(at - sum(pcts[:i])) > 1e-6 for i in range(1, len(pcts))))     # at a seam, rounding decides
    assert combine_scheds(pcts, scheds)(at) == pytest.approx(scheds[place]((at - begin)/pcts[place]), rel=1e-5, abs=1e-7)


@given(st.lists(st.tuples(st.floats(.05, 1), rates, rates), min_size=1, max_size=5))
def test_combined_schedules_begin_with_the_first_and_end_with_the_last(parts):
    whole = sum(p for p, _, _ in parts)
    f = combine_scheds([p/whole for p, _, _ in parts], [SchedCos(a, b) for _, a, b in parts])
    assert f(0.) == pytest.approx(parts[0][1]) and f(1.) == pytest.approx(parts[-1][2])


@given(st.floats(.01, .99), rates, rates, rates)
def test_a_cosine_of_two_parts_passes_through_its_middle(pct, start, middle, end):
    f = combined_cos(pct, start, middle, end)
    assert f(0.) == pytest.approx(start) and f(pct) == pytest.approx(middle, rel=1e-4) and f(1.) == pytest.approx(end)
